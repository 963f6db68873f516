//! Writes around the page cache, gathered in slots of the stage on their way to the device.
//!
//! A write is copied into a slot. From then on it survives the process, and is accepted. Writes that
//! follow each other in a file share a slot; it goes to the device when it is full, or has been waiting
//! for [`LINGER`]. One for which somebody waits goes when the device has less than enough to do. So a
//! device that is slower than the writers gets few and large transfers, and one that keeps up gets each
//! urgent write at once.
//!
//! Slots begin and end with blocks of the file. What a slot holds of the next block when it goes to the
//! device is carried into a slot of its own, and written buffered only when nothing follows soon
//! ([`PATIENCE`], or until the device is idle); as is what comes before the first block. So no block is
//! ever written both ways, and the page cache cannot disagree with the device: the kernel drops the
//! cached pages of what is written directly, and writes dirty ones out before it reads directly.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use io_uring::{opcode, squeue};
use nsq_core::Now;

use super::Completion;
use super::direct::{BLOCK, is_refusal};
use super::files::{WriteOp, is_interruption, write_all_at};
use super::ops::{self, Op, OpId, outcome};
use super::route::Way;
use super::stage::Slot;
use super::turn::{Ready, Ring, Sink};
use super::wholes::{Whole, WholeKey, Wholes};
use crate::stage::Identity;

/// How long a slot that is not full is kept back, if nobody waits for it. What is written at 100 MB/s
/// comes to the device in pieces of 100 KB.
const LINGER: Duration = Duration::from_millis(1);
/// What has gathered for less than this in that time is little: it costs the device as much as a full slot.
const LITTLE: usize = 64 * 1024;
/// So many slots on their way keep a device busy.
const IN_FLIGHT: usize = 2;
/// So many files have a slot that waits for more.
const OPEN: usize = 6;
/// A slot waits for more until the device has answered so many times.
const PATIENCE: u64 = 4;
/// What lies between two writes that follow each other, below this, may be filled with zeros.
const GAP: u64 = 8;

/// What is gathered, and what is on its way.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Slots that wait for more, no two of one file, at most [`OPEN`]; that for which something came
    /// last at the end. Once its time is over, none waits beyond a turn in which nothing is on its way.
    open: Vec<DirectOp>,
    in_flight: usize,
    /// How often the device has answered.
    answers: u64,
    wholes: Wholes,
}

/// Where a write goes on.
#[derive(Debug, Clone, Copy)]
struct Joint {
    /// Which of the open slots.
    index: usize,
    /// What is left between their bytes.
    gap: usize,
    /// What there is room for after that.
    room: usize,
}

impl Gathering {
    /// Whether a write at `offset` of `file` goes on where an open slot ends.
    pub(super) fn goes_on(&self, file: &Rc<OwnedFd>, offset: u64) -> bool {
        self.joint(file, offset).is_some()
    }

    fn joint(&self, file: &Rc<OwnedFd>, offset: u64) -> Option<Joint> {
        let index = self.index_of(file)?;
        let open = &self.open[index];
        let gap = offset.checked_sub(open.end()).filter(|gap| *gap < GAP)?;
        let gap = usize::try_from(gap).expect("a few bytes");
        let room = open.slot.room().checked_sub(gap)?;
        (room > 0).then_some(Joint { index, gap, room })
    }

    fn index_of(&self, file: &Rc<OwnedFd>) -> Option<usize> {
        let is_same = |open: &DirectOp| Rc::ptr_eq(&open.target.file, file);
        self.open.iter().position(is_same)
    }

    /// Takes what has to go before a slot is opened for `file`.
    fn make_room(&mut self, file: &Rc<OwnedFd>) -> Option<DirectOp> {
        let oldest = (self.open.len() >= OPEN).then_some(0);
        let index = self.index_of(file).or(oldest)?;
        Some(self.open.remove(index))
    }

    /// Lets a slot wait for more from now on.
    fn put(&mut self, mut open: DirectOp) {
        debug_assert!(self.open.len() < OPEN, "the caller has made room");
        open.since = self.answers;
        self.open.push(open);
    }

    /// Takes a slot that has whole blocks for the device, if that has little to do.
    fn next_for_device(&mut self, now: Now) -> Option<DirectOp> {
        let is_due = |open: &DirectOp| open.is_due(now) && !open.parts().0.is_empty();
        let index = self.open.iter().position(is_due)?;
        (self.in_flight < IN_FLIGHT).then(|| self.open.remove(index))
    }

