use std::time::Duration;

use nsq_client::{Batch, ConnectError, Log, Producer, PublishError};
use nsq_proto::ErrorCode;

use crate::support::fake::Fake;
use crate::support::{Lines, config, soon};

fn producer(address: &str) -> Producer {
    Producer::new(address, &config(&[]), Log::silent()).unwrap()
}

#[tokio::test]
async fn many_publishes_are_under_way_and_each_gets_its_own_answer() {
    let nsqd = Fake::listen().await;
    let producer = producer(&nsqd.address());
    let sending = async {
        let batch: Batch = ["b", "cd"].into_iter().collect();
        vec![
            producer.send("t", "a").await.unwrap(),
            producer.send_batch("t", &batch).await.unwrap(),
            producer
                .send_deferred("t", Duration::from_millis(1500), "e")
                .await
                .unwrap(),
            producer.send("t", "f").await.unwrap(),
        ]
    };
    let (receipts, mut peer) = tokio::join!(sending, nsqd.accept());
    peer.expect(&["PUB t"]).await;
    assert_eq!(peer.body().await, b"a");
    peer.expect(&["MPUB t"]).await;
    assert_eq!(peer.body().await, b"\0\0\0\x02\0\0\0\x01b\0\0\0\x02cd");
    peer.expect(&["DPUB t 1500"]).await;
    assert_eq!(peer.body().await, b"e");
    peer.expect(&["PUB t"]).await;
    assert_eq!(peer.body().await, b"f");
    peer.respond("OK").await;
    peer.respond("_heartbeat_").await;
    peer.expect(&["NOP"]).await;
    peer.refuse("E_MPUB_FAILED MPUB failed exiting").await;
    peer.respond("OK").await;
    assert!(peer.is_at_end().await);
    drop(peer);
    let mut answers = Vec::new();
    for receipt in receipts {
        answers.push(soon(receipt).await);
    }
    assert_eq!(answers[0], Ok(()));
    let Err(PublishError::Refused(refusal)) = &answers[1] else {
        panic!("{answers:?}")
    };
    assert_eq!(refusal.code, Some(ErrorCode::MpubFailed));
    assert_eq!(refusal.to_string(), "E_MPUB_FAILED MPUB failed exiting");
    assert_eq!(answers[2], Ok(()));
    // Its answer was lost with the connection.
    assert_eq!(answers[3], Err(PublishError::NotConnected));
}

#[tokio::test]
async fn the_next_publish_connects_again() {
    let nsqd = Fake::listen().await;
    let producer = producer(&nsqd.address());
    let (pinged, peer) = tokio::join!(producer.ping(), nsqd.accept());
    pinged.unwrap();
    let receipt = producer.send("t", "x").await.unwrap();
    drop(peer);
    assert_eq!(soon(receipt).await, Err(PublishError::NotConnected));
    let serve = async {
        let mut peer = nsqd.accept().await;
        peer.expect(&["PUB t"]).await;
        peer.body().await;
        peer.respond("OK").await;
        peer
    };
    let (published, _peer) = tokio::join!(soon(producer.publish("t", "y")), serve);
    assert_eq!(published, Ok(()));
}

#[tokio::test]
async fn an_nsqd_that_is_down_fails_every_publish_with_the_reason() {
    let nsqd = Fake::listen().await;
    let address = nsqd.address();
    drop(nsqd);
    let producer = producer(&address);
    let text = format!("dial tcp {address}: connect: connection refused");
    let failed = Err(PublishError::Connect(ConnectError::Dial(text)));
    let (first, second) = tokio::join!(producer.publish("t", "x"), producer.publish("t", "y"));
    assert_eq!((first, second), (failed.clone(), failed.clone()));
    assert_eq!(producer.ping().await, failed);
}

#[tokio::test]
async fn a_refused_identify_is_an_error() {
    let nsqd = Fake::listen().await;
    let producer = producer(&nsqd.address());
    let refuse = async {
        let mut peer = nsqd.accept_raw().await;
        peer.refuse("E_BAD_BODY IDENTIFY msg timeout (1) is invalid")
            .await;
        peer
    };
    let (published, _peer) = tokio::join!(producer.publish("t", "x"), refuse);
    assert_eq!(
        published.unwrap_err().to_string(),
        "failed to IDENTIFY - E_BAD_BODY IDENTIFY msg timeout (1) is invalid"
    );
}

