//! A topic's log while messages are added to it, before its shard runs.
//!
//! The queue semantics are the core's own: the topic is restored as at every start, takes the
//! messages as publishes while it is held, and is checkpointed.

use std::path::Path;
use std::time::Duration;

use nsq_core::{CheckpointScope, Now, Sequence, Shard, ShardLimits, TopicKey};
use nsq_log::{Batch, LogConfig, LogEvent, SyncPolicy, TopicLog};
use nsq_proto::TopicName;

use super::ImportError;
use super::disk::BlockingDisk;
use super::diskqueue::Record;
use crate::boot::restored;
use crate::catalogue::TopicEntry;
use crate::shard::logs::encode_key;
use crate::shared::Settings;

/// Frames gathered for one write.
const WRITE_BYTES: usize = 256 * 1024;
/// Frames that stay in memory after they are written: nobody reads them.
const CACHE_BYTES_MAX: usize = 1024 * 1024;
/// Ticket of the only checkpoint.
const TICKET: u64 = 1;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Writer {
    name: TopicName,
    core: Shard,
    topic: TopicKey,
    log: TopicLog,
    disk: BlockingDisk,
    /// Of what was published since the last write.
    gathered: usize,
    is_checkpointed: bool,
    events: Vec<LogEvent>,
}

impl Writer {
    /// Opens the log in `dir`, or begins one.
    ///
    /// # Errors
    /// What keeps it from being read.
    pub(super) fn open(
        dir: &Path,
        name: &TopicName,
        entry: TopicEntry,
        settings: &Settings,
        now: Now,
    ) -> Result<Self, ImportError> {
        // One sync at the end is enough: until then nothing depends on it.
        let config = LogConfig {
            sync: SyncPolicy::Interval,
            sync_every: u64::MAX,
            ..settings.log.clone()
        };
        let (log, recovered) = TopicLog::recover(dir, config).map_err(|error| {
            let (topic, reason) = (name.clone(), error.to_string());
            ImportError::Log { topic, reason }
        })?;
        let limits = ShardLimits {
            cache_bytes_max: CACHE_BYTES_MAX,
            ..settings.core_limits(0)
        };
        let mut core = Shard::new(limits, now);
        let topic = core.restore_topic(now, name, restored(recovered, entry));
        core.hold_topic(topic);
        Ok(Self {
            name: name.clone(),
            core,
            topic,
            log,
            disk: BlockingDisk::default(),
            gathered: 0,
            is_checkpointed: false,
            events: Vec::new(),
        })
    }

    /// See [`Shard::is_assignable`].
    pub(super) fn is_assignable(&self) -> bool {
        self.core.is_assignable(self.topic)
    }

    /// Appends a message; its sequence.
    ///
    /// # Errors
    /// Why the log cannot take it.
    pub(super) fn append(&mut self, record: &Record) -> Result<Sequence, ImportError> {
        let published = Now(record.timestamp);
        let body = std::iter::once(record.body.as_slice());
        let published = self
            .core
            .publish(published, self.topic, Duration::ZERO, body)
            .map_err(|error| self.failed(error.to_string()))?;
        self.gathered += record.body.len();
        if self.gathered >= WRITE_BYTES {
            self.write().map_err(|reason| self.failed(reason))?;
        }
        Ok(Sequence(published.end.0 - 1))
    }

    /// See [`Shard::assign`].
    pub(super) fn assign(&mut self, channel: &str, owed: &[(Sequence, u16)]) {
        self.core.assign(self.topic, channel, owed);
    }

    /// See [`Shard::end_assignment`].
    pub(super) fn end_assignment(&mut self) {
        self.core.end_assignment(self.topic);
    }

    fn write(&mut self) -> Result<(), String> {
        self.gathered = 0;
        let (log, disk) = (&mut self.log, &mut self.disk);
        self.core.take_batches(|_, batch| {
            let batch = Batch {
                first: batch.first.0,
                epoch: batch.epoch.0,
                due_ms: batch.due_ms,
                frames: batch.frames,
                ends: batch.ends,
            };
            log.append(disk, &batch);
        });
        self.settle()
    }

    /// Tells the log of everything that the disk has done.
    fn settle(&mut self) -> Result<(), String> {
        while let Some((token, result)) = self.disk.0.pop_front() {
            self.log
                .complete(&mut self.disk, token, result, &mut self.events);
            for event in self.events.drain(..) {
                match event {
                    LogEvent::Written { end } => self.core.on_written(self.topic, Sequence(end)),
                    LogEvent::Checkpointed { ticket } => self.is_checkpointed |= ticket == TICKET,
                    LogEvent::Poisoned { reason } => return Err(reason),
                    LogEvent::Committed { .. }
                    | LogEvent::Fetched { .. }
                    | LogEvent::Unreadable { .. }
                    | LogEvent::FullCheckpointWanted => {}
                }
            }
        }
        let shortage = self.log.shortage();
        shortage.map_or(Ok(()), |shortage| Err(shortage.reason.clone()))
    }

    /// Writes everything and the state of the channels.
    ///
    /// *Durability:* when it returns, everything survives a power failure, the name of the
    /// directory excepted.
    ///
    /// # Errors
    /// What could not be written.
    pub(super) fn finish(mut self) -> Result<(), ImportError> {
        self.write_all().map_err(|reason| self.failed(reason))
    }

    fn failed(&self, reason: String) -> ImportError {
        let topic = self.name.clone();
        ImportError::Log { topic, reason }
    }

    fn write_all(&mut self) -> Result<(), String> {
        self.write()?;
        self.log.sync(&mut self.disk);
        self.settle()?;
        let mut entries = Vec::new();
        self.core
            .checkpoint(self.topic, CheckpointScope::All, |key, value| {
                entries.push((encode_key(key), value.to_vec()));
            });
        let disk = &mut self.disk;
        self.log.checkpoint(disk, &entries, true, true, TICKET);
        self.settle()?;
        if self.log.is_sync_due() || !self.is_checkpointed || self.log.pending() > 0 {
            return Err("the log could not be brought to the disk".to_owned());
        }
        Ok(())
    }
}