    /// Takes a slot that has waited long enough when a turn ends.
    fn next_overdue(&mut self, now: Now) -> Option<DirectOp> {
        let (is_idle, answers) = (self.in_flight == 0, self.answers);
        let is_tired = |open: &DirectOp| is_idle || answers >= open.since + PATIENCE;
        let is_overdue = |open: &DirectOp| open.is_due(now) && is_tired(open);
        let index = self.open.iter().position(is_overdue)?;
        Some(self.open.remove(index))
    }

    /// When the next slot has been kept back for long enough.
    pub(super) fn next_due(&self, now: Now) -> Option<Now> {
        let due = self.open.iter().filter_map(|open| open.until);
        due.filter(|until| *until > now).min()
    }
}

/// A file.
#[derive(Debug, Clone)]
struct Target {
    /// The ordinary descriptor.
    file: Rc<OwnedFd>,
    direct: Rc<OwnedFd>,
    /// By which the stage knows it.
    identity: Rc<Identity>,
}

/// A slot that is being filled, or on its way to the device.
#[derive(Debug)]
pub(super) struct DirectOp {
    /// The writes of which it holds bytes.
    wholes: Vec<WholeKey>,
    target: Target,
    /// Keeps the bytes until they are written.
    slot: Slot,
    /// Where they go; a multiple of [`BLOCK`].
    offset: u64,
    /// Bytes for the device: whole blocks.
    len: usize,
    done: usize,
    /// How what is not for the device was written.
    edge: io::Result<()>,
    /// Kept back until then; `None`: somebody waits.
    until: Option<Now>,
    /// Since when it waits for more, in answers of the device.
    since: u64,
}

/// Where blocks stand after one answer of the kernel.
enum Progress {
    /// The rest must be submitted.
    Unfinished,
    /// The rest cannot be written directly. For good, if the file refuses.
    Unaligned {
        refused: bool,
    },
    Finished(io::Result<()>),
}

impl DirectOp {
    /// An empty slot, kept back for a while from `now` on, unless something urgent comes.
    fn new(target: &Target, slot: Slot, offset: u64, wholes: Vec<WholeKey>, now: Now) -> Self {
        Self {
            wholes,
            target: target.clone(),
            slot,
            offset,
            len: 0,
            done: 0,
            edge: Ok(()),
            until: Some(now.after(LINGER)),
            since: 0,
        }
    }

    /// Takes in what a write has from `at` on, as far as there is room; returns how many bytes that were.
    fn take_in(&mut self, op: &WriteOp, at: usize) -> usize {
        let len = self.slot.room().min(op.len() - at);
        self.slot.extend(len, |to| op.copy_range(at..at + len, to));
        if op.size().is_urgent {
            self.until = None;
        }
        len
    }

    /// Is not kept back any more.
    fn is_due(&self, now: Now) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// Somebody waits for what it holds.
    fn is_urgent(&self) -> bool {
        self.until.is_none()
    }

    /// Where in the file its bytes end.
    fn end(&self) -> u64 {
        self.offset + self.slot.data().len() as u64
    }

    /// What it holds of whole blocks, and of the next one.
    fn parts(&self) -> (&[u8], &[u8]) {
        let data = self.slot.data();
        data.split_at(data.len() / BLOCK * BLOCK)
    }

    /// Where in the file its whole blocks end.
    fn blocks_end(&self) -> u64 {
        self.offset + self.parts().0.len() as u64
    }

    /// Puts what it holds of the next block into `slot`, to go on there.
    fn carry_into(&self, mut slot: Slot, wholes: &mut Wholes, now: Now) -> Self {
        let (_, rest) = self.parts();
        slot.extend(rest.len(), |to| to.copy_from_slice(rest));
        let offset = self.blocks_end();
        let mut next = Self::new(&self.target, slot, offset, wholes.list(), now);
        for &key in &self.wholes {
            if wholes.get(key).end > offset {
                wholes.hold(key, &mut next.wholes);
            }
        }
        if next.wholes.iter().any(|key| wholes.get(*key).is_urgent) {
            next.until = None;
        }
        next
    }

    /// Writes what it holds of the next block.
    fn write_edge(&mut self) {
        let (_, rest) = self.parts();
        self.edge = write_all_at(&self.target.file, [rest, &[]], self.blocks_end());
    }

