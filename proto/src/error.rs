//! The error table: code, text, and whether the connection survives.
//!
//! Every error text that a client can see over TCP has its constructor here, so that the table of
//! spec nsqd.md §2 can be read (and is tested) in one place. All of them are cold: a client that is
//! told of an error is either closed or has lost one message's acknowledgement.
//! Texts echo what the client sent, byte for byte outside of quotes: such a text need not be UTF-8.

use std::fmt;

use crate::quote::quote;

/// A protocol error code (spec nsqd.md §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the wire codes")]
pub enum ErrorCode {
    Invalid,
    BadProtocol,
    BadTopic,
    BadChannel,
    BadMessage,
    BadBody,
    IdentifyFailed,
    AuthDisabled,
    AuthFailed,
    AuthFirst,
    AuthError,
    Unauthorized,
    SubFailed,
    PubFailed,
    MpubFailed,
    DpubFailed,
    FinFailed,
    ReqFailed,
    TouchFailed,
}

impl ErrorCode {
    const ALL: [Self; 19] = [
        Self::Invalid,
        Self::BadProtocol,
        Self::BadTopic,
        Self::BadChannel,
        Self::BadMessage,
        Self::BadBody,
        Self::IdentifyFailed,
        Self::AuthDisabled,
        Self::AuthFailed,
        Self::AuthFirst,
        Self::AuthError,
        Self::Unauthorized,
        Self::SubFailed,
        Self::PubFailed,
        Self::MpubFailed,
        Self::DpubFailed,
        Self::FinFailed,
        Self::ReqFailed,
        Self::TouchFailed,
    ];

    /// The wire text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "E_INVALID",
            Self::BadProtocol => "E_BAD_PROTOCOL",
            Self::BadTopic => "E_BAD_TOPIC",
            Self::BadChannel => "E_BAD_CHANNEL",
            Self::BadMessage => "E_BAD_MESSAGE",
            Self::BadBody => "E_BAD_BODY",
            Self::IdentifyFailed => "E_IDENTIFY_FAILED",
            Self::AuthDisabled => "E_AUTH_DISABLED",
            Self::AuthFailed => "E_AUTH_FAILED",
            Self::AuthFirst => "E_AUTH_FIRST",
            Self::AuthError => "E_AUTH_ERROR",
            Self::Unauthorized => "E_UNAUTHORIZED",
            Self::SubFailed => "E_SUB_FAILED",
            Self::PubFailed => "E_PUB_FAILED",
            Self::MpubFailed => "E_MPUB_FAILED",
            Self::DpubFailed => "E_DPUB_FAILED",
            Self::FinFailed => "E_FIN_FAILED",
            Self::ReqFailed => "E_REQ_FAILED",
            Self::TouchFailed => "E_TOUCH_FAILED",
        }
    }

    /// The code with that wire text.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }

    /// Whether the connection is closed after it.
    #[must_use]
    pub const fn is_fatal(self) -> bool {
        !matches!(self, Self::FinFailed | Self::ReqFailed | Self::TouchFailed)
    }
}

/// An error as it goes to the client: `<CODE> <detail>`; `E_BAD_PROTOCOL` stands alone.
///
/// [`Self::to_bytes`] is what the client gets; as text, for the log, bytes that are not UTF-8 appear
/// as U+FFFD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtoError {
    /// The first word.
    pub code: ErrorCode,
    /// The rest of the line.
    pub detail: Vec<u8>,
    /// Why, for the log alone.
    pub cause: Option<Box<str>>,
}

impl fmt::Display for ProtoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.as_str())?;
        if self.code == ErrorCode::BadProtocol {
            return Ok(());
        }
        // An empty command leaves a detail that ends in a space, which is part of the text.
        write!(f, " {}", String::from_utf8_lossy(&self.detail))
    }
}

impl std::error::Error for ProtoError {}

