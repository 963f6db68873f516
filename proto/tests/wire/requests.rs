use bytes::BytesMut;
use nsq_proto::{
    FIN_LEN, MAGIC_V2, encode_auth, encode_cls, encode_dpub, encode_entry, encode_fin,
    encode_identify, encode_mpub, encode_nop, encode_pub, encode_rdy, encode_req, encode_sub,
    encode_touch, is_word,
};

use super::{context_for, outcome, unhex, vectors};

const ID: &[u8; 16] = b"18a27a7b78269000";

/// The command that the server's side shows as this.
fn encoded(shown: &str) -> BytesMut {
    // Commands are appended: what is in the buffer stays.
    let mut out = BytesMut::from("before");
    match shown {
        "NOP" => encode_nop(&mut out),
        "CLS" => encode_cls(&mut out),
        "IDENTIFY \"{}\"" => encode_identify(&mut out, b"{}"),
        "AUTH \"secret\"" => encode_auth(&mut out, b"secret"),
        "SUB t c" => encode_sub(&mut out, "t", "c"),
        "RDY 0" => encode_rdy(&mut out, 0),
        "RDY 2500" => encode_rdy(&mut out, 2500),
        "FIN 18a27a7b78269000" => encode_fin(&mut out, ID),
        "REQ 18a27a7b78269000 0" => encode_req(&mut out, ID, 0),
        "REQ 18a27a7b78269000 18446744073709551615" => encode_req(&mut out, ID, u64::MAX),
        "TOUCH 18a27a7b78269000" => encode_touch(&mut out, ID),
        "PUB t \"hello\"" => encode_pub(&mut out, "t", b"hello"),
        "DPUB t 15 \"\\x00\"" => encode_dpub(&mut out, "t", 15, &[0]),
        "MPUB t 2 messages of 3 bytes: \"a\" \"bc\"" => {
            let mut list = BytesMut::new();
            encode_entry(&mut list, b"a");
            encode_entry(&mut list, b"bc");
            encode_mpub(&mut out, "t", 2, &list);
        }
        _ => panic!("{shown}"),
    }
    assert_eq!(out[..6], *b"before");
    out.split_off(6)
}

#[test]
fn requests_are_those_of_the_go_client_and_are_read_as_what_they_mean() {
    let mut seen = 0;
    for vector in vectors(include_str!("../vectors/requests.txt")) {
        let [hex, shown] = vector[..] else {
            panic!("{vector:?}")
        };
        let request = encoded(shown);
        assert_eq!(request, unhex(hex), "{shown}");
        let context = context_for(&request);
        assert_eq!(
            outcome(&request, &context),
            (shown.to_owned(), request.len())
        );
        seen += 1;
    }
    assert_eq!(seen, 14);
    assert_eq!(encoded("FIN 18a27a7b78269000").len(), FIN_LEN);
    assert_eq!(MAGIC_V2, b"  V2");
}

#[test]
fn words_do_not_end_early() {
    for word in ["t", "a$", "ü"] {
        assert!(is_word(word), "{word}");
    }
    for text in ["", "a b", "a\nFIN", "a\r"] {
        assert!(!is_word(text), "{text:?}");
    }
}
