//! A peer against a scripted nsqlookupd, in virtual time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nsq_cli::{Level, Logger};
use nsq_proto::{ChannelName, TopicName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::peer::{Dial, Peer, PeerState};
use super::registry::{NameChange, Registry};

const INFO: &[u8] =
    br#"{"broadcast_address":"there","http_port":4161,"tcp_port":4160,"version":"1.3.0"}"#;

/// Hands every connection attempt to the test, which answers with a stream or an error.
struct Dialled(mpsc::UnboundedSender<tokio::sync::oneshot::Sender<io::Result<DuplexStream>>>);

impl Dial for Dialled {
    type Stream = DuplexStream;

    async fn dial(&self, _: &str) -> io::Result<DuplexStream> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        self.0.send(sender).expect("the test listens");
        answer
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::ConnectionRefused.into()))
    }
}

/// A peer and the test's side of it.
struct Bench {
    registry: Arc<Registry>,
    dials: mpsc::UnboundedReceiver<tokio::sync::oneshot::Sender<io::Result<DuplexStream>>>,
    state: watch::Receiver<PeerState>,
    logger: Logger,
    peer: JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.peer.abort();
    }
}

/// The nsqlookupd's side of one connection.
struct Line(DuplexStream);

impl Bench {
    fn start() -> Self {
        let registry = Arc::new(Registry::new());
        let (dial, dials) = mpsc::unbounded_channel();
        let (sender, state) = watch::channel(PeerState::default());
        let logger = Logger::in_memory("", Level::Debug);
        let peer = Peer {
            address: "there:4160".to_owned(),
            dialer: Dialled(dial),
            identity: Arc::from(&b"{}"[..]),
            registry: Arc::clone(&registry),
            state: sender,
            logger: logger.clone(),
        };
        Self {
            registry,
            dials,
            state,
            logger,
            peer: tokio::spawn(peer.run()),
        }
    }

    /// The next attempt is answered with a connection.
    async fn accept(&mut self) -> Line {
        let (ours, theirs) = duplex(64 * 1024);
        let attempt = self.dials.recv().await.unwrap();
        drop(attempt.send(Ok(theirs)));
        Line(ours)
    }

    /// The next attempt fails.
    async fn refuse(&mut self) {
        let attempt = self.dials.recv().await.unwrap();
        drop(attempt.send(Err(io::ErrorKind::ConnectionRefused.into())));
    }

    /// A connection that got as far as the first registration.
    async fn identified(&mut self) -> Line {
        let mut line = self.accept().await;
        assert_eq!(line.read(4).await, b"  V1");
        assert_eq!(line.command().await, "IDENTIFY");
        assert_eq!(line.read(6).await, b"\0\0\0\x02{}");
        line.reply(INFO).await;
        line
    }

    fn change(&self, exists: bool, topic: &str, channel: Option<&str>) {
        self.registry.apply(NameChange {
            topic: TopicName::parse(topic.as_bytes()).unwrap(),
            channel: channel.map(|name| ChannelName::parse(name.as_bytes()).unwrap()),
            exists,
        });
    }
}

impl Line {
    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn command(&mut self) -> String {
        let mut line = Vec::new();
        loop {
            match self.0.read_u8().await.unwrap() {
                b'\n' => return String::from_utf8(line).unwrap(),
                byte => line.push(byte),
            }
        }
    }

    async fn reply(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap();
        self.0.write_u32(length).await.unwrap();
        self.0.write_all(body).await.unwrap();
    }

