//! What happens around requests: keep-alive, pipelining, half-closed and refused clients.

use super::fixture::FakeBroker;
use super::wire::{Answer, Client};

const PING: &str = "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn connections_are_kept() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    for _ in 0..3 {
        let mut text = client.exchange(PING);
        assert_eq!(Answer::take(&mut text).body, "OK");
        assert!(!client.sees_end());
    }
    assert_eq!(client.exchange_and_close(""), "");
    assert!(client.is_gone());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    client.read_slowly();
    let mut text = client.exchange(format!(
        "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na{PING}\
         GET /nope HTTP/1.1\r\nHost: x\r\n\r\nPOST /pub HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nb{PING}"
    ));
    let statuses: Vec<String> = (0..5).map(|_| Answer::take(&mut text).status).collect();
    assert_eq!(
        statuses,
        [
            "200 OK",
            "200 OK",
            "404 Not Found",
            "400 Bad Request",
            "200 OK"
        ]
    );
    assert_eq!(text, "");
    assert!(!client.sees_end());
}

#[test]
fn requests_may_arrive_byte_by_byte() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let request = "POST /mpub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\na\nb\nc";
    let mut text = String::new();
    for byte in request.bytes() {
        assert_eq!(text, "");
        text += &client.exchange([byte]);
    }
    assert_eq!(Answer::take(&mut text).body, "OK");
    assert_eq!(broker.take_published(), ["a", "b", "c"]);
}

#[test]
fn http_1_0_closes_unless_asked_to_stay() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let text = client.exchange("GET /ping HTTP/1.0\r\n\r\n");
    assert!(
        text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("\r\n\r\nOK"),
        "{text}"
    );
    assert!(client.sees_end());

    let mut client = Client::connect(&broker);
    let text = client.exchange("GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(
        text.to_lowercase()
            .contains("\r\nconnection: keep-alive\r\n"),
        "{text}"
    );
    assert!(!client.sees_end());
}

#[test]
fn close_is_honoured() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    client.read_slowly();
    let mut text = client.exchange("GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(Answer::take(&mut text).header("Connection"), Some("close"));
    assert!(client.sees_end() && client.is_gone());
}

#[test]
fn a_half_closed_client_gets_its_answer() {
    let broker = FakeBroker::new();
    broker.0.holds_publishes.set(true);
    let mut client = Client::connect(&broker);
    let request = "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(client.exchange_and_close(request), "");
    broker.0.holds_publishes.set(false);
    let mut text = client.receive();
    assert_eq!(Answer::take(&mut text).body, "OK");
    assert!(client.is_gone());
    assert_eq!(broker.take_published(), ["a"]);
}

#[test]
fn a_body_that_ends_early_publishes_nothing() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let request = "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc";
    let mut text = client.exchange_and_close(request);
    assert_eq!(Answer::take(&mut text).status, "500 Internal Server Error");
    assert!(client.is_gone());
    assert_eq!(broker.0.published.take(), []);
}

#[test]
fn a_change_waits_for_its_whole_body() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let head = "POST /topic/create?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na";
    assert_eq!(client.exchange(head), "");
    assert_eq!(broker.0.changes.borrow().len(), 0);
    let mut text = client.exchange("bc");
    assert_eq!(Answer::take(&mut text).status, "200 OK");
    assert_eq!(broker.0.changes.borrow().len(), 1);
    assert!(!client.sees_end());
}

#[test]
fn a_refused_client_may_still_send_after_the_answer() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let head = "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nabc";
    let mut text = client.exchange(head);
    let answer = Answer::take(&mut text);
    assert_eq!(answer.status, "413 Request Entity Too Large");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(client.sees_end(), "the client is told");
    assert!(
        !client.is_gone(),
        "and what it sends is read, lest a reset destroys the answer"
    );
    assert_eq!(client.exchange("x".repeat(96)), "");
    assert!(!client.is_gone());
    client.exchange_and_close("");
    assert!(client.is_gone());
}

