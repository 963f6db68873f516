//! `/stats`: parameters, and the JSON form. The text form has its golden test beside it.

use super::fixture::{FakeBroker, busy};
use super::wire::{ask, outcome, refusal};
use crate::gateway::StatsFilter;

#[test]
fn json_of_a_busy_broker() {
    let broker = FakeBroker::new();
    *broker.0.stats.borrow_mut() = busy();
    let expected = concat!(
        r#"{"version":"1.3.0","health":"OK","start_time":1795231779,"topics":["#,
        r#"{"topic_name":"t2","channels":[],"depth":5,"backend_depth":0,"message_count":5,"message_bytes":9,"paused":false,"e2e_processing_latency":{"count":0,"percentiles":null}},"#,
        r#"{"topic_name":"tc","channels":["#,
        r#"{"channel_name":"ch","depth":1,"backend_depth":0,"in_flight_count":2,"deferred_count":0,"message_count":3,"global_msg_count":2,"requeue_count":0,"timeout_count":0,"client_count":1,"clients":["#,
        r#"{"client_id":"cid","hostname":"host.example.com","version":"V2","remote_address":"127.0.0.1:51898","state":3,"ready_count":2,"in_flight_count":2,"message_count":2,"finish_count":0,"requeue_count":0,"connect_ts":1795232084,"sample_rate":0,"deflate":false,"snappy":false,"user_agent":"ua/1.0","topology_zone":"","topology_region":"","tls":false,"tls_cipher_suite":"","tls_version":"","tls_negotiated_protocol":"","tls_negotiated_protocol_is_mutual":false}"#,
        r#"],"paused":false,"e2e_processing_latency":{"count":0,"percentiles":null}},"#,
        r#"{"channel_name":"ch2","depth":3,"backend_depth":0,"in_flight_count":0,"deferred_count":0,"message_count":3,"requeue_count":0,"timeout_count":0,"client_count":1,"clients":["#,
        r#"{"client_id":"127.0.0.1","hostname":"127.0.0.1","version":"V2","remote_address":"127.0.0.1:51910","state":3,"ready_count":0,"in_flight_count":0,"message_count":0,"finish_count":0,"requeue_count":0,"connect_ts":1795232084,"sample_rate":0,"deflate":false,"snappy":false,"user_agent":"","topology_zone":"","topology_region":"","tls":false,"tls_cipher_suite":"","tls_version":"","tls_negotiated_protocol":"","tls_negotiated_protocol_is_mutual":false}"#,
        r#"],"paused":true,"e2e_processing_latency":{"count":0,"percentiles":null}}"#,
        r#"],"depth":0,"backend_depth":0,"message_count":3,"message_bytes":7,"paused":true,"e2e_processing_latency":{"count":0,"percentiles":null}}],"producers":["#,
        r#"{"client_id":"pid","hostname":"phost","version":"V2","remote_address":"127.0.0.1:51914","state":0,"ready_count":0,"in_flight_count":0,"message_count":0,"finish_count":0,"requeue_count":0,"connect_ts":1795232084,"sample_rate":0,"deflate":false,"snappy":false,"user_agent":"puA","topology_zone":"","topology_region":"","pub_counts":[{"topic":"other","count":1},{"topic":"tc","count":3}],"tls":false,"tls_cipher_suite":"","tls_version":"","tls_negotiated_protocol":"","tls_negotiated_protocol_is_mutual":false}"#,
        r#"]}"#,
    );
    let answer = ask(&broker, "GET", "/stats?format=json&include_mem=false", "");
    assert_eq!(
        answer.header("Content-Type"),
        Some("application/json; charset=utf-8")
    );
    assert_eq!(answer.body, expected);
}

#[test]
fn json_of_an_idle_broker() {
    let broker = FakeBroker::new();
    *broker.0.illness.borrow_mut() = Some("why".to_owned());
    assert_eq!(
        ask(&broker, "GET", "/stats?format=json&include_mem=0", "").body,
        r#"{"version":"1.3.0","health":"NOK - why","start_time":1795231779,"topics":[],"producers":null}"#
    );
}

