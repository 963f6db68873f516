//! Fuzz target: the HTTP door, over a stream in memory.
//!
//! However a stream of requests is cut, it is answered the same and leaves the same directory behind,
//! whose names are legal.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Waker};

use nsq_cli::{Level, Logger};
use nsq_fuzz::http::{MALFORMED, speaks_http2, without_numbers};
use nsq_fuzz::pieces;
use nsq_proto::{ChannelName, TopicName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::talk;
use crate::config;
use crate::registry::Announcement;
use crate::service::{Ports, Service};

/// Longest stream that is taken: what is longer shows nothing new.
const STREAM_MAX: usize = 8 * 1024;
/// What is under way in one direction: more than all answers to such a stream.
const WIRE_BYTES: usize = 4 * 1024 * 1024;
/// Polls without any change after which the door is taken to wait for the client.
const IDLE_POLLS: u32 = 8;

/// For its timers, none of which ends here.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().build().expect("a runtime")
});

/// Never tells to stop.
static STOPPING: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::channel(false).0);

/// What a connection brought about.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Without numbers: some tell the time.
    answers: String,
    /// What is registered then.
    directory: String,
    is_gone: bool,
}

/// Whether the client closes its side at the end (1), the seed of the cuts (2), then the stream.
pub(crate) fn run(input: &[u8]) {
    let Some((&[flags, c0, c1], stream)) = input.split_first_chunk() else {
        return;
    };
    let stream = &stream[..stream.len().min(STREAM_MAX)];
    let closes = flags & 1 == 1;
    if speaks_http2(stream) {
        return;
    }
    let whole = outcome([stream].into_iter(), closes);
    let mut cut = outcome(pieces(stream, u16::from_le_bytes([c0, c1])), closes);
    // A head that came in parts is looked at when it is whole, and this one is never.
    if whole.answers.strip_suffix(MALFORMED) == Some(&cut.answers) {
        cut.answers.push_str(MALFORMED);
        cut.is_gone = whole.is_gone;
    }
    assert_eq!(cut, whole, "cuts change something");
    assert!(whole.answers.is_empty() || whole.answers.starts_with("HTTP/#.# # "));
}

fn outcome<'a>(pieces: impl Iterator<Item = &'a [u8]>, closes: bool) -> Outcome {
    let service = service();
    let mut client = Client::connect(&service);
    let mut text = Vec::new();
    for piece in pieces {
        text.extend(client.exchange(piece));
    }
    if closes {
        client.close();
        text.extend(client.receive());
        assert!(client.is_gone(), "a door that nobody stands at stays open");
    }
    Outcome {
        answers: without_numbers(&String::from_utf8_lossy(&text)),
        directory: directory(&service),
        is_gone: client.is_gone(),
    }
}

/// One with two nodes, of which one has a topic and its channel.
fn service() -> Arc<Service> {
    let config = config::parse([]).expect("the defaults");
    let ports = Ports { tcp: 1, http: 2 };
    let logger = Logger::in_memory("", Level::Warn);
    let service = Service::new(&config, logger, ports, STOPPING.subscribe());
    for host in ["one", "two"] {
        let announcement = Announcement {
            remote_address: format!("{host}:5"),
            hostname: host.to_owned(),
            broadcast_address: host.to_owned(),
            tcp_port: 4150,
            http_port: 4151,
            version: "1.3.0".to_owned(),
            topology_zone: String::new(),
            topology_region: String::new(),
        };
        let producer = service.directory.identify(announcement, service.now());
        if host == "one" {
            let topic = TopicName::parse(b"t").expect("legal");
            let channel = ChannelName::parse(b"c").expect("legal");
            let added = service
                .directory
                .register(producer.id(), &topic, Some(&channel));
            added.expect("there is room");
        }
    }
    Arc::new(service)
}

/// All registrations, as the door itself tells them.
fn directory(service: &Arc<Service>) -> String {
    let ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = Client::connect(service).exchange(request.as_bytes());
        let text = String::from_utf8(answer).expect("names are ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        (body.to_owned(), serde_json::from_str(body).expect("JSON"))
    };
    let (_, topics): (_, Value) = ask("/topics");
    for name in topics["topics"].as_array().expect("a list") {
        let name = name.as_str().expect("a name");
        assert!(TopicName::is_valid(name.as_bytes()), "{name:?}");
    }
    let (registrations, _) = ask("/debug");
    without_numbers(&registrations)
}

