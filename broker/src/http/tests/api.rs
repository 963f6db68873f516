//! Everything but publishing and statistics: status, headers and body of each endpoint.

use std::time::Duration;

use super::fixture::FakeBroker;
use super::wire::{Answer, Client, ask, outcome, refusal};
use crate::config::SyncMode;
use crate::gateway::{AdminError, AdminRequest};

const JSON: &str = "Content-Type: application/json; charset=utf-8";
const TEXT: &str = "Content-Type: text/plain; charset=utf-8";
const HTML: &str = "Content-Type: text/html; charset=utf-8";
const V1: &str = "X-Nsq-Content-Type: nsq; version=1.0";

fn answer(status: &str, headers: &[&str], body: &str) -> Answer {
    let mut headers: Vec<String> = headers.iter().map(|line| (*line).to_owned()).collect();
    headers.push(format!("Content-Length: {}", body.len()));
    headers.sort_unstable();
    Answer {
        status: status.to_owned(),
        headers,
        body: body.to_owned(),
    }
}

#[test]
fn ping_tells_health_outside_the_versioned_api() {
    let broker = FakeBroker::new();
    assert_eq!(
        ask(&broker, "GET", "/ping", ""),
        answer("200 OK", &[TEXT], "OK")
    );
    *broker.0.illness.borrow_mut() = Some("no space left".to_owned());
    assert_eq!(
        ask(&broker, "GET", "/ping", ""),
        answer("500 Internal Server Error", &[TEXT], "NOK - no space left")
    );
}

#[test]
fn info_has_its_keys_in_order() {
    let expected = r#"{"version":"1.3.0","broadcast_address":"vm","hostname":"vm","http_port":24151,"tcp_port":24150,"start_time":1795231779,"max_heartbeat_interval":60000000000,"max_output_buffer_size":65536,"max_output_buffer_timeout":30000000000,"max_deflate_level":6,"topology_zone":"","topology_region":""}"#;
    let broker = FakeBroker::new();
    assert_eq!(
        ask(&broker, "GET", "/info", ""),
        answer("200 OK", &[JSON, V1], expected)
    );
}