    /// The submission of what is left. Valid while `slot` lives and is not touched.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let rest = &self.slot.data()[self.done..self.len];
        let len = u32::try_from(rest.len()).expect("no more than a slot");
        opcode::Write::new(ops::fd(self.target.direct.as_raw_fd()), rest.as_ptr(), len)
            .offset(self.offset + self.done as u64)
            .build()
    }

    fn advance(&mut self, written: io::Result<usize>) -> Progress {
        match written {
            Ok(0) => Progress::Finished(Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                self.done += written;
                if self.done >= self.len {
                    Progress::Finished(Ok(()))
                } else if self.done.is_multiple_of(BLOCK) {
                    Progress::Unfinished
                } else {
                    Progress::Unaligned { refused: false }
                }
            }
            Err(error) if is_interruption(&error) => Progress::Unfinished,
            Err(error) if is_refusal(&error) => Progress::Unaligned { refused: true },
            Err(error) => Progress::Finished(Err(error)),
        }
    }

    fn finish_buffered(&self) -> io::Result<()> {
        let rest = &self.slot.data()[self.done..self.len];
        write_all_at(
            &self.target.file,
            [rest, &[]],
            self.offset + self.done as u64,
        )
    }

    /// Its blocks are written, or not. Calls `end` with the writes that this was the last slot of.
    fn finish(self, blocks: io::Result<()>, wholes: &mut Wholes, end: impl FnMut(Whole)) {
        let result = self.edge.and(blocks);
        if result.is_ok() {
            // Otherwise it is kept for the next start.
            self.slot.release();
        }
        wholes.let_go(self.wholes, &result, end);
    }
}

impl Ring {
    /// Writes around the page cache. False, and nothing is done, if the file cannot be used so or
    /// there is not enough room in the stage: what the device is too slow for becomes buffered, and
    /// no write waits for another's place.
    pub(super) fn write_direct(&mut self, op: &WriteOp, now: Now) -> bool {
        let joint = self.gathering.joint(op.file(), op.offset());
        // Bytes before the first block of a new slot.
        let edge = match joint {
            Some(_) => 0,
            None => to_block(op.offset()).min(op.len()),
        };
        let beyond = (op.len() - edge).saturating_sub(joint.map_or(0, |joint| joint.room));
        let stage = self.stage.as_mut();
        if !stage.is_some_and(|stage| stage.has_room(now, beyond)) {
            return false;
        }
        let Some(target) = self.target(op.file()) else {
            return false;
        };
        let mut open = self.continue_at(joint, op.file(), now);
        let end = op.offset() + op.len() as u64;
        let whole = Whole::new(op.token(), op.len(), end, op.size().is_urgent);
        let wholes = &mut self.gathering.wholes;
        let (whole, mut ours) = (wholes.insert(whole), wholes.list());
        wholes.hold(whole, &mut ours);
        wholes.note(whole, op.write_range(0..edge));
        let mut at = edge;
        while at < op.len() {
            let mut slot = match open.take() {
                Some(slot) => slot,
                None => self.open_slot(&target, op.offset() + at as u64, now),
            };
            self.gathering.wholes.hold(whole, &mut slot.wholes);
            at += slot.take_in(op, at);
            if slot.slot.room() == 0 {
                self.note_pace(&slot, now);
                self.close_slot(slot);
            } else {
                open = Some(slot);
            }
        }
        if let Some(open) = open {
            self.gathering.put(open);
        }
        if self.gathering.wholes.is_sound(whole) {
            let token = op.token();
            self.ready.push_back(Ready::Accepted { token });
        }
        let ready = &mut self.ready;
        let answer = |whole| ready.push_back(written(whole));
        self.gathering.wholes.let_go(ours, &Ok(()), answer);
        self.feed_device(now);
        true
    }

    /// `None` if the file cannot be used directly.
    fn target(&mut self, file: &Rc<OwnedFd>) -> Option<Target> {
        Some(Target {
            file: Rc::clone(file),
            direct: self.direct.get(file)?,
            identity: self.direct.identify(file, self.stage.as_ref()?)?,
        })
    }

    /// The open slot in which a write goes on; or none, and then there is room for one of that file.
    fn continue_at(
        &mut self,
        joint: Option<Joint>,
        file: &Rc<OwnedFd>,
        now: Now,
    ) -> Option<DirectOp> {
        if let Some(Joint { index, gap, .. }) = joint {
            let mut open = self.gathering.open.remove(index);
            open.slot.extend(gap, |to| to.fill(0));
            return Some(open);
        }
        if let Some(other) = self.gathering.make_room(file) {
            self.note_pace(&other, now);
            self.close_slot(other);
        }
        None
    }

