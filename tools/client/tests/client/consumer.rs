use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use nsq_client::{ConnectError, Consumer};
use tokio::io::AsyncWriteExt as _;

use crate::support::fake::{Fake, id, message};
use crate::support::{Lines, config, connect, consumer, eventually, soon};

#[tokio::test]
async fn it_subscribes_and_asks_for_its_share() {
    let nsqds = [Fake::listen().await, Fake::listen().await];
    let consumer = consumer(&[("max_in_flight", "200")]);
    let mut first = connect(&consumer, &nsqds[0]).await;
    first.expect(&["RDY 200"]).await;
    let mut second = connect(&consumer, &nsqds[1]).await;
    first.expect(&["RDY 100"]).await;
    second.expect(&["RDY 100"]).await;
    assert_eq!(consumer.stats().connections, 2);
    let twice = consumer.connect_to_nsqds([nsqds[1].address()]).await;
    assert_eq!(twice, Err(ConnectError::AlreadyConnected));
    consumer.change_max_in_flight(0);
    first.expect(&["RDY 0"]).await;
    consumer.disconnect_from_nsqd(&nsqds[1].address());
    second.expect(&["RDY 0", "CLS"]).await;
    second.respond("CLOSE_WAIT").await;
    assert!(second.is_at_end().await);
}

#[tokio::test]
async fn identity_is_what_the_options_say() {
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[
        ("client_id", "me"),
        ("heartbeat_interval", "-1ns"),
        ("msg_timeout", "90s"),
        ("sample_rate", "7"),
    ]);
    consumer.add_nsqd(&nsqd.address());
    let identity = nsqd.accept_raw().await.identify("OK").await;
    for part in [
        r#""client_id":"me""#,
        r#""heartbeat_interval":-1"#,
        r#""msg_timeout":90000"#,
        r#""sample_rate":7"#,
        r#""feature_negotiation":true"#,
        r#""output_buffer_timeout":250"#,
    ] {
        assert!(identity.contains(part), "{part} in {identity}");
    }
}

#[tokio::test]
async fn messages_are_taken_and_their_answers_leave_together() {
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[("max_in_flight", "100")]);
    let mut peer = connect(&consumer, &nsqd).await;
    peer.expect(&["RDY 100"]).await;
    peer.deliver(0..100).await;
    let mut messages = Vec::new();
    while messages.len() < 100 {
        assert!(soon(consumer.recv_many(&mut messages, 30)).await <= 30);
    }
    for (number, message) in messages.iter().enumerate() {
        assert_eq!(message.body(), number.to_string().as_bytes());
        assert_eq!(message.id().to_string(), id(number as u64));
        assert_eq!(
            (message.attempts(), message.timestamp_ns()),
            (1, number as u64)
        );
        assert_eq!(message.nsqd_address(), nsqd.address());
    }
    assert!(consumer.is_starved());
    let expected: String = (0..100).map(|n| format!("FIN {}\n", id(n))).collect();
    for message in messages {
        message.finish();
    }
    assert_eq!(peer.burst().await, expected);
    assert!(!consumer.is_starved());
    assert_eq!(consumer.stats().messages_finished, 100);
}

#[tokio::test]
async fn heartbeats_are_answered_and_errors_are_logged() {
    let (nsqd, lines) = (Fake::listen().await, Lines::default());
    let consumer = Consumer::builder("t", "c")
        .log(lines.log())
        .build()
        .unwrap();
    let mut peer = connect(&consumer, &nsqd).await;
    peer.expect(&["RDY 1"]).await;
    peer.respond("_heartbeat_").await;
    peer.expect(&["NOP"]).await;
    peer.refuse("E_FIN_FAILED FIN x failed ID not in flight")
        .await;
    let line = format!(
        "[t/c] ({}) protocol error - E_FIN_FAILED FIN x failed ID not in flight",
        nsqd.address()
    );
    eventually("the line", || lines.contain(&line)).await;
}

#[tokio::test]
async fn failures_are_requeued_with_a_growing_delay_and_back_off() {
    let (nsqd, lines) = (Fake::listen().await, Lines::default());
    let options = config(&[("max_in_flight", "10"), ("backoff_multiplier", "5ms")]);
    let consumer = Consumer::builder("t", "c")
        .config(options)
        .log(lines.log())
        .build()
        .unwrap();
    let mut peer = connect(&consumer, &nsqd).await;
    peer.expect(&["RDY 10"]).await;
    peer.deliver_again(7, 3).await;
    let message = soon(consumer.recv()).await.unwrap();
    message.touch();
    message.requeue(None);
    let requeue = format!("REQ {} 270000", id(7));
    let touch = format!("TOUCH {}", id(7));
    peer.expect(&[&touch, &requeue, "RDY 0", "RDY 1"]).await;
    peer.deliver([8]).await;
    soon(consumer.recv()).await.unwrap().finish();
    peer.expect(&[&format!("FIN {}", id(8)), "RDY 10"]).await;
    for text in [
        "WRN ",
        "backing off for 10ms (backoff level 1), setting all to RDY 0",
        "backoff timeout expired, sending RDY 1",
        "exiting backoff, returning all to RDY 10",
    ] {
        assert!(lines.contain(text), "{text} in {}", lines.text());
    }
    // Neither has this failed, nor is there a back-off to prolong.
    peer.deliver([9]).await;
    let early = soon(consumer.recv()).await.unwrap();
    early.requeue_without_backoff(Some(Duration::from_secs(1)));
    peer.deliver([10]).await;
    drop(soon(consumer.recv()).await.unwrap());
    let (early, dropped) = (
        format!("REQ {} 1000", id(9)),
        format!("REQ {} 90000", id(10)),
    );
    peer.expect(&[&early, &dropped, "RDY 0"]).await;
    assert_eq!(consumer.stats().messages_requeued, 3);
}