#[test]
fn lingering_is_bounded() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    client.exchange("POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n");
    for _ in 0..16 {
        assert!(!client.is_gone());
        client.exchange(vec![0; 1 << 20]);
    }
    assert!(client.is_gone());
}

#[test]
fn unwanted_bodies_are_dropped_up_to_a_bound() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let size = 1 << 20;
    let mut text = client.exchange(format!(
        "POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n{}{PING}",
        "x".repeat(size)
    ));
    assert_eq!(Answer::take(&mut text).header("Connection"), None);
    assert_eq!(Answer::take(&mut text).body, "OK");

    let mut text = client.exchange(format!(
        "POST /topic/create?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        size + 1
    ));
    let answer = Answer::take(&mut text);
    assert_eq!(
        (answer.status.as_str(), answer.header("Connection")),
        ("200 OK", Some("close"))
    );
    assert!(client.sees_end());
}

#[test]
fn a_body_is_asked_for_only_when_it_is_wanted() {
    let broker = FakeBroker::new();
    let request = |target: &str, length: u32| {
        let mut client = Client::connect(&broker);
        let text = client.exchange(format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n\r\n"
        ));
        (client, text)
    };
    let (mut client, text) = request("/pub?topic=t", 3);
    assert_eq!(text, "HTTP/1.1 100 Continue\r\n\r\n");
    let mut text = client.exchange("abc");
    assert_eq!(Answer::take(&mut text).body, "OK");
    assert_eq!(broker.take_published(), ["abc"]);

    for (target, length, status) in [
        ("/pub?topic=t", 11, "413 Request Entity Too Large"),
        ("/mpub?topic=", 3, "400 Bad Request"),
    ] {
        let (client, mut text) = request(target, length);
        let answer = Answer::take(&mut text);
        assert_eq!(
            (answer.status.as_str(), answer.header("Connection")),
            (status, Some("close"))
        );
        assert!(client.sees_end());
    }
}

#[test]
fn host_is_required() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    let mut text = client.exchange("GET /ping HTTP/1.1\r\n\r\n");
    let answer = Answer::take(&mut text);
    assert_eq!(answer.body, "400 Bad Request: missing required Host header");
    assert!(client.sees_end());
}

#[test]
fn garbage_is_refused() {
    let broker = FakeBroker::new();
    for (garbage, status) in [
        ("garbage\r\n\r\n".to_owned(), "400 Bad Request"),
        ("GET  HTTP/1.1\r\n\r\n".to_owned(), "400 Bad Request"),
        (
            format!(
                "GET /ping HTTP/1.1\r\nHost: {}\r\n\r\n",
                "x".repeat(1 << 17)
            ),
            "431 Request Header Fields Too Large",
        ),
    ] {
        let mut client = Client::connect(&broker);
        let mut text = client.exchange(garbage);
        assert_eq!(Answer::take(&mut text).status, status);
        assert!(client.sees_end());
    }
}

#[test]
fn a_stop_ends_an_idle_connection_at_once() {
    let broker = FakeBroker::new();
    for request in ["", "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut client = Client::connect(&broker);
        client.exchange(request);
        assert!(!client.is_gone());
        assert_eq!(client.stop(), "");
        assert!(client.is_gone(), "{request:?}");
    }
}

#[test]
fn a_stop_lets_the_request_under_way_have_its_answer() {
    let broker = FakeBroker::new();
    broker.0.holds_publishes.set(true);
    let mut client = Client::connect(&broker);
    let request = "POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na";
    assert_eq!(client.exchange(request), "");
    assert_eq!(client.stop(), "");
    assert!(!client.is_gone());
    broker.0.holds_publishes.set(false);
    let mut text = client.receive();
    assert_eq!(Answer::take(&mut text).body, "OK");
    assert!(client.is_gone());
}

#[test]
fn a_stopping_broker_answers_once_more_on_each_connection() {
    let broker = FakeBroker::new();
    let mut client = Client::connect(&broker);
    client.exchange("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    broker.0.is_stopping.set(true);
    let mut text = client.exchange("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = Answer::take(&mut text);
    assert_eq!(answer.body, "OK");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert!(client.is_gone());
}
