//! Clean stop of a shard: nothing new comes in, what was accepted goes to disk, then it ends.
//!
//! 1. *Answering*: listeners and commands are closed; publishes under way are written and answered;
//!    each connection closes when its replies are out.
//! 2. *Answered*: one turn in which local tasks (HTTP) pass on what they were told.
//! 3. *Syncing*: what was written goes to the disk.
//! 4. *Checkpointing*: every topic in which something changed is checkpointed.
//! 5. *Stopped*: no operation of a log is under way.
//!
//! Each stage has a bound, so that a peer that does not read or a disk that does not answer cannot
//! keep the process alive.

use std::time::Duration;

use nsq_core::Now;

use super::Shard;
use super::publish::connection_mut;
use super::socket::{Protocol, RingOp};
use crate::conn::Phase;

/// Longest time for answering what is under way.
const ANSWERING_MAX: Duration = Duration::from_secs(3);
/// Longest time for writing everything to disk.
const SAVING_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
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
        let deadline = self.now.after(ANSWERING_MAX);
        self.stopping = Some(Stopping {
            stage: Stage::Answering,
            deadline,
        });
        for key in self.sockets.keys().collect::<Vec<_>>() {
            let Some(connection) = connection_mut(&mut self.sockets, key) else {
                continue;
            };
            match connection.phase {
                Phase::Magic | Phase::Lingering => self.close_socket(key),
                Phase::Serving => {
                    connection.phase = Phase::Closing { linger: false };
                    self.unsubscribe(key);
                    self.queue_flush(key);
                }
                Phase::Closing { .. } => {}
            }
        }
    }

    /// Goes on with a clean stop as far as is possible now.
    pub(super) fn stop_step(&mut self) {
        let Some(stopping) = &self.stopping else {
            return;
        };
        let late = self.now >= stopping.deadline;
        let stage = stopping.stage;
        match stage {
            Stage::Answering if late || self.is_answered() => self.enter(Stage::Answered),
            Stage::Answered => self.begin_syncing(),
            Stage::Syncing | Stage::Checkpointing if late => self.end_late(),
            Stage::Syncing if !self.logs_pending() && !self.sync_dirty_logs() => {
                self.log_what_is_kept();
                self.checkpoint_all();
                self.enter(Stage::Checkpointing);
            }
            Stage::Checkpointing if !self.logs_pending() => self.enter(Stage::Stopped),
            Stage::Answering | Stage::Syncing | Stage::Checkpointing | Stage::Stopped => {}
        }
    }

    fn is_answered(&self) -> bool {
        let tcp = self
            .sockets
            .values()
            .any(|socket| matches!(socket.protocol, Protocol::Tcp(_)));
        let waiting = self.topics.values().any(|state| !state.waiters.is_empty());
        let asked = !self.requests.is_empty() || !self.changes.is_empty();
        !tcp && !waiting && !asked && !self.has_outbox_backlog()
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
