use super::*;

const fn limits() -> IdentifyLimits {
    IdentifyLimits {
        max_heartbeat_interval: Duration::from_secs(60),
        min_output_buffer_timeout: Duration::from_millis(25),
        max_output_buffer_timeout: Duration::from_secs(30),
        output_buffer_timeout: Duration::from_millis(250),
        max_output_buffer_size: 64 * 1024,
        msg_timeout: Duration::from_secs(60),
        max_msg_timeout: Duration::from_secs(15 * 60),
        max_deflate_level: 6,
    }
}

fn parse(body: &str) -> IdentifyRequest {
    IdentifyRequest::parse(body.as_bytes(), &limits()).unwrap_or_else(|e| panic!("{body}: {e}"))
}

fn error(body: &str) -> String {
    IdentifyRequest::parse(body.as_bytes(), &limits())
        .expect_err(body)
        .to_string()
}

const NOT_JSON: &str = "E_BAD_BODY IDENTIFY failed to decode JSON body";

#[test]
fn absent_null_and_zero_are_the_defaults() {
    let defaults = IdentifyRequest {
        client_id: String::new(),
        hostname: String::new(),
        user_agent: String::new(),
        feature_negotiation: false,
        heartbeat_interval: Some(Duration::from_secs(30)),
        output_buffer_timeout: Duration::from_millis(250),
        output_buffer_size: 16384,
        tls_v1: false,
        deflate: false,
        deflate_level: 6,
        snappy: false,
        sample_rate: 0,
        msg_timeout: Duration::from_secs(60),
        topology_region: String::new(),
        topology_zone: String::new(),
    };
    let bodies = [
        "{}",
        " {\r\n\t} ",
        "null",
        r#"{"client_id":null,"heartbeat_interval":null,"tls_v1":null,"sample_rate":null}"#,
        r#"{"heartbeat_interval":0,"output_buffer_timeout":0,"output_buffer_size":0,"msg_timeout":0}"#,
        r#"{"short_id":5,"long_id":[1.5e3,{"a":"\u00fc"}],"":0,"ünknown":1e999}"#,
    ];
    for body in bodies {
        assert_eq!(parse(body), defaults, "{body}");
    }
}

#[test]
fn body_of_a_go_client_is_read() {
    let request = parse(
        r#"{"client_id":"vm","deflate":false,"deflate_level":6,"feature_negotiation":true,"heartbeat_interval":30000,"hostname":"host","long_id":"vm","msg_timeout":0,"output_buffer_size":16384,"output_buffer_timeout":250,"sample_rate":0,"short_id":"vm","snappy":false,"tls_v1":false,"user_agent":"nsq_tail/1.3.0 go-nsq/1.1.0","topology_region":"eu","topology_zone":"eu-1"}"#,
    );
    assert_eq!(request.client_id, "vm");
    assert_eq!(request.hostname, "host");
    assert_eq!(request.user_agent, "nsq_tail/1.3.0 go-nsq/1.1.0");
    assert_eq!(request.topology_region, "eu");
    assert_eq!(request.topology_zone, "eu-1");
    assert!(request.feature_negotiation);
}