#[test]
fn memory_has_its_keys_in_order() {
    let broker = FakeBroker::new();
    let body = ask(&broker, "GET", "/stats?format=json", "").body;
    let (_, memory) = body.split_once(r#","memory":{"#).unwrap();
    let (memory, rest) = memory.split_once('}').unwrap();
    let keys: Vec<&str> = memory
        .split(',')
        .map(|pair| pair.split('"').nth(1).unwrap())
        .collect();
    let expected = [
        "heap_objects",
        "heap_idle_bytes",
        "heap_in_use_bytes",
        "heap_released_bytes",
        "gc_pause_usec_100",
        "gc_pause_usec_99",
        "gc_pause_usec_95",
        "next_gc_bytes",
        "gc_total_runs",
    ];
    assert_eq!(keys, expected);
    assert_eq!(rest, r#","producers":null}"#);
}

#[test]
fn lists_of_clients_are_null_when_not_wanted() {
    let broker = FakeBroker::new();
    *broker.0.stats.borrow_mut() = busy();
    let target = "/stats?format=json&include_mem=0&include_clients=false";
    let body = ask(&broker, "GET", target, "").body;
    assert_eq!(
        body.matches(r#""client_count":1,"clients":null,"paused""#)
            .count(),
        2,
        "{body}"
    );
    assert!(body.ends_with(r#""producers":null}"#), "{body}");
}

#[test]
fn publishes_to_other_topics_are_left_out() {
    let broker = FakeBroker::new();
    *broker.0.stats.borrow_mut() = busy();
    let json = ask(&broker, "GET", "/stats?format=json&topic=tc", "").body;
    assert!(
        json.contains(r#""pub_counts":[{"topic":"tc","count":3}]"#),
        "{json}"
    );
    let text = ask(&broker, "GET", "/stats?topic=tc", "").body;
    assert!(
        text.contains("[V2 phost:51914 puA      ] msgs: 3        topics: tc=3 c"),
        "{text}"
    );
    // A connection that published nothing to the topic is still there, as a consumer.
    let text = ask(&broker, "GET", "/stats?topic=none", "").body;
    assert!(
        text.contains("[V2 phost:51914 puA      ] state: 0 inflt: 0    rdy: 0"),
        "{text}"
    );
}

#[test]
fn parameters_become_the_filter() {
    let broker = FakeBroker::new();
    let filter = |topic: &str, channel: &str, include_clients| StatsFilter {
        topic: topic.to_owned(),
        channel: channel.to_owned(),
        include_clients,
    };
    for (query, expected) in [
        ("", filter("", "", true)),
        ("?topic=t&channel=c&topic=x", filter("t", "c", true)),
        ("?include_clients=0", filter("", "", false)),
        (
            "?include_clients=false&channel=c%23",
            filter("", "c#", false),
        ),
        ("?include_clients=no", filter("", "", true)),
    ] {
        ask(&broker, "GET", &format!("/stats{query}"), "");
        assert_eq!(broker.0.filters.take(), [expected], "{query}");
    }
    let bad = outcome(&broker, "GET", "/stats?%zz", "");
    assert_eq!(bad, refusal("400 Bad Request", "INVALID_REQUEST"));
}

#[test]
fn only_the_exact_word_means_json() {
    let broker = FakeBroker::new();
    for query in ["?format=JSON", "?format=text", ""] {
        let answer = ask(&broker, "GET", &format!("/stats{query}"), "");
        assert_eq!(
            answer.header("Content-Type"),
            Some("text/plain; charset=utf-8")
        );
        assert!(
            answer.body.starts_with("nsqd v1.3.0 (built w/"),
            "{}",
            answer.body
        );
        assert!(
            answer
                .body
                .contains("\nMemory:\n   heap_objects             \t0\n")
        );
    }
    assert!(
        !ask(&broker, "GET", "/stats?include_mem=0", "")
            .body
            .contains("Memory")
    );
}
