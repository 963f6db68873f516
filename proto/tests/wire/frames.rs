use bytes::BytesMut;
use nsq_proto::{
    MESSAGE_ATTEMPTS_OFFSET, MESSAGE_HEADER_LEN, MESSAGE_ID_OFFSET, MESSAGE_TIMESTAMP_OFFSET,
    encode_error, encode_message_header, encode_response,
};

use super::{unhex, vectors};

const TIMESTAMP_NS: u64 = 0x18e9_e7c6_b10e_0a3f;
const ID: &[u8; 16] = b"18a27a7b78269000";

#[test]
fn frames_are_those_of_the_reference() {
    let mut seen = 0;
    for vector in vectors(include_str!("../vectors/frames.txt")) {
        let [kind, text, hex] = vector[..] else {
            panic!("{vector:?}")
        };
        // Frames are appended: what is in the buffer stays.
        let mut out = BytesMut::from("before");
        match kind {
            "response" => encode_response(&mut out, text.as_bytes()),
            "error" => encode_error(&mut out, text),
            "message" => {
                encode_message_header(&mut out, text.len(), TIMESTAMP_NS, 1, ID);
                out.extend_from_slice(text.as_bytes());
            }
            _ => panic!("{kind}"),
        }
        assert_eq!(out[..6], *b"before");
        assert_eq!(out[6..], unhex(hex), "{text}");
        seen += 1;
    }
    assert_eq!(seen, 5);
}

#[test]
fn fields_of_a_message_lie_at_their_offsets() {
    let mut out = BytesMut::new();
    encode_message_header(&mut out, 0, TIMESTAMP_NS, 0x0102, ID);
    assert_eq!(out.len(), MESSAGE_HEADER_LEN);
    let timestamp = &out[MESSAGE_TIMESTAMP_OFFSET..MESSAGE_ATTEMPTS_OFFSET];
    assert_eq!(timestamp, TIMESTAMP_NS.to_be_bytes());
    assert_eq!(out[MESSAGE_ATTEMPTS_OFFSET..MESSAGE_ID_OFFSET], [1, 2]);
    assert_eq!(out[MESSAGE_ID_OFFSET..], *ID);
}
