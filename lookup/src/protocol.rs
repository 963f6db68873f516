//! The V1 protocol (spec nsqlookupd.md §2) as bytes and values: no sockets, no clock.
//!
//! A connection sends the magic, then commands: a line, and after IDENTIFY a sized body. Every answer
//! is a size and a payload. Every error that is the peer's ends the connection.

mod identify;
#[cfg(test)]
mod tests;

use nsq_proto::{ChannelName, LINE_BYTES_MAX, TopicName};

use crate::registry::Announcement;

/// The first bytes of every connection.
pub const MAGIC: &[u8; 4] = b"  V1";
/// The payload that answers any other first bytes.
pub const BAD_PROTOCOL: &[u8] = b"E_BAD_PROTOCOL";
/// Longest body of IDENTIFY in bytes; nsqd sends about 200.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
const SIZE_LEN: usize = 4;

/// A command, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The peer is alive.
    Ping,
    /// Who the peer is; without its address, which the connection knows.
    Identify(Box<Announcement>),
    /// It has a topic, and a channel of it.
    #[expect(missing_docs, reason = "described by the variant")]
    Register {
        topic: TopicName,
        channel: Option<ChannelName>,
    },
    /// It no longer has a channel, or a whole topic.
    #[expect(missing_docs, reason = "described by the variant")]
    Unregister {
        topic: TopicName,
        channel: Option<ChannelName>,
    },
}

/// What is told to a peer that made a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtocolError {
    /// Code, space, text. It may repeat what the peer sent, hence bytes.
    pub payload: Vec<u8>,
    /// What the log adds.
    pub cause: Option<String>,
}

impl ProtocolError {
    pub(crate) fn new(code: &str, text: impl AsRef<[u8]>) -> Self {
        let payload = [code.as_bytes(), b" ", text.as_ref()].concat();
        Self {
            payload,
            cause: None,
        }
    }

    fn invalid(text: impl AsRef<[u8]>) -> Self {
        Self::new("E_INVALID", text)
    }

    fn bad_body(text: impl AsRef<[u8]>) -> Self {
        Self::new("E_BAD_BODY", text)
    }

    fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}

impl std::fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.payload))?;
        self.cause
            .as_ref()
            .map_or(Ok(()), |cause| write!(f, " - {cause}"))
    }
}

/// Decodes the first command of `input` and says how long it is; `None` while it has not all
/// arrived. A command is refused as soon as it can be known to be wrong.
///
/// # Errors
/// [`ProtocolError`]; the connection ends after it.
pub fn decode(
    input: &[u8],
    is_identified: bool,
) -> Result<Option<(Command, usize)>, ProtocolError> {
    let Some((line, line_len)) = first_line(input)? else {
        return Ok(None);
    };
    let mut words = trim(line).split(|byte| *byte == b' ');
    let verb = words.next().unwrap_or_default();
    let command = match verb {
        b"PING" => Command::Ping,
        b"IDENTIFY" => {
            let body = identify_body(&input[line_len..], is_identified)?;
            let Some((body, body_len)) = body else {
                return Ok(None);
            };
            let announcement = identify::parse(body)?;
            let command = Command::Identify(Box::new(announcement));
            return Ok(Some((command, line_len + body_len)));
        }
        b"REGISTER" => {
            let (topic, channel) = names("REGISTER", words, is_identified)?;
            Command::Register { topic, channel }
        }
        b"UNREGISTER" => {
            let (topic, channel) = names("UNREGISTER", words, is_identified)?;
            Command::Unregister { topic, channel }
        }
        _ => {
            return Err(ProtocolError::invalid(
                [&b"invalid command "[..], verb].concat(),
            ));
        }
    };
    Ok(Some((command, line_len)))
}

/// What to say when the stream ends within a command that [`decode`] found incomplete; nothing when
/// it ends between commands or within a line.
#[must_use]
pub fn truncation_error(input: &[u8]) -> Option<ProtocolError> {
    let (_, line_len) = first_line(input).ok()??;
    let arrived = input.len() - line_len;
    let what = if arrived < SIZE_LEN {
        "IDENTIFY failed to read body size"
    } else {
        "IDENTIFY failed to read body"
    };
    let is_at_start = arrived == 0 || arrived == SIZE_LEN;
    let cause = if is_at_start { "EOF" } else { "unexpected EOF" };
    Some(ProtocolError::bad_body(what).because(cause))
}

/// Appends an answer.
///
/// # Panics
/// When the payload has 4 GiB or more; answers are far smaller.
pub fn encode_response(payload: &[u8], out: &mut Vec<u8>) {
    let size = u32::try_from(payload.len()).expect("answers are small");
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The first line without its end, and its length with it.
fn first_line(input: &[u8]) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => Ok(Some((&input[..end], end + 1))),
        None if window.len() == LINE_BYTES_MAX => Err(ProtocolError::invalid(format!(
            "command line too long (max {LINE_BYTES_MAX} bytes)"
        ))),
        None => Ok(None),
    }
}

/// Without white space at both ends: Unicode's where the line is text.
fn trim(line: &[u8]) -> &[u8] {
    if let Ok(text) = std::str::from_utf8(line) {
        return text.trim().as_bytes();
    }
    let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == b'\x0b';
    let start = line
        .iter()
        .position(|byte| !is_space(byte))
        .unwrap_or(line.len());
    let end = line
        .iter()
        .rposition(|byte| !is_space(byte))
        .map_or(start, |last| last + 1);
    &line[start..end]
}

/// The body behind the line of an IDENTIFY, and its length with the size in front.
fn identify_body(
    input: &[u8],
    is_identified: bool,
) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    if is_identified {
        return Err(ProtocolError::invalid("cannot IDENTIFY again"));
    }
    let Some((size, rest)) = input.split_first_chunk::<SIZE_LEN>() else {
        return Ok(None);
    };
    let announced = i32::from_be_bytes(*size);
    let size = usize::try_from(announced)
        .map_err(|_| ProtocolError::bad_body(format!("IDENTIFY invalid body size {announced}")))?;
    if size > BODY_BYTES_MAX {
        return Err(ProtocolError::bad_body(format!(
            "IDENTIFY body too big {announced} > {BODY_BYTES_MAX}"
        )));
    }
    Ok(rest.get(..size).map(|body| (body, SIZE_LEN + size)))
}

/// Topic and channel of a line, in the reference's order of checks. An empty channel is none.
fn names<'a>(
    verb: &str,
    mut words: impl Iterator<Item = &'a [u8]>,
    is_identified: bool,
) -> Result<(TopicName, Option<ChannelName>), ProtocolError> {
    if !is_identified {
        return Err(ProtocolError::invalid("client must IDENTIFY"));
    }
    let Some(topic) = words.next() else {
        return Err(ProtocolError::invalid(format!(
            "{verb} insufficient number of params"
        )));
    };
    let invalid = |code: &str, kind: &str, name: &[u8]| {
        let start = format!("{verb} {kind} name '");
        ProtocolError::new(code, [start.as_bytes(), name, b"' is not valid"].concat())
    };
    let topic = TopicName::parse(topic).map_err(|_| invalid("E_BAD_TOPIC", "topic", topic))?;
    let channel = match words.next().unwrap_or_default() {
        b"" => None,
        name => {
            Some(ChannelName::parse(name).map_err(|_| invalid("E_BAD_CHANNEL", "channel", name))?)
        }
    };
    Ok((topic, channel))
}
