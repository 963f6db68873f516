use bytes::{BufMut as _, BytesMut};
use nsq_proto::{
    Frame, FrameError, REPLY_BYTES_MAX, decode_frame, encode_error, encode_message_header,
    encode_response,
};

use super::{unhex, vectors};

const ID: &[u8; 16] = b"18a27a7b78269000";
const BODY_MAX: usize = 100;

fn message(out: &mut BytesMut, body: &[u8]) {
    encode_message_header(out, body.len(), 7, 3, ID);
    out.put_slice(body);
}

fn next(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    decode_frame(buffer, BODY_MAX)
}

#[test]
fn frames_of_the_reference_are_read() {
    for vector in vectors(include_str!("../vectors/frames.txt")) {
        let [kind, text, hex] = vector[..] else {
            panic!("{vector:?}")
        };
        let mut buffer = BytesMut::from(&unhex(hex)[..]);
        let frame = next(&mut buffer).unwrap().unwrap();
        match (kind, &frame) {
            ("response", Frame::Response(data)) | ("error", Frame::Error(data)) => {
                assert_eq!(data, text.as_bytes());
            }
            ("message", Frame::Message(delivery)) => {
                assert_eq!(delivery.body, text.as_bytes());
                assert_eq!((delivery.attempts, &delivery.id), (1, ID));
                assert_eq!(delivery.timestamp_ns, 0x18e9_e7c6_b10e_0a3f);
            }
            _ => panic!("{kind}: {frame:?}"),
        }
        assert!(buffer.is_empty());
    }
}

#[test]
fn cuts_do_not_change_what_is_read() {
    let mut stream = BytesMut::new();
    encode_response(&mut stream, b"OK");
    message(&mut stream, b"one");
    message(&mut stream, b"");
    encode_error(&mut stream, "E_FIN_FAILED x");
    message(&mut stream, &[9; BODY_MAX]);
    let mut whole = stream.clone();
    let mut expected = Vec::new();
    while let Some(frame) = next(&mut whole).unwrap() {
        expected.push(frame);
    }
    assert_eq!((expected.len(), whole.len()), (5, 0));
    let mut buffer = BytesMut::new();
    let mut seen = Vec::new();
    for byte in stream {
        buffer.put_u8(byte);
        seen.extend(next(&mut buffer).unwrap());
    }
    assert_eq!(seen, expected);
}

#[test]
fn what_is_no_frame_is_refused_by_its_first_eight_bytes() {
    let header = |size: i32, frame_type: u32| {
        let mut buffer = BytesMut::new();
        buffer.put_i32(size);
        buffer.put_u32(frame_type);
        next(&mut buffer)
    };
    for size in [i32::MIN, -1, 0, 3] {
        assert_eq!(header(size, 0), Err(FrameError::Size(size)));
    }
    assert_eq!(header(4, 3), Err(FrameError::Type(3)));
    assert_eq!(header(29, 2), Err(FrameError::Message));
    assert_eq!(header(30, 2), Ok(None));
    let too_big = FrameError::TooBig {
        size: 127,
        max: 126,
    };
    assert_eq!(header(131, 2), Err(too_big));
    let reply_max = i32::try_from(REPLY_BYTES_MAX).unwrap() + 4;
    assert_eq!(header(reply_max, 1), Ok(None));
    assert!(matches!(
        header(reply_max + 1, 0),
        Err(FrameError::TooBig { .. })
    ));
    let mut http = BytesMut::from("HTTP/1.1 400 Bad Request\r\n");
    assert_eq!(next(&mut http), Err(FrameError::Type(0x2f31_2e31)));
}
