//! In the steady state a message costs the whole broker no allocation: from the socket through queue
//! and log to the socket, and back with its FIN.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "a global allocator is unsafe to implement")]
// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BODY: usize = 200;
/// Size, type, timestamp, attempts and id before the body.
const HEADER: usize = 34;
const ID_AT: usize = 18;
const OK: &[u8] = b"\0\0\0\x06\0\0\0\0OK";

/// A client that allocates nothing once it has begun.
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    filled: usize,
    /// Whole FIN commands, of which the ids are filled in.
    finishes: Vec<u8>,
}

impl Client {
    fn connect(port: u16, batch: usize) -> Self {
        let stream = loop {
            // The broker is starting.
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) => thread::yield_now(),
            }
        };
        stream.set_nodelay(true).unwrap();
        let mut client = Self {
            stream,
            input: vec![0; 1 << 20],
            filled: 0,
            finishes: b"FIN 0123456789abcdef\n".repeat(batch),
        };
        client.send(b"  V2");
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Reads exactly so many bytes, to the front of `input`.
    fn read(&mut self, count: usize) {
        self.stream.read_exact(&mut self.input[..count]).unwrap();
        self.filled = count;
    }

    fn read_ok(&mut self) {
        self.read(OK.len());
        assert_eq!(&self.input[..OK.len()], OK);
    }

    /// Takes a run of messages and finishes them.
    fn consume(&mut self, batch: usize) {
        self.read(batch * (HEADER + BODY));
        let frames = self.input[..self.filled].chunks_exact(HEADER + BODY);
        for (command, frame) in self.finishes.chunks_exact_mut(21).zip(frames) {
            assert_eq!(frame[16..18], [0, 1], "attempts");
            command[4..20].copy_from_slice(&frame[ID_AT..HEADER]);
        }
        self.stream.write_all(&self.finishes).unwrap();
    }
}

fn sized(head: &[u8], body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    [head, &len, body].concat()
}

fn publish_command(batch: usize) -> Vec<u8> {
    let body = [b'x'; BODY];
    if batch == 1 {
        return sized(b"PUB orders\n", &body);
    }
    let mut list = u32::try_from(batch).unwrap().to_be_bytes().to_vec();
    for _ in 0..batch {
        list.extend(sized(b"", &body));
    }
    sized(b"MPUB orders\n", &list)
}

/// Allocations of the whole process per message, once all tables have their size.
fn per_message(port: u16, batch: usize, rounds: usize) -> f64 {
    let command = publish_command(batch);
    let mut producer = Client::connect(port, 0);
    let mut consumer = Client::connect(port, batch);
    consumer.send(b"SUB orders billing\n");
    consumer.read_ok();
    consumer.send(b"RDY 2500\n");
    let mut before = 0;
    for round in 0..2 * rounds {
        if round == rounds {
            before = ALLOCATIONS.load(Ordering::Relaxed);
        }
        producer.send(&command);
        producer.read_ok();
        consumer.consume(batch);
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let share = allocations as f64 / (rounds * batch) as f64;
    share
}

/// One test, because the counter is one for the process.
#[test]
fn the_steady_state_allocates_nothing_per_message() {
    let data = tempfile::tempdir().unwrap();
    let free_port = || {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let (tcp, http) = (free_port(), free_port());
    let flags = [
        format!("--tcp-address=127.0.0.1:{tcp}"),
        format!("--http-address=127.0.0.1:{http}"),
        format!("--data-path={}", data.path().display()),
        "--shards=1".to_owned(),
        "--log-level=error".to_owned(),
    ];
    let broker = thread::spawn(move || nsqd::boot::run(flags.map(Into::into)));
    // Enough of them that what a segment costs when it is made or freed does not count.
    for (batch, rounds) in [(200, 500), (1, 20_000)] {
        let share = per_message(tcp, batch, rounds);
        println!("{batch} in a command: {share:.4} allocations per message");
        assert!(
            share < 0.02,
            "{batch} in a command: {share} allocations per message"
        );
    }
    kill(Pid::this(), Signal::SIGTERM).unwrap();
    broker.join().unwrap();
}
