//! The log of one topic: its public face, and the turn that every call takes.
//!
//! Owned by the shard that owns the topic; nothing in it is shared. Every call first does what it
//! was called for and then lets each part go on as far as it can ([`TopicLog::pump`]): queued
//! writes, the next sync, the next journal record, waiting reads, segments that can go. Answers
//! gather in an outbox and are handed over with the next completion.
//!
//! What the parts keep true is stated where they are: [`crate::appender`], [`crate::reader`],
//! [`crate::journal`], [`crate::reclaim`], [`crate::segment`].

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::appender::{Appender, Gate};
use crate::disk::{Disk, Op, OpResult, Token};
use crate::error::LogError;
use crate::journal::{Journal, Order};
use crate::ops::{Kind, Ops};
use crate::reader::{Planned, ReadRequest};
use crate::recovery;
use crate::segment::{self, FileState, Segments};

/// When a batch counts as committed (design §3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// When the kernel has it.
    Interval,
    /// When fdatasync has covered it; one sync in flight, the next covers all that gathered.
    Always,
}

/// How a log lays itself out.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// When a batch is committed.
    pub sync: SyncPolicy,
    /// Under `Always`: see [`TopicLog::is_gathering`].
    pub gather: bool,
    /// `--sync-every`: messages between fdatasyncs under `Interval`.
    pub sync_every: u64,
    /// Size of a full-grown segment file in bytes.
    pub segment_bytes_max: u64,
    /// Size of the first segment file in bytes; each next one doubles up to the maximum.
    pub segment_bytes_min: u64,
    /// Bytes of one read-ahead.
    pub read_bytes: u32,
}

/// What one append writes.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Sequence of the first message; must be the log's head.
    pub first: u64,
    /// Epoch of the ids.
    pub epoch: u32,
    /// Due time in Unix ms; 0 = none.
    pub due_ms: u64,
    /// The frames.
    pub frames: Bytes,
    /// Where each frame ends, from the start of `frames`: two slices, one after the other.
    pub ends: (&'a [u32], &'a [u32]),
}

/// What recovery found.
#[derive(Debug, Default)]
#[expect(
    missing_docs,
    reason = "see nsq_core::RestoredTopic, which these fields become"
)]
pub struct Recovered {
    pub first: u64,
    pub head: u64,
    /// `(first sequence, epoch)`, ascending.
    pub epochs: Vec<(u64, u32)>,
    /// Greater than every epoch found.
    pub epoch: u32,
    /// `(sequence, due ms)` of deferred messages in the part that was scanned, ascending.
    pub deferred: Vec<(u64, u64)>,
    /// Ranges `[start, end)` lost to damage, in the part that was scanned, ascending.
    pub damaged: Vec<(u64, u64)>,
    /// Live checkpoint entries, `(key, value)`.
    pub checkpoint: Vec<(Vec<u8>, Vec<u8>)>,
    /// Lines for the operators' log, at WARNING.
    pub warnings: Vec<String>,
}

/// What became of what was asked.
#[derive(Debug)]
pub enum LogEvent {
    /// Everything below `end` has been written to the kernel.
    Written {
        /// One past the last written sequence.
        end: u64,
    },
    /// Everything below `end` may be answered `OK`: it is written, or accepted by the disk, or
    /// synced, by policy.
    Committed {
        /// One past the last committed sequence.
        end: u64,
    },
    /// Answer to [`TopicLog::read`].
    Fetched {
        /// What was asked for.
        from: u64,
        /// Sequence of the first frame given, `<= from`.
        first: u64,
        /// Holds the frames (among other bytes).
        bytes: Bytes,
        /// Start and end of each frame in `bytes`, consecutive sequences.
        spans: Vec<(u32, u32)>,
        /// Sequence after the last frame given; greater than `first + spans.len()` when what lies
        /// between is damaged.
        next: u64,
    },
    /// Answer to [`TopicLog::read`]: `[from, next)` is damaged or gone.
    Unreadable {
        /// What was asked for.
        from: u64,
        /// First sequence to try after it.
        next: u64,
        /// For the log.
        reason: String,
    },
    /// Answer to [`TopicLog::checkpoint`] with this ticket: it is on disk (synced if so asked).
    Checkpointed {
        /// The caller's ticket.
        ticket: u64,
    },
    /// The journal has grown: the next checkpoint should be `full`.
    FullCheckpointWanted,
    /// A write or sync failed: nothing more will be committed, publishes are to be refused.
    Poisoned {
        /// For the log and for clients.
        reason: String,
    },
}

