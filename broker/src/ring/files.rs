//! Writing, reading and syncing files.
//!
//! Buffered writes through the ring are handed to a kernel worker by most file systems, which
//! costs more than the write itself. So they are made on the spot, as long as none is made to wait.

#![expect(unsafe_code, reason = "the kernel fills a buffer's spare capacity")]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use io_uring::{opcode, squeue};
use nix::errno::Errno;
use nix::sys::uio::pwritev;

use super::Completion;
use super::buffers::widen;
use super::ops::{self, Op, OpId, outcome};
use super::turn::{Ready, Ring, Sink};

/// Writes up to this size are made within [`Ring::write`] itself, while the kernel takes them at once.
///
/// Measured with a buffered, recycled file on ext4 (µs of time and of CPU per write): inline 4 for
/// 4 KiB, 5 for 16 KiB, 9.5 for 64 KiB, 25 for 256 KiB; through the ring 45 to 70 one at a time,
/// and 9 to 39 with four in flight. What the ring buys is that a write that waits does not hold
/// the shard up: the kernel makes writers wait when more is dirty than the disk can take.
pub const INLINE_WRITE_BYTES_MAX: usize = 1024 * 1024;
/// A write that took this long was made to wait ...
const THROTTLED: Duration = Duration::from_millis(20);
/// ... and for this long the next ones are left to the kernel's workers.
const THROTTLED_FOR: Duration = Duration::from_millis(250);

impl Ring {
    /// Writes the two parts, one after the other, at `offset`. Answered once by
    /// [`Completion::Written`], always in a later turn. Writes in flight together may complete in
    /// any order.
    pub fn write(&mut self, token: u64, file: Rc<OwnedFd>, offset: u64, parts: [Bytes; 2]) {
        let mut op = WriteOp::new(token, file, offset, parts);
        if !is_position(offset, op.remaining()) {
            let result = Err(io::ErrorKind::InvalidInput.into());
            self.ready.push_back(Ready::Written { token, result });
        } else if op.remaining() <= INLINE_WRITE_BYTES_MAX && self.throttled_until.is_none() {
            let begun = self.clock.now();
            let result = op.write_now();
            let ended = self.clock.now();
            if ended > begun.after(THROTTLED) {
                self.throttled_until = Some(ended.after(THROTTLED_FOR));
            }
            self.ready.push_back(Ready::Written { token, result });
        } else {
            if self
                .throttled_until
                .is_some_and(|until| until < self.clock.now())
            {
                self.throttled_until = None;
            }
            self.start(Op::Write(Box::new(op)));
        }
    }

    /// Reads `len` bytes at `offset`, fewer only at the end of the file. Answered by
    /// [`Completion::Read`].
    pub fn read(&mut self, token: u64, file: Rc<OwnedFd>, offset: u64, len: u32) {
        let wanted = widen(len);
        if is_position(offset, wanted) {
            let data = Vec::with_capacity(wanted);
            self.start(Op::Read(ReadOp {
                token,
                file,
                offset,
                wanted,
                data,
            }));
        } else {
            let error = io::ErrorKind::InvalidInput.into();
            self.ready.push_back(Ready::ReadFailed { token, error });
        }
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
        drop(self.ops.remove(id));
        sink(Completion::Written { token, result });
    }

    pub(super) fn on_read(&mut self, id: OpId, result: i32, sink: &mut Sink<'_>) {
        let Some(Op::Read(op)) = self.ops.get_mut(id) else {
            return;
        };
        let result = match op.advance(outcome(result)) {
            Progress::Unfinished => return self.rearm(id),
            Progress::Finished(result) => result,
        };
        let token = op.token;
        let result = result.map(|()| Bytes::from(std::mem::take(&mut op.data)));
        drop(self.ops.remove(id));
        sink(Completion::Read { token, result });
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
    /// Bytes of both parts already written.
    done: usize,
    /// What the kernel is told to write; points into `parts`.
    list: [libc::iovec; 2],
}

impl WriteOp {
    fn new(token: u64, file: Rc<OwnedFd>, offset: u64, parts: [Bytes; 2]) -> Self {
        let nothing = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            token,
            file,
            offset,
            parts,
            done: 0,
            list: [nothing; 2],
        }
    }

    /// The submission of what is left. Valid while this box and its parts live.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let list = self.rest().map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        });
        self.list = list;
        opcode::Writev::new(ops::fd(self.file.as_raw_fd()), self.list.as_ptr(), 2)
            .offset(self.position())
            .build()
    }

    fn remaining(&self) -> usize {
        self.parts[0].len() + self.parts[1].len() - self.done
    }

    /// What is left of each part.
    fn rest(&self) -> [&[u8]; 2] {
        let [head, body] = &self.parts;
        let of_head = self.done.min(head.len());
        [&head[of_head..], &body[self.done - of_head..]]
    }

    fn position(&self) -> u64 {
        self.offset + self.done as u64
    }

    fn advance(&mut self, written: io::Result<usize>) -> Progress {
        match written {
            Ok(0) if self.remaining() > 0 => {
                Progress::Finished(Err(io::ErrorKind::WriteZero.into()))
            }
            Ok(written) => {
                self.done += written;
                if self.remaining() > 0 {
                    Progress::Unfinished
                } else {
                    Progress::Finished(Ok(()))
                }
            }
            Err(error) if is_interruption(&error) => Progress::Unfinished,
            Err(error) => Progress::Finished(Err(error)),
        }
    }

    fn write_now(&mut self) -> io::Result<()> {
        loop {
            let position = i64::try_from(self.position()).expect("checked by write");
            let list = self.rest().map(IoSlice::new);
            let written = pwritev(&*self.file, &list, position).map_err(io::Error::from);
            if let Progress::Finished(result) = self.advance(written) {
                return result;
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct ReadOp {
    token: u64,
    file: Rc<OwnedFd>,
    offset: u64,
    wanted: usize,
    /// Its length is what has been read, its capacity at least `wanted`. Never grows.
    data: Vec<u8>,
}

impl ReadOp {
    /// The submission of what is left. Valid while `data` lives and is not touched.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let missing = u32::try_from(self.wanted - self.data.len()).expect("asked for as u32");
        let position = self.offset + self.data.len() as u64;
        let target = self.data.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        opcode::Read::new(ops::fd(self.file.as_raw_fd()), target, missing)
            .offset(position)
            .build()
    }

    fn advance(&mut self, read: io::Result<usize>) -> Progress {
        match read {
            Ok(0) => Progress::Finished(Ok(())),
            Ok(read) => {
                let len = self.data.len() + read;
                assert!(
                    len <= self.wanted,
                    "the kernel reads no more than it was asked to"
                );
                // SAFETY: the kernel has initialised `read` bytes of the spare capacity, of which
                // there are at least `wanted - len()`.
                unsafe { self.data.set_len(len) };
                if len < self.wanted {
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

/// Whether these bytes have file positions. Beyond them io_uring would see -1, which stands for
/// the current position.
fn is_position(offset: u64, len: usize) -> bool {
    offset
        .checked_add(len as u64)
        .is_some_and(|end| i64::try_from(end).is_ok())
}

/// Files do not answer `EAGAIN` on their own account: it means that the kernel was short of
/// something for a moment.
fn is_interruption(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINTR | Errno::EAGAIN)
    )
}
