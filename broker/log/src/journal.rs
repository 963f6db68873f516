//! The checkpoint journal at run time: one record after the other, in order.
//!
//! Owned by one log. At most one operation is in flight; the others wait in `queue`, which is as
//! long as the caller has checkpoints open. With every record goes what recovery needs: the
//! scan hint (where the caller's entries cover what lies before it) and what changed about segments
//! and epochs since the record before.
//!
//! A log on which nothing was ever appended has nothing on disk, and its checkpoints are not
//! written: without messages there is nothing they could say. The first one that is written then
//! leads to a request for a full one.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::appender::Gate;
use crate::checkpoint::{self, Contents, Entry, Sealed};
use crate::disk::{Disk, File, Op, OpResult};
use crate::error::{is_disk_full, is_shortage};
use crate::log::{LogEvent, TopicLog};
use crate::ops::Kind;
use crate::segment::{FileState, Segment};

pub(crate) use crate::checkpoint::Hint;

/// A journal smaller than this is not worth rewriting.
const REWRITE_BYTES_MIN: u64 = 64 * 1024;
/// A journal so many times as large as its live content is rewritten.
const REWRITE_FACTOR: u64 = 4;

/// What the caller wants to know about a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    pub(crate) is_full: bool,
    pub(crate) is_durable: bool,
    /// `None` for the log's own.
    pub(crate) ticket: Option<u64>,
}

/// A record that waits for its turn.
#[derive(Debug)]
struct Job {
    bytes: Bytes,
    number: u64,
    /// Takes the place of the file, rather than being appended to it.
    is_replacing: bool,
    order: Order,
}

/// What the operation in flight does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Idle,
    Opening,
    Writing,
    Syncing,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Journal {
    file: FileState,
    step: Step,
    queue: VecDeque<Job>,
    /// The directory exists.
    pub(crate) is_dir_ready: bool,
    /// A file exists, or a job in the queue makes one.
    has_base: bool,
    /// Bytes of records in the file.
    len: u64,
    /// Bytes of the last full record.
    live_bytes: u64,
    /// Number of the last record that was ordered.
    pub(crate) ordered: u64,
    /// Number of the last record that is written (and synced, if so ordered).
    pub(crate) written: u64,
    /// The disk is full: the record is written when there is room again.
    pub(crate) is_short: bool,
    /// An operation failed: no more records.
    pub(crate) is_dead: bool,
    /// The file lacks entries that the caller gave, or holds some that the log outlived.
    wants_full: bool,
    /// First sequence and epoch, ascending; the first `epochs_recorded` are in the journal.
    pub(crate) epochs: Vec<(u64, u32)>,
    epochs_recorded: usize,
    /// Since the last record.
    sealed: Vec<Sealed>,
    /// Since the last record.
    freed: Vec<u64>,
}

/// A journal as recovery leaves it.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) len: u64,
    pub(crate) live_bytes: u64,
    pub(crate) number: u64,
    pub(crate) wants_full: bool,
    pub(crate) epochs: Vec<(u64, u32)>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self::restored(Restored::default())
    }

    /// A journal whose file, if `len` is not 0, holds everything about segments and epochs.
    pub(crate) fn restored(restored: Restored) -> Self {
        let Restored {
            len,
            live_bytes,
            number,
            wants_full,
            epochs,
        } = restored;
        Self {
            file: FileState::Closed,
            step: Step::Idle,
            queue: VecDeque::new(),
            is_dir_ready: len > 0,
            has_base: len > 0,
            len,
            live_bytes,
            ordered: number,
            written: number,
            is_short: false,
            is_dead: false,
            wants_full,
            epochs_recorded: epochs.len(),
            epochs,
            sealed: Vec::new(),
            freed: Vec::new(),
        }
    }

    pub(crate) fn note_sealed(&mut self, segment: &Segment) {
        self.sealed.push(segment.sealed());
    }

    pub(crate) fn note_freed(&mut self, name: u64) {
        self.freed.push(name);
    }

    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) const fn has_open_file(&self) -> bool {
        matches!(self.file, FileState::Open(_))
    }

    pub(crate) fn release_file(&mut self) {
        if self.step == Step::Idle && self.queue.is_empty() {
            self.file = FileState::Closed;
        }
    }

    /// Forgets what was not submitted yet.
    pub(crate) fn abandon_queue(&mut self) {
        self.queue.truncate(usize::from(self.step != Step::Idle));
    }
}

