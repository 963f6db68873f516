//! The logs of a shard's topics: appends, commits, read-ahead, checkpoints, syncs.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use nsq_core::{
    CheckpointKey, CheckpointScope, Deadline, Now, PublishError, Sequence, TimerKey, TopicKey,
};
use nsq_log::{Batch, Disk, LogEvent, OpOutput, OpResult, Planned, SyncPolicy, Token, TopicLog};
use nsq_proto::TopicName;
use slotmap::KeyData;

use super::disk::ShardDisk;
use super::message::{StorageJob, StorageOp};
use super::publish::Waiter;
use super::{DiskOpKey, Shard};
use crate::config::SyncMode;
use crate::settings;
use crate::shared::Subject;

/// Shortest time between two checkpoints of a topic (design §3.4).
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(250);
/// Bytes per second that the checkpoints of one topic may write: a large one makes the next wait.
const CHECKPOINT_BYTES_PER_SECOND: u64 = 16 * 1024 * 1024;
/// A large checkpoint is made in slices of so many pages (some 0.5 ms), with a pause after each.
const SLICE_PAGES: usize = 64;
const SLICE_PAUSE: Duration = Duration::from_millis(2);
/// What is wrong with a disk without room.
const DISK_FULL: &str = "no space left on device";
/// Token of the removal of a dropped log; the logs' own are small.
const REMOVAL: Token = Token(u64::MAX);
/// How long an fdatasync waits for the publishers that the last one let go on, at most.
const GATHER_MAX: Duration = Duration::from_micros(300);
/// A log that did nothing for this long closes its files.
const FILES_IDLE: Duration = Duration::from_secs(10);

/// Entries of a checkpoint, as the journal has them; the later of two with the same key counts.
type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Checkpoints that are being made.
#[derive(Debug, Default)]
struct Drafts {
    /// Of the next record.
    next: Entries,
    /// Of a full one: what the journal holds, encoded again, and the records since.
    whole: Entries,
    /// Where that goes on; `None` when it has not begun.
    again: Option<CheckpointKey>,
    /// Nothing is missing in `whole` but the next record.
    is_whole: bool,
}

/// What the shell keeps for a topic of this shard.
#[derive(Debug, Default)]
pub(crate) struct TopicState {
    /// `None` for an ephemeral topic.
    pub(super) log: Option<TopicLog>,
    /// What an `OK` means, where that was chosen for this topic.
    pub(super) sync: Option<SyncMode>,
    /// Where the log is.
    dir: PathBuf,
    /// Publishers that wait for their `OK`, in the order of their last sequence.
    pub(super) waiters: VecDeque<Waiter>,
    /// Everything below may be answered, as far as the log is concerned.
    pub(super) committed: Sequence,
    /// Everything below is in the log, if not on the device yet.
    written: Sequence,
    /// The catalogue's version that must be saved before anything is answered.
    pub(super) saved_when: u64,
    /// The catalogue's version that holds the last change of the topic or its channels.
    pub(super) changed_when: u64,
    checkpoint_timer: Option<TimerKey>,
    /// Ticket of the newest checkpoint submitted, and of the newest one that is on disk.
    pub(super) checkpoint_sent: u64,
    pub(super) checkpoint_done: u64,
    full_checkpoint_wanted: bool,
    drafts: Drafts,
    sync_timer: Option<TimerKey>,
    last_used: Now,
    in_open_logs: bool,
    /// The log failed for good; the health of the broker knows it by this name.
    poisoned: Option<TopicName>,
    /// The log waits for space (see [`TopicLog::shortage`]); the name is as above.
    shortage: Option<TopicName>,
}

impl TopicState {
    fn new(log: Option<TopicLog>, dir: PathBuf, committed: Sequence, now: Now) -> Self {
        Self {
            log,
            dir,
            committed,
            last_used: now,
            ..Self::default()
        }
    }

    /// An `OK` promises that the disk has it.
    pub(super) fn is_synced_always(&self) -> bool {
        let policy = self.log.as_ref().map(TopicLog::sync_policy);
        policy == Some(SyncPolicy::Always)
    }

    /// Whether a checkpoint that is asked for will be reported as written.
    pub(super) fn answers_checkpoints(&self) -> bool {
        self.log.is_some() && self.poisoned.is_none()
    }
}