    fn open_slot(&mut self, target: &Target, offset: u64, now: Now) -> DirectOp {
        let stage = self.stage.as_mut().expect("it has room");
        let slot = stage.lend(&target.identity, offset);
        let slot = slot.expect("the caller has asked for the room");
        DirectOp::new(target, slot, offset, self.gathering.wholes.list(), now)
    }

    /// Gives the device whole blocks while it has little to do.
    fn feed_device(&mut self, now: Now) {
        while let Some(open) = self.gathering.next_for_device(now) {
            if self.note_pace(&open, now) {
                // Nothing more is gathered for this file.
                self.close_slot(open);
            } else {
                self.send_blocks(open, now);
            }
        }
    }

    /// Takes note of how much a slot holds when it goes. Whether its file counts as slow now.
    fn note_pace(&mut self, open: &DirectOp, now: Now) -> bool {
        let is_little = !open.is_urgent() && open.slot.data().len() < LITTLE;
        self.direct.note_pace(&open.target.file, is_little, now)
    }

    /// Nothing more is written in this turn: what only waited for that does not wait any more. Returns
    /// when it is to be called again at the latest.
    pub(super) fn end_gathering(&mut self) -> Option<Duration> {
        if self.gathering.open.is_empty() {
            return None;
        }
        let now = self.clock.now();
        self.feed_device(now);
        while let Some(open) = self.gathering.next_overdue(now) {
            self.note_pace(&open, now);
            self.close_slot(open);
        }
        let due = self.gathering.next_due(now)?;
        Some(Duration::from_nanos(due.0 - now.0))
    }

    /// Sends the whole blocks of a slot. What it holds of the next block waits in another one, if one is
    /// free.
    fn send_blocks(&mut self, open: DirectOp, now: Now) {
        if open.parts().1.is_empty() {
            return self.send(open);
        }
        let (identity, offset) = (&open.target.identity, open.blocks_end());
        let stage = self.stage.as_mut();
        match stage.and_then(|stage| stage.lend(identity, offset)) {
            Some(slot) => {
                let carried = open.carry_into(slot, &mut self.gathering.wholes, now);
                self.gathering.put(carried);
                self.send(open);
            }
            None => self.close_slot(open),
        }
    }

    /// Sends all of a slot where it belongs.
    fn close_slot(&mut self, mut op: DirectOp) {
        op.write_edge();
        self.send(op);
    }

    /// Sends the whole blocks of a slot to the device.
    fn send(&mut self, mut op: DirectOp) {
        op.len = op.parts().0.len();
        if op.len == 0 {
            let ready = &mut self.ready;
            let answer = |whole| ready.push_back(written(whole));
            op.finish(Ok(()), &mut self.gathering.wholes, answer);
        } else {
            self.gathering.in_flight += 1;
            self.start(Op::Direct(Box::new(op)));
        }
    }

    pub(super) fn on_direct(&mut self, id: OpId, result: i32, sink: &mut Sink<'_>) {
        let Some(Op::Direct(op)) = self.ops.get_mut(id) else {
            return;
        };
        let result = match op.advance(outcome(result)) {
            Progress::Unfinished => return self.rearm(id),
            Progress::Unaligned { refused } => {
                if refused {
                    self.direct.refuse(&op.target.file);
                }
                op.finish_buffered()
            }
            Progress::Finished(result) => result,
        };
        let Some(Op::Direct(op)) = self.ops.remove(id) else {
            return;
        };
        self.gathering.in_flight -= 1;
        self.gathering.answers += 1;
        let route = &mut self.route;
        op.finish(result, &mut self.gathering.wholes, |whole| {
            route.on_written(Way::Direct, whole.len);
            sink(Completion::Written {
                token: whole.token,
                result: whole.outcome(),
            });
        });
        let now = self.clock.now();
        self.feed_device(now);
    }
}

/// The answer to a write of which all is done.
fn written(whole: Whole) -> Ready {
    Ready::Written {
        token: whole.token,
        result: whole.outcome(),
    }
}

/// Bytes from a position to the next block of a file.
fn to_block(offset: u64) -> usize {
    let rest = offset.next_multiple_of(BLOCK as u64) - offset;
    usize::try_from(rest).expect("less than a block")
}

#[cfg(test)]
mod tests {
    use super::super::stage::Stage;
    use super::*;

