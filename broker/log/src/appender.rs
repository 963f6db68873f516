//! Appending: where batches go, the order in which they become written, and when they count.
//!
//! One value per log, driven from [`TopicLog`]. A batch gets its place at once; its write waits in
//! `queue` while the file it belongs to is still being made or opened. The callers' back-pressure
//! (bytes appended and not yet reported as written) bounds that queue.
//!
//! Frontiers: `durable <= written <= head`, asserted whenever one moves. Committed is what is written
//! or, before that, accepted without a gap; what was appended under `Always` only below `durable`.
//!
//! Hot path: per batch one head from a pooled buffer and one operation; per record one checksum.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};

use crate::disk::{Disk, File, Op, OpOutput, OpResult};
use crate::error::{is_disk_full, is_shortage};
use crate::format::{self, Header};
use crate::journal::Hint;
use crate::log::{Batch, LogEvent, SyncPolicy, TopicLog};
use crate::ops::{Kind, Ops};
use crate::segment::{self, FileState, Segment};

/// Heads are cut from buffers of this size, each used again once its heads are written.
const HEAD_POOL_BYTES: usize = 64 * 1024;

/// A full disk is asked for files down to the full size divided by this. Smaller ones would not
/// hold the batches of a busy topic, and a batch that its file has no room for must not fail.
const SHRINK_MAX: u64 = 16;

/// A batch that has its place and is not written yet.
#[derive(Debug)]
struct Placement {
    segment: u64,
    offset: u64,
    /// Head and frames together.
    bytes: u64,
    first: u64,
    end: u64,
}

#[derive(Debug)]
struct QueuedWrite {
    placement: Placement,
    head: Bytes,
    frames: Bytes,
}

#[derive(Debug)]
struct InFlightWrite {
    placement: Placement,
    /// The disk keeps it even if the process dies (see [`TopicLog::accept`]).
    is_accepted: bool,
    is_done: bool,
}

/// Whether writes may be submitted after a restart; under `Interval` they may be all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// The epoch of this run is not durable yet, and nobody asked for it to be.
    Shut,
    /// The journal is at it.
    Opening,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Appender {
    /// Next sequence.
    pub(crate) head: u64,
    /// Everything below is with the kernel.
    pub(crate) written: u64,
    /// Everything below is covered by an fdatasync.
    pub(crate) durable: u64,
    /// Everything below was reported as committed.
    committed: u64,
    /// Sync until `durable` is here.
    sync_goal: u64,
    /// Under `Always`, no sync begins of its own accord before so much is written (see
    /// [`TopicLog::is_gathering`]).
    pub(crate) gather_until: u64,
    is_syncing: bool,
    pub(crate) gate: Gate,
    queue: VecDeque<QueuedWrite>,
    in_flight: VecDeque<InFlightWrite>,
    /// Number of the front of `in_flight`.
    in_flight_base: u64,
    heads: BytesMut,
}

impl Appender {
    pub(crate) fn new(head: u64, durable: u64, gate: Gate) -> Self {
        assert!(durable <= head, "only what exists can be durable");
        Self {
            head,
            written: head,
            durable,
            committed: head,
            sync_goal: durable,
            gather_until: 0,
            is_syncing: false,
            gate,
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            in_flight_base: 0,
            heads: BytesMut::new(),
        }
    }

    pub(crate) const fn is_syncing(&self) -> bool {
        self.is_syncing
    }

    /// Gives up what was not submitted yet. The places stay on record as never written, so that
    /// no scan hint ever lies behind them.
    pub(crate) fn abandon_queue(&mut self) {
        let abandoned = self.queue.drain(..).map(|write| write.placement);
        let abandoned = abandoned.map(|placement| InFlightWrite {
            placement,
            is_accepted: false,
            is_done: false,
        });
        self.in_flight.extend(abandoned);
    }

    /// The place of the first batch that is not written.
    fn unwritten(&self) -> Option<&Placement> {
        let in_flight = self.in_flight.front().map(|write| &write.placement);
        in_flight.or_else(|| self.queue.front().map(|write| &write.placement))
    }

    fn encode_head(&mut self, header: &Header, batch: &Batch<'_>) -> Bytes {
        let count = batch.ends.0.len() + batch.ends.1.len();
        let len = format::head_len(count, header.due_ms != 0, header.previous.is_some());
        // `reserve` takes the buffer back once all heads cut from it are gone.
        if self.heads.capacity() < len {
            self.heads.reserve(len.max(HEAD_POOL_BYTES));
        }
        format::encode_head(&mut self.heads, header, &batch.frames, batch.ends);
        self.heads.split().freeze()
    }