impl TopicLog {
    /// Orders a record.
    pub(crate) fn order_record(&mut self, entries: &[Entry], order: Order) {
        let is_replacing = order.is_full || !self.journal.has_base;
        let contents = self.record_contents(is_replacing, order.ticket.is_some());
        let number = contents.number;
        self.journal.ordered = number;
        self.journal.has_base = true;
        let bytes = Bytes::from(checkpoint::encode(&contents, entries));
        self.journal.queue.push_back(Job {
            bytes,
            number,
            is_replacing,
            order,
        });
    }

    /// What the next record says about the log: everything if it is to stand for itself, else
    /// what is new.
    fn record_contents(&mut self, is_full: bool, has_entries: bool) -> Contents {
        self.trim_epochs();
        let hint = has_entries.then(|| self.scan_hint());
        let journal = &mut self.journal;
        let mut sealed = std::mem::take(&mut journal.sealed);
        let mut freed = std::mem::take(&mut journal.freed);
        let epochs_from = if is_full { 0 } else { journal.epochs_recorded };
        journal.epochs_recorded = journal.epochs.len();
        if is_full {
            let segments = self
                .segments
                .list
                .iter()
                .filter(|segment| segment.is_sealed);
            sealed = segments.map(Segment::sealed).collect();
            freed = self.segments.pool.iter().map(|freed| freed.name).collect();
            freed.extend(&self.segments.removing);
            freed.extend(self.segments.unmade().filter_map(|segment| segment.origin));
        }
        Contents {
            is_full,
            number: journal.ordered + 1,
            epoch: self.epoch,
            tag: self.tag,
            hint,
            floors: Vec::new(),
            epochs: journal.epochs[epochs_from..].to_vec(),
            sealed,
            freed,
        }
    }

    /// Drops the epochs that ended before the first message that is left.
    fn trim_epochs(&mut self) {
        let Some(first) = self.segments.list.front().map(|segment| segment.first) else {
            return;
        };
        let journal = &mut self.journal;
        let begun = journal.epochs.partition_point(|&(start, _)| start <= first);
        let ended = begun.saturating_sub(1);
        journal.epochs.drain(..ended);
        journal.epochs_recorded = journal.epochs_recorded.saturating_sub(ended);
    }

    /// Takes note of the epoch of a batch.
    pub(crate) fn note_epoch(&mut self, first: u64, epoch: u32) {
        self.epoch = epoch;
        if self
            .journal
            .epochs
            .last()
            .is_none_or(|&(_, last)| last != epoch)
        {
            self.journal.epochs.push((first, epoch));
        }
    }

    /// Makes the epoch of this run durable, for the gate of the appender.
    pub(crate) fn submit_epoch_record(&mut self, disk: &mut dyn Disk) {
        self.order_record(
            &[],
            Order {
                is_full: false,
                is_durable: true,
                ticket: None,
            },
        );
        self.advance_journal(disk);
    }

    /// Starts on the next record if none is being written.
    pub(crate) fn advance_journal(&mut self, disk: &mut dyn Disk) {
        let is_blocked = self.is_blocked();
        let journal = &mut self.journal;
        if journal.step != Step::Idle || journal.is_dead || !journal.is_dir_ready {
            return;
        }
        if journal.is_short && is_blocked {
            return;
        }
        let Some(job) = journal.queue.front() else {
            return;
        };
        let path = self.dir.join(checkpoint::FILE_NAME);
        let file = match &journal.file {
            FileState::Open(file) if !job.is_replacing => Some(File::clone(file)),
            FileState::Open(_) | FileState::Unmade | FileState::Busy | FileState::Closed => None,
        };
        let (step, op) = match file {
            Some(file) => (
                Step::Writing,
                Op::Write {
                    file,
                    offset: journal.len,
                    head: job.bytes.clone(),
                    body: Bytes::new(),
                    is_urgent: true,
                },
            ),
            None if self.is_held_back => return,
            None if job.is_replacing => {
                // Who lets go of a replaced file last waits for its blocks to be freed: not us.
                journal.file = FileState::Closed;
                let contents = job.bytes.clone();
                (Step::Writing, Op::Replace { path, contents })
            }
            None => (Step::Opening, Op::Open { path }),
        };
        journal.step = step;
        disk.submit(self.ops.insert(Kind::Journal), op);
    }