/// Why a log waits for space (see [`TopicLog::shortage`]).
#[derive(Debug, Clone)]
pub struct Shortage {
    /// For the log and for clients.
    pub reason: String,
    /// It was tried again since, with no outcome yet.
    pub(crate) is_retried: bool,
}

/// Whether a log takes appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Live,
    /// Still read and checkpointed, but nothing is appended or committed any more.
    Poisoned,
    /// To be removed once nothing is in flight.
    Deleted,
    /// The removal is under way or done.
    Removed,
}

/// The log of one topic. See the crate documentation for how it is driven.
#[derive(Debug)]
pub struct TopicLog {
    pub(crate) dir: PathBuf,
    pub(crate) config: LogConfig,
    /// Marks this log's batches (see [`crate::format`]).
    pub(crate) tag: u64,
    /// Of the last batch, or the one that recovery chose.
    pub(crate) epoch: u32,
    /// No batch of this run has a lower epoch.
    pub(crate) session_epoch: u32,
    status: Status,
    /// There is something in the directory, or about to be.
    pub(crate) has_disk: bool,
    /// An open or read failed for want of descriptors or memory. Nothing of the kind is tried
    /// until the next call from outside.
    pub(crate) is_held_back: bool,
    /// A file could not be made or grow on a full disk. Nothing of the kind is tried until
    /// [`Self::sync`], [`Self::checkpoint`], or until the log has freed a file itself.
    pub(crate) shortage: Option<Shortage>,
    pub(crate) segments: Segments,
    pub(crate) appender: Appender,
    pub(crate) journal: Journal,
    /// Reads that wait for a file to be opened or for their sequence to be written.
    pub(crate) reads: Vec<ReadRequest>,
    /// Segments that wait to be freed.
    pub(crate) condemned: usize,
    pub(crate) ops: Ops,
    pub(crate) outbox: Vec<LogEvent>,
}

/// What recovery hands over to the run.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) dir: PathBuf,
    pub(crate) config: LogConfig,
    pub(crate) tag: u64,
    pub(crate) epoch: u32,
    pub(crate) has_disk: bool,
    pub(crate) segments: Segments,
    pub(crate) appender: Appender,
    pub(crate) journal: Journal,
}

impl TopicLog {
    /// A log with nothing on disk yet; `dir` is created with the first write.
    #[must_use]
    pub fn create(dir: PathBuf, config: LogConfig) -> Self {
        Self::open(Opened {
            dir,
            config,
            tag: new_tag(),
            epoch: 0,
            has_disk: false,
            segments: Segments::default(),
            appender: Appender::new(0, 0, Gate::Open),
            journal: Journal::new(),
        })
    }

    /// Reads what is on disk. Blocking: for start-up only. A directory that does not exist is a
    /// log that nothing was ever appended to.
    ///
    /// *Durability:* the new epoch is with the kernel when this returns. What was written but
    /// not synced before the crash counts as not synced: see [`Self::is_sync_due`].
    ///
    /// # Errors
    /// The directory or a file in it cannot be read, or was written by a newer version. Damage is
    /// not an error: it is in [`Recovered::damaged`] and [`Recovered::warnings`].
    pub fn recover(dir: &Path, config: LogConfig) -> Result<(Self, Recovered), LogError> {
        let (opened, recovered) = recovery::recover(dir, config)?;
        Ok((Self::open(opened), recovered))
    }

