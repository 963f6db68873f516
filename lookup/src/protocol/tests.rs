use super::*;

const GOOD: &str =
    r#"{"broadcast_address":"b","hostname":"h","tcp_port":1,"http_port":2,"version":"v"}"#;

fn identify(body: &str) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap();
    [b"IDENTIFY\n", &size.to_be_bytes()[..], body.as_bytes()].concat()
}

fn refused(input: &[u8], is_identified: bool) -> String {
    let error = decode(input, is_identified).expect_err("refused");
    String::from_utf8(error.payload).unwrap()
}

fn names(input: &str) -> (String, Option<String>) {
    let (command, length) = decode(input.as_bytes(), true).unwrap().expect("whole");
    assert_eq!(length, input.len());
    match command {
        Command::Register { topic, channel } | Command::Unregister { topic, channel } => {
            (topic.to_string(), channel.map(|name| name.to_string()))
        }
        Command::Ping | Command::Identify(_) => panic!("{input:?}"),
    }
}

#[test]
fn lines_are_trimmed_and_split_at_single_spaces() {
    let both = ("t".to_owned(), Some("c".to_owned()));
    for line in [
        "REGISTER t c\n",
        "UNREGISTER t c\r\n",
        " \t REGISTER t c extra \n",
        "\u{a0}REGISTER t c\u{2003}\n",
    ] {
        assert_eq!(names(line), both, "{line:?}");
    }
    for line in ["REGISTER t\n", "REGISTER t \n", "REGISTER t  c\n"] {
        assert_eq!(names(line), ("t".to_owned(), None), "{line:?}");
    }
    for line in ["PING\n", "PING a b\n", "\x0b PING\r\n"] {
        let decoded = decode(line.as_bytes(), false);
        assert_eq!(decoded, Ok(Some((Command::Ping, line.len()))));
    }
}

#[test]
fn mistakes_have_the_texts_of_the_reference() {
    let cases: [(&[u8], bool, &str); 17] = [
        (b"\n", true, "E_INVALID invalid command "),
        (b"BOGUS x\n", true, "E_INVALID invalid command BOGUS"),
        (b"ping\n", true, "E_INVALID invalid command ping"),
        (b"REGISTER t\n", false, "E_INVALID client must IDENTIFY"),
        (b"UNREGISTER\n", false, "E_INVALID client must IDENTIFY"),
        (
            b"REGISTER\n",
            true,
            "E_INVALID REGISTER insufficient number of params",
        ),
        (
            b"UNREGISTER \n",
            true,
            "E_INVALID UNREGISTER insufficient number of params",
        ),
        (
            b"REGISTER a$b\n",
            true,
            "E_BAD_TOPIC REGISTER topic name 'a$b' is not valid",
        ),
        (
            b"REGISTER  a\n",
            true,
            "E_BAD_TOPIC REGISTER topic name '' is not valid",
        ),
        (
            b"REGISTER * *\n",
            true,
            "E_BAD_TOPIC REGISTER topic name '*' is not valid",
        ),
        (
            b"REGISTER t a$b\n",
            true,
            "E_BAD_CHANNEL REGISTER channel name 'a$b' is not valid",
        ),
        (
            b"UNREGISTER t *\n",
            true,
            "E_BAD_CHANNEL UNREGISTER channel name '*' is not valid",
        ),
        (b"IDENTIFY\n", true, "E_INVALID cannot IDENTIFY again"),
        (
            b"IDENTIFY\n\xff\xff\xff\xff",
            false,
            "E_BAD_BODY IDENTIFY invalid body size -1",
        ),
        (
            b"IDENTIFY\n\x80\0\0\0",
            false,
            "E_BAD_BODY IDENTIFY invalid body size -2147483648",
        ),
        (
            b"IDENTIFY\n\x7f\xff\xff\xff",
            false,
            "E_BAD_BODY IDENTIFY body too big 2147483647 > 65536",
        ),
        (
            b"IDENTIFY\n\0\0\0\0",
            false,
            "E_BAD_BODY IDENTIFY failed to decode JSON body",
        ),
    ];
    for (input, is_known, expected) in cases {
        assert_eq!(refused(input, is_known), expected);
    }
}

#[test]
fn a_line_without_end_is_refused() {
    let expected = "E_INVALID command line too long (max 16384 bytes)";
    assert_eq!(refused(&[b'x'; LINE_BYTES_MAX], true), expected);
    assert_eq!(decode(&[b'x'; LINE_BYTES_MAX - 1], true), Ok(None));
}

#[test]
fn what_is_not_text_is_told_back_as_it_came() {
    let error = decode(b"\xff\xfe x\n", true).unwrap_err();
    assert_eq!(error.payload, b"E_INVALID invalid command \xff\xfe");
}

#[test]
fn identify_reads_bodies_as_go_does() {
    let with = |part: &str| GOOD.replacen('{', &format!("{{{part},"), 1);
    for body in [
        GOOD.to_owned(),
        GOOD.replace("broadcast_address", "Broadcast_ADDRESS"),
        with(r#""unknown":[1,{"a":null}]"#),
        with(r#""remote_address":"mine""#),
        with(r#""topology_zone":null"#),
    ] {
        let decoded = decode(&identify(&body), false).unwrap();
        let Some((Command::Identify(announcement), _)) = decoded else {
            panic!("{body}");
        };
        assert_eq!(announcement.broadcast_address, "b");
        assert_eq!((announcement.tcp_port, announcement.http_port), (1, 2));
        assert_eq!(announcement.remote_address, "");
        assert_eq!(announcement.topology_zone, "");
    }
    let undecodable = "E_BAD_BODY IDENTIFY failed to decode JSON body";
    for body in [
        "[]",
        "x",
        "{} {}",
        &GOOD.replace(":1", ":\"1\""),
        &GOOD.replace(":1", ":1.5"),
        &with(r#""remote_address":5"#),
    ] {
        assert_eq!(refused(&identify(body), false), undecodable, "{body}");
    }
    let missing = "E_BAD_BODY IDENTIFY missing fields";
    for body in [
        "null",
        "{}",
        &GOOD.replace(":2", ":0"),
        &GOOD.replace("\"v\"", "\"\""),
    ] {
        assert_eq!(refused(&identify(body), false), missing, "{body}");
    }
}

#[test]
fn every_cut_is_incomplete_and_the_rest_is_left() {
    for whole in [identify(GOOD), b"PING\n".to_vec(), b"PING x y\r\n".to_vec()] {
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut], false), Ok(None), "{cut}");
        }
        let more = [&whole[..], b"PING\n"].concat();
        let (_, length) = decode(&more, false).unwrap().expect("whole");
        assert_eq!(length, whole.len());
    }
}

#[test]
fn an_end_within_a_body_is_told() {
    let whole = identify(GOOD);
    let told = |cut: usize| truncation_error(&whole[..cut]).map(|error| error.to_string());
    let size = "E_BAD_BODY IDENTIFY failed to read body size";
    let body = "E_BAD_BODY IDENTIFY failed to read body";
    assert_eq!(told(0), None);
    assert_eq!(told(8), None);
    assert_eq!(told(9), Some(format!("{size} - EOF")));
    assert_eq!(told(11), Some(format!("{size} - unexpected EOF")));
    assert_eq!(told(13), Some(format!("{body} - EOF")));
    assert_eq!(told(20), Some(format!("{body} - unexpected EOF")));
}

#[test]
fn answers_have_a_size_in_front() {
    let mut out = Vec::new();
    encode_response(b"OK", &mut out);
    encode_response(b"", &mut out);
    assert_eq!(out, b"\0\0\0\x02OK\0\0\0\0");
}