/// What may be said without any command: preamble, lines, states.
impl ProtoError {
    /// An error with this text.
    #[cold]
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<Vec<u8>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            cause: None,
        }
    }

    #[cold]
    fn because(mut self, cause: &str) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// As the log shows it: with its cause, if there is one.
    #[must_use]
    pub fn with_cause(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{self} - {cause}"),
            None => self.to_string(),
        }
    }

    /// The data of the error frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let code = self.code.as_str().as_bytes();
        if self.code == ErrorCode::BadProtocol {
            return code.to_vec();
        }
        [code, b" ", &self.detail].concat()
    }

    /// The first four bytes are not the magic of this protocol.
    #[cold]
    #[must_use]
    pub fn bad_protocol() -> Self {
        Self::new(ErrorCode::BadProtocol, "")
    }

    #[cold]
    pub(crate) fn line_too_long(line_bytes_max: usize) -> Self {
        Self::new(
            ErrorCode::Invalid,
            format!("command line too long (max {line_bytes_max} bytes)"),
        )
    }

    #[cold]
    pub(crate) fn unknown_command(verb: &[u8]) -> Self {
        Self::new(ErrorCode::Invalid, [b"invalid command ", verb].concat())
    }

    #[cold]
    pub(crate) fn wrong_state(verb: &str) -> Self {
        Self::new(
            ErrorCode::Invalid,
            format!("cannot {verb} in current state"),
        )
    }

    #[cold]
    pub(crate) fn tls_required(verb: &[u8]) -> Self {
        Self::new(
            ErrorCode::Invalid,
            [b"cannot ", verb, b" in current state (TLS required)"].concat(),
        )
    }

    #[cold]
    pub(crate) fn heartbeats_disabled() -> Self {
        Self::new(ErrorCode::Invalid, "cannot SUB with heartbeats disabled")
    }
}

/// Parameters.
impl ProtoError {
    /// SUB, PUB, MPUB and DPUB say `parameters`, FIN, REQ and TOUCH say `params`.
    #[cold]
    pub(crate) fn too_few(verb: &str, noun: &str) -> Self {
        Self::new(
            ErrorCode::Invalid,
            format!("{verb} insufficient number of {noun}"),
        )
    }

    #[cold]
    pub(crate) fn auth_parameters() -> Self {
        Self::new(ErrorCode::Invalid, "AUTH invalid number of parameters")
    }

    #[cold]
    pub(crate) fn bad_topic(verb: &str, name: &[u8]) -> Self {
        let name = quote(name);
        Self::new(
            ErrorCode::BadTopic,
            format!("{verb} topic name {name} is not valid"),
        )
    }

    #[cold]
    pub(crate) fn bad_channel(verb: &str, name: &[u8]) -> Self {
        let name = quote(name);
        Self::new(
            ErrorCode::BadChannel,
            format!("{verb} channel name {name} is not valid"),
        )
    }

    #[cold]
    pub(crate) fn invalid_message_id() -> Self {
        Self::new(ErrorCode::Invalid, "invalid message ID")
    }

    #[cold]
    pub(crate) fn not_a_number(verb: &str, noun: &str, param: &[u8]) -> Self {
        let text = format!("{verb} could not parse {noun} ");
        let detail = [text.as_bytes(), param].concat();
        Self::new(ErrorCode::Invalid, detail).because("failed to convert to Base10")
    }

    #[cold]
    pub(crate) fn out_of_range(verb: &str, noun: &str, value: u64, max: u64) -> Self {
        Self::new(
            ErrorCode::Invalid,
            format!("{verb} {noun} {value} out of range 0-{max}"),
        )
    }
}

/// IDENTIFY and AUTH, beyond their bodies' sizes.
impl ProtoError {
    /// The body is not a JSON object with fields of the right types.
    #[cold]
    pub(crate) fn identify_json(cause: &serde_json::Error) -> Self {
        Self::new(ErrorCode::BadBody, "IDENTIFY failed to decode JSON body")
            .because(&cause.to_string())
    }

    #[cold]
    pub(crate) fn identify_range(field: &str, value: i64) -> Self {
        let cause = format!("{field} ({value}) is invalid");
        Self::new(ErrorCode::BadBody, format!("IDENTIFY {cause}")).because(&cause)
    }

    /// Both compressions would be granted.
    #[cold]
    #[must_use]
    pub fn both_compressions() -> Self {
        Self::new(
            ErrorCode::IdentifyFailed,
            "cannot enable both deflate and snappy compression",
        )
    }

    /// An upgrade or the reply failed.
    #[cold]
    #[must_use]
    pub fn identify_failed(reason: &str) -> Self {
        Self::new(
            ErrorCode::IdentifyFailed,
            format!("IDENTIFY failed {reason}"),
        )
        .because(reason)
    }