    fn open(opened: Opened) -> Self {
        let Opened {
            dir,
            config,
            tag,
            epoch,
            has_disk,
            segments,
            appender,
            journal,
        } = opened;
        assert!(
            config.segment_bytes_min > 0 && config.read_bytes > 0,
            "sizes are positive"
        );
        Self {
            dir,
            config,
            tag,
            epoch,
            session_epoch: epoch,
            status: Status::Live,
            has_disk,
            is_held_back: false,
            shortage: None,
            segments,
            appender,
            journal,
            reads: Vec::new(),
            condemned: 0,
            ops: Ops::default(),
            outbox: Vec::new(),
        }
    }

    /// Appends; the frames are kept until written. Dropped in silence once the log is poisoned.
    ///
    /// *Ordering:* [`LogEvent::Written`] and [`LogEvent::Committed`] come in the order of appends;
    /// `Committed` may be ahead of `Written`.
    ///
    /// # Panics
    /// If `batch.first` is not the head, or its epoch is lower than that of the batch before.
    pub fn append(&mut self, disk: &mut dyn Disk, batch: &Batch<'_>) {
        if self.status == Status::Live {
            self.is_held_back = false;
            self.place(disk, batch);
            self.flush_writes(disk);
        }
    }

    /// When a batch counts as committed.
    #[must_use]
    pub const fn sync_policy(&self) -> SyncPolicy {
        self.config.sync
    }

    /// Changes when a batch counts as committed.
    ///
    /// *Durability:* towards `Interval`, what is written is committed at once. Towards `Always`,
    /// what was committed before stays so and is synced now; what is appended from here on is
    /// committed only when it is synced.
    pub fn set_sync_policy(&mut self, disk: &mut dyn Disk, policy: SyncPolicy) {
        if self.config.sync == policy {
            return;
        }
        self.config.sync = policy;
        if self.is_live() {
            self.follow_policy();
        }
        self.enter(disk);
    }

    /// Starts an fdatasync of what is written but not synced, if there is any and none is in
    /// flight. Tries again what failed for want of space, descriptors or memory.
    pub fn sync(&mut self, disk: &mut dyn Disk) {
        if self.status == Status::Live && !self.appender.is_syncing() {
            self.request_sync();
        }
        self.is_held_back = false;
        self.retry(disk);
        self.enter(disk);
    }

    /// Asks for messages from `from` on. Answered by one [`LogEvent::Fetched`] or
    /// [`LogEvent::Unreadable`]; a sequence that is not written yet is waited for.
    /// `count` says how many are wanted, as far as that is known: for few of them little is read.
    /// Says what the answer will hold, where that is known.
    pub fn read(&mut self, disk: &mut dyn Disk, from: u64, count: u32) -> Option<Planned> {
        let mut request = ReadRequest::new(from, count);
        let planned = self.plan_read(&mut request);
        if !self.is_deleted() {
            self.reads.push(request);
        }
        self.enter(disk);
        planned
    }

    /// Appends entries to the checkpoint journal (an empty value removes its key); with `full` they
    /// replace everything before. `durable`: sync before `Checkpointed`.
    ///
    /// *Ordering:* tickets are answered in the order of the calls. A log whose journal has failed
    /// answers none.
    ///
    /// *Durability:* covers the journal only; the messages are what [`Self::sync`] is for.
    #[expect(clippy::too_many_arguments, reason = "the agreed interface")]
    pub fn checkpoint(
        &mut self,
        disk: &mut dyn Disk,
        entries: &[(Vec<u8>, Vec<u8>)],
        full: bool,
        durable: bool,
        ticket: u64,
    ) {
        if self.is_deleted() || self.journal.is_dead {
            return;
        }
        if self.has_disk {
            let order = Order {
                is_full: full,
                is_durable: durable,
                ticket: Some(ticket),
            };
            self.order_record(entries, order);
        } else {
            self.skip_record(ticket);
        }
        self.is_held_back = false;
        self.retry(disk);
        self.enter(disk);
    }