#[tokio::test]
async fn an_answer_to_nothing_ends_the_connection() {
    let (nsqd, lines) = (Fake::listen().await, Lines::default());
    let producer = Producer::new(&nsqd.address(), &config(&[]), lines.log()).unwrap();
    let (pinged, mut peer) = tokio::join!(producer.ping(), nsqd.accept());
    pinged.unwrap();
    peer.expect(&["NOP"]).await;
    peer.respond("OK").await;
    assert!(peer.is_at_end().await);
    assert!(lines.contain(r#"IO error - unexpected reply "OK""#));
}

#[tokio::test]
async fn what_is_under_way_is_bounded() {
    let nsqd = Fake::listen().await;
    let producer = producer(&nsqd.address());
    let (pinged, mut peer) = tokio::join!(producer.ping(), nsqd.accept());
    pinged.unwrap();
    peer.expect(&["NOP"]).await;
    let body = bytes::Bytes::from(vec![0; 1 << 20]);
    let sender = producer.clone();
    let send_all = tokio::spawn(async move {
        let mut receipts = Vec::new();
        for _ in 0..20 {
            receipts.push(sender.send("t", body.clone()).await.unwrap());
        }
        receipts
    });
    for _ in 0..15 {
        peer.expect(&["PUB t"]).await;
        peer.body().await;
    }
    assert!(!send_all.is_finished());
    for _ in 0..20 {
        peer.respond("OK").await;
        if !send_all.is_finished() {
            peer.expect(&["PUB t"]).await;
            peer.body().await;
        }
    }
    assert_eq!(soon(send_all).await.unwrap().len(), 20);
}

#[tokio::test]
async fn a_stop_waits_for_the_answers() {
    let nsqd = Fake::listen().await;
    let producer = producer(&nsqd.address());
    let sending = producer.send("t", "x");
    let (receipt, mut peer) = tokio::join!(sending, nsqd.accept());
    let stopping = producer.clone();
    let stop = tokio::spawn(async move { stopping.stop().await });
    peer.expect(&["PUB t"]).await;
    peer.body().await;
    assert!(!stop.is_finished());
    peer.respond("OK").await;
    assert_eq!(soon(receipt.unwrap()).await, Ok(()));
    assert!(peer.is_at_end().await);
    drop(peer);
    soon(stop).await.unwrap();
    assert_eq!(producer.publish("t", "x").await, Err(PublishError::Stopped));
}

#[tokio::test]
async fn what_was_sent_is_answered_after_the_last_clone_is_gone() {
    let nsqd = Fake::listen().await;
    let producer = producer(&nsqd.address());
    let (receipt, mut peer) = tokio::join!(producer.send("t", "x"), nsqd.accept());
    drop(producer);
    peer.expect(&["PUB t"]).await;
    peer.body().await;
    assert!(peer.is_at_end().await);
    peer.respond("OK").await;
    assert_eq!(soon(receipt.unwrap()).await, Ok(()));
}

#[tokio::test]
async fn a_stop_waits_for_the_end_of_a_connection_that_nsqd_ends() {
    let nsqd = Fake::listen().await;
    let lines = Lines::default();
    let producer = Producer::new(&nsqd.address(), &config(&[]), lines.log()).unwrap();
    let (receipt, mut peer) = tokio::join!(producer.send("t", "x"), nsqd.accept());
    peer.expect(&["PUB t"]).await;
    peer.body().await;
    peer.refuse("E_BAD_TOPIC PUB topic name \"t\" is not valid")
        .await;
    assert!(soon(receipt.unwrap()).await.is_err());
    let stopping = producer.clone();
    let stop = tokio::spawn(async move { stopping.stop().await });
    assert!(peer.is_at_end().await);
    assert!(!stop.is_finished(), "nsqd has not closed its side");
    drop(peer);
    soon(stop).await.unwrap();
    assert!(lines.contain("clean close complete"), "{}", lines.text());
}