    fn check_frontiers(&self) {
        assert!(
            self.durable <= self.written && self.written <= self.head,
            "frontiers out of order: durable {} written {} head {}",
            self.durable,
            self.written,
            self.head
        );
    }
}

/// Submits the making of a segment's file, for a log whose appends wait for syncs or not.
fn submit_making(
    disk: &mut dyn Disk,
    (dir, ops, policy): (&Path, &mut Ops, SyncPolicy),
    segment: &mut Segment,
) {
    let to = segment::path_of(dir, segment.name);
    let op = match segment.origin {
        Some(freed) => Op::Recycle {
            from: segment::path_of(dir, freed),
            to,
        },
        None => Op::Create {
            path: to,
            len: segment.len,
            is_written: policy == SyncPolicy::Always,
        },
    };
    segment.file = FileState::Busy;
    segment.users += 1;
    let token = ops.insert(Kind::MakeSegment {
        segment: segment.name,
    });
    disk.submit(token, op);
}

impl TopicLog {
    /// Gives the batch its place and queues its write.
    pub(crate) fn place(&mut self, disk: &mut dyn Disk, batch: &Batch<'_>) {
        assert_eq!(batch.first, self.appender.head, "appends are dense");
        assert!(batch.epoch >= self.epoch, "epochs never fall");
        let count = batch.ends.0.len() + batch.ends.1.len();
        if count == 0 {
            return;
        }
        self.note_epoch(batch.first, batch.epoch);
        let frames_len = batch.frames.len();
        let bytes = (format::head_len(count, batch.due_ms != 0, false) + frames_len) as u64;
        let has_room = self
            .segments
            .list
            .back()
            .is_some_and(|last| !last.is_sealed && last.used + bytes <= last.len);
        let previous = if has_room {
            None
        } else {
            self.roll(disk, batch.first, bytes)
        };
        let header = Header {
            header_len: 0,
            total_len: 0,
            first: batch.first,
            epoch: batch.epoch,
            count: 0,
            tag: self.tag,
            due_ms: batch.due_ms,
            previous,
        };
        let head = self.appender.encode_head(&header, batch);

        let segment = self.segments.list.back_mut().expect("roll has made one");
        let bytes = (head.len() + frames_len) as u64;
        let end = batch.first + count as u64;
        let placement = Placement {
            segment: segment.name,
            offset: segment.used,
            bytes,
            first: batch.first,
            end,
        };
        segment.note(batch.first, segment.used);
        segment.used = format::aligned(segment.used + bytes);
        segment.len = segment.len.max(segment.used);
        segment.end = end;
        self.appender.head = end;
        self.appender.queue.push_back(QueuedWrite {
            placement,
            head,
            frames: batch.frames.clone(),
        });
        self.prepare_next(disk);
    }

    /// Seals the last segment and goes on in the next, made now if none is ready. Answers the
    /// sealed one's name.
    fn roll(&mut self, disk: &mut dyn Disk, first: u64, bytes: u64) -> Option<u64> {
        let previous = self.segments.list.back_mut().map(|last| {
            if !last.is_sealed {
                last.is_sealed = true;
                self.journal.note_sealed(last);
            }
            last.name
        });
        let mut segment = match self.segments.prepared.take() {
            Some(prepared) => prepared,
            None => {
                let room = bytes + format::head_len(0, false, true) as u64;
                self.make_segment(disk, first, format::aligned(room))
            }
        };
        assert!(
            segment.is_empty() && segment.name <= first,
            "prepared before it was needed"
        );
        assert!(
            previous.is_none_or(|name| name < segment.name),
            "names grow"
        );
        segment.first = first;
        segment.end = first;
        self.segments.list.push_back(segment);
        self.segments.trim_indexes();
        previous
    }

    /// Asks for the next segment when the last one is half full, so that rolling need not wait.
    fn prepare_next(&mut self, disk: &mut dyn Disk) {
        if let Some(prepared) = &self.segments.prepared {
            if matches!(prepared.file, FileState::Unmade) {
                let name = prepared.name;
                self.remake_segment(disk, name);
            }
            return;
        }
        let Some(last) = self.segments.list.back() else {
            return;
        };
        if !last.is_sealed && last.used > last.len / 2 {
            let name = self.appender.head;
            self.segments.prepared = Some(self.make_segment(disk, name, 0));
        }
    }

