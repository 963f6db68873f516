use nsq_proto::{DecodeContext, Limits, decode_bodies, mpub_topic};

use super::{CONTEXT, list, outcome, with_body};

fn told(input: &[u8]) -> String {
    outcome(input, &CONTEXT).0
}

/// What HTTP makes of a list.
fn http(body: &[u8], limits: &Limits) -> String {
    match decode_bodies(body, limits) {
        Ok(bodies) => {
            let (count, bytes) = (bodies.len(), bodies.total_bytes());
            assert_eq!(bodies.clone().count(), count);
            assert_eq!(bodies.map(<[u8]>::len).sum::<usize>(), bytes);
            format!("{count} messages of {bytes} bytes")
        }
        Err(error) => error.to_string(),
    }
}

#[test]
fn lists_that_both_doors_refuse_alike() {
    let big = [b'x'; 101];
    let table = [
        (vec![], "E_BAD_BODY MPUB failed to read message count"),
        (
            vec![0, 0, 0],
            "E_BAD_BODY MPUB failed to read message count",
        ),
        (list(0, &[]), "E_BAD_BODY MPUB invalid message count 0"),
        (list(-1, &[]), "E_BAD_BODY MPUB invalid message count -1"),
        // (200 - 4) / 5 messages at most.
        (list(40, &[]), "E_BAD_BODY MPUB invalid message count 40"),
        (
            list(39, &[]),
            "E_BAD_MESSAGE MPUB failed to read message(0) body size",
        ),
        (
            list(2, &[b"a"]),
            "E_BAD_MESSAGE MPUB failed to read message(1) body size",
        ),
        (
            [&list(2, &[b"a"])[..], &[0, 0, 0]].concat(),
            "E_BAD_MESSAGE MPUB failed to read message(1) body size",
        ),
        (
            list(2, &[b"a", b""]),
            "E_BAD_MESSAGE MPUB invalid message(1) body size 0",
        ),
        (
            [&list(1, &[])[..], &(-5_i32).to_be_bytes()].concat(),
            "E_BAD_MESSAGE MPUB invalid message(0) body size -5",
        ),
        (
            list(1, &[&big]),
            "E_BAD_MESSAGE MPUB message too big 101 > 100",
        ),
        // Too big comes before too short.
        (
            list(1, &[&big])[..10].to_vec(),
            "E_BAD_MESSAGE MPUB message too big 101 > 100",
        ),
        (
            list(1, &[b"abc"])[..10].to_vec(),
            "E_BAD_MESSAGE MPUB failed to read message body",
        ),
        (
            list(1, &[b"abc"])[..8].to_vec(),
            "E_BAD_MESSAGE MPUB failed to read message body",
        ),
    ];
    for (body, text) in table {
        assert_eq!(http(&body, &CONTEXT.limits), text, "HTTP {body:?}");
        if !body.is_empty() {
            assert_eq!(told(&with_body("MPUB t", &body)), text, "TCP {body:?}");
        }
    }
}

#[test]
fn list_must_fill_the_declared_size() {
    let fits = list(2, &[b"a", b"bc"]);
    assert_eq!(
        told(&with_body("MPUB t", &fits)),
        r#"MPUB t 2 messages of 3 bytes: "a" "bc""#
    );
    assert_eq!(
        told(&with_body("MPUB t", &[&fits[..], b"NOP\n"].concat())),
        "E_BAD_BODY MPUB body size 19 does not match its messages (15 bytes)"
    );
    // A declared size of 1 before 13 real bytes, which the Go daemon takes.
    let short = [b"MPUB t\n\0\0\0\x01", &list(2, &[b"a", b"b"])[..]].concat();
    assert_eq!(told(&short), "E_BAD_BODY MPUB failed to read message count");
    // A message must not reach beyond the declared size into the next command.
    let reaching = [b"MPUB t\n\0\0\0\x09", &list(1, &[b"aNOP\n"])[..]].concat();
    assert_eq!(
        told(&reaching),
        "E_BAD_MESSAGE MPUB failed to read message body"
    );
}

#[test]
fn http_ignores_what_follows_the_last_message() {
    let body = [&list(2, &[b"a", b"bc"])[..], b"trailing"].concat();
    assert_eq!(http(&body, &CONTEXT.limits), "2 messages of 3 bytes");
}

#[test]
fn limits_themselves_are_allowed() {
    let message = [b'x'; 100];
    assert_eq!(
        http(&list(1, &[&message]), &CONTEXT.limits),
        "1 messages of 100 bytes"
    );
    let bodies = [&b"x"[..]; 39];
    assert_eq!(
        http(&list(39, &bodies), &CONTEXT.limits),
        "39 messages of 39 bytes"
    );
    let limits = Limits {
        body_bytes_max: 3,
        ..CONTEXT.limits
    };
    assert_eq!(
        http(&list(1, &[b"x"]), &limits),
        "E_BAD_BODY MPUB invalid message count 1"
    );
}

#[test]
fn errors_do_not_wait_for_the_rest() {
    // Declared 200 bytes, of which only the offending field has come.
    let start = [&b"MPUB t\n"[..], &200_i32.to_be_bytes()].concat();
    let after = |rest: &[u8]| told(&[&start[..], rest].concat());
    assert_eq!(after(b""), "needs 211");
    assert_eq!(
        after(&40_i32.to_be_bytes()),
        "E_BAD_BODY MPUB invalid message count 40"
    );
    assert_eq!(
        after(&[2_i32.to_be_bytes(), 101_i32.to_be_bytes()].concat()),
        "E_BAD_MESSAGE MPUB message too big 101 > 100"
    );
    assert_eq!(
        after(&[&list(1, &[b"a"])[..], b"b"].concat()),
        "E_BAD_BODY MPUB body size 200 does not match its messages (9 bytes)"
    );
}

#[test]
fn bodies_count_down_as_they_are_taken() {
    let body = list(3, &[b"a", b"bcd", b"ef"]);
    let mut bodies = decode_bodies(&body, &CONTEXT.limits).unwrap();
    assert_eq!((bodies.len(), bodies.total_bytes()), (3, 6));
    assert_eq!(bodies.next(), Some(&b"a"[..]));
    assert_eq!((bodies.len(), bodies.total_bytes()), (2, 5));
    assert_eq!(bodies.next(), Some(&b"bcd"[..]));
    assert_eq!(bodies.next(), Some(&b"ef"[..]));
    assert_eq!((bodies.len(), bodies.total_bytes()), (0, 0));
    assert_eq!(bodies.next(), None);
    assert_eq!(bodies.next(), None);
}

#[test]
fn topic_is_known_with_the_line_and_only_when_the_line_is_sound() {
    let table: [(&[u8], Option<&str>); 11] = [
        (b"MPUB t\n", Some("t")),
        (b"MPUB t\r\n", Some("t")),
        (b"MPUB t more words\nbody", Some("t")),
        (b"MPUB t", None),
        (b"MPUB", None),
        (b"MPUB\n", None),
        (b"MPUB \n", None),
        (b"MPUB a:b\n", None),
        (b"MPUBS t\n", None),
        (b"PUB t\n", None),
        (b"", None),
    ];
    for (input, topic) in table {
        assert_eq!(mpub_topic(input, &CONTEXT), topic, "{input:?}");
    }
    let tls_missing = DecodeContext {
        tls_missing: true,
        ..CONTEXT
    };
    assert_eq!(mpub_topic(b"MPUB t\n", &tls_missing), None);
    let endless = [&b"MPUB t "[..], &[b'x'; 16 * 1024]].concat();
    assert_eq!(mpub_topic(&endless, &CONTEXT), None);
}
