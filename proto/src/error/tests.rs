use super::*;

const ID: &[u8; 16] = b"18a27a7b78269000";

fn check_fatal(table: &[(ProtoError, &str)]) {
    for (error, text) in table {
        assert_eq!(error.to_string(), *text);
        assert_eq!(error.to_bytes(), text.as_bytes());
        assert!(error.code.is_fatal(), "{text}");
    }
}

/// The texts of spec nsqd.md §2, constructor by constructor; those that the decoder formats from a
/// body's kind are in `tests/wire/decode.rs`.
#[test]
fn texts_are_those_of_the_reference() {
    let table = [
        (ProtoError::bad_protocol(), "E_BAD_PROTOCOL"),
        (
            ProtoError::line_too_long(16384),
            "E_INVALID command line too long (max 16384 bytes)",
        ),
        (
            ProtoError::unknown_command(b"GET"),
            "E_INVALID invalid command GET",
        ),
        (
            ProtoError::unknown_command(b""),
            "E_INVALID invalid command ",
        ),
        (
            ProtoError::wrong_state("SUB"),
            "E_INVALID cannot SUB in current state",
        ),
        (
            ProtoError::tls_required(b"NOP"),
            "E_INVALID cannot NOP in current state (TLS required)",
        ),
        (
            ProtoError::heartbeats_disabled(),
            "E_INVALID cannot SUB with heartbeats disabled",
        ),
    ];
    check_fatal(&table);
}

#[test]
fn texts_about_parameters_are_those_of_the_reference() {
    let table = [
        (
            ProtoError::too_few("SUB", "parameters"),
            "E_INVALID SUB insufficient number of parameters",
        ),
        (
            ProtoError::too_few("FIN", "params"),
            "E_INVALID FIN insufficient number of params",
        ),
        (
            ProtoError::auth_parameters(),
            "E_INVALID AUTH invalid number of parameters",
        ),
        (
            ProtoError::bad_topic("SUB", b"a:b\xff"),
            r#"E_BAD_TOPIC SUB topic name "a:b\xff" is not valid"#,
        ),
        (
            ProtoError::bad_topic("MPUB", b""),
            r#"E_BAD_TOPIC MPUB topic name "" is not valid"#,
        ),
        (
            ProtoError::bad_channel("SUB", b"c\td"),
            r#"E_BAD_CHANNEL SUB channel name "c\td" is not valid"#,
        ),
        (
            ProtoError::invalid_message_id(),
            "E_INVALID invalid message ID",
        ),
        (
            ProtoError::not_a_number("RDY", "count", b"-1"),
            "E_INVALID RDY could not parse count -1",
        ),
        (
            ProtoError::not_a_number("REQ", "timeout", b"-1"),
            "E_INVALID REQ could not parse timeout -1",
        ),
        (
            ProtoError::out_of_range("RDY", "count", 2501, 2500),
            "E_INVALID RDY count 2501 out of range 0-2500",
        ),
        (
            ProtoError::out_of_range("DPUB", "timeout", 3_600_001, 3_600_000),
            "E_INVALID DPUB timeout 3600001 out of range 0-3600000",
        ),
    ];
    check_fatal(&table);
}

#[test]
fn texts_of_refusals_are_those_of_the_reference() {
    let table = [
        (
            ProtoError::identify_json(&serde_json::from_str::<u8>("").unwrap_err()),
            "E_BAD_BODY IDENTIFY failed to decode JSON body",
        ),
        (
            ProtoError::identify_range("sample rate", -1),
            "E_BAD_BODY IDENTIFY sample rate (-1) is invalid",
        ),
        (
            ProtoError::both_compressions(),
            "E_IDENTIFY_FAILED cannot enable both deflate and snappy compression",
        ),
        (
            ProtoError::identify_failed("tls: first record does not look like a TLS handshake"),
            "E_IDENTIFY_FAILED IDENTIFY failed tls: first record does not look like a TLS handshake",
        ),
        (ProtoError::auth_already_set(), "E_INVALID AUTH already set"),
        (ProtoError::auth_disabled(), "E_AUTH_DISABLED AUTH disabled"),
        (ProtoError::auth_failed(), "E_AUTH_FAILED AUTH failed"),
        (
            ProtoError::no_authorizations(),
            "E_UNAUTHORIZED AUTH no authorizations found",
        ),
        (
            ProtoError::auth_error("broken pipe"),
            "E_AUTH_ERROR AUTH error broken pipe",
        ),
        (
            ProtoError::auth_first("MPUB"),
            "E_AUTH_FIRST AUTH required before MPUB",
        ),
        (
            ProtoError::unauthorized("SUB", "t", "c"),
            r#"E_UNAUTHORIZED AUTH failed for SUB on "t" "c""#,
        ),
        (
            ProtoError::unauthorized("PUB", "t", ""),
            r#"E_UNAUTHORIZED AUTH failed for PUB on "t" """#,
        ),
        (
            ProtoError::sub_failed("exiting"),
            "E_SUB_FAILED SUB failed exiting",
        ),
        (
            ProtoError::sub_failed("to deleted topic/channel"),
            "E_SUB_FAILED SUB failed to deleted topic/channel",
        ),
        (
            ProtoError::too_many_consumers("t", "c", 2),
            "E_SUB_FAILED SUB failed consumers for t:c exceeds limit of 2",
        ),
        (
            ProtoError::pub_failed("exiting"),
            "E_PUB_FAILED PUB failed exiting",
        ),
        (
            ProtoError::mpub_failed("exiting"),
            "E_MPUB_FAILED MPUB failed exiting",
        ),
        (
            ProtoError::dpub_failed("exiting"),
            "E_DPUB_FAILED DPUB failed exiting",
        ),
    ];
    check_fatal(&table);
}