    /// Frees segments in which nothing is owed, once every checkpoint submitted so far is written.
    /// `owed(first, end)` tells of the sequences `[first, end)`. The newest segment always stays.
    pub fn reclaim(&mut self, owed: impl Fn(u64, u64) -> bool) {
        self.condemn(&owed);
    }

    /// Takes note that the disk has taken a [`Op::Write`] into its keeping: what it is to write will
    /// be in the file even if the process dies before the write has finished. That comes to
    /// [`Self::complete`] as always, and only then can it be read or synced.
    ///
    /// # Panics
    /// If no operation with this token is in flight.
    pub fn accept(&mut self, token: Token, events: &mut Vec<LogEvent>) {
        // The journal's writes count when they are done.
        if let Kind::Append { number } = *self.ops.get(token) {
            self.on_accepted(number);
        }
        events.append(&mut self.outbox);
    }

    /// Takes the outcome of an operation and reports what follows from it.
    ///
    /// # Panics
    /// If no operation with this token is in flight.
    pub fn complete(
        &mut self,
        disk: &mut dyn Disk,
        token: Token,
        result: OpResult,
        events: &mut Vec<LogEvent>,
    ) {
        match self.ops.take(token) {
            Kind::Append { number } => self.on_appended(number, result),
            Kind::Sync { segment, target } => self.on_synced(segment, target, result),
            Kind::Read(request) => self.on_read(disk, &request, result),
            Kind::MakeSegment { segment } => self.on_segment_made(segment, result),
            Kind::OpenSegment { segment } => self.on_segment_open(segment, result),
            Kind::Journal => self.on_journal(disk, result),
            Kind::RemoveSegment { segment } => self.on_segment_removed(disk, segment, &result),
            Kind::Indifferent => {}
        }
        self.pump(disk);
        events.append(&mut self.outbox);
    }

