//! What the generator says and hears on a connection: commands appended to plain byte vectors, frames
//! walked in place.
//!
//! Hot path: no allocation per message, and no copy of a body.

use anyhow::{Result, bail, ensure};
use nsq_proto::{
    FRAME_HEADER_LEN, FRAME_TYPE_ERROR, FRAME_TYPE_MESSAGE, FRAME_TYPE_RESPONSE,
    MESSAGE_ATTEMPTS_OFFSET, MESSAGE_HEADER_LEN, MESSAGE_ID_OFFSET,
};

/// What a client sends before its first command.
pub(crate) const MAGIC: &[u8] = b"  V2";
/// The answer to a publish, whole: size 6, type 0, `OK`.
pub(crate) const OK_FRAME: [u8; 10] = *b"\0\0\0\x06\0\0\0\0OK";
/// The answer to a heartbeat.
pub(crate) const NOP: &[u8] = b"NOP\n";
/// Bytes of a finish command: `FIN `, id, newline.
pub(crate) const FINISH_LEN: usize = 21;
/// Bytes of a frame that no broker would send: a sign that the stream is out of step.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// Appends a command with a body: line, length, body.
pub(crate) fn put_command(out: &mut Vec<u8>, line: &str, body: &[u8]) {
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&field(body.len()));
    out.extend_from_slice(body);
}

/// Appends `SUB`.
pub(crate) fn put_subscribe(out: &mut Vec<u8>, topic: &str, channel: &str) {
    out.extend_from_slice(format!("SUB {topic} {channel}\n").as_bytes());
}

/// Appends `RDY`.
pub(crate) fn put_ready(out: &mut Vec<u8>, count: u32) {
    out.extend_from_slice(format!("RDY {count}\n").as_bytes());
}

/// Appends `FIN`.
pub(crate) fn put_finish(out: &mut Vec<u8>, id: &[u8; 16]) {
    let mut command = *b"FIN 0123456789abcdef\n";
    command[4..20].copy_from_slice(id);
    out.extend_from_slice(&command);
}

/// Appends `REQ` with an already formatted end, such as ` 100\n`.
pub(crate) fn put_requeue(out: &mut Vec<u8>, id: &[u8; 16], tail: &[u8]) {
    out.extend_from_slice(b"REQ ");
    out.extend_from_slice(id);
    out.extend_from_slice(tail);
}

/// A length as the protocol writes it.
pub(crate) fn field(len: usize) -> [u8; 4] {
    u32::try_from(len)
        .expect("bodies are checked to be far below 4 GiB")
        .to_be_bytes()
}

/// A length as the protocol writes it, read back. `None` when fewer than 4 bytes are there.
pub(crate) fn read_field(bytes: &[u8]) -> Option<usize> {
    let field = bytes.first_chunk::<4>()?;
    usize::try_from(u32::from_be_bytes(*field)).ok()
}

/// How many whole `OK` frames the bytes begin with.
pub(crate) fn count_oks(bytes: &[u8]) -> usize {
    bytes
        .chunks_exact(OK_FRAME.len())
        .take_while(|frame| **frame == OK_FRAME)
        .count()
}

/// A frame of the broker; everything in it is borrowed from the receive buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// `OK`, `_heartbeat_`, `CLOSE_WAIT`, JSON.
    Response(&'a [u8]),
    /// `<CODE> <description>`.
    Error(&'a [u8]),
    /// A message.
    Message(Delivery<'a>),
}

/// A message as delivered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Delivery<'a> {
    /// What answers are addressed to.
    pub(crate) id: &'a [u8; 16],
    /// Deliveries so far, this one included.
    pub(crate) attempts: u16,
    /// What was published.
    pub(crate) body: &'a [u8],
}

/// The first frame and the bytes that it takes, or `None` when it is not there as a whole.
///
/// # Errors
/// The bytes are not a frame.
pub(crate) fn next_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let Some(size) = read_field(bytes) else {
        return Ok(None);
    };
    ensure!(
        (4..FRAME_BYTES_MAX).contains(&size),
        "the broker sent a frame of {size} bytes"
    );
    let end = 4 + size;
    if bytes.len() < end {
        return Ok(None);
    }
    let data = &bytes[FRAME_HEADER_LEN..end];
    let kind = bytes[4..]
        .first_chunk::<4>()
        .map_or(u32::MAX, |kind| u32::from_be_bytes(*kind));
    let frame = match kind {
        FRAME_TYPE_RESPONSE => Frame::Response(data),
        FRAME_TYPE_ERROR => Frame::Error(data),
        FRAME_TYPE_MESSAGE => Frame::Message(delivery(&bytes[..end])?),
        other => bail!("the broker sent a frame of type {other}"),
    };
    Ok(Some((frame, end)))
}