    /// Submits the making of a segment file that holds at least `bytes_min`.
    fn make_segment(&mut self, disk: &mut dyn Disk, name: u64, bytes_min: u64) -> Segment {
        let max = self.config.segment_bytes_max;
        let grown = match self.segments.list.back() {
            Some(last) => last.len.saturating_mul(2).min(max),
            None => self.config.segment_bytes_min.min(max),
        };
        let len = grown.max(bytes_min);
        let mut segment = Segment::new(name, len);
        let freed = if len == max {
            self.segments.pool.pop()
        } else {
            None
        };
        if let Some(freed) = freed {
            assert!(
                freed.end <= name,
                "what a recycled file held lies below its new name"
            );
            segment.origin = Some(freed.name);
        }
        self.has_disk = true;
        let log = (&*self.dir, &mut self.ops, self.config.sync);
        submit_making(disk, log, &mut segment);
        segment
    }

    /// Tries again to make a segment file that could not be made, unless that has just failed. A
    /// freed file will do if it can become this one, and makes room if it cannot.
    fn remake_segment(&mut self, disk: &mut dyn Disk, name: u64) {
        if self.is_blocked() {
            return;
        }
        let freed = self.segments.pool.pop();
        let segment = self.segments.get_mut(name);
        let segment = segment.expect("not freed before it is made");
        let is_new = segment.origin.is_none();
        match freed {
            Some(freed) if is_new && freed.end <= name => {
                segment.origin = Some(freed.name);
                segment.len = segment.len.max(self.config.segment_bytes_max);
            }
            Some(freed) if is_new => self.remove_segment(disk, freed.name),
            other => self.segments.pool.extend(other),
        }
        let segment = self.segments.get_mut(name).expect("just seen");
        let log = (&*self.dir, &mut self.ops, self.config.sync);
        submit_making(disk, log, segment);
    }

    /// Tries again what failed for want of space.
    pub(crate) fn retry(&mut self, disk: &mut dyn Disk) {
        let Some(shortage) = self.shortage.as_mut().filter(|_| !self.is_held_back) else {
            return;
        };
        shortage.is_retried = true;
        let unmade: Vec<u64> = self.segments.unmade().map(|segment| segment.name).collect();
        if unmade.is_empty() && !self.journal.is_short {
            self.shortage = None;
        }
        for name in unmade {
            self.remake_segment(disk, name);
        }
    }

