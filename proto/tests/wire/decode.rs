use nsq_proto::{DecodeContext, FIN_LINE_LEN, LINE_BYTES_MAX, Limits, plain_fins};

use super::{CLOSING, CONTEXT, SUBSCRIBED, context_for, outcome, unhex, vectors, with_body};

/// `input` in the context that lets its verb pass.
fn told(input: impl AsRef<[u8]>) -> String {
    let input = input.as_ref();
    outcome(input, &context_for(input)).0
}

fn check(table: &[(&str, &str)]) {
    for (input, expected) in table {
        assert_eq!(told(input), *expected, "{input:?}");
    }
}

#[test]
fn commands_are_decoded() {
    let mut seen = 0;
    for vector in vectors(include_str!("../vectors/commands.txt")) {
        let [hex, expected] = vector[..] else {
            panic!("{vector:?}")
        };
        let input = unhex(hex);
        // What follows belongs to the next command.
        for tail in [&b""[..], b"\n", b"PUB t\n\0\0\0\0"] {
            let (command, consumed) = outcome(&[&input, tail].concat(), &context_for(&input));
            assert_eq!(
                (command.as_str(), consumed),
                (expected, input.len()),
                "{hex}"
            );
        }
        seen += 1;
    }
    assert_eq!(seen, 25);
}

#[test]
fn input_cut_anywhere_asks_for_more_and_then_decodes_the_same() {
    for vector in vectors(include_str!("../vectors/commands.txt")) {
        let input = unhex(vector[0]);
        for cut in 0..input.len() {
            let (waiting, _) = outcome(&input[..cut], &context_for(&input));
            let needed: usize = waiting.strip_prefix("needs ").unwrap().parse().unwrap();
            assert!(
                needed <= input.len(),
                "{needed} of {} at {cut}",
                input.len()
            );
            let line_len = input.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let has_body = input.len() > line_len;
            let expected = match cut {
                _ if cut < line_len => cut + 1,
                _ if has_body && cut < line_len + 4 => line_len + 4,
                _ => input.len(),
            };
            assert_eq!(needed, expected, "{} cut at {cut}", vector[1]);
        }
    }
}

#[test]
fn empty_input_needs_a_byte() {
    assert_eq!(told(""), "needs 1");
}

#[test]
fn unknown_commands() {
    check(&[
        ("\n", "E_INVALID invalid command "),
        ("\r\n", "E_INVALID invalid command "),
        (" \n", "E_INVALID invalid command "),
        (" NOP\n", "E_INVALID invalid command "),
        ("nop\n", "E_INVALID invalid command nop"),
        ("NOP\r\r\n", "E_INVALID invalid command NOP\r"),
        ("NOP\t\n", "E_INVALID invalid command NOP\t"),
        ("PUBX t\n", "E_INVALID invalid command PUBX"),
        ("GET / HTTP/1.1\r\n", "E_INVALID invalid command GET"),
    ]);
    assert_eq!(told(b"\xff\n"), "E_INVALID invalid command \u{fffd}");
}

#[test]
fn lines_have_a_limit() {
    let line = |len: usize| format!("NOP {}\n", "x".repeat(len - 5));
    let too_long = "E_INVALID command line too long (max 16384 bytes)";
    let longest = line(LINE_BYTES_MAX);
    assert_eq!(
        outcome(longest.as_bytes(), &CONTEXT),
        ("NOP".to_owned(), LINE_BYTES_MAX)
    );
    assert_eq!(told(&longest[..LINE_BYTES_MAX - 1]), "needs 16384");
    assert_eq!(told(line(LINE_BYTES_MAX + 1)), too_long);
    assert_eq!(told("x".repeat(LINE_BYTES_MAX)), too_long);
    assert_eq!(told("x".repeat(3 * LINE_BYTES_MAX)), too_long);
}

