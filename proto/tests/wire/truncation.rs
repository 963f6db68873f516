use nsq_proto::truncation_error;

use super::{CONTEXT, context_for, list, with_body};

fn told(input: &[u8]) -> String {
    truncation_error(input, &context_for(input)).map_or_else(String::new, |e| e.to_string())
}

#[test]
fn nothing_between_commands_and_inside_a_line() {
    for input in [
        &b""[..],
        b"P",
        b"PUB t",
        b"FIN 0123456789abcdef",
        b"NOP\n",
        b"NOP\nPUB",
    ] {
        assert_eq!(told(input), "", "{input:?}");
    }
    assert_eq!(told(&with_body("PUB t", b"whole")), "");
}

#[test]
fn the_part_that_did_not_come() {
    let table = [
        ("IDENTIFY", "E_BAD_BODY IDENTIFY failed to read body"),
        ("AUTH", "E_BAD_BODY AUTH failed to read body"),
        ("PUB t", "E_BAD_MESSAGE PUB failed to read message body"),
        ("DPUB t 0", "E_BAD_MESSAGE DPUB failed to read message body"),
    ];
    for (line, text) in table {
        let whole = with_body(line, b"body");
        let body_start = whole.len() - 4;
        for cut in line.len() + 1..whole.len() {
            let expected = if cut < body_start {
                format!("{text} size")
            } else {
                text.to_owned()
            };
            assert_eq!(told(&whole[..cut]), expected, "{line} cut at {cut}");
        }
    }
}

#[test]
fn the_part_of_an_mpub_that_did_not_come() {
    let whole = with_body("MPUB t", &list(2, &[b"a", b"bc"]));
    let parts = [
        (4, "E_BAD_BODY MPUB failed to read body size"),
        (4, "E_BAD_BODY MPUB failed to read message count"),
        (4, "E_BAD_MESSAGE MPUB failed to read message(0) body size"),
        (1, "E_BAD_MESSAGE MPUB failed to read message body"),
        (4, "E_BAD_MESSAGE MPUB failed to read message(1) body size"),
        (2, "E_BAD_MESSAGE MPUB failed to read message body"),
    ];
    let mut cut = "MPUB t\n".len();
    for (len, text) in parts {
        for _ in 0..len {
            assert_eq!(told(&whole[..cut]), text, "cut at {cut}");
            cut += 1;
        }
    }
    assert_eq!(cut, whole.len());
    assert_eq!(told(&whole), "");
}

#[test]
fn an_error_that_was_certain_before() {
    let error = truncation_error(b"PUB t\n\0\0\0\0", &CONTEXT).unwrap();
    assert_eq!(
        error.to_string(),
        "E_BAD_MESSAGE PUB invalid message body size 0"
    );
}