    /// An operation of the journal finished.
    pub(crate) fn on_journal(&mut self, disk: &mut dyn Disk, result: OpResult) {
        let step = std::mem::replace(&mut self.journal.step, Step::Idle);
        let output = match result {
            Ok(output) => output,
            Err(error) if is_shortage(&error) && step != Step::Syncing => {
                self.is_held_back = true;
                return;
            }
            // What was written of the record lies behind the end, and is overwritten.
            Err(error) if is_disk_full(&error) && step == Step::Writing => {
                self.journal.is_short = true;
                self.run_short("write", checkpoint::FILE_NAME, &error);
                return self.give_up_pooled(disk);
            }
            Err(error) => return self.kill_journal(step, &error),
        };
        if std::mem::take(&mut self.journal.is_short) {
            self.shortage = None;
        }
        let journal = &mut self.journal;
        match step {
            Step::Opening => match output.into_file() {
                Ok(file) => journal.file = FileState::Open(file),
                Err(error) => self.kill_journal(step, &error),
            },
            Step::Writing => {
                let job = journal.queue.front().expect("the one being written");
                let len = job.bytes.len() as u64;
                if job.is_replacing {
                    journal.len = len;
                    journal.live_bytes = len;
                    match output.into_file() {
                        Ok(file) => journal.file = FileState::Open(file),
                        Err(error) => return self.kill_journal(step, &error),
                    }
                    return self.finish_record();
                }
                journal.len += len;
                if !job.order.is_durable {
                    return self.finish_record();
                }
                journal.step = Step::Syncing;
                let FileState::Open(file) = &journal.file else {
                    unreachable!("just written")
                };
                let op = Op::Sync {
                    file: File::clone(file),
                };
                disk.submit(self.ops.insert(Kind::Journal), op);
            }
            Step::Syncing => self.finish_record(),
            Step::Idle => unreachable!("nothing was in flight"),
        }
    }

    fn finish_record(&mut self) {
        let journal = &mut self.journal;
        let job = journal.queue.pop_front().expect("the one being written");
        assert!(job.number > journal.written, "records are written in order");
        journal.written = job.number;
        if job.order.is_durable || job.is_replacing {
            self.open_gate();
        }
        let Some(ticket) = job.order.ticket else {
            return;
        };
        self.outbox.push(LogEvent::Checkpointed { ticket });
        let journal = &mut self.journal;
        if job.order.is_full {
            journal.wants_full = false;
        }
        let is_oversized =
            journal.len > REWRITE_BYTES_MIN.max(journal.live_bytes.saturating_mul(REWRITE_FACTOR));
        let is_full_coming = journal.queue.iter().any(|job| job.order.is_full);
        if (journal.wants_full || is_oversized) && !is_full_coming {
            self.outbox.push(LogEvent::FullCheckpointWanted);
        }
    }

    /// The journal holds the epoch of this run, durably.
    const fn open_gate(&mut self) {
        if matches!(self.appender.gate, Gate::Opening | Gate::Shut) {
            self.appender.gate = Gate::Open;
        }
    }

    #[cold]
    fn kill_journal(&mut self, step: Step, error: &std::io::Error) {
        self.journal.is_dead = true;
        self.journal.queue.clear();
        let operation = match step {
            Step::Opening => "open",
            Step::Syncing => "sync",
            Step::Idle | Step::Writing => "write",
        };
        self.poison_at(operation, checkpoint::FILE_NAME, error);
    }

    /// A checkpoint of a log that has nothing on disk.
    pub(crate) fn skip_record(&mut self, ticket: u64) {
        self.journal.wants_full = true;
        self.outbox.push(LogEvent::Checkpointed { ticket });
    }
}
