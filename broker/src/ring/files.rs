//! Writing, reading and syncing files.
//!
//! Buffered writes through the ring are handed to a kernel worker by most file systems, which
//! costs more than the write itself. So they are made on the spot, as long as none is made to wait.
//! They may also go around the page cache: which way is said by `route`, how is told in `gather`.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use io_uring::{opcode, squeue};
use nix::errno::Errno;
use nix::sys::uio::pwritev;
use nix::time::{ClockId, clock_gettime};
use nsq_core::Now;

use super::Completion;
use super::ops::{self, Op, OpId, outcome};
use super::route::{Size, Way};
use super::turn::{Ready, Ring, Sink};

/// A write that is asked for.
#[derive(Debug)]
pub struct Write {
    /// Chosen by the caller, handed back with the outcome.
    pub token: u64,
    /// Target.
    pub file: Rc<OwnedFd>,
    /// Where the first part begins.
    pub offset: u64,
    /// What is written, one after the other.
    pub parts: [Bytes; 2],
    /// Somebody waits until all is written, and not only until it is accepted.
    pub is_urgent: bool,
}

impl Ring {
    /// Writes both parts. Answered once by [`Completion::Written`], never from within this call, and
    /// before that perhaps by one [`Completion::WriteAccepted`]; after that `Written` may be a few
    /// milliseconds late, if the write is not urgent. Writes in flight together may complete in any
    /// order. Less than 8 bytes between the end of one write and the beginning of the next may become
    /// zeros.
    pub fn write(&mut self, write: Write) {
        let op = WriteOp::new(write);
        if !is_position(op.offset, op.len()) {
            let result = Err(io::ErrorKind::InvalidInput.into());
            let token = op.token;
            return self.ready.push_back(Ready::Written { token, result });
        }
        let begun = self.clock.now();
        let is_direct = self.choose_way(&op, begun) == Way::Direct;
        if !(is_direct && self.write_direct(&op, begun)) {
            self.write_buffered(op, begun);
        }
    }

    fn choose_way(&mut self, op: &WriteOp, now: Now) -> Way {
        let size = op.size();
        if self.gathering.goes_on(&op.file, op.offset) {
            self.route.choose_next(now, size)
        } else if size.is_small() && self.direct.is_slow(&op.file, now) {
            self.route.buffered(now, size.len)
        } else {
            self.route.choose(now, size)
        }
    }

    fn write_buffered(&mut self, op: WriteOp, begun: Now) {
        let len = op.len();
        if self.route.buffered(begun, len) == Way::Worker {
            self.start(Op::Write(Box::new(op)));
            return;
        }
        let is_judged = self.route.is_judged(op.size());
        let worked_before = is_judged.then(processor_time);
        let result = op.write_range(0..len);
        let ended = self.clock.now();
        let took = Duration::from_nanos(ended.0.saturating_sub(begun.0));
        self.route.on_inline(ended, took);
        if let Some(before) = worked_before {
            self.route
                .on_worked(len, processor_time().saturating_sub(before));
        }
        self.route.on_written(Way::Inline, len);
        let token = op.token;
        self.ready.push_back(Ready::Written { token, result });
    }

    /// Puts the data of all writes reported so far on stable storage (fdatasync). Answered by
    /// [`Completion::Synced`].
    pub fn sync(&mut self, token: u64, file: Rc<OwnedFd>) {
        self.start(Op::Sync { token, file });
    }

    pub(super) fn on_write(&mut self, id: OpId, result: i32, sink: &mut Sink<'_>) {
        let Some(Op::Write(op)) = self.ops.get_mut(id) else {
            return;
        };
        let result = match op.advance(outcome(result)) {
            Progress::Unfinished => return self.rearm(id),
            Progress::Finished(result) => result,
        };
        let token = op.token;
        self.route.on_written(Way::Worker, op.len());
        drop(self.ops.remove(id));
        sink(Completion::Written { token, result });
    }

    pub(super) fn on_sync(&mut self, id: OpId, result: i32, sink: &mut Sink<'_>) {
        let Some(Op::Sync { token, file }) = self.ops.remove(id) else {
            return;
        };
        drop(file);
        sink(Completion::Synced {
            token,
            result: outcome(result).map(drop),
        });
    }
}

