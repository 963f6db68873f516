//! Connections go to where their topic is (design §3.5).
//!
//! A consumer moves at SUB, a producer at its first publish or when its traffic is plainly
//! elsewhere. The command that causes the move is left in the input and served by the new shard.
//! A connection moves only when all its replies are out and the ring has let go of its socket, so
//! that what moves is plain data.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::message::{ShardId, ShardMessage};
use super::publish::connection_mut;
use super::socket::{Protocol, RingOp, Socket};
use super::{Shard, SocketKey};
use crate::conn::{Connection, Hold, Receive};

/// Publishes in a row to one other shard, after which a producer follows them.
const ELSEWHERE_MIN: u32 = 256;

impl Shard {
    /// Whether a publish to `topic` should take its connection along to the topic's shard.
    pub(super) fn should_move_publisher(&mut self, key: SocketKey, topic: &str) -> bool {
        let owner = self.owner_of(topic);
        if owner == self.id {
            return false;
        }
        self.connection(key).is_some_and(|connection| {
            let published = &connection.published;
            connection.subscription.is_none()
                && !connection.eof
                && (published.is_empty()
                    || published.elsewhere.0 == owner && published.elsewhere.1 >= ELSEWHERE_MIN)
        })
    }

    /// Begins a move; it is finished by the flush that finds the socket free of the ring.
    pub(super) fn start_move(&mut self, key: SocketKey, to: ShardId) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.hold = Hold::Moving(to);
        self.settle_receive(key);
        self.queue_flush(key);
    }

    pub(super) fn finish_move(&mut self, key: SocketKey, to: ShardId) {
        let Some(Socket {
            fd,
            protocol: Protocol::Tcp(mut connection),
        }) = self.sockets.remove(key)
        else {
            return;
        };
        let timers = std::mem::take(&mut connection.timers);
        for timer in [timers.heartbeat, timers.read, timers.write]
            .into_iter()
            .flatten()
        {
            self.core.cancel(timer);
        }
        connection.published.forget_keys();
        // Its timers begin anew where it goes, and what it brings was sent before now.
        connection.last_command = self.now;
        // Alone, unless the ring waited for room to send; then the two share the open socket.
        let socket = match Rc::try_unwrap(fd).or_else(|shared| shared.try_clone()) {
            Ok(socket) => socket,
            Err(error) => {
                let remote = &connection.remote;
                self.shared
                    .logger
                    .error(format_args!("client({remote}) - {error}"));
                return;
            }
        };
        self.ring_ops.push(RingOp::Forget(key));
        self.send(to, ShardMessage::Connection(socket, connection));
    }

    /// Takes a connection that moved here.
    pub(super) fn adopt(&mut self, socket: OwnedFd, mut connection: Box<Connection>) {
        if self.is_answering() {
            // Nothing of it was accepted: a connection moves with all its replies out.
            return;
        }
        self.catch_up(connection.last_command);
        connection.hold = Hold::None;
        connection.needed = 1;
        connection.flush_queued = false;
        connection.output.unblock();
        let eof = connection.eof;
        connection.receive = if eof { Receive::Off } else { Receive::On };
        let protocol = Protocol::Tcp(connection);
        let key = self.sockets.insert(Socket {
            fd: Rc::new(socket),
            protocol,
        });
        if !eof {
            self.ring_ops.push(RingOp::Receive(key));
        }
        self.resume_timers(key);
        self.serve_input(key);
        self.settle_receive(key);
        self.queue_flush(key);
    }
}
