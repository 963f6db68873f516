//! Decoding of what a server sends, for clients: the counterpart of the encoders of frames.
//!
//! [`decode_frame`] takes whole frames off the front of a receive buffer without copying: what it
//! returns is a slice of the buffer. A length is believed only as far as the limit, and room is made
//! by whoever fills the buffer, as bytes arrive.
//!
//! Hot path: no copy, no formatting.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::frame::{
    FRAME_HEADER_LEN, FRAME_TYPE_ERROR, FRAME_TYPE_MESSAGE, FRAME_TYPE_RESPONSE,
    MESSAGE_ATTEMPTS_OFFSET, MESSAGE_HEADER_LEN, MESSAGE_ID_OFFSET, MESSAGE_TIMESTAMP_OFFSET,
};

/// Longest response or error in bytes: those of any server are far shorter.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// A frame as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// `OK`, `_heartbeat_`, `CLOSE_WAIT`, JSON.
    Response(Bytes),
    /// `<CODE> <description>`.
    Error(Bytes),
    /// A message.
    Message(Delivery),
}

/// A message as it was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Deliveries so far, this one included.
    pub attempts: u16,
    /// Opaque.
    pub id: [u8; 16],
    /// The body.
    pub body: Bytes,
}

/// Bytes that are no frame. The stream cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A size that no frame can have.
    #[error("invalid frame size {0}")]
    Size(i32),
    /// Larger than the limit.
    #[error("frame of {size} bytes is too big (max {max})")]
    TooBig {
        /// Of the data.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// Not a type of this protocol.
    #[error("unknown frame type {0}")]
    Type(u32),
    /// A message frame without room for its header.
    #[error("not enough data to decode valid message")]
    Message,
}

/// Takes the first frame off `buffer`, or leaves it while it is not whole. `body_bytes_max` is the
/// limit of message bodies.
///
/// # Errors
/// As soon as the first eight bytes are wrong.
pub fn decode_frame(
    buffer: &mut BytesMut,
    body_bytes_max: usize,
) -> Result<Option<Frame>, FrameError> {
    let Some(header) = buffer.first_chunk::<FRAME_HEADER_LEN>() else {
        return Ok(None);
    };
    let [s0, s1, s2, s3, t0, t1, t2, t3] = *header;
    let size = i32::from_be_bytes([s0, s1, s2, s3]);
    let frame_type = u32::from_be_bytes([t0, t1, t2, t3]);
    let data_len = check_size(size, frame_type, body_bytes_max)?;
    if buffer.len() < FRAME_HEADER_LEN + data_len {
        return Ok(None);
    }
    let mut frame = buffer.split_to(FRAME_HEADER_LEN + data_len).freeze();
    Ok(Some(match frame_type {
        FRAME_TYPE_MESSAGE => Frame::Message(delivery(frame)),
        FRAME_TYPE_ERROR => {
            frame.advance(FRAME_HEADER_LEN);
            Frame::Error(frame)
        }
        _ => {
            frame.advance(FRAME_HEADER_LEN);
            Frame::Response(frame)
        }
    }))
}

/// The length of the data, if a frame of this type may have it.
fn check_size(size: i32, frame_type: u32, body_bytes_max: usize) -> Result<usize, FrameError> {
    const MESSAGE_DATA_MIN: usize = MESSAGE_HEADER_LEN - FRAME_HEADER_LEN;
    let len = usize::try_from(size)
        .ok()
        .and_then(|size| size.checked_sub(4))
        .ok_or(FrameError::Size(size))?;
    let max = match frame_type {
        FRAME_TYPE_MESSAGE if len < MESSAGE_DATA_MIN => return Err(FrameError::Message),
        FRAME_TYPE_MESSAGE => body_bytes_max.saturating_add(MESSAGE_DATA_MIN),
        FRAME_TYPE_RESPONSE | FRAME_TYPE_ERROR => REPLY_BYTES_MAX,
        _ => return Err(FrameError::Type(frame_type)),
    };
    if len > max {
        return Err(FrameError::TooBig { size: len, max });
    }
    Ok(len)
}

/// A message frame whose length was checked.
fn delivery(mut frame: Bytes) -> Delivery {
    let mut header = [0; MESSAGE_HEADER_LEN];
    frame.copy_to_slice(&mut header);
    Delivery {
        timestamp_ns: u64::from_be_bytes(field(&header, MESSAGE_TIMESTAMP_OFFSET)),
        attempts: u16::from_be_bytes(field(&header, MESSAGE_ATTEMPTS_OFFSET)),
        id: field(&header, MESSAGE_ID_OFFSET),
        body: frame,
    }
}

fn field<const N: usize>(header: &[u8; MESSAGE_HEADER_LEN], at: usize) -> [u8; N] {
    *header[at..]
        .first_chunk()
        .expect("the offsets lie in the header")
}
