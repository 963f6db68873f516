//! Writes around the page cache, gathered in slots of the stage on their way to the device.
//!
//! A write is copied into a slot. From then on it survives the process, and is accepted. While the
//! device has enough to do, writes that follow each other in a file share a slot; it goes to the device
//! when it is full, or when the device has less than that to do. So a device that is slower than the
//! writers gets few and large transfers, and one that keeps up gets each write at once.
//!
//! Slots begin and end with blocks of the file. What a slot holds of the next block when it goes to the
//! device is carried into a slot of its own, and written buffered only when nothing has followed
//! in the turn in which the device was done; as is what comes before the first block. So no block is ever
//! written both ways, and the page cache cannot disagree with the device: the kernel drops the
//! cached pages of what is written directly, and writes dirty ones out before it reads directly.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, squeue};
use nsq_core::Now;

use super::Completion;
use super::direct::{BLOCK, is_refusal};
use super::files::{WriteOp, is_interruption, write_all_at};
use super::ops::{self, Op, OpId, outcome};
use super::route::Way;
use super::stage::Slot;
use super::turn::{Ready, Ring, Sink};
use crate::stage::Identity;

/// So many slots on their way keep a device busy.
const IN_FLIGHT: usize = 2;
/// What lies between two writes that follow each other, below this, may be filled with zeros.
pub(super) const GAP: u64 = 8;

/// What is gathered, and what is on its way.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// The slot that the last write ended in, if it waits for more: until others are done, or for the
    /// rest of the turn.
    open: Option<DirectOp>,
    in_flight: usize,
}

impl Gathering {
    /// Whether a write at `offset` of `file` goes on where the open slot ends.
    pub(super) fn goes_on(&self, file: &Rc<OwnedFd>, offset: u64) -> bool {
        self.joint(file, offset).is_some()
    }

    /// If it does, what is left between them, and the room after that.
    fn joint(&self, file: &Rc<OwnedFd>, offset: u64) -> Option<(usize, usize)> {
        let open = self.open.as_ref()?;
        let gap = offset.checked_sub(open.end()).filter(|gap| *gap < GAP)?;
        let gap = usize::try_from(gap).expect("a few bytes");
        let room = open.slot.room().checked_sub(gap + 1)? + 1;
        Rc::ptr_eq(&open.target.file, file).then_some((gap, room))
    }
}

/// A write: shared by the slots that hold its bytes, answered by the last one.
#[derive(Debug)]
struct Whole {
    token: u64,
    len: usize,
    /// Where in the file it ends.
    end: u64,
    /// The first thing that went wrong.
    error: RefCell<Option<io::Error>>,
}