/// Lends the log of a topic together with its disk; does nothing for topics without one.
macro_rules! with_log {
    ($shard:expr, $topic:expr, |$log:ident, $disk:ident| $body:expr) => {{
        let shard = &mut *$shard;
        let topic = $topic;
        shard
            .topics
            .get_mut(topic)
            .and_then(|state| state.log.as_mut())
            .map(|$log| {
                let $disk: &mut dyn Disk = &mut ShardDisk {
                    shard: shard.id,
                    topic,
                    ops: &mut shard.disk_ops,
                    ring: &mut shard.ring_ops,
                    storage: &shard.shared.storage,
                };
                $body
            })
    }};
}

impl Shard {
    /// The directory of a topic's log. Names are legal file names but for `.` and `..`, which the
    /// suffix makes harmless.
    pub(super) fn log_dir(&self, name: &TopicName) -> PathBuf {
        crate::boot::log_dir(&self.shared.settings.data_path, name)
    }

    /// Gives a new topic its (still empty) log.
    pub(super) fn open_log(&mut self, topic: TopicKey, name: &TopicName) {
        let dir = self.log_dir(name);
        let log = (!name.is_ephemeral())
            .then(|| TopicLog::create(dir.clone(), self.shared.settings.log.clone()));
        let state = TopicState::new(log, dir, Sequence(0), self.now);
        self.topics.insert(topic, state);
    }

    /// Takes over a topic that was recovered at start.
    pub(crate) fn restore(
        &mut self,
        name: &TopicName,
        (log, sync): (TopicLog, Option<SyncMode>),
        restored: nsq_core::RestoredTopic,
    ) {
        let head = restored.head;
        let topic = self.core.restore_topic(self.now, name, restored);
        let mut state = TopicState::new(Some(log), self.log_dir(name), head, self.now);
        state.sync = sync;
        self.topics.insert(topic, state);
        self.schedule_checkpoint(topic);
    }

    /// Chooses what an `OK` of a topic means from now on. Says whether that is another choice.
    pub(super) fn choose_sync(&mut self, topic: TopicKey, mode: SyncMode) -> bool {
        let Some(state) = self.topics.get_mut(topic) else {
            return false;
        };
        let is_new = state.sync.replace(mode) != Some(mode);
        self.mark_log_used(topic);
        with_log!(self, topic, |log, disk| {
            log.set_sync_policy(disk, settings::policy(mode));
        });
        is_new
    }

    /// Appends what was published in this turn.
    pub(super) fn append_batches(&mut self) {
        let Self {
            core,
            topics,
            disk_ops,
            ring_ops,
            shared,
            id,
            now,
            open_logs,
            ..
        } = self;
        core.take_batches(|topic, batch| {
            let Some(state) = topics.get_mut(topic) else {
                return;
            };
            let Some(log) = state.log.as_mut() else {
                return;
            };
            state.last_used = *now;
            if !state.in_open_logs {
                state.in_open_logs = true;
                open_logs.push(topic);
            }
            let batch = Batch {
                first: batch.first.0,
                epoch: batch.epoch.0,
                due_ms: batch.due_ms,
                frames: batch.frames,
                ends: batch.ends,
            };
            let mut disk = ShardDisk {
                shard: *id,
                topic,
                ops: disk_ops,
                ring: ring_ops,
                storage: &shared.storage,
            };
            log.append(&mut disk, &batch);
        });
    }

    /// Reads ahead for a channel.
    pub(super) fn fetch(&mut self, topic: TopicKey, from: Sequence, count: u32) {
        self.mark_log_used(topic);
        let planned = with_log!(self, topic, |log, disk| log.read(disk, from.0, count));
        if let Some(Planned { next, bytes }) = planned.flatten() {
            let next = Sequence(next);
            self.core.on_fetch_planned(topic, from, next, bytes);
        }
    }

