//! Reading files.
//!
//! What is mostly in the page cache is read from there. Other large reads go to the device, into
//! memory that was in use before: a backlog that is read through the page cache is copied into
//! fresh pages first, and out of them right after.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use io_uring::{opcode, squeue};

use super::Completion;
use super::buffers::widen;
use super::direct::{BLOCK, is_cached, is_refusal};
use super::files::{is_interruption, is_position};
use super::ops::{self, Op, OpId, outcome};
use super::pool::Buffer;
use super::turn::{Ready, Ring, Sink};

/// Reads from this size on go around the page cache if that does not hold them.
const LARGE_BYTES: usize = 64 * 1024;
/// Length of the parts of a direct read, which are asked for together. A multiple of [`BLOCK`], and more
/// than one read-ahead: several of those are on their way, and the device that was measured gave 2.0 GB/s
/// with 12 requests of 512 KiB, 1.3 with 48 of 128 KiB.
const PART_BYTES: usize = 1024 * 1024;

impl Ring {
    /// Reads `len` bytes at `offset`, fewer only at the end of the file. Answered by
    /// [`Completion::Read`].
    pub fn read(&mut self, token: u64, file: Rc<OwnedFd>, offset: u64, len: u32) {
        let wanted = widen(len);
        let started = if is_position(offset, wanted) {
            self.start_read(token, file, offset, wanted)
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        };
        if let Err(error) = started {
            self.ready.push_back(Ready::ReadFailed { token, error });
        }
    }

    fn start_read(
        &mut self,
        token: u64,
        file: Rc<OwnedFd>,
        offset: u64,
        wanted: usize,
    ) -> io::Result<()> {
        let is_large = wanted >= LARGE_BYTES;
        // Also where the page cache has it: see `direct::open` about what the kernel would read ahead.
        let direct = is_large.then(|| self.direct.get(&file)).flatten();
        let direct = direct.filter(|_| !is_cached(&file, offset, wanted));
        let (lead, span, part) = match direct {
            Some(_) => {
                let (lead, span) = around(offset, wanted);
                (lead, span, PART_BYTES)
            }
            // One part, also of nothing.
            None => (0, wanted, wanted.max(1)),
        };
        let whole = Rc::new(WholeRead {
            token,
            file,
            start: offset - lead as u64,
            lead,
            wanted,
            memory: RefCell::new(self.read_memory(span)?),
            end: Cell::new(span),
            error: RefCell::new(None),
        });
        for at in (0..span.max(1)).step_by(part) {
            self.start(Op::Read(ReadOp {
                whole: Rc::clone(&whole),
                direct: direct.clone(),
                at,
                len: part.min(span - at),
                filled: 0,
            }));
        }
        Ok(())
    }

    fn read_memory(&self, span: usize) -> io::Result<Memory> {
        if span < LARGE_BYTES {
            return Ok(Memory::Small(vec![0; span]));
        }
        let pooled = (span <= self.reading.buffer_bytes()).then(|| self.reading.lend());
        match pooled.flatten() {
            Some(buffer) => Ok(Memory::Large(buffer)),
            None => Buffer::unpooled(span).map(Memory::Large),
        }
    }

    pub(super) fn on_read(&mut self, id: OpId, result: i32, sink: &mut Sink<'_>) {
        let Some(Op::Read(op)) = self.ops.get_mut(id) else {
            return;
        };
        match op.advance(outcome(result)) {
            Progress::Unfinished => return self.rearm(id),
            Progress::Refused => {
                op.direct = None;
                self.direct.refuse(&op.whole.file);
                return self.rearm(id);
            }
            Progress::Finished(Ok(())) => op.whole.note_end(op.at + op.filled, op.len - op.filled),
            Progress::Finished(Err(error)) => drop(op.whole.error.replace(Some(error))),
        }
        let Some(Op::Read(op)) = self.ops.remove(id) else {
            return;
        };
        if let Some(whole) = Rc::into_inner(op.whole) {
            let token = whole.token;
            let result = whole.outcome();
            sink(Completion::Read { token, result });
        }
    }
}

/// The whole blocks that hold `len` bytes at `offset`: how far before it they begin, and their
/// length.
fn around(offset: u64, len: usize) -> (usize, usize) {
    let lead = usize::try_from(offset % BLOCK as u64).expect("less than a block");
    (lead, (lead + len).next_multiple_of(BLOCK))
}

/// Where a read finds its place.
#[derive(Debug)]
enum Memory {
    Small(Vec<u8>),
    Large(Buffer),
}

