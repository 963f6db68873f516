//! Clean stop of a shard: nothing new comes in, what was accepted goes to disk, then it ends.
//!
//! 1. *Refusing*: nobody is accepted and consumers are closed. What arrives from the others for a
//!    moment is refused: a client that waits for each answer before it publishes again gets one.
//! 2. *Answering*: no more is taken from anybody. Publishes under way are written and answered; each
//!    connection closes when its replies are out, HTTP ones after the request under way.
//! 3. *Answered*: one turn for what was not done in time.
//! 4. *Syncing*: what was written goes to the disk.
//! 5. *Checkpointing*: every topic in which something changed is checkpointed.
//! 6. *Stopped*: no operation of a log is under way.
//!
//! So a publish that was taken before the stop has its `OK` on the way before its connection ends,
//! and a publisher's connection lingers, reading, so that what its peer sends meanwhile does not
//! reset it and take the `OK` along. What got no answer was not taken.
//!
//! Each stage has a bound, so that a peer that does not read or a disk that does not answer cannot
//! keep the process alive.

use std::time::Duration;

use nsq_core::Now;

use super::publish::connection_mut;
use super::socket::{Protocol, RingOp, Socket};
use super::{Shard, SocketKey};
use crate::conn::Phase;

/// How long connections are still served, with refusals.
const REFUSING_MAX: Duration = Duration::from_millis(100);
/// How long a publisher's connection waits for its peer to have read everything and to close.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// Longest time for answering what is under way.
const ANSWERING_MAX: Duration = Duration::from_secs(3);
/// Longest time for writing everything to disk.
const SAVING_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Refusing,
    Answering,
    Answered,
    Syncing,
    Checkpointing,
    Stopped,
}

/// How far a stopping shard is.
#[derive(Debug)]
pub(super) struct Stopping {
    stage: Stage,
    deadline: Now,
}

impl Shard {
    pub(super) fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.core.drain();
        self.ring_ops.push(RingOp::StopAccept);
        let deadline = self.now.after(REFUSING_MAX);
        self.stopping = Some(Stopping {
            stage: Stage::Refusing,
            deadline,
        });
        self.wake_waiting_tasks();
        for key in self.sockets.keys().collect::<Vec<_>>() {
            let connection = connection_mut(&mut self.sockets, key);
            if connection.is_some_and(|connection| connection.subscription.is_some()) {
                self.close_answered(key);
            }
        }
    }

    /// Closes a connection when its replies are out; it takes no more commands.
    fn close_answered(&mut self, key: SocketKey) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        match connection.phase {
            Phase::Magic => self.close_socket(key),
            Phase::Serving => {
                let linger = !connection.published.is_empty();
                connection.phase = Phase::Closing { linger };
                connection.input.clear();
                self.unsubscribe(key);
                self.queue_flush(key);
            }
            // An error is on its way to it already.
            Phase::Closing { .. } | Phase::Lingering => {}
        }
    }

    fn begin_answering(&mut self) {
        let deadline = self.now.after(ANSWERING_MAX);
        self.stopping = Some(Stopping {
            stage: Stage::Answering,
            deadline,
        });
        for key in self.sockets.keys().collect::<Vec<_>>() {
            self.close_answered(key);
        }
        let Self {
            sockets, wakers, ..
        } = self;
        let https = sockets.values_mut().filter_map(Socket::http);
        wakers.extend(https.filter_map(|http| http.stop_waker.take()));
        self.touched = true;
    }

    /// A clean stop has come so far that nothing more is taken from anybody.
    pub(super) fn is_answering(&self) -> bool {
        let stopping = self.stopping.as_ref();
        stopping.is_some_and(|stopping| stopping.stage >= Stage::Answering)
    }

    /// Somebody may still send something that gets an answer.
    fn serves_anybody(&self) -> bool {
        self.sockets.values().any(|socket| match &socket.protocol {
            Protocol::Tcp(connection) => {
                matches!(connection.phase, Phase::Magic | Phase::Serving)
            }
            Protocol::Http(_) => true,
        })
    }

    /// Goes on with a clean stop as far as is possible now.
    pub(super) fn stop_step(&mut self) {
        let Some(stopping) = &self.stopping else {
            return;
        };
        let late = self.now >= stopping.deadline;
        let stage = stopping.stage;
        match stage {
            Stage::Refusing if late || !self.serves_anybody() => self.begin_answering(),
            Stage::Answering if late || self.is_answered() => self.enter(Stage::Answered),
            Stage::Answered => self.begin_syncing(),
            Stage::Syncing | Stage::Checkpointing if late => self.end_late(),
            Stage::Syncing if !self.logs_pending() && !self.sync_dirty_logs() => {
                self.log_what_is_kept();
                self.checkpoint_all();
                self.enter(Stage::Checkpointing);
            }
            Stage::Checkpointing if !self.logs_pending() => self.enter(Stage::Stopped),
            Stage::Refusing
            | Stage::Answering
            | Stage::Syncing
            | Stage::Checkpointing
            | Stage::Stopped => {}
        }
    }

    fn is_answered(&self) -> bool {
        let waiting = self.topics.values().any(|state| !state.waiters.is_empty());
        let asked = !self.requests.is_empty() || !self.changes.is_empty();
        self.sockets.is_empty() && !waiting && !asked && !self.has_outbox_backlog()
    }

    fn begin_syncing(&mut self) {
        let deadline = self.now.after(SAVING_MAX);
        self.stopping = Some(Stopping {
            stage: Stage::Syncing,
            deadline,
        });
        for key in self.sockets.keys().collect::<Vec<_>>() {
            self.close_socket(key);
        }
        self.touched = true;
    }

    /// In the words of the reference, which writes at its end what it held in memory; here it is in
    /// the log already, and its state goes to the checkpoint.
    fn log_what_is_kept(&self) {
        let logger = &self.shared.logger;
        for stats in self
            .core
            .topics()
            .filter_map(|key| self.core.topic_stats(key))
        {
            logger.info(format_args!("TOPIC({}): closing", stats.name));
            for channel in &stats.channels {
                let name = &channel.name;
                logger.info(format_args!("CHANNEL({name}): closing"));
                let in_memory = channel.depth - channel.backend_depth;
                let (in_flight, deferred) = (channel.in_flight_count, channel.deferred_count);
                if in_memory + in_flight + deferred > 0 {
                    logger.info(format_args!(
                        "CHANNEL({name}): flushing {in_memory} memory {in_flight} in-flight \
                         {deferred} deferred messages to backend"
                    ));
                }
            }
            let in_memory = stats.depth - stats.backend_depth;
            if in_memory > 0 {
                let name = &stats.name;
                logger.info(format_args!(
                    "TOPIC({name}): flushing {in_memory} memory messages to backend"
                ));
            }
        }
    }

    fn enter(&mut self, stage: Stage) {
        if let Some(stopping) = &mut self.stopping {
            stopping.stage = stage;
        }
        self.touched = true;
    }

    #[cold]
    fn end_late(&mut self) {
        self.shared.logger.error(format_args!(
            "NSQ: shard {} did not get everything to disk in {} s",
            self.id,
            SAVING_MAX.as_secs()
        ));
        self.enter(Stage::Stopped);
    }

    /// The shard has nothing left to do and may be dropped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopping
            .as_ref()
            .is_some_and(|stopping| stopping.stage == Stage::Stopped)
    }

    /// While stopping, look again at least this often.
    pub(crate) fn stop_deadline(&self) -> Option<Now> {
        self.stopping.as_ref().map(|stopping| stopping.deadline)
    }
}
