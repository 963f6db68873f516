//! The end of the turn for connections: one send for everything that gathered, and what follows
//! from its being gone.

use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use nix::sys::socket::{Shutdown, shutdown};
use nsq_core::Deadline;

use super::publish::connection_mut;
use super::socket::RingOp;
use super::{Shard, SocketKey};
use crate::conn::{Connection, Flush, Hold, Phase, Receive};
use crate::ring::send_vectored;

/// Unsent bytes of a consumer at which it gets no further messages, and at which it does again.
const CONSUMER_OUTPUT_MAX: usize = 1024 * 1024;
const CONSUMER_OUTPUT_RESUME: usize = 256 * 1024;

/// What a flush asks the shard to do with the connection.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Close,
    Linger,
    Upgrade,
    Move(usize),
    Resume,
}

/// Connections with something to send or to settle at the end of the turn.
#[derive(Debug, Default)]
pub(super) struct FlushQueue {
    /// Those that are sent no messages. They go first, so that an `OK` goes before the message that
    /// it is for: a publisher may close as soon as its message has come back.
    publishers: Vec<SocketKey>,
    consumers: Vec<SocketKey>,
}

impl FlushQueue {
    pub(super) fn is_empty(&self) -> bool {
        self.publishers.is_empty() && self.consumers.is_empty()
    }
}

impl Shard {
    /// Puts a connection on the list for the end of the turn.
    pub(super) fn queue_flush(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if !connection.flush_queued {
            connection.flush_queued = true;
            let queue = match connection.subscription {
                None => &mut self.flush_queue.publishers,
                Some(_) => &mut self.flush_queue.consumers,
            };
            queue.push(key);
        }
    }

    /// Sends what gathered in this turn. What a flush lets go on (a held command, a move) may queue
    /// further flushes; they run in the next turn.
    pub(super) fn flush_sockets(&mut self) {
        let mut queue = std::mem::take(&mut self.flush_queue);
        let FlushQueue {
            publishers,
            consumers,
        } = &mut queue;
        for key in publishers.drain(..).chain(consumers.drain(..)) {
            self.flush(key);
        }
        if self.flush_queue.is_empty() {
            self.flush_queue = queue;
        } else {
            self.touched = true;
        }
    }

    fn flush(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        let fd = Rc::clone(&socket.fd);
        let Some(connection) = socket.tcp() else {
            return;
        };
        connection.flush_queued = false;
        connection
            .output
            .with_tail(|tail| connection.replies.drain_ready(tail));
        let was_blocked = connection.output.is_blocked();
        let ending = matches!(connection.phase, Phase::Closing { .. });
        let ending = ending && connection.replies.is_empty();
        let mut took_some = false;
        let flushed = connection
            .transport
            .flush(&mut connection.output, ending, |slices| {
                let sent = send_vectored(fd.as_fd(), slices)?;
                took_some |= sent > 0;
                Ok(sent)
            });
        // A connection that moves below takes the socket along.
        drop(fd);
        match flushed {
            Err(error) => {
                let remote = &connection.remote;
                self.shared
                    .logger
                    .error(format_args!("client({remote}) - {error}"));
                self.close_socket(key);
                return;
            }
            Ok(Flush::Blocked) => {
                let needs_deadline = took_some || connection.timers.write.is_none();
                // While the ring lets go of the socket nothing may be asked of it; when it has,
                // the output is flushed again.
                if !was_blocked && connection.receive != Receive::Stopping {
                    let was_misled = connection.output.was_misled();
                    self.await_room(key, was_misled);
                }
                if needs_deadline {
                    self.restart_write_deadline(key);
                }
            }
            Ok(Flush::Done) => self.cancel_write_deadline(key),
        }
        self.settle_writable(key);
        let is_crowded = self.is_crowded(key);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        // The next turn lets it go on.
        self.touched |= connection.hold == Hold::Congestion && !is_crowded;
        match next_step(connection) {
            Next::Nothing => {}
            Next::Close => self.close_socket(key),
            Next::Linger => self.linger(key),
            Next::Upgrade => self.upgrade(key),
            Next::Move(to) => self.finish_move(key, to),
            Next::Resume => self.release(key, Hold::Replies),
        }
    }

    /// Has a blocked socket tried again when it has room, or in a while if it was wrong about that
    /// the last time: asking the ring again would be answered at once, without end.
    pub(super) fn await_room(&mut self, key: SocketKey, was_misled: bool) {
        if !was_misled {
            self.ring_ops.push(RingOp::PollWritable(key));
            return;
        }
        if self.misled.is_empty() {
            let at = self.now.after(super::timers::SEND_PAUSE);
            let tick = Deadline::Tick(super::timers::TICK_SEND);
            self.core.schedule(at, tick);
        }
        self.misled.push(key);
    }

    /// Tries the sockets again that were wrong about having room.
    pub(super) fn retry_sends(&mut self) {
        for key in std::mem::take(&mut self.misled) {
            self.on_writable(key);
        }
    }

    /// Tells the core when a consumer's output is full and when it has room again.
    fn settle_writable(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let unsent = connection.output.len();
        let Some(subscription) = connection.subscription.as_mut() else {
            return;
        };
        let writable = match subscription.writable {
            true => unsent <= CONSUMER_OUTPUT_MAX,
            false => unsent <= CONSUMER_OUTPUT_RESUME,
        };
        if writable != subscription.writable {
            subscription.writable = writable;
            self.core.set_writable(subscription.consumer, writable);
            self.touched = true;
        }
    }

    fn linger(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.get_mut(key) else {
            return;
        };
        let fd = Rc::clone(&socket.fd);
        let Some(connection) = socket.tcp() else {
            return;
        };
        if connection.eof {
            self.close_socket(key);
            return;
        }
        connection.phase = Phase::Lingering;
        // The peer may be gone already; then the ring says so.
        let _ = shutdown(fd.as_raw_fd(), Shutdown::Write);
        let span = match self.stopping.is_some() {
            true => super::stop::LINGER,
            false => super::timers::LINGER,
        };
        let at = self.now.after(span);
        let timer = self.core.schedule(at, Deadline::WriteTimeout(key.token()));
        if let Some(connection) = connection_mut(&mut self.sockets, key) {
            connection.timers.write = Some(timer);
        }
        self.settle_receive(key);
    }
}

fn next_step(connection: &Connection) -> Next {
    match (connection.phase, connection.hold) {
        (Phase::Closing { linger: false }, _) if connection.is_answered() => Next::Close,
        (Phase::Closing { linger: true }, _) if connection.is_answered() => Next::Linger,
        (Phase::Serving, Hold::Upgrade) if is_upgrade_due(connection) => Next::Upgrade,
        (Phase::Serving, Hold::Moving(to)) if connection.receive == Receive::Off => Next::Move(to),
        (Phase::Serving, Hold::Replies) if connection.replies.is_empty() => Next::Resume,
        _ => Next::Nothing,
    }
}

/// What was to be sent before the next layer is sent.
fn is_upgrade_due(connection: &Connection) -> bool {
    connection.transport.is_upgrade_due() && connection.is_answered()
}
