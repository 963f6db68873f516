use nsq_client::StopError;

use crate::support::fake::{Fake, id};
use crate::support::{connect, consumer, soon};

#[tokio::test]
async fn a_stop_gives_back_what_nobody_took_and_waits_for_what_was_taken() {
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[("max_in_flight", "5")]);
    let mut peer = connect(&consumer, &nsqd).await;
    peer.expect(&["RDY 5"]).await;
    peer.deliver(0..2).await;
    let taken = soon(consumer.recv()).await.unwrap();
    let stopping = consumer.clone();
    let stop = tokio::spawn(async move { stopping.stop().await });
    peer.expect(&[&format!("REQ {} 0", id(1)), "CLS"]).await;
    // What was under way goes back as well.
    peer.deliver([2]).await;
    peer.expect(&[&format!("REQ {} 0", id(2))]).await;
    peer.respond("CLOSE_WAIT").await;
    assert!(soon(consumer.recv()).await.is_none());
    assert!(!stop.is_finished());
    taken.finish();
    peer.expect(&[&format!("FIN {}", id(0))]).await;
    assert!(peer.is_at_end().await);
    drop(peer);
    assert_eq!(soon(stop).await.unwrap(), Ok(()));
    assert!(consumer.connect_to_nsqds([nsqd.address()]).await.is_err());
}

#[tokio::test]
async fn a_stop_that_was_begun_hands_out_what_was_received() {
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[("max_in_flight", "5")]);
    let mut peer = connect(&consumer, &nsqd).await;
    peer.expect(&["RDY 5"]).await;
    peer.deliver(0..3).await;
    consumer.begin_stop();
    peer.expect(&["CLS"]).await;
    peer.deliver([3]).await;
    peer.respond("CLOSE_WAIT").await;
    let mut taken = Vec::new();
    while soon(consumer.recv_many(&mut taken, 10)).await > 0 {}
    assert_eq!(taken.len(), 4);
    for message in taken.drain(..).rev() {
        message.finish();
    }
    for number in (0..4).rev() {
        peer.expect(&[&format!("FIN {}", id(number))]).await;
    }
    assert!(peer.is_at_end().await);
    drop(peer);
    assert_eq!(soon(consumer.stopped()).await, Ok(()));
}

#[tokio::test]
async fn without_connections_a_stop_is_immediate() {
    let consumer = consumer(&[]);
    assert_eq!(soon(consumer.stop()).await, Ok(()));
    assert!(consumer.recv().await.is_none());
}

#[tokio::test]
async fn attempts_to_connect_do_not_hold_up_a_stop() {
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[]);
    consumer.add_nsqd(&nsqd.address());
    // It never gets an answer to IDENTIFY.
    let mut peer = nsqd.accept_raw().await;
    assert_eq!(soon(consumer.stop()).await, Ok(()));
    peer.drain().await;
}

#[tokio::test]
async fn the_time_of_a_stop_is_bounded() {
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[]);
    let mut peer = connect(&consumer, &nsqd).await;
    peer.deliver([0]).await;
    let taken = soon(consumer.recv()).await.unwrap();
    peer.expect(&["RDY 1"]).await;
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    assert_eq!(
        consumer.stop().await,
        Err(StopError::InFlight { in_flight: 1 })
    );
    assert_eq!(start.elapsed().as_secs(), 30);
    drop(taken);
}

#[tokio::test]
async fn the_last_clone_takes_the_connections_with_it() {
    let nsqd = Fake::listen().await;
    let consumer = consumer(&[]);
    let mut peer = connect(&consumer, &nsqd).await;
    peer.expect(&["RDY 1"]).await;
    peer.deliver([0]).await;
    let message = soon(consumer.recv()).await.unwrap();
    drop(consumer.clone());
    peer.respond("_heartbeat_").await;
    peer.expect(&["NOP"]).await;
    drop(consumer);
    assert!(peer.is_at_end().await);
    message.finish();
}
