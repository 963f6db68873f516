//! The ring against real sockets, pipes and files.

#![expect(clippy::disallowed_methods, reason = "tests measure real waiting")]

mod direct;
mod files;
mod sockets;
mod wake;

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Completion, Ring, RingOptions, Wait, Write};
use crate::config::SegmentIo;

/// Far beyond what any step takes; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(20);

const SMALL: RingOptions = RingOptions {
    entries: 8,
    recv_buffers: 4,
    recv_buffer_bytes: 4096,
    segment_io: SegmentIo::Buffered,
};

/// A completion that owns what it carries.
#[derive(Debug)]
enum Event {
    Accepted(u32, OwnedFd),
    AcceptFailed(u32, io::Error),
    Received(u64, Vec<u8>),
    Closed(u64, Option<io::Error>),
    Stopped(u64),
    Writable(u64),
    WriteAccepted(u64),
    Written(u64, io::Result<()>),
    Read(u64, io::Result<Bytes>),
    Synced(u64, io::Result<()>),
}

impl From<Completion<'_>> for Event {
    fn from(completion: Completion<'_>) -> Self {
        match completion {
            Completion::Accepted { tag, fd } => Self::Accepted(tag, fd),
            Completion::AcceptFailed { tag, error } => Self::AcceptFailed(tag, error),
            Completion::Received { tag, data } => Self::Received(tag, data.to_vec()),
            Completion::Closed { tag, error } => Self::Closed(tag, error),
            Completion::ReceiveStopped { tag } => Self::Stopped(tag),
            Completion::Writable { tag } => Self::Writable(tag),
            Completion::WriteAccepted { token } => Self::WriteAccepted(token),
            Completion::Written { token, result } => Self::Written(token, result),
            Completion::Read { token, result } => Self::Read(token, result),
            Completion::Synced { token, result } => Self::Synced(token, result),
        }
    }
}

fn ring() -> Ring {
    Ring::new(SMALL).expect("tests need io_uring")
}

fn tag(slot: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(slot)
}

fn shared(fd: impl Into<OwnedFd>) -> Rc<OwnedFd> {
    Rc::new(fd.into())
}

/// Turns the ring until `enough` has been seen.
fn turn_until(ring: &mut Ring, mut enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    let deadline = Instant::now() + PATIENCE;
    let mut events = Vec::new();
    while !enough(&events) {
        assert!(
            Instant::now() < deadline,
            "gave up waiting, have {events:?}"
        );
        ring.turn(
            Wait::Until(PATIENCE),
            || true,
            |completion| events.push(completion.into()),
        )
        .expect("the ring works");
    }
    events
}

/// A write that somebody waits for.
fn urgent(token: u64, file: Rc<OwnedFd>, offset: u64, parts: [Bytes; 2]) -> Write {
    Write {
        token,
        file,
        offset,
        parts,
        is_urgent: true,
    }
}

fn next_event(ring: &mut Ring) -> Event {
    let mut events = turn_until(ring, |events| !events.is_empty());
    assert_eq!(events.len(), 1, "{events:?}");
    events.remove(0)
}

/// Everything that comes until an operation started now is through: whatever the kernel already
/// had to say is among it.
fn settle(ring: &mut Ring) -> Vec<Event> {
    const TOKEN: u64 = u64::MAX;
    let mut all = Vec::new();
    // The first pass flushes cancellations, the second what they ended.
    for _ in 0..2 {
        ring.sync(TOKEN, shared(tempfile::tempfile().unwrap()));
        let is_through = |event: &Event| matches!(event, Event::Synced(TOKEN, _));
        let mut events = turn_until(ring, |events| events.iter().any(is_through));
        events.retain(|event| !is_through(event));
        all.extend(events);
    }
    all
}

/// What was received for `wanted`, in order.
fn received(events: &[Event], wanted: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for event in events {
        if let Event::Received(tag, data) = event
            && *tag == wanted
        {
            bytes.extend_from_slice(data);
        }
    }
    bytes
}

fn is_closed(event: &Event, wanted: u64) -> bool {
    matches!(event, Event::Closed(tag, None) if *tag == wanted)
}

/// Bytes in which every displacement shows.
fn pattern(len: usize) -> Vec<u8> {
    (0u32..)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(len)
        .collect()
}