fn delivery(frame: &[u8]) -> Result<Delivery<'_>> {
    ensure!(
        frame.len() >= MESSAGE_HEADER_LEN,
        "the broker sent a message frame without a header"
    );
    let attempts = [
        frame[MESSAGE_ATTEMPTS_OFFSET],
        frame[MESSAGE_ATTEMPTS_OFFSET + 1],
    ];
    Ok(Delivery {
        id: frame[MESSAGE_ID_OFFSET..]
            .first_chunk()
            .expect("the header's length is checked"),
        attempts: u16::from_be_bytes(attempts),
        body: &frame[MESSAGE_HEADER_LEN..],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_frame(id: &[u8; 16], attempts: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = bytes::BytesMut::new();
        nsq_proto::encode_message_header(&mut frame, body.len(), 7, attempts, id);
        frame.extend_from_slice(body);
        frame.to_vec()
    }

    #[test]
    fn commands_are_what_the_protocol_wants() {
        let mut out = Vec::new();
        put_command(&mut out, "PUB t", b"abc");
        put_subscribe(&mut out, "t", "c");
        put_ready(&mut out, 2500);
        put_finish(&mut out, b"0000000000000001");
        put_requeue(&mut out, b"0000000000000002", b" 100\n");
        let want = b"PUB t\n\0\0\0\x03abcSUB t c\nRDY 2500\nFIN 0000000000000001\nREQ 0000000000000002 100\n";
        assert_eq!(out, want);
    }

    #[test]
    fn commands_decode_with_the_brokers_own_decoder() {
        let mut out = Vec::new();
        put_finish(&mut out, b"0000000000000001");
        assert_eq!(out.len(), FINISH_LEN);
        let context = crate::template::decode_context(nsq_proto::SessionState::Subscribed);
        let decoded = nsq_proto::decode(&out, &context).unwrap();
        let nsq_proto::Decoded::Command {
            command: nsq_proto::Command::Fin { id },
            ..
        } = decoded
        else {
            panic!("no FIN: {decoded:?}")
        };
        assert_eq!(&id, b"0000000000000001");
    }

    #[test]
    fn oks_are_counted_up_to_the_first_other_byte() {
        let mut bytes = OK_FRAME.repeat(3);
        assert_eq!(count_oks(&bytes), 3);
        bytes.extend_from_slice(&OK_FRAME[..9]);
        assert_eq!(count_oks(&bytes), 3, "an incomplete one does not count");
        bytes.push(b'X');
        bytes.extend_from_slice(&OK_FRAME);
        assert_eq!(count_oks(&bytes), 3, "nor what follows another frame");
    }

    #[test]
    fn frames_wait_for_their_last_byte() {
        let whole = message_frame(b"0123456789abcdef", 3, b"body");
        for cut in 0..whole.len() {
            assert_eq!(next_frame(&whole[..cut]).unwrap(), None, "{cut}");
        }
        let (frame, used) = next_frame(&whole).unwrap().unwrap();
        assert_eq!(used, whole.len());
        let want = Delivery {
            id: b"0123456789abcdef",
            attempts: 3,
            body: b"body",
        };
        assert_eq!(frame, Frame::Message(want));
    }

    #[test]
    fn responses_and_errors_are_told_apart() {
        assert_eq!(
            next_frame(&OK_FRAME).unwrap(),
            Some((Frame::Response(b"OK"), 10))
        );
        let error = b"\0\0\0\x0d\0\0\0\x01E_INVALID";
        assert_eq!(
            next_frame(error).unwrap(),
            Some((Frame::Error(b"E_INVALID"), 17))
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        assert!(
            next_frame(b"\0\0\0\x03\0\0\0").is_err(),
            "shorter than its type"
        );
        assert!(
            next_frame(b"HTTP/1.1 400 Bad Request").is_err(),
            "text read as a size"
        );
        assert!(
            next_frame(b"\0\0\0\x06\0\0\0\x09OK").is_err(),
            "unknown type"
        );
        assert!(
            next_frame(b"\0\0\0\x06\0\0\0\x02OK").is_err(),
            "message without a header"
        );
    }
}