#[test]
fn flags_are_read_each_into_its_own() {
    for key in ["feature_negotiation", "tls_v1", "deflate", "snappy"] {
        let request = parse(&format!(r#"{{"{key}":true}}"#));
        let flags = [
            ("feature_negotiation", request.feature_negotiation),
            ("tls_v1", request.tls_v1),
            ("deflate", request.deflate),
            ("snappy", request.snappy),
        ];
        for (flag, set) in flags {
            assert_eq!(set, flag == key, "{flag} after {key}");
        }
    }
}

#[test]
fn keys_match_in_any_case_and_the_last_duplicate_wins() {
    assert_eq!(parse(r#"{"Client_ID":"a","CLIENT_ID":"b"}"#).client_id, "b");
    assert_eq!(parse(r#"{"CLIENT_ID":"b","client_id":"a"}"#).client_id, "a");
    assert_eq!(parse(r#"{"client\u005fid":"a"}"#).client_id, "a");
    assert_eq!(
        parse(r#"{"sample_rate":7,"sample_rate":null}"#).sample_rate,
        7
    );
    assert_eq!(
        parse(r#"{"sample_rate":700,"Sample_Rate":8}"#).sample_rate,
        8
    );
    assert_eq!(error(r#"{"sample_rate":"x","sample_rate":8}"#), NOT_JSON);
}

#[test]
fn a_minus_zero_is_a_zero_and_no_fraction() {
    for key in [
        "heartbeat_interval",
        "output_buffer_timeout",
        "output_buffer_size",
        "deflate_level",
        "sample_rate",
        "msg_timeout",
    ] {
        assert_eq!(parse(&format!(r#"{{"{key}": -0 }}"#)), parse("{}"));
        for fraction in ["-0.0", "-0e0", "0.0", "0E1"] {
            assert_eq!(error(&format!(r#"{{"{key}":{fraction}}}"#)), NOT_JSON);
        }
    }
}

#[test]
fn halves_of_surrogate_pairs_are_replaced_in_values_and_keys() {
    assert_eq!(parse(r#"{"client_id":"a\ud800"}"#).client_id, "a\u{fffd}");
    assert_eq!(
        parse(r#"{"hostname":"\ud83d\ude00"}"#).hostname,
        "\u{1f600}"
    );
    assert_eq!(parse(r#"{"\udc00":1}"#), parse("{}"));
}

#[test]
fn letters_that_fold_to_those_of_a_key_are_those() {
    assert_eq!(parse(r#"{"\u017fample_rate":7}"#).sample_rate, 7);
    assert_eq!(parse("{\"Me\u{17f}\u{17f}age\":7}"), parse("{}"));
    assert_eq!(parse("{\"\u{ff53}ample_rate\":7}"), parse("{}"));
}

#[test]
fn bytes_that_are_not_utf8_are_replaced_inside_strings_only() {
    let request = IdentifyRequest::parse(b"{\"client_id\":\"a\xffb\"}", &limits()).unwrap();
    assert_eq!(request.client_id, "a\u{fffd}b");
    let half = IdentifyRequest::parse(br#"{"client_id":"a\ud800b"}"#, &limits()).unwrap();
    assert_eq!(half.client_id, "a\u{fffd}b");
    let outside = IdentifyRequest::parse(b"{\xff}", &limits()).unwrap_err();
    assert_eq!(outside.to_string(), NOT_JSON);
}

#[test]
fn wrong_json_is_refused() {
    let bodies = [
        "",
        " ",
        "[]",
        "[{}]",
        "\"\"",
        "5",
        "true",
        "{} {}",
        "{}x",
        "null null",
        "{",
        "{,}",
        r#"{"a":1,}"#,
        r#"{"a"}"#,
        r"{a:1}",
        r#"{"heartbeat_interval":1e3}"#,
        r#"{"heartbeat_interval":1000.0}"#,
        r#"{"heartbeat_interval":1000.5}"#,
        r#"{"heartbeat_interval":"1000"}"#,
        r#"{"heartbeat_interval":true}"#,
        r#"{"heartbeat_interval":01000}"#,
        r#"{"heartbeat_interval":+1000}"#,
        r#"{"msg_timeout":9223372036854775808}"#,
        r#"{"msg_timeout":-9223372036854775809}"#,
        r#"{"output_buffer_size":[64]}"#,
        r#"{"output_buffer_timeout":{}}"#,
        r#"{"deflate_level":"6"}"#,
        r#"{"sample_rate":2147483648}"#,
        r#"{"sample_rate":-2147483649}"#,
        r#"{"tls_v1":1}"#,
        r#"{"tls_v1":"true"}"#,
        r#"{"snappy":0}"#,
        r#"{"client_id":5}"#,
        r#"{"hostname":["a"]}"#,
        r#"{"unknown":nope}"#,
    ];
    for body in bodies {
        assert_eq!(error(body), NOT_JSON, "{body}");
    }
}

#[test]
fn numbers_at_the_ends_of_their_ranges() {
    let within = |key: &str, value: i64| parse(&format!(r#"{{"{key}":{value}}}"#));
    for ms in [1000, 60_000] {
        let request = within("heartbeat_interval", ms);
        assert_eq!(
            request.heartbeat_interval,
            Some(Duration::from_millis(ms.cast_unsigned()))
        );
    }
    for ms in [25, 30_000] {
        let request = within("output_buffer_timeout", ms);
        assert_eq!(
            request.output_buffer_timeout,
            Duration::from_millis(ms.cast_unsigned())
        );
    }
    for bytes in [64, 65_536] {
        assert_eq!(
            within("output_buffer_size", bytes).output_buffer_size,
            bytes.cast_unsigned()
        );
    }
    for percent in [0, 1, 99] {
        assert_eq!(
            i64::from(within("sample_rate", percent).sample_rate),
            percent
        );
    }
    for ms in [1000, 900_000] {
        let request = within("msg_timeout", ms);
        assert_eq!(
            request.msg_timeout,
            Duration::from_millis(ms.cast_unsigned())
        );
    }
}

#[test]
fn numbers_beyond_their_ranges_are_refused() {
    let table: [(&str, &str, &[i64]); 5] = [
        (
            "heartbeat_interval",
            "heartbeat interval",
            &[-2, 1, 999, 60_001, i64::MAX, i64::MIN],
        ),
        (
            "output_buffer_timeout",
            "output buffer timeout",
            &[-2, 1, 24, 30_001, i64::MIN],
        ),
        (
            "output_buffer_size",
            "output buffer size",
            &[-2, 1, 63, 65_537, i64::MAX],
        ),
        (
            "sample_rate",
            "sample rate",
            &[-1, 100, 256, i64::from(i32::MAX), i64::from(i32::MIN)],
        ),
        (
            "msg_timeout",
            "msg timeout",
            &[-1, 1, 999, 900_001, i64::MAX],
        ),
    ];
    for (key, name, values) in table {
        for value in values {
            let body = format!(r#"{{"{key}":{value}}}"#);
            assert_eq!(
                error(&body),
                format!("E_BAD_BODY IDENTIFY {name} ({value}) is invalid")
            );
        }
    }
}

#[test]
fn ranges_are_checked_in_the_order_of_the_reference() {
    let fields = [
        (r#""msg_timeout":1"#, "msg timeout (1)"),
        (r#""sample_rate":100"#, "sample rate (100)"),
        (r#""output_buffer_size":2"#, "output buffer size (2)"),
        (r#""output_buffer_timeout":3"#, "output buffer timeout (3)"),
        (r#""heartbeat_interval":4"#, "heartbeat interval (4)"),
    ];
    let mut body = String::new();
    for (field, name) in fields {
        body = if body.is_empty() {
            field.to_owned()
        } else {
            format!("{body},{field}")
        };
        let expected = format!("E_BAD_BODY IDENTIFY {name} is invalid");
        assert_eq!(error(&format!("{{{body}}}")), expected);
    }
}

#[test]
fn minus_one_disables() {
    assert_eq!(
        parse(r#"{"heartbeat_interval":-1}"#).heartbeat_interval,
        None
    );
    let request = parse(r#"{"output_buffer_timeout":-1}"#);
    assert_eq!(request.output_buffer_timeout, Duration::ZERO);
    assert_eq!(request.output_buffer_size, 16384);
    let request = parse(r#"{"output_buffer_size":-1,"output_buffer_timeout":100}"#);
    assert_eq!(request.output_buffer_timeout, Duration::ZERO);
    assert_eq!(request.output_buffer_size, 1);
}

#[test]
fn defaults_stand_even_beyond_the_limits() {
    let mut limits = limits();
    limits.max_heartbeat_interval = Duration::from_secs(5);
    limits.max_msg_timeout = Duration::from_secs(5);
    let request = IdentifyRequest::parse(b"{}", &limits).unwrap();
    assert_eq!(request.heartbeat_interval, Some(Duration::from_secs(30)));
    assert_eq!(request.msg_timeout, Duration::from_secs(60));
}

#[test]
fn deflate_level_counts_with_deflate_only_and_is_clamped() {
    let table = [
        (r#"{"deflate":true,"deflate_level":3}"#, 6, 3),
        (r#"{"deflate":true,"deflate_level":1}"#, 6, 1),
        (r#"{"deflate":true,"deflate_level":9}"#, 6, 6),
        (r#"{"deflate":true,"deflate_level":9}"#, 9, 9),
        (
            r#"{"deflate":true,"deflate_level":9223372036854775807}"#,
            9,
            9,
        ),
        (r#"{"deflate":true,"deflate_level":0}"#, 9, 6),
        (r#"{"deflate":true,"deflate_level":-5}"#, 9, 6),
        (r#"{"deflate":true}"#, 4, 4),
        (r#"{"deflate_level":3}"#, 6, 6),
        (r#"{"deflate_level":3}"#, 4, 4),
    ];
    for (body, max_deflate_level, expected) in table {
        let limits = IdentifyLimits {
            max_deflate_level,
            ..limits()
        };
        let request = IdentifyRequest::parse(body.as_bytes(), &limits).unwrap();
        assert_eq!(
            request.deflate_level, expected,
            "{body} with {max_deflate_level}"
        );
    }
}

#[test]
fn reply_is_that_of_the_reference() {
    let reply = IdentifyReply {
        max_rdy_count: 2500,
        version: "1.3.0",
        max_msg_timeout: 900_000,
        msg_timeout: 60_000,
        tls_v1: false,
        deflate: false,
        deflate_level: 6,
        max_deflate_level: 6,
        snappy: false,
        sample_rate: 0,
        auth_required: false,
        output_buffer_size: 16384,
        output_buffer_timeout: 250,
        topology_region: "",
        topology_zone: "",
    };
    assert_eq!(
        reply.to_json(),
        r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,"deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":0,"auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250,"topology_region":"","topology_zone":""}"#
    );
}