    fn target(file: &Rc<OwnedFd>, identity: Identity) -> Target {
        Target {
            file: Rc::clone(file),
            direct: Rc::clone(file),
            identity: Rc::new(identity),
        }
    }

    #[test]
    fn short_direct_writes_are_continued_or_finished_buffered() {
        let file = Rc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(dir.path().to_owned(), dir.path().join("stage"));
        assert!(stage.has_room(Now(0), 5 * BLOCK));
        let identity = stage.identify(&file).unwrap();
        let mut slot = stage.lend(&identity, 4096).unwrap();
        slot.extend(4 * BLOCK + 50, |to| to.fill(7));
        let mut op = DirectOp::new(&target(&file, identity), slot, 4096, Vec::new(), Now(0));
        op.write_edge();
        op.len = op.parts().0.len();
        assert!(op.len == 4 * BLOCK && op.edge.is_ok());
        assert!(matches!(op.advance(Ok(BLOCK)), Progress::Unfinished));
        let interrupted = Err(io::Error::from_raw_os_error(libc::EINTR));
        assert!(matches!(op.advance(interrupted), Progress::Unfinished));
        let refused = Err(io::Error::from_raw_os_error(libc::EINVAL));
        assert!(matches!(
            op.advance(refused),
            Progress::Unaligned { refused: true }
        ));
        let outcome = op.advance(Ok(100));
        assert!(matches!(outcome, Progress::Unaligned { refused: false }));
        op.finish_buffered().unwrap();
        let mut found = vec![1; 6 * BLOCK];
        let len = nix::sys::uio::pread(&*file, &mut found, 0).unwrap();
        let hole = BLOCK + BLOCK + 100;
        assert_eq!(len, 5 * BLOCK + 50);
        assert!(found[..hole].iter().all(|byte| *byte == 0));
        assert!(found[hole..len].iter().all(|byte| *byte == 7));
        let failed = Err(io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(op.advance(failed), Progress::Finished(Err(_))));
    }

    #[test]
    fn a_slot_is_kept_back_for_a_while_unless_somebody_waits() {
        let file = Rc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(dir.path().to_owned(), dir.path().join("stage"));
        assert!(stage.has_room(Now(0), 1));
        let target = target(&file, stage.identify(&file).unwrap());
        let begun = Now(7);
        let due = begun.after(LINGER);
        let mut gathering = Gathering::default();
        for len in [BLOCK, BLOCK - 1] {
            let mut slot = stage.lend(&target.identity, 0).unwrap();
            slot.extend(len, |to| to.fill(7));
            gathering.put(DirectOp::new(&target, slot, 0, Vec::new(), begun));
            let early = Now(due.0 - 1);
            assert!(gathering.next_for_device(early).is_none());
            assert!(gathering.next_overdue(early).is_none(), "though it is idle");
            assert_eq!(gathering.next_due(early), Some(due));
            assert_eq!(gathering.next_due(due), None);
            let has_blocks = len == BLOCK;
            gathering.open[0].until = has_blocks.then_some(due);
            // A part of a block is only written by itself when it is overdue.
            let now = if has_blocks { due } else { early };
            assert_eq!(gathering.next_for_device(now).is_some(), has_blocks);
            assert_eq!(gathering.next_overdue(now).is_some(), !has_blocks);
        }
    }

    #[test]
    fn what_failed_is_kept_for_the_next_start() {
        let file = Rc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(dir.path().to_owned(), dir.path().join("stage"));
        assert!(stage.has_room(Now(0), 2));
        let target = target(&file, stage.identify(&file).unwrap());
        let mut wholes = Wholes::default();
        for (result, lent) in [(Ok(()), 0), (Err(io::ErrorKind::Other.into()), 1)] {
            let slot = stage.lend(&target.identity, 0).unwrap();
            let mut op = DirectOp::new(&target, slot, 0, wholes.list(), Now(0));
            let whole = wholes.insert(Whole::new(1, 1, 1, true));
            wholes.hold(whole, &mut op.wholes);
            let mut ended = Vec::new();
            op.finish(result, &mut wholes, |whole| {
                ended.push(whole.outcome().is_ok())
            });
            assert_eq!((ended, stage.lent()), (vec![lent == 0], lent));
        }
    }

    #[test]
    fn the_next_block() {
        let cases = [(0, 0), (1, 4095), (4095, 1), (4096, 0), (10_000, 2288)];
        for (offset, expected) in cases {
            assert_eq!(to_block(offset), expected, "{offset}");
        }
    }
}