impl Memory {
    /// The address of the first byte, without touching any: the kernel may be at work there.
    fn start(&mut self) -> *mut u8 {
        match self {
            Self::Small(bytes) => bytes.as_mut_ptr(),
            Self::Large(buffer) => buffer.start(),
        }
    }

    fn into_bytes(self, range: Range<usize>) -> Bytes {
        match self {
            Self::Small(bytes) => Bytes::from(bytes).slice(range),
            // Little is not worth keeping a large buffer for.
            Self::Large(buffer) if range.len() < LARGE_BYTES => {
                Bytes::copy_from_slice(&buffer.bytes()[range])
            }
            Self::Large(buffer) => Bytes::from_owner(Lent { buffer, range }),
        }
    }
}

/// A read, shared by its parts and answered by the last one.
#[derive(Debug)]
struct WholeRead {
    token: u64,
    file: Rc<OwnedFd>,
    /// Position of the first byte that is read.
    start: u64,
    /// Bytes before the first one that was asked for.
    lead: usize,
    /// Bytes that were asked for.
    wanted: usize,
    /// Holds all parts. The kernel fills it while any of them is under way.
    memory: RefCell<Memory>,
    /// Bytes from `start` to the end of the file, as far as it was met.
    end: Cell<usize>,
    /// Something that went wrong.
    error: RefCell<Option<io::Error>>,
}

impl WholeRead {
    /// A part was filled up to `end` and lacks so many bytes.
    fn note_end(&self, end: usize, missing: usize) {
        if missing > 0 {
            self.end.set(end.min(self.end.get()));
        }
    }

    fn outcome(self) -> io::Result<Bytes> {
        if let Some(error) = self.error.into_inner() {
            return Err(error);
        }
        let end = self.end.get().min(self.lead + self.wanted);
        let range = self.lead.min(end)..end;
        Ok(self.memory.into_inner().into_bytes(range))
    }
}

/// Where a read stands after one answer of the kernel.
enum Progress {
    /// The rest must be submitted.
    Unfinished,
    /// The rest must be submitted, and not directly.
    Refused,
    Finished(io::Result<()>),
}

/// One part of a read.
#[derive(Debug)]
pub(super) struct ReadOp {
    whole: Rc<WholeRead>,
    /// Read through this one; position, `at` and `len` are then multiples of [`BLOCK`].
    direct: Option<Rc<OwnedFd>>,
    /// Where in the memory of the whole it begins.
    at: usize,
    /// Bytes to read; the memory holds as many from `at` on.
    len: usize,
    /// Bytes read so far.
    filled: usize,
}

impl ReadOp {
    /// The submission of what is left. Valid while the memory of the whole lives and nobody
    /// touches it.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let file = self.direct.as_ref().unwrap_or(&self.whole.file);
        let at = self.at + self.filled;
        let target = self.whole.memory.borrow_mut().start().wrapping_add(at);
        let len = u32::try_from(self.len - self.filled).expect("asked for as u32, or a part");
        opcode::Read::new(ops::fd(file.as_raw_fd()), target, len)
            .offset(self.whole.start + at as u64)
            .build()
    }

    fn advance(&mut self, read: io::Result<usize>) -> Progress {
        match read {
            Ok(0) => Progress::Finished(Ok(())),
            Ok(read) => {
                self.filled += read;
                assert!(
                    self.filled <= self.len,
                    "the kernel reads no more than it was asked to"
                );
                // A direct read that ends within a block has met the end of the file.
                let at_end = self.direct.is_some() && !self.filled.is_multiple_of(BLOCK);
                if self.filled == self.len || at_end {
                    Progress::Finished(Ok(()))
                } else {
                    Progress::Unfinished
                }
            }
            Err(error) if is_interruption(&error) => Progress::Unfinished,
            Err(error) if self.direct.is_some() && is_refusal(&error) => Progress::Refused,
            Err(error) => Progress::Finished(Err(error)),
        }
    }
}

/// A buffer that [`Bytes`] owns; back in its pool when the last of them is gone.
struct Lent {
    buffer: Buffer,
    range: Range<usize>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer.bytes()[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_read_around_what_is_wanted() {
        assert_eq!(around(0, 4096), (0, 4096));
        assert_eq!(around(1, 4096), (1, 8192));
        assert_eq!(around(8191, 2), (4095, 8192));
        assert_eq!(around(8192, 70_000), (0, 73_728));
    }
}