impl Whole {
    fn note(&self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.borrow_mut().get_or_insert(error);
        }
    }

    fn is_sound(&self) -> bool {
        self.error.borrow().is_none()
    }

    fn outcome(self) -> io::Result<()> {
        self.error.into_inner().map_or(Ok(()), Err)
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
    wholes: Vec<Rc<Whole>>,
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
    fn new(target: &Target, slot: Slot, offset: u64) -> Self {
        Self {
            wholes: Vec::new(),
            target: target.clone(),
            slot,
            offset,
            len: 0,
            done: 0,
            edge: Ok(()),
        }
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
    fn carry_into(&self, mut slot: Slot) -> Self {
        let (_, rest) = self.parts();
        slot.extend(rest.len(), |to| to.copy_from_slice(rest));
        let offset = self.blocks_end();
        let mut next = Self::new(&self.target, slot, offset);
        let concerned = self.wholes.iter().filter(|whole| whole.end > offset);
        next.wholes.extend(concerned.cloned());
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

    /// Its blocks are written, or not: the writes that this was the last slot of.
    fn finish(self, blocks: io::Result<()>) -> impl Iterator<Item = Whole> {
        let result = self.edge.and(blocks);
        if result.is_ok() {
            // Otherwise it is kept for the next start.
            self.slot.release();
        }
        self.wholes.into_iter().filter_map(move |whole| {
            whole.note(
                result
                    .as_ref()
                    .map_or_else(|error| Err(same(error)), |()| Ok(())),
            );
            Rc::into_inner(whole)
        })
    }
}

/// The error once more, for another write that it has struck.
fn same(error: &io::Error) -> io::Error {
    error
        .raw_os_error()
        .map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
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
        let beyond = (op.len() - edge).saturating_sub(joint.map_or(0, |(_, room)| room));
        if !(self.stage.as_mut()).is_some_and(|stage| stage.has_room(now, beyond)) {
            return false;
        }
        let Some(target) = self.target(op.file()) else {
            return false;
        };
        match (&mut self.gathering.open, joint) {
            (Some(open), Some((gap, _))) => open.slot.extend(gap, |to| to.fill(0)),
            _ => self.close_open(),
        }
        let whole = Rc::new(Whole {
            token: op.token(),
            len: op.len(),
            end: op.offset() + op.len() as u64,
            error: RefCell::new(None),
        });
        whole.note(op.write_range(0..edge));
        let mut at = edge;
        while at < op.len() {
            at += self.gather(op, at, &whole, &target);
        }
        if whole.is_sound() {
            let token = op.token();
            self.ready.push_back(Ready::Accepted { token });
        }
        self.answer(Rc::into_inner(whole));
        self.feed_device();
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

    /// Puts what a write has from `at` on into the open slot, or into a new one, as far as it fits in;
    /// returns how many bytes that were.
    fn gather(&mut self, op: &WriteOp, at: usize, whole: &Rc<Whole>, target: &Target) -> usize {
        let open = self.gathering.open.get_or_insert_with(|| {
            let offset = op.offset() + at as u64;
            let stage = self.stage.as_mut().expect("it has room");
            let slot = stage.lend(&target.identity, offset);
            DirectOp::new(target, slot.expect("the caller has asked"), offset)
        });
        let len = open.slot.room().min(op.len() - at);
        open.slot.extend(len, |to| op.copy_range(at..at + len, to));
        open.wholes.push(Rc::clone(whole));
        if open.slot.room() == 0 {
            self.close_open();
        }
        len
    }

    /// Gives the device the whole blocks of the open slot if it has little to do.
    fn feed_device(&mut self) {
        let Some(open) = &self.gathering.open else {
            return;
        };
        let (blocks, rest) = open.parts();
        if self.gathering.in_flight >= IN_FLIGHT || blocks.is_empty() {
            return;
        }
        if rest.is_empty() {
            self.close_open();
        } else {
            self.send_blocks();
        }
    }

    /// Nothing more is written in this turn: what only waits for that does not wait any more.
    pub(super) fn end_gathering(&mut self) {
        if self.gathering.in_flight == 0 {
            self.close_open();
        }
    }

    /// Sends the whole blocks of the open slot, and goes on in another one if one is free.
    fn send_blocks(&mut self) {
        let Some(open) = self.gathering.open.take() else {
            return;
        };
        let (identity, offset) = (&open.target.identity, open.blocks_end());
        let stage = self.stage.as_mut();
        match stage.and_then(|stage| stage.lend(identity, offset)) {
            Some(slot) => {
                self.gathering.open = Some(open.carry_into(slot));
                self.send(open);
            }
            None => self.close_slot(open),
        }
    }

    /// Sends all of the open slot where it belongs.
    fn close_open(&mut self) {
        if let Some(open) = self.gathering.open.take() {
            self.close_slot(open);
        }
    }

    fn close_slot(&mut self, mut op: DirectOp) {
        op.write_edge();
        self.send(op);
    }

    /// Sends the whole blocks of a slot to the device.
    fn send(&mut self, mut op: DirectOp) {
        op.len = op.parts().0.len();
        if op.len == 0 {
            op.finish(Ok(())).for_each(|whole| self.answer(Some(whole)));
        } else {
            self.gathering.in_flight += 1;
            self.start(Op::Direct(Box::new(op)));
        }
    }

    /// Answers a write of which all is done.
    fn answer(&mut self, whole: Option<Whole>) {
        if let Some(whole) = whole {
            let token = whole.token;
            let result = whole.outcome();
            self.ready.push_back(Ready::Written { token, result });
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
        for whole in op.finish(result) {
            self.route.on_written(Way::Direct, whole.len);
            sink(Completion::Written {
                token: whole.token,
                result: whole.outcome(),
            });
        }
        self.feed_device();
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
        let mut op = DirectOp::new(&target(&file, identity), slot, 4096);
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
    fn the_first_error_of_a_write_counts_and_strikes_all_writes_of_a_slot() {
        let file = Rc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(dir.path().to_owned(), dir.path().join("stage"));
        assert!(stage.has_room(Now(0), 1));
        let identity = stage.identify(&file).unwrap();
        let slot = stage.lend(&identity, 0).unwrap();
        let mut op = DirectOp::new(&target(&file, identity), slot, 0);
        for token in [1, 2] {
            op.wholes.push(Rc::new(Whole {
                token,
                len: 1,
                end: 1,
                error: RefCell::new(None),
            }));
        }
        let failed = |code| Err(io::Error::from_raw_os_error(code));
        op.wholes[1].note(failed(libc::ENOSPC));
        let wholes: Vec<Whole> = op.finish(failed(libc::EIO)).collect();
        let codes = wholes.into_iter().map(|whole| {
            let token = whole.token;
            (token, whole.outcome().unwrap_err().raw_os_error())
        });
        let codes: Vec<_> = codes.collect();
        assert_eq!(codes, [(1, Some(libc::EIO)), (2, Some(libc::ENOSPC))]);
        assert_eq!(stage.lent(), 1, "kept for the next start");
    }

    #[test]
    fn the_next_block() {
        let cases = [(0, 0), (1, 4095), (4095, 1), (4096, 0), (10_000, 2288)];
        for (offset, expected) in cases {
            assert_eq!(to_block(offset), expected, "{offset}");
        }
    }
}