    /// Operations in flight; at zero the log may be dropped.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.ops.pending()
    }

    /// The disk is full: what was appended last may wait for its file, and further appends would.
    /// Publishes are to be refused meanwhile. Nothing is lost, and it passes: see [`Self::sync`].
    #[must_use]
    pub const fn shortage(&self) -> Option<&Shortage> {
        self.shortage.as_ref()
    }

    /// Something waits for space, descriptors or memory: [`Self::sync`] is to be called now and
    /// then, to try again.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.is_held_back || self.shortage.is_some()
    }

    /// Nothing that failed for want of something is to be tried now.
    pub(crate) fn is_blocked(&self) -> bool {
        let is_short = self.shortage.as_ref();
        self.is_held_back || is_short.is_some_and(|shortage| !shortage.is_retried)
    }

    /// Under `Always` with `gather`: messages wait for an fdatasync that has not begun.
    ///
    /// Those whose messages the last one covered are likely to publish again as soon as they hear of it. Were
    /// the next one begun at once for those who came meanwhile, the two groups would take turns for
    /// ever, each waiting for two syncs. So it begins when as many messages as were just answered
    /// have come, or with [`Self::sync`], which the caller owes soon after this is true.
    #[must_use]
    pub fn is_gathering(&self) -> bool {
        self.config.sync == SyncPolicy::Always
            && self.is_sync_due()
            && !self.appender.is_syncing()
            && self.appender.written < self.appender.gather_until
    }

    /// Written but not yet synced messages exist.
    #[must_use]
    pub fn is_sync_due(&self) -> bool {
        self.is_live() && self.appender.durable < self.appender.written
    }

    /// Closes the files that no operation uses; they are reopened on need. A file with unsynced
    /// messages stays open, so that the kernel reports to us if it fails to write them back.
    pub fn release_files(&mut self) {
        let durable = self.appender.durable;
        for segment in self.segments.iter_mut() {
            let is_idle = segment.users == 0 && segment.end <= durable;
            if is_idle && matches!(segment.file, FileState::Open(_)) {
                segment.file = FileState::Closed;
            }
        }
        self.journal.release_file();
    }

    /// Whether any file is open.
    #[must_use]
    pub fn has_open_files(&self) -> bool {
        let mut segments = self.segments.list.iter().chain(&self.segments.prepared);
        self.journal.has_open_file()
            || segments.any(|segment| matches!(segment.file, FileState::Open(_)))
    }

    /// Removes everything on disk. The log is to be dropped when `pending` is zero, and only then
    /// may a log in the same directory be created.
    pub fn delete(&mut self, disk: &mut dyn Disk) {
        if !self.is_deleted() {
            self.status = Status::Deleted;
            self.outbox.clear();
            self.reads.clear();
            self.appender.abandon_queue();
            self.journal.abandon_queue();
        }
        self.pump(disk);
    }

    /// Bytes on disk, for the stats.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let segments = self.segments.list.iter().chain(&self.segments.prepared);
        let pool = self.segments.pool.len() as u64 * self.config.segment_bytes_max;
        segments.map(|segment| segment.len).sum::<u64>() + pool + self.journal.len()
    }

    /// Asserts what the parts promise. Linear in the number of segments: for tests.
    ///
    /// # Panics
    /// If any of it does not hold.
    pub fn check_invariants(&self) {
        self.segments.check_invariants();
        let condemned = self
            .segments
            .list
            .iter()
            .filter(|segment| segment.condemned.is_some());
        assert_eq!(condemned.count(), self.condemned, "as many as were counted");
        let end = self
            .segments
            .list
            .back()
            .map_or(self.appender.head, |last| last.end);
        assert!(end <= self.appender.head, "the head is behind all segments");
    }

    pub(crate) fn is_live(&self) -> bool {
        self.status == Status::Live
    }

    fn is_deleted(&self) -> bool {
        matches!(self.status, Status::Deleted | Status::Removed)
    }

    /// A call from outside, other than a completion.
    fn enter(&mut self, disk: &mut dyn Disk) {
        self.is_held_back = false;
        self.pump(disk);
        if !self.outbox.is_empty() && self.pending() == 0 && !self.is_deleted() {
            // Answers travel with completions, so ask for something that does nothing.
            let path = self.dir.join("nothing.tmp");
            disk.submit(self.ops.insert(Kind::Indifferent), Op::Remove { path });
        }
    }

    /// Lets every part go on as far as it can.
    fn pump(&mut self, disk: &mut dyn Disk) {
        match self.status {
            Status::Live => {
                self.flush_writes(disk);
                self.start_sync(disk);
            }
            Status::Poisoned => {}
            Status::Deleted => {
                if self.pending() == 0 && self.has_disk {
                    self.status = Status::Removed;
                    let path = self.dir.clone();
                    disk.submit(self.ops.insert(Kind::Indifferent), Op::RemoveAll { path });
                }
                return;
            }
            Status::Removed => return,
        }
        self.advance_journal(disk);
        self.resume_reads(disk);
        self.free_condemned(disk);
    }

    /// The disk is full. It is not tried again at once.
    #[cold]
    pub(crate) fn run_short(&mut self, operation: &str, file: &str, error: &io::Error) {
        let reason = format!("{operation} {}: {error}", self.dir.join(file).display());
        self.shortage = self.is_live().then_some(Shortage {
            reason,
            is_retried: false,
        });
    }

    /// Stops appending for good, because of a segment.
    #[cold]
    pub(crate) fn poison(&mut self, operation: &str, name: u64, error: &io::Error) {
        self.poison_at(
            operation,
            &segment::path_of(Path::new(""), name).to_string_lossy(),
            error,
        );
    }

    /// Stops appending for good.
    #[cold]
    pub(crate) fn poison_at(&mut self, operation: &str, file: &str, error: &io::Error) {
        if self.is_live() {
            self.status = Status::Poisoned;
            self.shortage = None;
            self.appender.abandon_queue();
            let reason = format!("{operation} {}: {error}", self.dir.join(file).display());
            self.outbox.push(LogEvent::Poisoned { reason });
        }
    }
}

/// A number that nobody outside can guess.
pub(crate) fn new_tag() -> u64 {
    RandomState::new().hash_one(0)
}