#[test]
fn states_allow_their_commands_only() {
    let id = "18a27a7b78269000";
    let fin = format!("FIN {id}\n");
    let req = format!("REQ {id} 5\n");
    let touch = format!("TOUCH {id}\n");
    let table = [
        ("IDENTIFY\n\0\0\0\x01x", [true, false, false]),
        ("AUTH\n\0\0\0\x01x", [true, false, false]),
        ("SUB t c\n", [true, false, false]),
        ("RDY 5\n", [false, true, true]),
        (&fin, [false, true, true]),
        (&req, [false, true, true]),
        (&touch, [false, true, true]),
        ("CLS\n", [false, true, false]),
        ("PUB t\n\0\0\0\x01x", [true, true, true]),
        (
            "MPUB t\n\0\0\0\x09\0\0\0\x01\0\0\0\x01x",
            [true, true, true],
        ),
        ("DPUB t 5\n\0\0\0\x01x", [true, true, true]),
        ("NOP\n", [true, true, true]),
    ];
    for (input, allowed) in table {
        let verb = input.split([' ', '\n']).next().unwrap();
        for (context, allowed) in [CONTEXT, SUBSCRIBED, CLOSING].iter().zip(allowed) {
            let (told, consumed) = outcome(input.as_bytes(), context);
            if allowed {
                assert_eq!(consumed, input.len(), "{told}");
            } else {
                assert_eq!(told, format!("E_INVALID cannot {verb} in current state"));
            }
        }
    }
}

#[test]
fn state_is_checked_before_anything_else() {
    for verb in ["RDY", "FIN", "REQ", "TOUCH"] {
        for params in ["", " ", " x y z"] {
            let (told, _) = outcome(format!("{verb}{params}\n").as_bytes(), &CONTEXT);
            assert_eq!(told, format!("E_INVALID cannot {verb} in current state"));
        }
    }
    let quiet = DecodeContext {
        heartbeats_disabled: true,
        ..SUBSCRIBED
    };
    for (verb, input) in [
        ("SUB", "SUB\n"),
        ("AUTH", "AUTH x\n"),
        ("IDENTIFY", "IDENTIFY\n"),
    ] {
        let (told, _) = outcome(input.as_bytes(), &quiet);
        assert_eq!(told, format!("E_INVALID cannot {verb} in current state"));
    }
}

#[test]
fn ready_after_close_is_ignored() {
    for input in [
        "RDY\n",
        "RDY 5\n",
        "RDY -1\n",
        "RDY 99999999999999999999999\n",
    ] {
        assert_eq!(
            outcome(input.as_bytes(), &CLOSING),
            ("NOP".to_owned(), input.len())
        );
    }
}

