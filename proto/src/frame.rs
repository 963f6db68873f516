//! Frames, server to client: `size(4) | type(4) | data`, big-endian, size = 4 + data.
//!
//! The data of a message frame has a header of its own. Offsets from the start of the frame:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | size of all that follows |
//! | 4 | 4 | frame type, 2 |
//! | 8 | 8 | timestamp, nanoseconds since 1970 |
//! | 16 | 2 | attempts, this delivery included |
//! | 18 | 16 | id, opaque to clients |
//! | 34 | | body |
//!
//! A message is stored as its frame, so these numbers are also those of the log's records.

use bytes::{BufMut, BytesMut};

/// Bytes before the data of a frame.
pub const FRAME_HEADER_LEN: usize = 8;
/// Offset of the timestamp in a message frame.
pub const MESSAGE_TIMESTAMP_OFFSET: usize = FRAME_HEADER_LEN;
/// Offset of the attempts in a message frame.
pub const MESSAGE_ATTEMPTS_OFFSET: usize = MESSAGE_TIMESTAMP_OFFSET + 8;
/// Offset of the id in a message frame.
pub const MESSAGE_ID_OFFSET: usize = MESSAGE_ATTEMPTS_OFFSET + 2;
/// Bytes of a message frame before its body: frame header, timestamp (8), attempts (2), id (16).
pub const MESSAGE_HEADER_LEN: usize = MESSAGE_ID_OFFSET + 16;
/// `OK`, `_heartbeat_`, `CLOSE_WAIT`, JSON.
pub const FRAME_TYPE_RESPONSE: u32 = 0;
/// `<CODE> <description>`.
pub const FRAME_TYPE_ERROR: u32 = 1;
/// A message.
pub const FRAME_TYPE_MESSAGE: u32 = 2;

const _: () = assert!(MESSAGE_ATTEMPTS_OFFSET == 16 && MESSAGE_ID_OFFSET == 18);
const _: () = assert!(MESSAGE_HEADER_LEN == 34);

/// Appends a response frame.
pub fn encode_response(out: &mut BytesMut, data: &[u8]) {
    encode(out, FRAME_TYPE_RESPONSE, data);
}

/// Appends an error frame; its text may hold bytes of the client that are not UTF-8.
pub fn encode_error(out: &mut BytesMut, text: &(impl AsRef<[u8]> + ?Sized)) {
    encode(out, FRAME_TYPE_ERROR, text.as_ref());
}

/// Appends the [`MESSAGE_HEADER_LEN`] bytes before a body of `body_len` bytes, which the caller
/// appends next.
///
/// # Panics
/// When the body is not below 2 GiB: the size limits are far lower.
pub fn encode_message_header(
    out: &mut BytesMut,
    body_len: usize,
    timestamp_ns: u64,
    attempts: u16,
    id: &[u8; 16],
) {
    let size = frame_size(MESSAGE_HEADER_LEN - FRAME_HEADER_LEN + body_len);
    // One write of a known length instead of five that each check the room.
    let mut header = [0; MESSAGE_HEADER_LEN];
    header[..4].copy_from_slice(&size.to_be_bytes());
    header[4..MESSAGE_TIMESTAMP_OFFSET].copy_from_slice(&FRAME_TYPE_MESSAGE.to_be_bytes());
    header[MESSAGE_TIMESTAMP_OFFSET..MESSAGE_ATTEMPTS_OFFSET]
        .copy_from_slice(&timestamp_ns.to_be_bytes());
    header[MESSAGE_ATTEMPTS_OFFSET..MESSAGE_ID_OFFSET].copy_from_slice(&attempts.to_be_bytes());
    header[MESSAGE_ID_OFFSET..].copy_from_slice(id);
    out.put_slice(&header);
}

fn encode(out: &mut BytesMut, frame_type: u32, data: &[u8]) {
    out.reserve(FRAME_HEADER_LEN + data.len());
    out.put_u32(frame_size(data.len()));
    out.put_u32(frame_type);
    out.put_slice(data);
}

/// The size field of a frame with `data_len` bytes of data. Clients read it as signed.
fn frame_size(data_len: usize) -> u32 {
    let size = i32::try_from(data_len + 4).expect("bodies and replies are far below 2 GiB");
    size.cast_unsigned()
}