    /// Whether the next batch to be written has no file to go to: who waits for it is to be told.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let front = self.appender.queue.front();
        front.is_some_and(|write| {
            let name = write.placement.segment;
            self.segments.unmade().any(|segment| segment.name == name)
        })
    }

    /// Submits queued writes, in order, as far as their files are open.
    pub(crate) fn flush_writes(&mut self, disk: &mut dyn Disk) {
        if self.appender.queue.is_empty() || !self.is_gate_open(disk) {
            return;
        }
        while let Some(front) = self.appender.queue.front() {
            let name = front.placement.segment;
            let Some(file) = self.open_segment(disk, name) else {
                return;
            };
            let write = self.appender.queue.pop_front().expect("just seen");
            let segment = self.segments.get_mut(name).expect("just opened");
            segment.users += 1;
            let number = self.appender.in_flight_base + self.appender.in_flight.len() as u64;
            let offset = write.placement.offset;
            let in_flight = InFlightWrite {
                placement: write.placement,
                is_accepted: false,
                is_done: false,
            };
            self.appender.in_flight.push_back(in_flight);
            let token = self.ops.insert(Kind::Append { number });
            disk.submit(
                token,
                Op::Write {
                    file,
                    offset,
                    head: write.head,
                    body: write.frames,
                    // Under `Interval` it counts once it is accepted.
                    is_urgent: self.config.sync == SyncPolicy::Always,
                },
            );
        }
    }

    /// Under `Always`, nothing of a new epoch may reach the disk before the journal holds that
    /// epoch durably: else a power failure could make the next run choose the same epoch again,
    /// and take leftovers of this one for its own.
    fn is_gate_open(&mut self, disk: &mut dyn Disk) -> bool {
        if self.config.sync == SyncPolicy::Interval {
            return true;
        }
        if self.appender.gate == Gate::Shut {
            self.appender.gate = Gate::Opening;
            self.submit_epoch_record(disk);
        }
        self.appender.gate == Gate::Open
    }

    /// The file of a segment, or `None` while it is being opened.
    pub(crate) fn open_segment(&mut self, disk: &mut dyn Disk, name: u64) -> Option<File> {
        let segment = self
            .segments
            .get_mut(name)
            .expect("a segment with work has not been freed");
        match &segment.file {
            FileState::Open(file) => Some(File::clone(file)),
            FileState::Busy => None,
            FileState::Unmade => {
                self.remake_segment(disk, name);
                None
            }
            FileState::Closed => {
                if !self.is_held_back {
                    segment.file = FileState::Busy;
                    segment.users += 1;
                    let path = segment::path_of(&self.dir, name);
                    let token = self.ops.insert(Kind::OpenSegment { segment: name });
                    disk.submit(token, Op::Open { path });
                }
                None
            }
        }
    }

    /// A segment's file was created or recycled.
    pub(crate) fn on_segment_made(&mut self, name: u64, result: OpResult) {
        let segment = self.segments.get_mut(name).expect("not freed while in use");
        segment.users -= 1;
        match result.and_then(OpOutput::into_file) {
            Ok(file) => {
                segment.file = FileState::Open(file);
                self.journal.is_dir_ready = true;
                self.shortage = None;
            }
            Err(error) => self.on_segment_not_made(name, &error),
        }
    }

    /// Nothing was written yet, so nothing is lost if it is for want of something that may come
    /// back: what is queued waits. A full disk is first asked for a smaller file.
    #[cold]
    fn on_segment_not_made(&mut self, name: u64, error: &io::Error) {
        let config = &self.config;
        let len_min = (config.segment_bytes_max / SHRINK_MAX).max(config.segment_bytes_min);
        let segment = self.segments.get_mut(name).expect("not freed while in use");
        if is_shortage(error) {
            segment.file = FileState::Unmade;
            self.is_held_back = true;
        } else if is_disk_full(error) {
            segment.file = FileState::Unmade;
            let len_min = len_min.max(segment.used).min(segment.len);
            if segment.origin.is_none() && segment.len > len_min {
                segment.len = (segment.len / 2).max(len_min);
            } else {
                let file = segment::path_of(Path::new(""), name);
                self.run_short("create", &file.to_string_lossy(), error);
            }
        } else {
            self.poison("create", name, error);
        }
    }

    /// A segment's file was opened.
    pub(crate) fn on_segment_open(&mut self, name: u64, result: OpResult) {
        let segment = self.segments.get_mut(name).expect("not freed while in use");
        segment.users -= 1;
        match result.and_then(OpOutput::into_file) {
            Ok(file) => segment.file = FileState::Open(file),
            Err(error) => {
                segment.file = FileState::Closed;
                if is_shortage(&error) {
                    self.is_held_back = true;
                    return;
                }
                let is_needed = !segment.is_sealed || segment.end > self.appender.durable;
                self.fail_reads_of(name, &error);
                if is_needed {
                    self.poison("open", name, &error);
                }
            }
        }
    }

    /// A write finished, well or not.
    pub(crate) fn on_appended(&mut self, number: u64, result: OpResult) {
        let at = usize::try_from(number - self.appender.in_flight_base).expect("a small distance");
        let write = &mut self.appender.in_flight[at];
        let name = write.placement.segment;
        write.is_done = result.is_ok();
        let segment = self.segments.get_mut(name).expect("not freed while in use");
        segment.users -= 1;
        if let Err(error) = result {
            self.poison("write", name, &error);
        }
        if self.is_live() {
            self.advance_written();
        }
    }

    /// The disk has taken a write into its keeping.
    pub(crate) fn on_accepted(&mut self, number: u64) {
        let at = usize::try_from(number - self.appender.in_flight_base).expect("a small distance");
        self.appender.in_flight[at].is_accepted = true;
        if !self.is_live() || self.config.sync == SyncPolicy::Always {
            return;
        }
        let in_flight = self.appender.in_flight.iter();
        let kept = in_flight.take_while(|write| write.is_done || write.is_accepted);
        if let Some(last) = kept.last() {
            self.commit(last.placement.end);
        }
    }

    /// Reports everything below `end` as committed, if it was not before.
    fn commit(&mut self, end: u64) {
        if end > self.appender.committed {
            self.appender.committed = end;
            self.outbox.push(LogEvent::Committed { end });
        }
    }

    /// Moves the written frontier over what is done without a gap.
    fn advance_written(&mut self) {
        let before = self.appender.written;
        while self
            .appender
            .in_flight
            .front()
            .is_some_and(|write| write.is_done)
        {
            let write = self
                .appender
                .in_flight
                .pop_front()
                .expect("just seen")
                .placement;
            self.appender.in_flight_base += 1;
            self.appender.written = write.end;
            let segment = self
                .segments
                .get_mut(write.segment)
                .expect("unwritten ones are kept");
            segment.readable = write.offset + write.bytes;
        }
        let end = self.appender.written;
        if end == before {
            return;
        }
        self.appender.check_frontiers();
        self.outbox.push(LogEvent::Written { end });
        match self.config.sync {
            SyncPolicy::Interval => {
                self.commit(end);
                let covered = self.appender.sync_goal.max(self.appender.durable);
                if end - covered >= self.config.sync_every {
                    self.appender.sync_goal = end;
                }
            }
            SyncPolicy::Always if end >= self.appender.gather_until => self.request_sync(),
            SyncPolicy::Always => {}
        }
    }

    /// Asks for everything written so far to be synced.
    pub(crate) const fn request_sync(&mut self) {
        self.appender.sync_goal = self.appender.written;
    }

    /// Starts the next fdatasync if one is wanted and none is in flight: oldest segment first, one
    /// at a time, so that everything below the target is durable when it is done.
    pub(crate) fn start_sync(&mut self, disk: &mut dyn Disk) {
        if self.appender.is_syncing || self.appender.durable >= self.appender.sync_goal {
            return;
        }
        let written = self.appender.written;
        let target = |segment: &Segment| segment.end.min(written);
        let covering = self.segments.covering(self.appender.durable);
        match covering.map(|segment| (segment.name, segment.first, target(segment))) {
            Some((name, first, target)) if first < target => {
                let Some(file) = self.open_segment(disk, name) else {
                    return;
                };
                self.segments.get_mut(name).expect("just opened").users += 1;
                self.appender.is_syncing = true;
                let token = self.ops.insert(Kind::Sync {
                    segment: name,
                    target,
                });
                disk.submit(token, Op::Sync { file });
            }
            // The segments up to the goal were freed: nothing of them needs to last.
            _ => self.advance_durable(self.appender.sync_goal),
        }
    }

    /// An fdatasync finished.
    pub(crate) fn on_synced(&mut self, name: u64, target: u64, result: OpResult) {
        self.segments
            .get_mut(name)
            .expect("not freed while in use")
            .users -= 1;
        self.appender.is_syncing = false;
        match result {
            Ok(_) if self.is_live() => {
                let answered = target.saturating_sub(self.appender.durable);
                self.advance_durable(target);
                if self.config.gather && self.config.sync == SyncPolicy::Always {
                    self.appender.sync_goal = self.appender.durable;
                    self.appender.gather_until = self.appender.written + answered;
                }
            }
            Ok(_) => {}
            Err(error) => self.poison("sync", name, &error),
        }
    }

    fn advance_durable(&mut self, target: u64) {
        self.appender.durable = self.appender.durable.max(target);
        self.appender.check_frontiers();
        if self.config.sync == SyncPolicy::Always {
            self.commit(self.appender.durable);
        }
    }

    /// The policy has changed: what the new one promises already is said, what it owes is begun.
    pub(crate) fn follow_policy(&mut self) {
        self.appender.gather_until = 0;
        match self.config.sync {
            SyncPolicy::Interval => self.commit(self.appender.written),
            SyncPolicy::Always => self.request_sync(),
        }
    }

    /// Where a recovery has to start scanning if it knows everything that is written now.
    pub(crate) fn scan_hint(&self) -> Hint {
        let head = self.appender.head;
        let last = self.segments.list.back();
        let (segment, offset, sequence) = match (self.appender.unwritten(), last) {
            (Some(placement), _) => (placement.segment, placement.offset, placement.first),
            (None, Some(last)) => (last.name, last.used, head),
            // The next segment will be made when it is needed, and named so.
            (None, None) => (head, 0, head),
        };
        let at = self
            .segments
            .list
            .binary_search_by_key(&segment, |segment| segment.name);
        Hint {
            segment,
            segment_first: at.map_or(head, |at| self.segments.list[at].first),
            offset,
            sequence,
            head,
            epoch: self.session_epoch,
            durable: self.appender.durable,
        }
    }
}