    fn mark_log_used(&mut self, topic: TopicKey) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        state.last_used = self.now;
        if !state.in_open_logs && state.log.is_some() {
            state.in_open_logs = true;
            self.open_logs.push(topic);
        }
    }

    /// An operation on the ring is done.
    pub(super) fn on_disk_op(&mut self, token: u64, result: io::Result<Option<Bytes>>) {
        let key = DiskOpKey::from(KeyData::from_ffi(token));
        let Some((topic, token)) = self.disk_ops.remove(key) else {
            return;
        };
        let result = result.map(|data| data.map_or(OpOutput::Done, OpOutput::Data));
        self.on_disk_result(topic, token, result);
    }

    /// A write will be in its file, whatever becomes of the process.
    pub(super) fn on_write_accepted(&mut self, token: u64) {
        let key = DiskOpKey::from(KeyData::from_ffi(token));
        let Some(&(topic, token)) = self.disk_ops.get(key) else {
            return;
        };
        let mut events = std::mem::take(&mut self.log_events);
        if let Some(log) = self
            .topics
            .get_mut(topic)
            .and_then(|state| state.log.as_mut())
        {
            log.accept(token, &mut events);
        }
        for event in events.drain(..) {
            self.on_log_event(topic, event);
        }
        self.log_events = events;
    }

    /// An operation on the storage thread is done.
    pub(super) fn on_stored(
        &mut self,
        topic: TopicKey,
        token: Token,
        result: io::Result<Option<OwnedFd>>,
    ) {
        if token == REMOVAL {
            self.on_log_removed(topic, result.err());
            return;
        }
        let result =
            result.map(|file| file.map_or(OpOutput::Done, |file| OpOutput::File(Rc::new(file))));
        self.on_disk_result(topic, token, result);
    }

    fn on_disk_result(&mut self, topic: TopicKey, token: Token, result: OpResult) {
        let mut events = std::mem::take(&mut self.log_events);
        with_log!(self, topic, |log, disk| log.complete(
            disk,
            token,
            result,
            &mut events
        ));
        for event in events.drain(..) {
            self.on_log_event(topic, event);
        }
        self.log_events = events;
        self.watch_shortage(topic);
        self.watch_gathering(topic);
    }

    /// Sees to it that a sync that waits for company does not wait for long.
    fn watch_gathering(&mut self, topic: TopicKey) {
        let log = self.topics.get(topic).and_then(|state| state.log.as_ref());
        if log.is_some_and(TopicLog::is_gathering)
            && !self.gathering.iter().any(|(waiting, _)| *waiting == topic)
        {
            self.gathering
                .push_back((topic, self.now.after(GATHER_MAX)));
        }
    }

    /// Begins the syncs that have waited long enough.
    pub(super) fn end_gathering(&mut self) {
        while let Some(&(topic, until)) = self.gathering.front()
            && until <= self.now
        {
            self.gathering.pop_front();
            let log = self.topics.get(topic).and_then(|state| state.log.as_ref());
            if log.is_some_and(TopicLog::is_gathering) {
                with_log!(self, topic, |log, disk| log.sync(disk));
            }
        }
    }

    /// Takes note that a log has run out of space, or has found some.
    fn watch_shortage(&mut self, topic: TopicKey) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        let Some(log) = state.log.as_ref() else {
            return;
        };
        let Some(shortage) = log.shortage() else {
            if let Some(name) = state.shortage.take()
                && state.poisoned.is_none()
            {
                self.shared.health.recover(&Subject::Log(name));
            }
            return;
        };
        let reason = shortage.reason.clone();
        let is_stuck = log.is_stuck();
        if state.shortage.is_none()
            && let Some(name) = self.core.topic_name(topic)
        {
            state.shortage = Some(name.clone());
            self.shared.health.fail(Subject::Log(name.clone()), &reason);
            self.log_topic_error(topic, &format!("publishes are refused for now: {reason}"));
        }
        if is_stuck {
            // Their messages are delivered all the same once they are written, as with any answer
            // that is lost.
            self.fail_waiters(topic, &reason);
        }
    }

    fn on_log_event(&mut self, topic: TopicKey, event: LogEvent) {
        match event {
            LogEvent::Written { end } => {
                if let Some(state) = self.topics.get_mut(topic) {
                    state.written = Sequence(end);
                }
                self.core.on_written(topic, Sequence(end));
                self.reveal(topic);
                self.schedule_sync(topic);
            }
            LogEvent::Committed { end } => {
                if let Some(state) = self.topics.get_mut(topic) {
                    state.committed = Sequence(end);
                }
                self.answer_waiters(topic);
                self.reveal(topic);
            }
            LogEvent::Fetched {
                from,
                first,
                bytes,
                spans,
                next,
            } => {
                let (from, first, next) = (Sequence(from), Sequence(first), Sequence(next));
                self.core.on_fetched(topic, from, first, bytes, spans, next);
            }
            LogEvent::Unreadable { from, next, reason } => {
                self.log_topic_error(topic, &format!("lost messages {from}..{next}: {reason}"));
                self.core
                    .on_fetch_failed(topic, Sequence(from), Sequence(next));
            }
            LogEvent::Checkpointed { ticket } => {
                if let Some(state) = self.topics.get_mut(topic) {
                    state.checkpoint_done = ticket;
                }
                self.settle_changes();
            }
            LogEvent::FullCheckpointWanted => {
                if let Some(state) = self.topics.get_mut(topic) {
                    state.full_checkpoint_wanted = true;
                }
                self.schedule_checkpoint(topic);
            }
            LogEvent::Poisoned { reason } => self.on_poisoned(topic, &reason),
        }
    }

    /// Lets consumers have what is in the log of a topic that is in the catalogue. With
    /// `--sync=always` that is before its publishers are answered.
    pub(super) fn reveal(&mut self, topic: TopicKey) {
        if let Some(state) = self.topics.get(topic)
            && state.saved_when <= self.catalogue_saved
        {
            let end = state.written.max(state.committed);
            self.core.reveal(topic, end);
        }
    }

    fn on_poisoned(&mut self, topic: TopicKey, reason: &str) {
        self.log_topic_error(
            topic,
            &format!("the log failed, publishes are refused: {reason}"),
        );
        let name = self.core.topic_name(topic);
        if let Some(name) = name {
            self.shared.health.fail(Subject::Log(name.clone()), reason);
        }
        if let Some(state) = self.topics.get_mut(topic) {
            state.poisoned = name.cloned();
        }
        self.core.on_poisoned(topic, reason.to_owned());
        self.fail_waiters(topic, reason);
        self.fail_changes_of(topic, reason);
    }

    fn log_topic_error(&self, topic: TopicKey, text: &str) {
        if let Some(name) = self.core.topic_name(topic) {
            self.shared
                .logger
                .error(format_args!("TOPIC({name}): {text}"));
        }
    }

    // --- fdatasync under `--sync=interval` ---

    fn schedule_sync(&mut self, topic: TopicKey) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        let due = state.log.as_ref().is_some_and(TopicLog::is_sync_due);
        if due && state.sync_timer.is_none() {
            let at = self.now.after(self.shared.settings.sync_timeout);
            state.sync_timer = Some(self.core.schedule(at, Deadline::Sync(topic)));
        }
    }

    pub(super) fn on_sync_due(&mut self, topic: TopicKey) {
        if let Some(state) = self.topics.get_mut(topic) {
            state.sync_timer = None;
        }
        with_log!(self, topic, |log, disk| log.sync(disk));
    }

    // --- checkpoints ---

    /// Something that a checkpoint holds has changed.
    pub(super) fn schedule_checkpoint(&mut self, topic: TopicKey) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        if state.checkpoint_timer.is_none() && state.log.is_some() {
            let at = self.now.after(CHECKPOINT_INTERVAL);
            state.checkpoint_timer = Some(self.core.schedule(at, Deadline::Checkpoint(topic)));
        }
    }

    pub(super) fn on_checkpoint_due(&mut self, topic: TopicKey) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        state.checkpoint_timer = None;
        if state.checkpoint_done < state.checkpoint_sent {
            self.schedule_checkpoint(topic);
            return;
        }
        if !state.full_checkpoint_wanted && !self.core.is_checkpoint_due(topic) {
            return;
        }
        if self.prepare_checkpoint(topic) {
            return self.schedule_checkpoint_at(topic, self.now.after(SLICE_PAUSE));
        }
        let bytes = self.checkpoint(topic, false);
        let pause_ms = bytes.saturating_mul(1000) / CHECKPOINT_BYTES_PER_SECOND;
        let pause = Duration::from_millis(pause_ms).max(CHECKPOINT_INTERVAL);
        self.schedule_checkpoint_at(topic, self.now.after(pause));
    }

    fn schedule_checkpoint_at(&mut self, topic: TopicKey, at: Now) {
        if let Some(state) = self.topics.get_mut(topic) {
            state.checkpoint_timer = Some(self.core.schedule(at, Deadline::Checkpoint(topic)));
        }
    }

    /// Makes a slice of the next checkpoint; whether there are more.
    fn prepare_checkpoint(&mut self, topic: TopicKey) -> bool {
        let Some(state) = self.topics.get_mut(topic) else {
            return false;
        };
        let drafts = &mut state.drafts;
        let core = &mut self.core;
        if core.checkpoint_ahead(topic, SLICE_PAGES, |key, value| {
            drafts.next.push((encode_key(key), value.to_vec()));
        }) {
            return true;
        }
        if !state.full_checkpoint_wanted || drafts.is_whole {
            return false;
        }
        let from = drafts.again.unwrap_or(CheckpointKey::FIRST);
        drafts.again = core.checkpoint_again(topic, from, SLICE_PAGES, |key, value| {
            drafts.whole.push((encode_key(key), value.to_vec()));
        });
        drafts.is_whole = drafts.again.is_none();
        !drafts.is_whole
    }

    /// Writes a checkpoint now, a full one if that has been prepared, and frees what nothing owes
    /// any more. Returns its size in bytes.
    pub(super) fn checkpoint(&mut self, topic: TopicKey, durable: bool) -> u64 {
        let Some(state) = self.topics.get_mut(topic) else {
            return 0;
        };
        if state.log.is_none() {
            return 0;
        }
        state.checkpoint_sent += 1;
        let ticket = state.checkpoint_sent;
        let drafts = &mut state.drafts;
        let mut entries = std::mem::take(&mut drafts.next);
        let scope = CheckpointScope::Changed;
        self.core.checkpoint(topic, scope, |key, value| {
            entries.push((encode_key(key), value.to_vec()));
        });
        let full = drafts.is_whole;
        if full {
            let mut whole = std::mem::take(drafts).whole;
            whole.append(&mut entries);
            entries = whole;
            state.full_checkpoint_wanted = false;
        } else if drafts.again.is_some() {
            drafts.whole.extend_from_slice(&entries);
        }
        let bytes = entries
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum();
        self.mark_log_used(topic);
        with_log!(self, topic, |log, disk| {
            log.checkpoint(disk, &entries, full, durable, ticket);
        });
        let core = &self.core;
        if let Some(log) = self
            .topics
            .get_mut(topic)
            .and_then(|state| state.log.as_mut())
        {
            log.reclaim(|start, end| core.owes(topic, Sequence(start), Sequence(end)));
        }
        bytes
    }

    // --- free space ---

    /// Refuses publishes before a full disk fails a write, which would be for good.
    pub(super) fn check_free_space(&mut self) {
        let settings = &self.shared.settings;
        let Ok(disk) = nix::sys::statvfs::statvfs(&settings.data_path) else {
            return;
        };
        let block = disk.fragment_size();
        let wanted = (2 * settings.log.segment_bytes_max).min(disk.blocks() * block / 20);
        let full = disk.blocks_available() * block < wanted;
        if full != self.disk_full {
            self.disk_full = full;
            if full {
                self.shared.health.fail(Subject::Disk, DISK_FULL);
                self.shared
                    .logger
                    .error(format_args!("NSQ: {DISK_FULL}: publishes are refused"));
            } else {
                self.shared.health.recover(&Subject::Disk);
            }
        }
    }

    /// Why nothing can be published to a topic at the moment, if so.
    pub(super) fn refusal(&self, topic: TopicKey) -> Option<PublishError> {
        let state = self.topics.get(topic).filter(|state| state.log.is_some())?;
        let shortage = state.log.as_ref().and_then(TopicLog::shortage);
        let shortage = shortage.map(|shortage| shortage.reason.as_str());
        let reason = shortage.or_else(|| self.disk_full.then_some(DISK_FULL))?;
        Some(PublishError::Log(reason.to_owned()))
    }

    // --- files of idle logs ---

    /// Closes the files of logs that have been idle; called about once a second.
    pub(super) fn close_idle_logs(&mut self) {
        let Self {
            open_logs,
            topics,
            now,
            ..
        } = self;
        open_logs.retain(|topic| {
            let Some(state) = topics.get_mut(*topic) else {
                return false;
            };
            let Some(log) = state.log.as_mut() else {
                return false;
            };
            let is_busy = log.pending() > 0 || log.is_waiting();
            if state.last_used.after(FILES_IDLE) > *now || is_busy {
                return true;
            }
            log.release_files();
            state.in_open_logs = log.has_open_files();
            state.in_open_logs
        });
    }

    /// Removes the directory of a log that was dropped. The storage thread works in order: what the
    /// log asked for before is done by then, and what a new topic of the same name asks for comes
    /// after. Writes still under way go to files that have no name any more, and their outcomes to a
    /// key that nobody has.
    fn remove_log_dir(&mut self, topic: TopicKey, path: PathBuf) {
        self.removals.push(topic);
        let op = StorageOp::RemoveAll { path };
        let job = StorageJob {
            shard: self.id,
            topic,
            token: REMOVAL,
            op,
        };
        self.shared
            .storage
            .send(job)
            .expect("the storage thread lives as long as the shards");
    }

    fn on_log_removed(&mut self, topic: TopicKey, error: Option<io::Error>) {
        if let Some(error) = error {
            self.shared.logger.error(format_args!(
                "NSQ: the log of a deleted topic could not be removed - {error}"
            ));
        }
        self.removals.retain(|removal| *removal != topic);
        self.settle_changes();
    }

    /// Removes a topic's log from disk, with everything that waits for it.
    pub(super) fn drop_log(&mut self, topic: TopicKey) {
        self.fail_waiters(topic, "exiting");
        self.fail_changes_of(topic, "exiting");
        if let Some(state) = self.topics.remove(topic) {
            if state.log.is_some() {
                self.remove_log_dir(topic, state.dir);
            }
            if let Some(name) = state.poisoned.or(state.shortage) {
                self.shared.health.recover(&Subject::Log(name));
            }
            for timer in [state.checkpoint_timer, state.sync_timer]
                .into_iter()
                .flatten()
            {
                self.core.cancel(timer);
            }
        }
    }

    /// What the logs could not do for want of descriptors or memory is tried again.
    pub(super) fn retry_logs(&mut self) {
        let waits = |state: &TopicState| state.log.as_ref().is_some_and(TopicLog::is_waiting);
        let topics = &self.topics;
        let is_waiting = |topic: &&TopicKey| topics.get(**topic).is_some_and(waits);
        let waiting: Vec<TopicKey> = self.open_logs.iter().filter(is_waiting).copied().collect();
        if !waiting.is_empty() {
            self.release_unused_files();
        }
        for topic in waiting {
            with_log!(self, topic, |log, disk| log.sync(disk));
        }
    }

    /// Descriptors may be what is wanted: files that nothing is done with are closed early.
    fn release_unused_files(&mut self) {
        for topic in &self.open_logs {
            let state = self.topics.get_mut(*topic);
            if let Some(log) = state.and_then(|state| state.log.as_mut())
                && log.pending() == 0
            {
                log.release_files();
            }
        }
    }

    /// Starts an fdatasync of every log that needs one (clean stop); `false` when none does.
    pub(super) fn sync_dirty_logs(&mut self) -> bool {
        // What the last round has opened gives way to what could not be opened in it.
        self.release_unused_files();
        let is_due = |state: &TopicState| state.log.as_ref().is_some_and(TopicLog::is_sync_due);
        let due = self
            .topics
            .iter()
            .filter(|(_, state)| is_due(state) && state.poisoned.is_none());
        let due: Vec<TopicKey> = due.map(|(topic, _)| topic).collect();
        for topic in &due {
            self.on_sync_due(*topic);
        }
        !due.is_empty()
    }

    /// Checkpoints every topic in which something changed (clean stop).
    pub(super) fn checkpoint_all(&mut self) {
        for topic in self.topics.keys().collect::<Vec<_>>() {
            if self.core.is_checkpoint_due(topic) {
                self.checkpoint(topic, true);
            }
        }
    }

    /// Some log still has operations under way, or is being removed.
    pub(super) fn logs_pending(&self) -> bool {
        let is_pending = |state: &TopicState| state.log.as_ref().is_some_and(|l| l.pending() > 0);
        !self.removals.is_empty() || self.topics.values().any(is_pending)
    }
}

/// `kind u8 | channel u32 | page u64`, big-endian, so that the journal sorts as the core does.
pub(crate) fn encode_key(key: CheckpointKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(13);
    bytes.push(key.kind);
    bytes.extend_from_slice(&key.channel.to_be_bytes());
    bytes.extend_from_slice(&key.page.to_be_bytes());
    bytes
}

/// The inverse of `encode_key`; `None` for bytes that are no key.
pub(crate) fn decode_key(bytes: &[u8]) -> Option<CheckpointKey> {
    let (kind, rest) = bytes.split_first()?;
    let (channel, page) = rest.split_at_checked(4)?;
    Some(CheckpointKey {
        kind: *kind,
        channel: u32::from_be_bytes(channel.try_into().ok()?),
        page: u64::from_be_bytes(page.try_into().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoint_keys_survive_the_journal() {
        let key = CheckpointKey {
            kind: 2,
            channel: 7,
            page: 1 << 40,
        };
        assert_eq!(decode_key(&encode_key(key)), Some(key));
        assert_eq!(decode_key(&[1, 2, 3]), None);
        assert_eq!(decode_key(&[0; 14]), None);
    }
}
