//! The body of a command: its declared length, the words of its errors, and what is still to come.

use super::line::Words;
use super::{Command, DecodeContext, Progress};
use crate::{ErrorCode, Limits, ProtoError};

/// Bytes of a length or count field.
pub(super) const FIELD_LEN: usize = 4;

/// Whose body it is: each verb has its limit and its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyOf {
    Identify,
    Auth,
    Pub,
    Mpub,
    Dpub,
}

/// What a client still owes when the input ends in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The length of the body.
    Size(BodyOf),
    /// Bytes of the body; not used for MPUB, whose body has parts.
    Body(BodyOf),
    /// MPUB: the number of messages.
    MessageCount,
    /// MPUB: the length of the message with this index.
    MessageSize(u32),
    /// MPUB: bytes of a message.
    MessageBody,
}

/// A command line with what follows it in the input.
pub(super) struct Request<'a> {
    pub(super) input: &'a [u8],
    /// `\n` included.
    pub(super) line_len: usize,
    /// The words after the verb.
    pub(super) params: Words<'a>,
    pub(super) context: DecodeContext,
}

impl<'a> Request<'a> {
    /// A command without a body.
    pub(super) fn complete(&self, command: Command<'a>) -> Progress<'a> {
        Progress::Whole {
            command,
            consumed: self.line_len,
        }
    }

    /// The length of the body, or `None` while it has not arrived.
    pub(super) fn body_len(&self, of: BodyOf) -> Result<Option<usize>, ProtoError> {
        let Some(field) = self.input[self.line_len..].first_chunk() else {
            return Ok(None);
        };
        check_size(i32::from_be_bytes(*field), of, &self.context.limits).map(Some)
    }

    /// A command that is whole when its body is.
    pub(super) fn with_body(
        &self,
        of: BodyOf,
        command: impl FnOnce(&'a [u8]) -> Command<'a>,
    ) -> Result<Progress<'a>, ProtoError> {
        let start = self.line_len + FIELD_LEN;
        let Some(len) = self.body_len(of)? else {
            return Ok(Progress::Partial {
                needed: start,
                missing: Some(Missing::Size(of)),
            });
        };
        let end = start + len;
        Ok(match self.input.get(start..end) {
            Some(body) => Progress::Whole {
                command: command(body),
                consumed: end,
            },
            None => Progress::Partial {
                needed: end,
                missing: Some(Missing::Body(of)),
            },
        })
    }
}

/// The length as a `usize`, if it is positive and within the limit.
fn check_size(size: i32, of: BodyOf, limits: &Limits) -> Result<usize, ProtoError> {
    let max = of.bytes_max(limits);
    let Some(len) = usize::try_from(size).ok().filter(|len| *len > 0) else {
        return Err(of.invalid_size(size));
    };
    if u64::from(size.cast_unsigned()) > max {
        return Err(of.too_big(size, max));
    }
    Ok(len)
}

impl BodyOf {
    const fn verb(self) -> &'static str {
        match self {
            Self::Identify => "IDENTIFY",
            Self::Auth => "AUTH",
            Self::Pub => "PUB",
            Self::Mpub => "MPUB",
            Self::Dpub => "DPUB",
        }
    }

    /// Whether the body is a single message: then the limit and the words are those of a message.
    const fn is_message(self) -> bool {
        matches!(self, Self::Pub | Self::Dpub)
    }

    const fn bytes_max(self, limits: &Limits) -> u64 {
        if self.is_message() {
            limits.message_bytes_max
        } else {
            limits.body_bytes_max
        }
    }

    const fn code(self) -> ErrorCode {
        if self.is_message() {
            ErrorCode::BadMessage
        } else {
            ErrorCode::BadBody
        }
    }

    const fn noun(self) -> &'static str {
        if self.is_message() {
            "message body"
        } else {
            "body"
        }
    }

    #[cold]
    fn invalid_size(self, size: i32) -> ProtoError {
        let (verb, noun) = (self.verb(), self.noun());
        ProtoError::new(self.code(), format!("{verb} invalid {noun} size {size}"))
    }

    #[cold]
    fn too_big(self, size: i32, max: u64) -> ProtoError {
        let (verb, noun) = (
            self.verb(),
            if self.is_message() { "message" } else { "body" },
        );
        ProtoError::new(self.code(), format!("{verb} {noun} too big {size} > {max}"))
    }
}

impl Missing {
    /// What to tell a client of which nothing more will come.
    #[cold]
    pub(super) fn error(self) -> ProtoError {
        let (code, detail) = match self {
            Self::Size(of) => (
                of.code(),
                format!("{} failed to read {} size", of.verb(), of.noun()),
            ),
            Self::Body(of) => (
                of.code(),
                format!("{} failed to read {}", of.verb(), of.noun()),
            ),
            Self::MessageCount => (
                ErrorCode::BadBody,
                "MPUB failed to read message count".to_owned(),
            ),
            Self::MessageSize(index) => (
                ErrorCode::BadMessage,
                format!("MPUB failed to read message({index}) body size"),
            ),
            Self::MessageBody => (
                ErrorCode::BadMessage,
                "MPUB failed to read message body".to_owned(),
            ),
        };
        ProtoError::new(code, detail)
    }
}
