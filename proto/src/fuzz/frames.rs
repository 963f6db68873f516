//! What a server sends.

use bytes::BytesMut;
use nsq_fuzz::{pieces, unhex};

use crate::{
    Frame, REPLY_BYTES_MAX, decode_frame, encode_error, encode_message_header, encode_response,
};

/// The limit of bodies (1), the seed of the cuts (2), then the stream.
const CONTROL_LEN: usize = 3;

/// A stream of frames, as a client reads it.
pub(super) fn run(input: &[u8]) {
    let Some((&[size, c0, c1], stream)) = input.split_first_chunk::<CONTROL_LEN>() else {
        return;
    };
    let body_bytes_max = 1_usize << (size & 15);
    let whole = read([stream].into_iter(), body_bytes_max);
    let seed = u16::from_le_bytes([c0, c1]);
    assert_eq!(read(pieces(stream, seed), body_bytes_max), whole);
    let (frames, _) = &whole;
    let mut again = BytesMut::new();
    for frame in frames {
        match frame {
            Frame::Response(data) => {
                assert!(data.len() <= REPLY_BYTES_MAX);
                encode_response(&mut again, data);
            }
            Frame::Error(data) => {
                assert!(data.len() <= REPLY_BYTES_MAX);
                encode_error(&mut again, data);
            }
            Frame::Message(message) => {
                let (at, attempts) = (message.timestamp_ns, message.attempts);
                assert!(message.body.len() <= body_bytes_max);
                encode_message_header(&mut again, message.body.len(), at, attempts, &message.id);
                again.extend_from_slice(&message.body);
            }
        }
    }
    assert_eq!(again, stream[..again.len()]);
}

/// The frames, and what ended them.
fn read<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    body_bytes_max: usize,
) -> (Vec<Frame>, Option<String>) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decode_frame(&mut buffer, body_bytes_max) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
    }
    (frames, None)
}

/// Each vector, and all in a row.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let text = include_str!("../../tests/vectors/frames.txt");
    let vectors = text.lines().filter(|line| !line.starts_with('#'));
    let mut streams: Vec<Vec<u8>> = vectors
        .filter_map(|line| line.rsplit_once('|'))
        .map(|(_, hex)| unhex(hex))
        .collect();
    streams.push(streams.concat());
    let with_control = |stream: &Vec<u8>| [b"\x08\x01\0", &stream[..]].concat();
    streams.iter().map(with_control).collect()
}
