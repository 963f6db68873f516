//! The loop of a load thread: waits for its connections and lets each act when it can.
//!
//! One connection is waited for in the receive call itself, several by epoll (level-triggered).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Connections served per wait.
const EVENTS_MAX: usize = 128;

/// A connection with a purpose.
pub(crate) trait Endpoint {
    /// What to wait for.
    fn fd(&self) -> BorrowedFd<'_>;
    /// The beginning: sends the first commands.
    fn start(&mut self) -> Result<()>;
    /// Receives (waiting for bytes, if asked to) and sends what that allows.
    fn on_ready(&mut self, wait: bool) -> Result<()>;
    /// Time has passed.
    fn on_tick(&mut self, now: Instant) -> Result<()>;
    /// Whether something waits for room in the socket.
    fn wants_write(&self) -> bool;
    /// Whether there is nothing left to do. Once true, it stays so.
    fn done(&self) -> bool;
}

/// How a load thread waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    /// The connections hear of the time about so often.
    pub(crate) tick: Duration,
    /// Never sleep: no wake-up delays an answer, at the price of a core.
    pub(crate) spin: bool,
}

/// Serves the connections until each is done.
///
/// # Errors
/// A connection fails, or the broker breaks or complains of the protocol.
pub(crate) fn drive<E: Endpoint>(ends: &mut [E], waiting: Waiting) -> Result<()> {
    for end in &mut *ends {
        end.start()?;
    }
    match ends {
        [] => Ok(()),
        [end] => drive_one(end, waiting),
        _ => drive_many(ends, waiting),
    }
}

fn drive_one<E: Endpoint>(end: &mut E, Waiting { tick, spin }: Waiting) -> Result<()> {
    let mut next_tick = Instant::now() + tick;
    while !end.done() {
        let short = tick < crate::link::WAIT_MAX;
        let wants_write = end.wants_write();
        if !spin && (wants_write || short) {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, wants_write);
            poll(&mut [PollFd::new(end.fd(), flags)], poll_timeout(tick))?;
        }
        end.on_ready(!spin && !wants_write && !short)?;
        let now = Instant::now();
        if now >= next_tick {
            end.on_tick(now)?;
            next_tick = now + tick;
        }
    }
    Ok(())
}

fn drive_many<E: Endpoint>(ends: &mut [E], Waiting { tick, spin }: Waiting) -> Result<()> {
    let mut watch = Watch::new(ends)?;
    let mut events = [EpollEvent::empty(); EVENTS_MAX];
    let millis = u16::try_from(tick.as_millis()).unwrap_or(u16::MAX).max(1);
    let timeout = if spin {
        EpollTimeout::ZERO
    } else {
        EpollTimeout::from(millis)
    };
    let mut next_tick = Instant::now() + tick;
    while watch.open > 0 {
        let count = watch.epoll.wait(&mut events, timeout)?;
        for event in &events[..count] {
            let index = usize::try_from(event.data()).expect("an index that was put in");
            ends[index].on_ready(false)?;
            watch.update(&ends[index], index)?;
        }
        let now = Instant::now();
        if now >= next_tick {
            for (index, end) in ends.iter_mut().enumerate() {
                if watch.state[index] != State::Done {
                    end.on_tick(now)?;
                    watch.update(end, index)?;
                }
            }
            next_tick = now + tick;
        }
    }
    Ok(())
}

/// What is waited for on each connection.
struct Watch {
    epoll: Epoll,
    state: Vec<State>,
    open: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Reading,
    ReadingAndWriting,
    Done,
}

impl Watch {
    fn new<E: Endpoint>(ends: &[E]) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for (index, end) in ends.iter().enumerate() {
            epoll.add(end.fd(), event(index, State::Reading))?;
        }
        let mut watch = Self {
            epoll,
            state: vec![State::Reading; ends.len()],
            open: ends.len(),
        };
        for (index, end) in ends.iter().enumerate() {
            watch.update(end, index)?;
        }
        Ok(watch)
    }

    fn update<E: Endpoint>(&mut self, end: &E, index: usize) -> Result<()> {
        let state = match (end.done(), end.wants_write()) {
            (true, _) => State::Done,
            (false, true) => State::ReadingAndWriting,
            (false, false) => State::Reading,
        };
        if state == self.state[index] {
            return Ok(());
        }
        self.state[index] = state;
        if state == State::Done {
            self.epoll.delete(end.fd().as_fd())?;
            self.open -= 1;
        } else {
            self.epoll.modify(end.fd(), &mut event(index, state))?;
        }
        Ok(())
    }
}

fn event(index: usize, state: State) -> EpollEvent {
    let mut flags = EpollFlags::EPOLLIN;
    flags.set(EpollFlags::EPOLLOUT, state == State::ReadingAndWriting);
    EpollEvent::new(flags, u64::try_from(index).expect("an index fits 64 bits"))
}

fn poll_timeout(time: Duration) -> PollTimeout {
    PollTimeout::from(u16::try_from(time.as_millis()).unwrap_or(u16::MAX).max(1))
}