#[test]
fn unknown_paths_and_methods() {
    let broker = FakeBroker::new();
    assert_eq!(
        ask(&broker, "GET", "/nope", ""),
        answer("404 Not Found", &[JSON, V1], r#"{"message":"NOT_FOUND"}"#)
    );
    assert_eq!(
        ask(&broker, "POST", "/ping", ""),
        answer(
            "405 Method Not Allowed",
            &["Allow: GET, OPTIONS", JSON, V1],
            r#"{"message":"METHOD_NOT_ALLOWED"}"#
        )
    );
    let mut head = answer(
        "405 Method Not Allowed",
        &["Allow: GET, OPTIONS", JSON, V1],
        "",
    );
    head.headers[1] = "Content-Length: 32".to_owned();
    head.headers.sort_unstable();
    assert_eq!(ask(&broker, "HEAD", "/ping", ""), head);
}

#[test]
fn options_lists_methods() {
    let broker = FakeBroker::new();
    let allow = ["Allow: GET, OPTIONS, PUT"];
    assert_eq!(
        ask(&broker, "OPTIONS", "/config/x", ""),
        answer("200 OK", &allow, "")
    );
    assert_eq!(ask(&broker, "OPTIONS", "*", ""), answer("200 OK", &[], ""));
    assert_eq!(
        outcome(&broker, "OPTIONS", "/nope", ""),
        refusal("404 Not Found", "NOT_FOUND")
    );
}

#[test]
fn redirects_keep_the_query() {
    let broker = FakeBroker::new();
    assert_eq!(
        ask(&broker, "GET", "/PING?a=b&c=d", ""),
        answer(
            "301 Moved Permanently",
            &[HTML, "Location: /ping?a=b&c=d"],
            "<a href=\"/ping?a=b&amp;c=d\">Moved Permanently</a>.\n\n"
        )
    );
    assert_eq!(
        ask(&broker, "POST", "/PUB?topic=x", "a"),
        answer("308 Permanent Redirect", &["Location: /pub?topic=x"], "")
    );
    let encoded = ask(&broker, "GET", "/config/log%20level/", "");
    assert_eq!(encoded.header("Location"), Some("/config/log%20level"));
}

#[test]
fn paths_are_decoded() {
    let broker = FakeBroker::new();
    assert_eq!(outcome(&broker, "GET", "/%70ing", ""), "200 OK OK");
    assert_eq!(
        outcome(&broker, "GET", "http://elsewhere/ping", ""),
        "200 OK OK"
    );
    assert_eq!(
        ask(&broker, "GET", "/ping%2F", "").header("Location"),
        Some("/ping")
    );
    assert_eq!(
        outcome(&broker, "GET", "/%ff", ""),
        refusal("404 Not Found", "NOT_FOUND")
    );
    assert_eq!(
        outcome(&broker, "GET", "/%zz", ""),
        "400 Bad Request 400 Bad Request"
    );
}

#[test]
fn changes_answer_nothing() {
    let broker = FakeBroker::new();
    assert_eq!(
        ask(&broker, "POST", "/topic/create?topic=t", "ignored"),
        answer("200 OK", &[V1], "")
    );
    assert_eq!(
        ask(&broker, "POST", "/debug/freememory", ""),
        answer("200 OK", &[V1], "")
    );
    assert_eq!(broker.0.freed.get(), 1);
}

#[test]
fn a_topic_may_have_its_own_promise() {
    let broker = FakeBroker::new();
    for mode in [SyncMode::Interval, SyncMode::Always] {
        let target = format!("/topic/create?topic=t&sync={}", mode.as_str());
        assert_eq!(outcome(&broker, "POST", &target, ""), "200 OK ");
        let request = AdminRequest::CreateTopic {
            topic: nsq_proto::TopicName::parse(b"t").unwrap(),
            sync: Some(mode),
        };
        assert_eq!(broker.0.changes.take(), [request]);
    }
    for query in [
        "topic=t&sync=",
        "topic=t&sync=Always",
        "topic=t&sync=%FF",
        "topic=t%23ephemeral&sync=always",
    ] {
        assert_eq!(
            outcome(&broker, "POST", &format!("/topic/create?{query}"), ""),
            refusal("400 Bad Request", "INVALID_SYNC"),
            "{query}"
        );
    }
    assert_eq!(broker.0.changes.take(), []);
}

#[test]
fn changes_reach_the_broker() {
    let broker = FakeBroker::new();
    let topic = || nsq_proto::TopicName::parse(b"t").unwrap();
    let channel = || nsq_proto::ChannelName::parse(b"c").unwrap();
    let create = |sync| AdminRequest::CreateTopic {
        topic: topic(),
        sync,
    };
    for (path, expected) in [
        ("topic/create", create(None)),
        ("topic/delete", AdminRequest::DeleteTopic { topic: topic() }),
        ("topic/empty", AdminRequest::EmptyTopic { topic: topic() }),
        (
            "topic/pause",
            AdminRequest::PauseTopic {
                topic: topic(),
                paused: true,
            },
        ),
        (
            "topic/unpause",
            AdminRequest::PauseTopic {
                topic: topic(),
                paused: false,
            },
        ),
        (
            "channel/create",
            AdminRequest::CreateChannel {
                topic: topic(),
                channel: channel(),
            },
        ),
        (
            "channel/delete",
            AdminRequest::DeleteChannel {
                topic: topic(),
                channel: channel(),
            },
        ),
        (
            "channel/empty",
            AdminRequest::EmptyChannel {
                topic: topic(),
                channel: channel(),
            },
        ),
        (
            "channel/pause",
            AdminRequest::PauseChannel {
                topic: topic(),
                channel: channel(),
                paused: true,
            },
        ),
        (
            "channel/unpause",
            AdminRequest::PauseChannel {
                topic: topic(),
                channel: channel(),
                paused: false,
            },
        ),
    ] {
        let target = format!("/{path}?topic=t&channel=c&topic=b%20");
        assert_eq!(outcome(&broker, "POST", &target, ""), "200 OK ");
        assert_eq!(broker.0.changes.take(), [expected], "{path}");
    }
}

#[test]
fn topic_endpoints_differ_in_what_they_say_of_names() {
    let broker = FakeBroker::new();
    for (action, illegal) in [
        ("create", refusal("400 Bad Request", "INVALID_TOPIC")),
        ("empty", refusal("400 Bad Request", "INVALID_TOPIC")),
        ("delete", refusal("404 Not Found", "TOPIC_NOT_FOUND")),
        ("pause", refusal("404 Not Found", "TOPIC_NOT_FOUND")),
        ("unpause", refusal("404 Not Found", "TOPIC_NOT_FOUND")),
    ] {
        let ask = |query: &str| outcome(&broker, "POST", &format!("/topic/{action}{query}"), "");
        assert_eq!(ask("?topic=a%20"), illegal, "{action}");
        assert_eq!(ask("?topic="), illegal, "{action}");
        assert_eq!(
            ask(""),
            refusal("400 Bad Request", "MISSING_ARG_TOPIC"),
            "{action}"
        );
        for malformed in ["?%zz", "?topic=t;x", "?topic=t&x=%"] {
            assert_eq!(
                ask(malformed),
                refusal("400 Bad Request", "INVALID_REQUEST"),
                "{action}"
            );
        }
    }
    assert_eq!(broker.0.changes.take(), []);
}

#[test]
fn channel_endpoints_check_in_order() {
    let broker = FakeBroker::new();
    for action in ["create", "delete", "empty", "pause", "unpause"] {
        for (query, code) in [
            ("", "MISSING_ARG_TOPIC"),
            ("?topic=", "INVALID_ARG_TOPIC"),
            ("?topic=a%20", "INVALID_ARG_TOPIC"),
            ("?topic=t", "MISSING_ARG_CHANNEL"),
            ("?topic=t&channel=", "INVALID_ARG_CHANNEL"),
            ("?topic=t&channel=a%20", "INVALID_ARG_CHANNEL"),
            ("?%zz", "INVALID_REQUEST"),
        ] {
            let target = format!("/channel/{action}{query}");
            let expected = refusal("400 Bad Request", code);
            assert_eq!(outcome(&broker, "POST", &target, ""), expected, "{target}");
        }
    }
    assert_eq!(broker.0.changes.take(), []);
}

#[test]
fn what_the_broker_refuses_has_a_code() {
    let broker = FakeBroker::new();
    for (error, expected) in [
        (
            AdminError::TopicNotFound,
            refusal("404 Not Found", "TOPIC_NOT_FOUND"),
        ),
        (
            AdminError::ChannelNotFound,
            refusal("404 Not Found", "CHANNEL_NOT_FOUND"),
        ),
        (
            AdminError::Internal("disk".to_owned()),
            refusal("500 Internal Server Error", "INTERNAL_ERROR"),
        ),
    ] {
        *broker.0.admin_error.borrow_mut() = Some(error);
        let target = "/channel/empty?topic=t&channel=c";
        assert_eq!(outcome(&broker, "POST", target, ""), expected);
    }
    assert_eq!(broker.0.warnings.take(), ["change over HTTP failed - disk"]);
}

#[test]
fn options_are_read_as_json_or_text() {
    let broker = FakeBroker::new();
    assert_eq!(
        ask(&broker, "GET", "/config/log_level", ""),
        answer("200 OK", &[JSON, V1], "2")
    );
    assert_eq!(
        ask(&broker, "GET", "/config/data_path", ""),
        answer("200 OK", &[TEXT, V1], "/data")
    );
    assert_eq!(
        outcome(&broker, "GET", "/config/nope", ""),
        refusal("400 Bad Request", "INVALID_OPTION")
    );
}

#[test]
fn options_are_changed_by_their_body() {
    let broker = FakeBroker::new();
    let too_large = refusal("413 Request Entity Too Large", "INVALID_VALUE");
    for (option, body, expected) in [
        ("log_level", "info", "200 OK 2".to_owned()),
        (
            "log_level",
            "x",
            refusal("400 Bad Request", "INVALID_VALUE"),
        ),
        ("log_level", "", too_large.clone()),
        ("nope", "", too_large.clone()),
        ("nope", "x", refusal("400 Bad Request", "INVALID_OPTION")),
        ("nope", "12345678901", too_large),
    ] {
        assert_eq!(
            outcome(&broker, "PUT", &format!("/config/{option}"), body),
            expected
        );
    }
}

#[test]
fn cpu_profiles_take_the_time_asked_for_within_bounds() {
    let broker = FakeBroker::new();
    for query in ["", "?seconds=5", "?seconds=90", "?seconds=-1", "?seconds=x"] {
        let answer = ask(&broker, "GET", &format!("/debug/pprof/profile{query}"), "");
        assert_eq!(answer.status, "200 OK");
        assert_eq!(
            answer.header("Content-Type"),
            Some("application/octet-stream")
        );
        assert_eq!(answer.body, "a profile");
    }
    let spans = broker.0.profiled.borrow().clone();
    assert_eq!(spans, [30, 5, 90, 30, 30].map(Duration::from_secs));
    assert_eq!(
        outcome(&broker, "GET", "/debug/pprof/profile?seconds=91", ""),
        "400 Bad Request A profile takes at most 90 seconds.\n"
    );
    broker.0.is_profiling.set(true);
    assert_eq!(
        outcome(&broker, "GET", "/debug/pprof/profile", ""),
        "500 Internal Server Error Could not enable CPU profiling: cpu profiling already in use\n"
    );
}

#[test]
fn profiling_pages() {
    let broker = FakeBroker::new();
    let index = ask(&broker, "GET", "/debug/pprof/", "");
    assert_eq!(
        index.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(index.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(index.header("X-Nsq-Content-Type"), None);
    let arguments: Vec<String> = std::env::args().collect();
    assert_eq!(
        ask(&broker, "GET", "/debug/pprof/cmdline", "").body,
        arguments.join("\0")
    );
    assert_eq!(
        outcome(&broker, "POST", "/debug/pprof/symbol", ""),
        "200 OK num_symbols: 0\n"
    );
    for profile in ["heap", "goroutine", "block", "threadcreate"] {
        let answer = ask(&broker, "GET", &format!("/debug/pprof/{profile}"), "");
        assert_eq!(answer.status, "404 Not Found");
        assert!(answer.body.contains("Go's runtime"), "{}", answer.body);
    }
    let not_found = refusal("404 Not Found", "NOT_FOUND");
    assert_eq!(
        outcome(&broker, "GET", "/debug/pprof/allocs", ""),
        not_found
    );
}

#[test]
fn block_rate_is_checked_and_ignored() {
    let broker = FakeBroker::new();
    let target = "/debug/setblockrate";
    assert_eq!(
        outcome(&broker, "PUT", "/debug/setblockrate?rate=5", ""),
        "200 OK "
    );
    for (query, reason) in [
        ("", "parsing \"\": invalid syntax"),
        ("?rate=abc", "parsing \"abc\": invalid syntax"),
        (
            "?rate=99999999999999999999",
            "parsing \"99999999999999999999\": value out of range",
        ),
    ] {
        assert_eq!(
            ask(&broker, "PUT", &format!("{target}{query}"), ""),
            answer(
                "400 Bad Request",
                &[TEXT],
                &format!("invalid block rate : strconv.Atoi: {reason}")
            )
        );
    }
    let mut client = Client::connect(&broker);
    let mut text = client.exchange(
        "PUT /debug/setblockrate?rate=x HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\nrate=7",
    );
    assert_eq!(Answer::take(&mut text).status, "200 OK");
}

#[test]
fn access_log_has_all_but_publishes() {
    let broker = FakeBroker::new();
    for (method, target) in [
        ("GET", "/%70ing?a=%20"),
        ("GET", "/nope"),
        ("GET", "/pub"),
        ("POST", "/topic/create"),
        ("POST", "/pub?topic=t"),
        ("POST", "/pub"),
        ("POST", "/mpub?topic=t"),
        ("POST", "/put?topic=t"),
        ("POST", "/mput?topic=t"),
        ("GET", "/PING"),
        ("OPTIONS", "/ping"),
        ("GET", "/debug/pprof/"),
    ] {
        ask(&broker, method, target, "");
    }
    let lines = broker.0.access.take();
    let lines: Vec<&str> = lines
        .iter()
        .map(|line| {
            let (line, elapsed) = line.rsplit_once(' ').unwrap();
            assert!(
                elapsed.ends_with('s') && elapsed.starts_with(char::is_numeric),
                "{elapsed}"
            );
            line
        })
        .collect();
    assert_eq!(
        lines,
        [
            "200 GET /%70ing?a=%20 (127.0.0.1:9)",
            "404 GET /nope (127.0.0.1:9)",
            "405 GET /pub (127.0.0.1:9)",
            "400 POST /topic/create (127.0.0.1:9)",
        ]
    );
}