/// The client's end, with the door behind it.
struct Client {
    stream: Option<DuplexStream>,
    door: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Client {
    fn connect(service: &Arc<Service>) -> Self {
        let (ours, theirs) = tokio::io::duplex(WIRE_BYTES);
        let door = talk(theirs, "127.0.0.1:9".to_owned(), Arc::clone(service));
        Self {
            stream: Some(ours),
            door: Some(Box::pin(door)),
        }
    }

    /// Sends, and returns everything that comes back.
    fn exchange(&mut self, bytes: &[u8]) -> Vec<u8> {
        let stream = self.stream.as_mut().expect("open");
        // What is said to a door that is closed is lost.
        let sent = Pin::new(stream).poll_write(&mut Context::from_waker(Waker::noop()), bytes);
        assert!(sent.is_ready(), "the wire holds more");
        self.receive()
    }

    /// Closes this side.
    fn close(&mut self) {
        let stream = self.stream.as_mut().expect("open");
        let closed = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        assert!(closed.is_ready(), "a wire in memory");
    }

    /// Lets the door run until it waits, and returns what it wrote.
    fn receive(&mut self) -> Vec<u8> {
        let _in_runtime = RUNTIME.enter();
        let mut context = Context::from_waker(Waker::noop());
        let (mut idle, mut received) = (0, Vec::new());
        while idle < IDLE_POLLS {
            let door = self.door.as_mut();
            if door.is_some_and(|door| door.as_mut().poll(&mut context).is_ready()) {
                self.door = None;
            }
            let before = received.len();
            self.read(&mut context, &mut received);
            idle = if received.len() > before { 0 } else { idle + 1 };
        }
        received
    }

    fn read(&mut self, context: &mut Context<'_>, received: &mut Vec<u8>) {
        let stream = self.stream.as_mut().expect("open");
        let mut bytes = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = Pin::new(&mut *stream).poll_read(context, &mut buffer);
            if read.is_pending() || buffer.filled().is_empty() {
                return;
            }
            received.extend_from_slice(buffer.filled());
        }
    }

    /// The door is done with the connection.
    fn is_gone(&self) -> bool {
        self.door.is_none()
    }
}

/// Every endpoint as it is asked for, and how it may be refused; a pipeline; bodies.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        "GET /ping",
        "GET /info",
        "GET /topics",
        "GET /channels?topic=t",
        "GET /lookup?topic=t",
        "GET /lookup?topic=none",
        "GET /nodes",
        "GET /debug",
        "GET /debug/pprof/",
        "POST /topic/create?topic=new",
        "POST /topic/create?topic=a%20b",
        "POST /channel/create?topic=new&channel=d%23ephemeral",
        "POST /channel/delete?topic=t&channel=c",
        "POST /topic/tombstone?topic=t&node=one:4151",
        "POST /topic/delete?topic=t",
        "GET /topic/delete",
        "OPTIONS /topics",
        "HEAD /ping",
        "GET //x/../topics",
    ];
    let request = |line: &&str| format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut seeds: Vec<String> = requests.iter().map(request).collect();
    seeds.push(seeds.concat());
    let head = "POST /topic/create?topic=b HTTP/1.1\r\nHost: x\r\n";
    seeds.push(format!("{head}Content-Length: 3\r\n\r\nabc"));
    seeds.push(format!("{head}Content-Length: 99\r\n\r\nabc"));
    seeds.push(format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ));
    seeds.push(format!(
        "{head}Content-Length: 1\r\nExpect: 100-continue\r\n\r\na"
    ));
    seeds.push("GET /ping HTTP/1.0\r\n\r\n".to_owned());
    seeds.push("GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned());
    let with_control = |seed: &String| [b"\x01\x03\0", seed.as_bytes()].concat();
    seeds.iter().map(with_control).collect()
}