    /// The next command is this one; it is answered.
    async fn expect(&mut self, command: &str) {
        assert_eq!(self.command().await, command);
        self.reply(b"OK").await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_registers_what_there_is_and_then_what_changes() {
    let mut bench = Bench::start();
    bench.change(true, "a", None);
    bench.change(true, "a", Some("c"));
    bench.change(true, "b", None);
    let mut line = bench.identified().await;
    line.expect("REGISTER a c").await;
    line.expect("REGISTER b").await;
    bench.change(true, "b", Some("d"));
    bench.change(false, "a", Some("c"));
    line.expect("REGISTER b d").await;
    line.expect("UNREGISTER a c").await;
    bench.change(false, "a", None);
    line.expect("UNREGISTER a").await;
    let PeerState::Known(info) = bench.state.borrow().clone() else {
        panic!("it said who it is");
    };
    assert_eq!(
        (info.broadcast_address.as_str(), info.http_port),
        ("there", 4161)
    );
}

#[tokio::test(start_paused = true)]
async fn it_pings_every_fifteen_seconds_also_while_names_change() {
    let mut bench = Bench::start();
    let mut line = bench.identified().await;
    let start = Instant::now();
    for number in 1..=3 {
        bench.change(true, &format!("t{number}"), None);
        line.expect(&format!("REGISTER t{number}")).await;
        line.expect("PING").await;
        assert_eq!(start.elapsed().as_secs(), 15 * number);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_ends_the_connection_is_told_everything_again() {
    let mut bench = Bench::start();
    bench.change(true, "a", None);
    let mut line = bench.identified().await;
    line.expect("REGISTER a").await;
    drop(line);
    bench.change(true, "b", None);
    let mut line = bench.identified().await;
    line.expect("REGISTER a").await;
    line.expect("REGISTER b").await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_tried_less_and_less_often() {
    let mut bench = Bench::start();
    let mut start = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        bench.refuse().await;
        pauses.push(start.elapsed().as_secs());
        start = Instant::now();
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 15, 15]);
    assert_eq!(*bench.state.borrow(), PeerState::Unknown);
    let _line = bench.identified().await;
    let is_known = |state: &PeerState| matches!(state, PeerState::Known(_));
    drop(bench.state.wait_for(is_known).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_step_that_takes_too_long_ends_the_connection() {
    let mut bench = Bench::start();
    bench.change(true, "a", None);
    let mut line = bench.identified().await;
    assert_eq!(line.command().await, "REGISTER a");
    let start = Instant::now();
    assert_eq!(line.0.read(&mut [0]).await.unwrap(), 0, "closed");
    assert_eq!(start.elapsed(), Duration::from_secs(1));
    assert!(bench.logger.captured().contains("REGISTER a - i/o timeout"));
}

#[tokio::test(start_paused = true)]
async fn useless_introductions_end_the_connection() {
    for (reply, said) in [
        (&b"E_INVALID no"[..], "lookupd returned E_INVALID no"),
        (b"hello", "parsing response - hello"),
    ] {
        let mut bench = Bench::start();
        let mut line = bench.accept().await;
        line.read(4 + 9 + 6).await;
        line.reply(reply).await;
        assert_eq!(line.0.read(&mut [0]).await.unwrap(), 0, "closed");
        assert!(bench.logger.captured().contains(said), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_hides_its_address_is_registered_with_all_the_same() {
    let mut bench = Bench::start();
    bench.change(true, "a", None);
    let mut line = bench.accept().await;
    line.read(4 + 9 + 6).await;
    line.reply(b"{}").await;
    line.expect("REGISTER a").await;
    assert!(bench.logger.captured().contains("no broadcast address"));
}

#[tokio::test(start_paused = true)]
async fn a_peer_too_slow_for_the_changes_begins_again() {
    let mut bench = Bench::start();
    let mut line = bench.identified().await;
    bench.change(true, "first", None);
    assert_eq!(line.command().await, "REGISTER first");
    for number in 0..5000 {
        bench.change(true, &format!("t{number}"), None);
    }
    line.reply(b"OK").await;
    assert_eq!(line.0.read(&mut [0]).await.unwrap(), 0, "closed");
    let mut line = bench.identified().await;
    let all = timeout(Duration::from_secs(60), async {
        for _ in 0..5001 {
            assert!(line.command().await.starts_with("REGISTER "));
            line.reply(b"OK").await;
        }
    });
    all.await.unwrap();
    assert!(bench.logger.captured().contains("too slow for the changes"));
}