#[test]
fn failures_of_one_message_leave_the_connection_open() {
    let table = [
        (
            ProtoError::fin_failed(ID, "ID not in flight"),
            "E_FIN_FAILED FIN 18a27a7b78269000 failed ID not in flight",
        ),
        (
            ProtoError::fin_failed(ID, "client does not own message"),
            "E_FIN_FAILED FIN 18a27a7b78269000 failed client does not own message",
        ),
        (
            ProtoError::req_failed(ID, "ID already deferred"),
            "E_REQ_FAILED REQ 18a27a7b78269000 failed ID already deferred",
        ),
        (
            ProtoError::req_failed(ID, "exiting"),
            "E_REQ_FAILED REQ 18a27a7b78269000 failed exiting",
        ),
        (
            ProtoError::touch_failed(ID, "ID not in flight"),
            "E_TOUCH_FAILED TOUCH 18a27a7b78269000 failed ID not in flight",
        ),
    ];
    for (error, text) in table {
        assert_eq!(error.to_string(), text);
        assert_eq!(error.to_bytes(), text.as_bytes());
        assert!(!error.code.is_fatal(), "{text}");
    }
}

#[test]
fn clients_get_their_bytes_back_and_logs_get_text() {
    let table: [(ProtoError, &[u8]); 6] = [
        (
            ProtoError::unknown_command(b"\xffGET"),
            b"E_INVALID invalid command \xffGET",
        ),
        (
            ProtoError::tls_required(b"\xff"),
            b"E_INVALID cannot \xff in current state (TLS required)",
        ),
        (
            ProtoError::not_a_number("RDY", "count", b"1\xff"),
            b"E_INVALID RDY could not parse count 1\xff",
        ),
        (
            ProtoError::fin_failed(b"0123456789abcde\xff", "ID not in flight"),
            b"E_FIN_FAILED FIN 0123456789abcde\xff failed ID not in flight",
        ),
        (
            ProtoError::req_failed(b"0123456789abcde\xff", "exiting"),
            b"E_REQ_FAILED REQ 0123456789abcde\xff failed exiting",
        ),
        (
            ProtoError::touch_failed(b"0123456789abcde\xff", "exiting"),
            b"E_TOUCH_FAILED TOUCH 0123456789abcde\xff failed exiting",
        ),
    ];
    for (error, bytes) in table {
        assert_eq!(error.to_bytes(), bytes);
        assert_eq!(error.to_string(), String::from_utf8_lossy(bytes));
    }
}

#[test]
fn causes_are_for_the_log_alone() {
    let table = [
        (
            ProtoError::not_a_number("RDY", "count", b"x"),
            "E_INVALID RDY could not parse count x - failed to convert to Base10",
        ),
        (
            ProtoError::fin_failed(ID, "ID not in flight"),
            "E_FIN_FAILED FIN 18a27a7b78269000 failed ID not in flight - ID not in flight",
        ),
        (
            ProtoError::identify_range("sample rate", -1),
            "E_BAD_BODY IDENTIFY sample rate (-1) is invalid - sample rate (-1) is invalid",
        ),
        (
            ProtoError::wrong_state("SUB"),
            "E_INVALID cannot SUB in current state",
        ),
    ];
    for (error, text) in table {
        assert_eq!(error.with_cause(), text);
        assert!(text.as_bytes().starts_with(&error.to_bytes()));
    }
}

#[test]
fn codes_are_read_back() {
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
    }
    for word in ["", "E_", "E_INVALID ", "OK"] {
        assert_eq!(ErrorCode::parse(word), None, "{word:?}");
    }
}