/// Where an operation stands after one answer of the kernel.
enum Progress {
    /// The rest must be submitted.
    Unfinished,
    Finished(io::Result<()>),
}

#[derive(Debug)]
pub(super) struct WriteOp {
    token: u64,
    file: Rc<OwnedFd>,
    /// Where the first part begins.
    offset: u64,
    parts: [Bytes; 2],
    is_urgent: bool,
    /// Bytes of both parts already written.
    done: usize,
    /// What the kernel is told to write; points into `parts`.
    list: [libc::iovec; 2],
}

impl WriteOp {
    fn new(write: Write) -> Self {
        let nothing = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            token: write.token,
            file: write.file,
            offset: write.offset,
            parts: write.parts,
            is_urgent: write.is_urgent,
            done: 0,
            list: [nothing; 2],
        }
    }

    /// The submission of what is left. Valid while this box and its parts live.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let rest = self.range(self.done..self.len());
        let list = rest.map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        });
        self.list = list;
        opcode::Writev::new(ops::fd(self.file.as_raw_fd()), self.list.as_ptr(), 2)
            .offset(self.offset + self.done as u64)
            .build()
    }

    pub(super) fn token(&self) -> u64 {
        self.token
    }

    pub(super) fn file(&self) -> &Rc<OwnedFd> {
        &self.file
    }

    /// Where the first part begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of both parts.
    pub(super) fn len(&self) -> usize {
        self.parts[0].len() + self.parts[1].len()
    }

    pub(super) fn size(&self) -> Size {
        Size {
            len: self.len(),
            is_urgent: self.is_urgent,
        }
    }

    /// What lies in a range of the two parts taken together.
    fn range(&self, range: Range<usize>) -> [&[u8]; 2] {
        let [head, body] = &self.parts;
        let of_head = |at: usize| at.min(head.len());
        let of_body = |at: usize| at - of_head(at);
        [
            &head[of_head(range.start)..of_head(range.end)],
            &body[of_body(range.start)..of_body(range.end)],
        ]
    }

    /// Copies a range to the start of `to`.
    pub(super) fn copy_range(&self, range: Range<usize>, to: &mut [u8]) {
        let [head, body] = self.range(range);
        let (to_head, rest) = to.split_at_mut(head.len());
        to_head.copy_from_slice(head);
        rest[..body.len()].copy_from_slice(body);
    }

    /// Writes a range on the spot.
    pub(super) fn write_range(&self, range: Range<usize>) -> io::Result<()> {
        let position = self.offset + range.start as u64;
        write_all_at(&self.file, self.range(range), position)
    }

    fn advance(&mut self, written: io::Result<usize>) -> Progress {
        match written {
            Ok(0) if self.done < self.len() => {
                Progress::Finished(Err(io::ErrorKind::WriteZero.into()))
            }
            Ok(written) => {
                self.done += written;
                if self.done < self.len() {
                    Progress::Unfinished
                } else {
                    Progress::Finished(Ok(()))
                }
            }
            Err(error) if is_interruption(&error) => Progress::Unfinished,
            Err(error) => Progress::Finished(Err(error)),
        }
    }
}

/// Processor time of this thread: unlike the time that passes, it does not count what others on
/// the same core took of it.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}

/// Writes all of both parts, one after the other.
pub(super) fn write_all_at(file: &OwnedFd, parts: [&[u8]; 2], position: u64) -> io::Result<()> {
    let mut list = parts.map(IoSlice::new);
    let mut rest = &mut list[..];
    let mut position = i64::try_from(position).expect("checked by write");
    loop {
        // Also skips empty parts.
        IoSlice::advance_slices(&mut rest, 0);
        if rest.is_empty() {
            return Ok(());
        }
        match pwritev(file, rest, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                IoSlice::advance_slices(&mut rest, written);
                position += i64::try_from(written).expect("no more than was asked for");
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether these bytes have file positions. Beyond them io_uring would see -1, which stands for
/// the current position.
pub(super) fn is_position(offset: u64, len: usize) -> bool {
    offset
        .checked_add(len as u64)
        .is_some_and(|end| i64::try_from(end).is_ok())
}

/// Files do not answer `EAGAIN` on their own account: it means that the kernel was short of
/// something for a moment.
pub(super) fn is_interruption(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINTR | Errno::EAGAIN)
    )
}