#[tokio::test]
async fn what_was_tried_too_often_is_given_up_in_plain_sight() {
    let (nsqd, lines) = (Fake::listen().await, Lines::default());
    let told = Arc::new(AtomicUsize::new(0));
    let teller = Arc::clone(&told);
    let consumer = Consumer::builder("t", "c")
        .log(lines.log())
        .on_give_up(move |message| {
            assert_eq!(
                (message.attempts(), &message.body()[..]),
                (6, &b"again"[..])
            );
            teller.fetch_add(1, Ordering::Relaxed);
        })
        .build()
        .unwrap();
    let mut peer = connect(&consumer, &nsqd).await;
    peer.deliver_again(1, 6).await;
    peer.deliver_again(2, 5).await;
    assert_eq!(soon(consumer.recv()).await.unwrap().attempts(), 5);
    peer.expect(&["RDY 1", &format!("FIN {}", id(1))]).await;
    assert_eq!(told.load(Ordering::Relaxed), 1);
    assert_eq!(consumer.stats().messages_given_up, 1);
    assert!(lines.contain("WRN "));
    assert!(lines.contain("msg 0000000000000001 attempted 6 times, giving up"));
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_its_messages_are_forgotten() {
    let (nsqd, lines) = (Fake::listen().await, Lines::default());
    let options = config(&[("lookupd_poll_interval", "10ms"), ("max_in_flight", "5")]);
    let consumer = Consumer::builder("t", "c")
        .config(options)
        .log(lines.log())
        .build()
        .unwrap();
    let mut peer = connect(&consumer, &nsqd).await;
    peer.deliver(0..3).await;
    let taken = soon(consumer.recv()).await.unwrap();
    drop(peer);
    let mut peer = nsqd.accept_consumer().await;
    peer.expect(&["RDY 5"]).await;
    peer.deliver([9]).await;
    // The other two come again from nsqd, like this one, whose answer goes nowhere.
    assert_eq!(soon(consumer.recv()).await.unwrap().body(), "9");
    taken.finish();
    for text in [
        "IO error - EOF",
        "there are 0 connections left alive",
        "re-connecting in 10ms",
    ] {
        assert!(lines.contain(text), "{text} in {}", lines.text());
    }
}

#[tokio::test]
async fn an_nsqd_that_cannot_be_reached_is_an_error_or_tried_again() {
    let nsqd = Fake::listen().await;
    let address = nsqd.address();
    drop(nsqd);
    let lines = Lines::default();
    let consumer = Consumer::builder("t", "c")
        .config(config(&[("lookupd_poll_interval", "10ms")]))
        .log(lines.log())
        .build()
        .unwrap();
    let text = format!("dial tcp {address}: connect: connection refused");
    let error = consumer.connect_to_nsqds([&address]).await.unwrap_err();
    assert_eq!(error.to_string(), text);
    let error = consumer.connect_to_nsqds(["nowhere"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "dial tcp: address nowhere: missing port in address"
    );
    consumer.add_nsqd(&address);
    let line = format!("({address}) error connecting to nsqd - {text}");
    eventually("the line", || lines.contain(&line)).await;
    eventually("another attempt", || {
        lines.text().matches(&line).count() > 1
    })
    .await;
}

#[tokio::test]
async fn nonsense_ends_the_connection_only() {
    for nonsense in [
        &b"HTTP/1.1 200 OK\r\n\r\n"[..],
        &[0, 0, 0, 3, 0, 0, 0, 0],
        &[0xff; 8],
    ] {
        let nsqd = Fake::listen().await;
        let consumer = consumer(&[("lookupd_poll_interval", "10ms")]);
        let mut peer = connect(&consumer, &nsqd).await;
        peer.expect(&["RDY 1"]).await;
        peer.send(nonsense).await;
        assert!(peer.is_at_end().await);
        nsqd.accept_consumer().await;
    }
}

#[tokio::test]
async fn a_silent_nsqd_is_given_up() {
    let nsqd = Fake::listen().await;
    let options = [
        ("heartbeat_interval", "100ms"),
        ("read_timeout", "100ms"),
        ("lookupd_poll_interval", "10ms"),
    ];
    let consumer = consumer(&options);
    consumer.add_nsqd(&nsqd.address());
    // Before IDENTIFY is answered, and after.
    let mut peer = nsqd.accept_raw().await;
    peer.line().await;
    assert!(!peer.is_at_end().await);
    let mut peer = nsqd.accept_consumer().await;
    peer.expect(&["RDY 1"]).await;
    assert!(peer.is_at_end().await);
}

#[tokio::test]
async fn nobody_taking_messages_stops_the_reading() {
    const COUNT: u64 = 2_000;
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[("max_in_flight", "1")]);
    let (reader, mut writer) = connect(&consumer, &nsqd).await.into_halves();
    // An nsqd that heeds no RDY.
    let flood = tokio::spawn(async move {
        let body = vec![0; 50_000];
        for number in 0..COUNT {
            let mut out = BytesMut::new();
            message(&mut out, number, 1, &body);
            writer.write_all(&out).await.unwrap();
        }
        writer
    });
    let received = || consumer.stats().messages_received;
    eventually("a full queue", || received() > 18).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(received() < 100, "{} messages are in memory", received());
    for number in 0..COUNT {
        let message = soon(consumer.recv()).await.unwrap();
        assert_eq!(message.timestamp_ns(), number);
        message.finish();
    }
    drop((soon(flood).await.unwrap(), reader));
}