#[test]
fn only_identify_passes_without_the_required_tls() {
    let base = [CONTEXT, SUBSCRIBED, CLOSING];
    for context in base.map(|context| DecodeContext {
        tls_missing: true,
        ..context
    }) {
        for line in [
            "NOP",
            "SUB",
            "PUB",
            "CLS",
            "FIN 18a27a7b78269000",
            "AUTH x",
            "hello",
            "",
            "RDY",
        ] {
            let verb = line.split(' ').next().unwrap();
            let (told, _) = outcome(format!("{line}\n").as_bytes(), &context);
            assert_eq!(
                told,
                format!("E_INVALID cannot {verb} in current state (TLS required)")
            );
        }
    }
    let context = DecodeContext {
        tls_missing: true,
        ..CONTEXT
    };
    let (told, _) = outcome(&with_body("IDENTIFY", b"{}"), &context);
    assert_eq!(told, r#"IDENTIFY "{}""#);
}

#[test]
fn sub_is_checked_in_order() {
    check(&[
        ("SUB\n", "E_INVALID SUB insufficient number of parameters"),
        (
            "SUB t:\n",
            "E_INVALID SUB insufficient number of parameters",
        ),
        (
            "SUB t: c:\n",
            r#"E_BAD_TOPIC SUB topic name "t:" is not valid"#,
        ),
        ("SUB  c\n", r#"E_BAD_TOPIC SUB topic name "" is not valid"#),
        (
            "SUB t c:\n",
            r#"E_BAD_CHANNEL SUB channel name "c:" is not valid"#,
        ),
        (
            "SUB t \n",
            r#"E_BAD_CHANNEL SUB channel name "" is not valid"#,
        ),
        (
            "SUB t  c\n",
            r#"E_BAD_CHANNEL SUB channel name "" is not valid"#,
        ),
        ("SUB t c extra\n", "SUB t c"),
    ]);
    let quiet = DecodeContext {
        heartbeats_disabled: true,
        ..CONTEXT
    };
    for input in ["SUB\n", "SUB t c\n"] {
        let (told, _) = outcome(input.as_bytes(), &quiet);
        assert_eq!(told, "E_INVALID cannot SUB with heartbeats disabled");
    }
}

#[test]
fn rdy_is_checked_in_order() {
    check(&[
        ("RDY 2501\n", "E_INVALID RDY count 2501 out of range 0-2500"),
        ("RDY -1\n", "E_INVALID RDY could not parse count -1"),
        ("RDY +1\n", "E_INVALID RDY could not parse count +1"),
        ("RDY 1x\n", "E_INVALID RDY could not parse count 1x"),
        ("RDY \t1\n", "E_INVALID RDY could not parse count \t1"),
        ("RDY  5\n", "RDY 0"),
        (
            "RDY 18446744073709551615\n",
            "E_INVALID RDY count 18446744073709551615 out of range 0-2500",
        ),
        (
            "RDY 18446744073709551616\n",
            "E_INVALID RDY could not parse count 18446744073709551616",
        ),
        (
            "RDY 18446744073709551617\n",
            "E_INVALID RDY could not parse count 18446744073709551617",
        ),
        ("RDY 00000000000000000000000000007\n", "RDY 7"),
    ]);
    let limits = Limits {
        ready_count_max: u64::MAX,
        ..CONTEXT.limits
    };
    let context = DecodeContext {
        limits,
        ..SUBSCRIBED
    };
    assert_eq!(outcome(b"RDY 4294967296\n", &context).0, "RDY 4294967295");
}

#[test]
fn fin_req_and_touch_are_checked_in_order() {
    for verb in ["FIN", "TOUCH"] {
        let told = |params: &str| told(format!("{verb}{params}\n"));
        assert_eq!(
            told(""),
            format!("E_INVALID {verb} insufficient number of params")
        );
        let ids = [
            "",
            "18a27a7b7826900",
            "18a27a7b782690000",
            "18a27a7b7826900\r",
            "18a27a7b 8269000",
        ];
        for id in ids {
            assert_eq!(
                told(&format!(" {id}")),
                "E_INVALID invalid message ID",
                "{id:?}"
            );
        }
    }
    check(&[
        ("REQ\n", "E_INVALID REQ insufficient number of params"),
        ("REQ x\n", "E_INVALID REQ insufficient number of params"),
        ("REQ x y\n", "E_INVALID invalid message ID"),
        (
            "REQ 18a27a7b78269000 y\n",
            "E_INVALID REQ could not parse timeout y",
        ),
        (
            "REQ 18a27a7b78269000 -1\n",
            "E_INVALID REQ could not parse timeout -1",
        ),
        (
            "REQ 18a27a7b78269000 \n",
            "E_INVALID REQ could not parse timeout ",
        ),
        (
            "REQ 18a27a7b78269000 18446744073709551616\n",
            "E_INVALID REQ could not parse timeout 18446744073709551616",
        ),
        (
            "REQ 18a27a7b78269000 99999999999\n",
            "REQ 18a27a7b78269000 99999999999",
        ),
    ]);
}

#[test]
fn fin_with_a_control_character_takes_the_end_of_its_line() {
    // 21 bytes that begin and end like a FIN, but the line ends earlier or is split.
    check(&[
        ("FIN 0123456789\nabcde\n", "E_INVALID invalid message ID"),
        ("FIN 0123456789 abcde\n", "E_INVALID invalid message ID"),
        ("FIN 0123456789abcde\r\n", "E_INVALID invalid message ID"),
        ("FIN 0123456789abcde\r\r\n", r"FIN 0123456789abcde\r"),
    ]);
}

#[test]
fn plain_fins_are_taken_up_to_what_has_another_form() {
    let taken = |input: &str| plain_fins(input.as_bytes()).collect::<Vec<_>>();
    let [one, two] = [*b"0123456789abcdef", *b"fedcba9876543210"];
    let both = "FIN 0123456789abcdef\nFIN fedcba9876543210\n";
    assert_eq!(both.len(), 2 * FIN_LINE_LEN);
    assert_eq!(taken(both), [one, two]);
    assert_eq!(taken(&both[..both.len() - 1]), [one]);
    for other in [
        "FIN fedcba987654321\r\n",
        "FIN fedcba98765 3210\n",
        "FIN fedcba987654321\n\n",
        "fin fedcba9876543210\n",
        "REQ fedcba9876543210 0\n",
        "FIN fedcba98765432100\n",
        "NOP\n",
    ] {
        let input = format!("FIN 0123456789abcdef\n{other}{both}");
        assert_eq!(taken(&input), [one], "{other:?}");
    }
}

#[test]
fn publish_names_are_checked_before_bodies() {
    check(&[
        ("PUB\n", "E_INVALID PUB insufficient number of parameters"),
        ("PUB \n", r#"E_BAD_TOPIC PUB topic name "" is not valid"#),
        (
            "PUB a:b\n",
            r#"E_BAD_TOPIC PUB topic name "a:b" is not valid"#,
        ),
        ("MPUB\n", "E_INVALID MPUB insufficient number of parameters"),
        (
            "MPUB a:b\n",
            r#"E_BAD_TOPIC MPUB topic name "a:b" is not valid"#,
        ),
        ("DPUB\n", "E_INVALID DPUB insufficient number of parameters"),
        (
            "DPUB a:b\n",
            "E_INVALID DPUB insufficient number of parameters",
        ),
        (
            "DPUB a:b x\n",
            r#"E_BAD_TOPIC DPUB topic name "a:b" is not valid"#,
        ),
        ("DPUB t x\n", "E_INVALID DPUB could not parse timeout x"),
        ("DPUB t \n", "E_INVALID DPUB could not parse timeout "),
        ("DPUB t -1\n", "E_INVALID DPUB could not parse timeout -1"),
        (
            "DPUB t 18446744073709551616\n",
            "E_INVALID DPUB could not parse timeout 18446744073709551616",
        ),
        (
            "DPUB t 3600001\n",
            "E_INVALID DPUB timeout 3600001 out of range 0-3600000",
        ),
        ("DPUB t 3600000\n\0\0\0\x01x", r#"DPUB t 3600000 "x""#),
        ("DPUB t 0 extra\n\0\0\0\x01x", r#"DPUB t 0 "x""#),
        ("PUB t extra\n\0\0\0\x01x", r#"PUB t "x""#),
    ]);
    assert_eq!(
        told(b"PUB \xff\n"),
        r#"E_BAD_TOPIC PUB topic name "\xff" is not valid"#
    );
    let name = "n".repeat(64);
    assert_eq!(
        told(with_body(&format!("PUB {name}"), b"x")),
        format!(r#"PUB {name} "x""#)
    );
    assert!(told(format!("PUB {name}n\n")).starts_with("E_BAD_TOPIC PUB"));
}

#[test]
fn auth_takes_no_parameters() {
    check(&[
        ("AUTH x\n", "E_INVALID AUTH invalid number of parameters"),
        ("AUTH \n", "E_INVALID AUTH invalid number of parameters"),
    ]);
}

#[test]
fn sizes_are_checked_as_soon_as_they_are_there() {
    let table = [
        (
            "PUB t",
            100,
            "E_BAD_MESSAGE PUB invalid message body size",
            "E_BAD_MESSAGE PUB message",
        ),
        (
            "DPUB t 0",
            100,
            "E_BAD_MESSAGE DPUB invalid message body size",
            "E_BAD_MESSAGE DPUB message",
        ),
        (
            "MPUB t",
            200,
            "E_BAD_BODY MPUB invalid body size",
            "E_BAD_BODY MPUB body",
        ),
        (
            "IDENTIFY",
            200,
            "E_BAD_BODY IDENTIFY invalid body size",
            "E_BAD_BODY IDENTIFY body",
        ),
        (
            "AUTH",
            200,
            "E_BAD_BODY AUTH invalid body size",
            "E_BAD_BODY AUTH body",
        ),
    ];
    for (line, max, invalid, big) in table {
        let told = |size: i32| told([line.as_bytes(), b"\n", &size.to_be_bytes()].concat());
        for size in [0, -1, i32::MIN] {
            assert_eq!(told(size), format!("{invalid} {size}"));
        }
        for size in [max + 1, i32::MAX] {
            assert_eq!(told(size), format!("{big} too big {size} > {max}"));
        }
        let whole = line.len() + 5 + usize::try_from(max).unwrap();
        assert_eq!(told(max), format!("needs {whole}"));
    }
}

#[test]
fn bodies_of_the_greatest_size_pass() {
    for (line, len) in [
        ("PUB t", 100),
        ("DPUB t 0", 100),
        ("IDENTIFY", 200),
        ("AUTH", 200),
    ] {
        let input = with_body(line, &vec![b'\n'; len]);
        assert_eq!(outcome(&input, &CONTEXT).1, input.len(), "{line}");
    }
}
