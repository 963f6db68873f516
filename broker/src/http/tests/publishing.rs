//! `/pub` and `/mpub`. Limits of the fixture: 10 bytes a message, 40 a body.

use std::time::Duration;

use super::fixture::{FakeBroker, Publish};
use super::wire::{Answer, Client, ask, outcome, refusal};
use crate::gateway::AdminRequest;

fn too_large(code: &str) -> String {
    refusal("413 Request Entity Too Large", code)
}

fn bad(code: &str) -> String {
    refusal("400 Bad Request", code)
}

/// Sends a chunked body, written as it stands on the wire.
fn ask_chunked(broker: &FakeBroker, target: &str, chunks: &str) -> Answer {
    let mut client = Client::connect(broker);
    let mut text = client.exchange(format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
    ));
    Answer::take(&mut text)
}

#[test]
fn a_body_is_one_message() {
    let broker = FakeBroker::new();
    for target in [
        "/pub?topic=t",
        "/put?topic=t&topic=other",
        "/pub?&&=x&topic=t&y",
    ] {
        let answer = ask(&broker, "POST", target, "a\nb\r\n");
        assert_eq!(
            (answer.status.as_str(), answer.body.as_str()),
            ("200 OK", "OK")
        );
        assert_eq!(
            answer.header("X-Nsq-Content-Type"),
            Some("nsq; version=1.0")
        );
        assert_eq!(
            answer.header("Content-Type"),
            Some("text/plain; charset=utf-8")
        );
        let expected = Publish {
            topic: "t".to_owned(),
            delay: Duration::ZERO,
            bodies: vec!["a\nb\r\n".to_owned()],
        };
        assert_eq!(broker.0.published.take(), [expected]);
    }
}

#[test]
fn pub_checks_in_order() {
    let broker = FakeBroker::new();
    for (target, body, expected) in [
        ("/pub?%zz", "12345678901", too_large("MSG_TOO_BIG")),
        ("/pub?%zz", "", bad("MSG_EMPTY")),
        ("/pub?%zz", "a", bad("INVALID_REQUEST")),
        ("/pub?topic=t;", "a", bad("INVALID_REQUEST")),
        ("/pub?defer=x", "a", bad("MISSING_ARG_TOPIC")),
        ("/pub?defer=x&topic=", "a", bad("INVALID_TOPIC")),
        ("/pub?defer=x&topic=a%20", "a", bad("INVALID_TOPIC")),
        ("/pub?defer=x&topic=t", "a", bad("INVALID_DEFER")),
        ("/pub?defer=3600001&topic=t", "a", bad("INVALID_DEFER")),
        ("/pub?topic=t", "1234567890", "200 OK OK".to_owned()),
    ] {
        assert_eq!(outcome(&broker, "POST", target, body), expected, "{target}");
    }
    assert_eq!(broker.take_published(), ["1234567890"]);
    assert_eq!(
        broker.0.changes.take(),
        [],
        "a refused publish creates no topic"
    );
}

#[test]
fn defer_reaches_the_broker() {
    let broker = FakeBroker::new();
    assert_eq!(
        outcome(&broker, "POST", "/pub?topic=t&defer=%2B1500", "a"),
        "200 OK OK"
    );
    assert_eq!(
        broker.0.published.borrow()[0].delay,
        Duration::from_millis(1500)
    );
}

#[test]
fn parameters_in_a_form_body_are_ignored() {
    let broker = FakeBroker::new();
    assert_eq!(
        outcome(&broker, "POST", "/pub", "topic=t"),
        bad("MISSING_ARG_TOPIC")
    );
}

#[test]
fn lines_are_messages() {
    let broker = FakeBroker::new();
    for target in ["/mpub?topic=t", "/mput?topic=t", "/mpub?topic=t&binary=0"] {
        assert_eq!(
            outcome(&broker, "POST", target, "a\r\n\nb\n1234567890"),
            "200 OK OK"
        );
        assert_eq!(
            broker.take_published(),
            ["a\r", "b", "1234567890"],
            "{target}"
        );
    }
}

#[test]
fn no_messages_only_create_the_topic() {
    let broker = FakeBroker::new();
    for body in ["", "\n\n"] {
        assert_eq!(outcome(&broker, "POST", "/mpub?topic=t", body), "200 OK OK");
        let topic = nsq_proto::TopicName::parse(b"t").unwrap();
        assert_eq!(
            broker.0.changes.take(),
            [AdminRequest::CreateTopic { topic, sync: None }]
        );
    }
    assert_eq!(broker.0.published.take(), []);
}

#[test]
fn mpub_checks_in_order() {
    let broker = FakeBroker::new();
    let long = "x".repeat(41);
    for (target, body, expected) in [
        ("/mpub?%zz", long.as_str(), too_large("BODY_TOO_BIG")),
        ("/mpub?%zz", "a", bad("INVALID_REQUEST")),
        ("/mpub", "a", bad("MISSING_ARG_TOPIC")),
        ("/mpub?topic=a%20", "12345678901", bad("INVALID_TOPIC")),
        (
            "/mpub?topic=t",
            "a\n12345678901\nb",
            too_large("MSG_TOO_BIG"),
        ),
        ("/mpub?topic=t&binary=1", "", too_large("BAD_BODY")),
        ("/mpub?topic=t&binary=1", "\0\0\0\0", too_large("BAD_BODY")),
        (
            "/mpub?topic=t&binary=1",
            "\x7f\0\0\x01\0\0\0\x01a",
            too_large("BAD_BODY"),
        ),
        (
            "/mpub?topic=t&binary=1",
            "\0\0\0\x01",
            too_large("BAD_MESSAGE"),
        ),
        (
            "/mpub?topic=t&binary=1",
            "\0\0\0\x01\0\0\0\0",
            too_large("BAD_MESSAGE"),
        ),
        (
            "/mpub?topic=t&binary=1",
            "\0\0\0\x01\0\0\0\x05a",
            too_large("BAD_MESSAGE"),
        ),
        (
            "/mpub?topic=t&binary=1",
            "\0\0\0\x02\0\0\0\x01a",
            too_large("BAD_MESSAGE"),
        ),
        (
            "/mpub?topic=t&binary=1",
            "\0\0\0\x01\0\0\0\x0b12345678901",
            too_large("BAD_MESSAGE"),
        ),
    ] {
        assert_eq!(
            outcome(&broker, "POST", target, body),
            expected,
            "{target} {body:?}"
        );
    }
    assert_eq!(broker.0.published.take(), []);
    assert_eq!(
        broker.0.changes.take(),
        [],
        "a refused publish creates no topic"
    );
}

