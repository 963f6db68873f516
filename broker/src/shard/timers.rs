//! What comes due on a shard's wheel on the shell's behalf.
//!
//! A connection has at most three entries. The read deadline is not moved with every command:
//! when it fires, it looks at the time of the last command and is set anew if that was recent.

use std::time::Duration;

use bytes::BytesMut;
use nsq_core::{Deadline, Now};
use nsq_proto::encode_response;

use super::publish::connection_mut;
use super::{Shard, SocketKey};
use crate::conn::{Hold, Phase};

/// How long a connection may linger after a fatal error.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// How long accepting rests after it failed (K36).
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Write deadline of a connection without heartbeats that is to be closed.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);

/// How long a socket rests that says it has room to send and has none.
pub(super) const SEND_PAUSE: Duration = Duration::from_millis(10);

/// `Deadline::Tick` numbers: the once-a-second housekeeping, sending again, and accepting again by
/// listener.
const TICK_HOUSEKEEPING: u32 = 0;
pub(super) const TICK_SEND: u32 = 1;
pub(super) const TICK_ACCEPT: u32 = 16;

const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

impl Shard {
    pub(super) fn on_deadline(&mut self, deadline: Deadline) {
        match deadline {
            Deadline::Heartbeat(conn) => self.on_heartbeat(SocketKey::from_token(conn)),
            Deadline::ReadTimeout(conn) => self.on_idle(SocketKey::from_token(conn)),
            Deadline::WriteTimeout(conn) => self.on_write_timeout(SocketKey::from_token(conn)),
            Deadline::Checkpoint(topic) => self.on_checkpoint_due(topic),
            Deadline::Sync(topic) => self.on_sync_due(topic),
            Deadline::Tick(TICK_HOUSEKEEPING) => self.keep_house(),
            Deadline::Tick(TICK_SEND) => self.retry_sends(),
            Deadline::Tick(tick) => {
                self.ring_ops
                    .push(super::RingOp::Accept(tick - TICK_ACCEPT));
            }
        }
    }

    /// Once a second, as long as there is something to look after.
    fn keep_house(&mut self) {
        self.retry_logs();
        self.close_idle_logs();
        self.record_unsaved_topics();
        self.check_free_space();
        self.schedule_housekeeping();
    }

    pub(crate) fn schedule_housekeeping(&mut self) {
        let at = self.now.after(HOUSEKEEPING_INTERVAL);
        self.core.schedule(at, Deadline::Tick(TICK_HOUSEKEEPING));
    }

    /// (Re)starts heartbeats and read deadline by the connection's interval.
    pub(super) fn restart_heartbeat(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let timers = &mut connection.timers;
        let old = [timers.heartbeat.take(), timers.read.take()];
        let interval = connection.identity.heartbeat_interval;
        connection.last_command = self.now;
        for timer in old.into_iter().flatten() {
            self.core.cancel(timer);
        }
        let Some(interval) = interval else { return };
        let heartbeat = Deadline::Heartbeat(key.token());
        let heartbeat = self.core.schedule(self.now.after(interval), heartbeat);
        let read = Deadline::ReadTimeout(key.token());
        let read = self.core.schedule(self.now.after(interval * 2), read);
        if let Some(connection) = self.connection(key) {
            connection.timers.heartbeat = Some(heartbeat);
            connection.timers.read = Some(read);
        }
    }

    /// Sets the timers of a connection that moved here.
    pub(super) fn resume_timers(&mut self, key: SocketKey) {
        self.restart_heartbeat(key);
    }

    fn on_heartbeat(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.timers.heartbeat = None;
        let Some(interval) = connection.identity.heartbeat_interval else {
            return;
        };
        // Between the answer of IDENTIFY and the upgrades that it grants nothing else may come (K38).
        if connection.phase == Phase::Serving
            && connection.hold != Hold::Upgrade
            && !connection.output.is_blocked()
        {
            connection
                .output
                .with_tail(|tail: &mut BytesMut| encode_response(tail, b"_heartbeat_"));
            self.queue_flush(key);
        }
        let next = Deadline::Heartbeat(key.token());
        let next = self.core.schedule(self.now.after(interval), next);
        if let Some(connection) = self.connection(key) {
            connection.timers.heartbeat = Some(next);
        }
    }

    fn on_idle(&mut self, key: SocketKey) {
        if self.connection(key).is_some() {
            self.on_read_timeout(key);
        } else {
            self.on_http_idle(key);
        }
    }

    /// The socket took nothing: the write deadline of one heartbeat interval begins.
    pub(super) fn restart_write_deadline(&mut self, key: SocketKey) {
        self.cancel_write_deadline(key);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let closing = connection.is_ending();
        let interval = match connection.identity.heartbeat_interval {
            Some(interval) => interval,
            None if closing => WRITE_DEADLINE,
            None => return,
        };
        let at: Now = self.now.after(interval);
        let timer = self.core.schedule(at, Deadline::WriteTimeout(key.token()));
        if let Some(connection) = self.connection(key) {
            connection.timers.write = Some(timer);
        }
    }

    pub(super) fn cancel_write_deadline(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        if connection.phase != Phase::Lingering
            && let Some(timer) = connection.timers.write.take()
        {
            self.core.cancel(timer);
        }
    }

    /// The peer took nothing for a whole interval (K32), or has lingered long enough.
    fn on_write_timeout(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        connection.timers.write = None;
        if connection.phase != Phase::Lingering {
            let remote = &connection.remote;
            self.shared
                .logger
                .error(format_args!("client({remote}) - write timeout"));
        }
        self.close_socket(key);
    }
}