    /// A second AUTH on the connection.
    #[cold]
    #[must_use]
    pub fn auth_already_set() -> Self {
        Self::new(ErrorCode::Invalid, "AUTH already set")
    }

    /// No auth server is configured.
    #[cold]
    #[must_use]
    pub fn auth_disabled() -> Self {
        Self::new(ErrorCode::AuthDisabled, "AUTH disabled")
    }

    /// The auth server could not be asked, or its answer not be used; also when a refresh fails.
    #[cold]
    #[must_use]
    pub fn auth_failed() -> Self {
        Self::new(ErrorCode::AuthFailed, "AUTH failed")
    }

    /// The auth server granted nothing.
    #[cold]
    #[must_use]
    pub fn no_authorizations() -> Self {
        Self::new(ErrorCode::Unauthorized, "AUTH no authorizations found")
    }

    /// The reply to AUTH could not be written.
    #[cold]
    #[must_use]
    pub fn auth_error(reason: &str) -> Self {
        Self::new(ErrorCode::AuthError, format!("AUTH error {reason}"))
    }

    /// `verb` (`SUB`, `PUB`, …) came before AUTH.
    #[cold]
    #[must_use]
    pub fn auth_first(verb: &str) -> Self {
        Self::new(ErrorCode::AuthFirst, format!("AUTH required before {verb}"))
    }

    /// The authorizations do not cover it; `channel` is empty for publishes.
    #[cold]
    #[must_use]
    pub fn unauthorized(verb: &str, topic: &str, channel: &str) -> Self {
        let (topic, channel) = (quote(topic.as_bytes()), quote(channel.as_bytes()));
        Self::new(
            ErrorCode::Unauthorized,
            format!("AUTH failed for {verb} on {topic} {channel}"),
        )
    }
}

/// Commands that were understood and refused.
impl ProtoError {
    /// SUB was refused, e.g. `exiting` or `to deleted topic/channel`.
    #[cold]
    #[must_use]
    pub fn sub_failed(reason: &str) -> Self {
        Self::new(ErrorCode::SubFailed, format!("SUB failed {reason}")).because(reason)
    }

    /// SUB was refused because the channel has its `--max-channel-consumers`.
    #[cold]
    #[must_use]
    pub fn too_many_consumers(topic: &str, channel: &str, limit: u64) -> Self {
        Self::sub_failed(&format!(
            "consumers for {topic}:{channel} exceeds limit of {limit}"
        ))
    }

    /// PUB was refused, e.g. `exiting`.
    #[cold]
    #[must_use]
    pub fn pub_failed(reason: &str) -> Self {
        Self::new(ErrorCode::PubFailed, format!("PUB failed {reason}")).because(reason)
    }

    /// MPUB was refused, e.g. `exiting`.
    #[cold]
    #[must_use]
    pub fn mpub_failed(reason: &str) -> Self {
        Self::new(ErrorCode::MpubFailed, format!("MPUB failed {reason}")).because(reason)
    }

    /// DPUB was refused, e.g. `exiting`.
    #[cold]
    #[must_use]
    pub fn dpub_failed(reason: &str) -> Self {
        Self::new(ErrorCode::DpubFailed, format!("DPUB failed {reason}")).because(reason)
    }

    /// FIN of a message that is not this connection's: `ID not in flight` or
    /// `client does not own message`. The connection survives, as after the next two.
    #[cold]
    #[must_use]
    pub fn fin_failed(id: &[u8; 16], reason: &str) -> Self {
        let detail = [b"FIN ", &id[..], b" failed ", reason.as_bytes()].concat();
        Self::new(ErrorCode::FinFailed, detail).because(reason)
    }

    /// REQ of such a message; also `exiting` and `ID already deferred`.
    #[cold]
    #[must_use]
    pub fn req_failed(id: &[u8; 16], reason: &str) -> Self {
        let detail = [b"REQ ", &id[..], b" failed ", reason.as_bytes()].concat();
        Self::new(ErrorCode::ReqFailed, detail).because(reason)
    }

    /// TOUCH of such a message, reasons as for FIN.
    #[cold]
    #[must_use]
    pub fn touch_failed(id: &[u8; 16], reason: &str) -> Self {
        let detail = [b"TOUCH ", &id[..], b" failed ", reason.as_bytes()].concat();
        Self::new(ErrorCode::TouchFailed, detail).because(reason)
    }
}

#[cfg(test)]
mod tests;