#[test]
fn binary_list_may_have_bytes_after_it() {
    let broker = FakeBroker::new();
    let body = "\0\0\0\x02\0\0\0\x01a\0\0\0\x02bcrest";
    for value in ["true", "1"] {
        let target = format!("/mpub?topic=t&binary={value}");
        assert_eq!(outcome(&broker, "POST", &target, body), "200 OK OK");
        assert_eq!(broker.take_published(), ["a", "bc"]);
    }
    assert_eq!(broker.0.warnings.take(), Vec::<String>::new());
}

#[test]
fn odd_values_of_binary_mean_yes_and_are_warned_about() {
    let broker = FakeBroker::new();
    for (value, shown) in [("", ""), ("TRUE", "TRUE"), ("a%0Ab", "a\\nb")] {
        let target = format!("/mpub?topic=t&binary={value}");
        assert_eq!(
            outcome(&broker, "POST", &target, "\0\0\0\x01\0\0\0\x01a"),
            "200 OK OK"
        );
        assert_eq!(broker.take_published(), ["a"]);
        let warning = format!("deprecated value '{shown}' used for /mpub binary param");
        assert_eq!(broker.0.warnings.take(), [warning]);
    }
}

#[test]
fn a_stopping_broker_refuses() {
    let broker = FakeBroker::new();
    broker.0.is_exiting.set(true);
    let exiting = refusal("503 Service Unavailable", "EXITING");
    assert_eq!(outcome(&broker, "POST", "/pub?topic=t", "a"), exiting);
    assert_eq!(outcome(&broker, "POST", "/mpub?topic=t", "a"), exiting);
    assert_eq!(broker.0.warnings.borrow().len(), 2);
}

#[test]
fn chunks_are_joined() {
    let broker = FakeBroker::new();
    let answer = ask_chunked(
        &broker,
        "/pub?topic=t",
        "3\r\nabc\r\n1\r\nd\r\n2\r\nef\r\n0\r\n\r\n",
    );
    assert_eq!(answer.status, "200 OK");
    assert_eq!(answer.header("Connection"), None);
    assert_eq!(broker.take_published(), ["abcdef"]);
}

#[test]
fn chunks_are_limited_and_close_the_connection() {
    let broker = FakeBroker::new();
    let chunks = "6\r\nabcdef\r\n5\r\nghijk\r\n0\r\n\r\n";
    let answer = ask_chunked(&broker, "/pub?topic=t", chunks);
    assert_eq!(answer.status, "413 Request Entity Too Large");
    assert_eq!(answer.body, r#"{"message":"MSG_TOO_BIG"}"#);
    assert_eq!(answer.header("Connection"), Some("close"));
    let chunks = "f\r\n012345678\nabcde\r\n".repeat(3);
    let answer = ask_chunked(&broker, "/mpub?topic=t", &chunks);
    assert_eq!(answer.body, r#"{"message":"BODY_TOO_BIG"}"#);
    assert_eq!(broker.0.published.take(), []);
}

#[test]
fn malformed_chunks_are_an_internal_error() {
    let broker = FakeBroker::new();
    for target in ["/pub?topic=t", "/mpub?topic=t"] {
        let answer = ask_chunked(&broker, target, "zz\r\nabc\r\n0\r\n\r\n");
        assert_eq!(answer.status, "500 Internal Server Error");
        assert_eq!(answer.body, r#"{"message":"INTERNAL_ERROR"}"#);
        assert_eq!(answer.header("Connection"), Some("close"));
    }
    let answer = ask_chunked(&broker, "/topic/delete?topic=t", "zz\r\nabc\r\n0\r\n\r\n");
    assert_eq!(answer.body, r#"{"message":"INVALID_REQUEST"}"#);
    assert_eq!(broker.0.published.take(), []);
    assert_eq!(broker.0.changes.take(), []);
}

#[test]
fn without_room_no_body_is_read() {
    for path in ["/pub?topic=t", "/mpub?topic=t"] {
        let broker = FakeBroker::new();
        broker.0.is_congested.set(true);
        let mut client = Client::connect(&broker);
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        );
        assert_eq!(client.exchange(request), "", "{path}");
        broker.0.is_congested.set(false);
        assert_eq!(client.receive(), "HTTP/1.1 100 Continue\r\n\r\n", "{path}");
        let mut text = client.exchange("hello");
        assert_eq!(Answer::take(&mut text).body, "OK");
        assert_eq!(broker.take_published(), ["hello"]);
    }
}

#[test]
fn without_room_what_is_wrong_is_told_at_once() {
    let broker = FakeBroker::new();
    broker.0.is_congested.set(true);
    assert_eq!(
        outcome(&broker, "POST", "/pub?topic=a+b", "x"),
        refusal("400 Bad Request", "INVALID_TOPIC")
    );
}
