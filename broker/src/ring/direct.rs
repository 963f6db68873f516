//! Around the page cache: descriptors with `O_DIRECT`, and large writes in parts.
//!
//! A large write is cut at block boundaries. Its whole blocks are copied to the stage and go to the
//! device from there, through the ring; what is left of a block at either end is a plain buffered
//! write, made on the spot. From then on the write survives the process, and is accepted. So no block is ever written both ways at a time, and the page cache cannot
//! disagree with the device: the kernel drops the cached pages of what is written directly, and
//! writes dirty ones out before it reads directly.
//!
//! Durability: both descriptors name one inode. An fdatasync of the ordinary one writes out what
//! is buffered, commits the extents that direct writes have filled, and flushes the device.

#![expect(unsafe_code, reason = "cachestat has no wrapper")]

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};

use io_uring::{opcode, squeue};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, SFlag, fstat};
use nsq_core::Now;

use super::Completion;
use super::files::{WriteOp, is_interruption, write_all_at};
use super::ops::{self, Op, OpId, outcome};
use super::route::Way;
use super::stage::{Slot, Stage};
use super::turn::{Ready, Ring, Sink};
use crate::stage::{DATA_BYTES, Identity};

/// Direct transfers begin and end at multiples of this, in the file and in memory. No device that
/// matters has larger blocks; one that has refuses, and is served by the page cache.
pub(super) const BLOCK: usize = 4096;
/// Files whose direct descriptor is kept. A file beyond them costs two system calls per write.
const FILES_MAX: usize = 32;

/// The direct descriptors of the files in use, for as long as their owner keeps the files.
#[derive(Debug, Default)]
pub(super) struct DirectFiles {
    entries: Vec<Entry>,
    /// Counts look-ups.
    looked_up: u64,
}

#[derive(Debug)]
struct Entry {
    /// Keeps the address from being used again, so that it identifies the file.
    file: Weak<OwnedFd>,
    /// `None`: the file cannot be used so.
    direct: Option<Rc<OwnedFd>>,
    /// Known once it was written to.
    identity: Option<Rc<Identity>>,
    /// Value of `looked_up` when it was last used.
    used: u64,
}

impl DirectFiles {
    /// The direct descriptor of a file, opened at the first call. `None` if there cannot be one.
    pub(super) fn get(&mut self, file: &Rc<OwnedFd>) -> Option<Rc<OwnedFd>> {
        self.looked_up += 1;
        let used = self.looked_up;
        if let Some(entry) = self.find(file) {
            entry.used = used;
            return entry.direct.clone();
        }
        let direct = match open(file) {
            Ok(direct) => Some(Rc::new(direct)),
            Err(Errno::EMFILE | Errno::ENFILE) => {
                // Somebody may need ours more. It is tried again with the next large write.
                self.entries.clear();
                return None;
            }
            Err(_) => None,
        };
        self.insert(file, direct.clone());
        direct
    }

    /// By which the stage knows a file that [`Self::get`] has found to be usable.
    fn identify(&mut self, file: &Rc<OwnedFd>, stage: &Stage) -> Option<Rc<Identity>> {
        let entry = self.find(file)?;
        if entry.identity.is_none() {
            entry.identity = stage.identify(file).ok().map(Rc::new);
        }
        entry.identity.clone()
    }

    /// The file system has refused a direct transfer: the file is not used so again.
    pub(super) fn refuse(&mut self, file: &Rc<OwnedFd>) {
        match self.find(file) {
            Some(entry) => entry.direct = None,
            None => self.insert(file, None),
        }
    }

    /// Closes the descriptors of files that their owner has closed.
    pub(super) fn sweep(&mut self) {
        self.entries.retain(|entry| entry.file.strong_count() > 0);
    }

    fn find(&mut self, file: &Rc<OwnedFd>) -> Option<&mut Entry> {
        let address = Rc::as_ptr(file);
        self.entries
            .iter_mut()
            .find(|entry| entry.file.as_ptr() == address)
    }

    fn insert(&mut self, file: &Rc<OwnedFd>, direct: Option<Rc<OwnedFd>>) {
        let entry = Entry {
            file: Rc::downgrade(file),
            direct,
            identity: None,
            used: self.looked_up,
        };
        if self.entries.len() < FILES_MAX {
            self.entries.push(entry);
        } else if let Some(oldest) = self.entries.iter_mut().min_by_key(|entry| entry.used) {
            *oldest = entry;
        }
    }

    /// Whether it is known whether the file can be used directly.
    #[cfg(test)]
    pub(super) fn knows(&mut self, file: &Rc<OwnedFd>) -> bool {
        self.find(file).is_some()
    }

    /// Takes `direct` for the direct descriptor of `file`.
    #[cfg(test)]
    pub(super) fn pretend(&mut self, file: &Rc<OwnedFd>, direct: OwnedFd) {
        self.insert(file, Some(Rc::new(direct)));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Opens a regular file once more, with the access that `file` has.
fn open(file: &OwnedFd) -> nix::Result<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let access = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = access | OFlag::O_DIRECT | OFlag::O_CLOEXEC;
    nix::fcntl::open(path.as_str(), flags, Mode::empty())
}

/// Whether an error means that this file cannot be used directly.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EINVAL | Errno::EOPNOTSUPP)
    )
}

/// Whether most of a range is in the page cache; also said if it cannot be known (before 6.5).
///
/// A buffered read that must not wait would tell too, but it has the kernel read ahead what the
/// device is asked for again a moment later.
pub(super) fn is_cached(file: &OwnedFd, offset: u64, len: usize) -> bool {
    const CACHESTAT: libc::c_long = 451;
    /// `struct cachestat_range`.
    #[repr(C)]
    struct Span {
        offset: u64,
        len: u64,
    }
    /// `struct cachestat`: pages in the cache, dirty, in writeback, evicted, recently evicted.
    #[derive(Default)]
    #[repr(C)]
    struct Pages([u64; 5]);

    let len = len as u64;
    let span = Span { offset, len };
    let mut pages = Pages::default();
    // SAFETY: both structures have the kernel's layout and live until the call returns.
    let outcome = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            &raw const span,
            &raw mut pages,
            0,
        )
    };
    outcome != 0 || pages.0[0] * BLOCK as u64 * 2 > len
}

/// The whole blocks of `len` bytes at `offset`, as a range of those bytes. Empty if there are none.
fn whole_blocks(offset: u64, len: usize) -> Range<usize> {
    let block = BLOCK as u64;
    let end = offset + len as u64;
    let first = offset.next_multiple_of(block).min(end);
    let last = (end / block * block).max(first);
    let index = |position: u64| usize::try_from(position - offset).expect("at most len");
    index(first)..index(last)
}

/// A write in parts: shared by them, answered by the last one.
#[derive(Debug)]
struct Whole {
    token: u64,
    /// Bytes of all parts.
    len: usize,
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

/// Whole blocks on their way to the device.
#[derive(Debug)]
pub(super) struct DirectOp {
    whole: Rc<Whole>,
    /// The ordinary descriptor.
    file: Rc<OwnedFd>,
    direct: Rc<OwnedFd>,
    /// Holds the blocks at its start, and keeps them until they are written.
    slot: Slot,
    /// Where they go; a multiple of [`BLOCK`], as the two below.
    offset: u64,
    len: usize,
    done: usize,
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
    /// The submission of what is left. Valid while `slot` lives and is not touched.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let rest = &self.slot.data()[self.done..self.len];
        let len = u32::try_from(rest.len()).expect("no more than a buffer");
        opcode::Write::new(ops::fd(self.direct.as_raw_fd()), rest.as_ptr(), len)
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
        write_all_at(&self.file, [rest, &[]], self.offset + self.done as u64)
    }
}

impl Ring {
    /// Writes around the page cache. False, and nothing is done, if the file cannot be used so or
    /// there is not enough room in the stage: what the device is too slow for becomes buffered, and
    /// no write waits for another's place.
    pub(super) fn write_direct(&mut self, op: &WriteOp, now: Now) -> bool {
        let blocks = whole_blocks(op.offset(), op.len());
        let Some(stage) = &mut self.stage else {
            return false;
        };
        let Some(direct) = self.direct.get(op.file()) else {
            return false;
        };
        let Some(identity) = self.direct.identify(op.file(), stage) else {
            return false;
        };
        let Some(slots) = stage.lend(now, blocks.len()) else {
            return false;
        };
        let whole = Rc::new(Whole {
            token: op.token(),
            len: op.len(),
            error: RefCell::new(None),
        });
        whole.note(op.write_range(0..blocks.start));
        whole.note(op.write_range(blocks.end..op.len()));
        let mut parts = Vec::with_capacity(slots.len());
        for (mut slot, start) in slots.into_iter().zip(blocks.clone().step_by(DATA_BYTES)) {
            let range = start..blocks.end.min(start + DATA_BYTES);
            let offset = op.offset() + range.start as u64;
            stage.keep(&mut slot, (&identity, offset, range.len()), |to| {
                op.copy_range(range.clone(), to);
            });
            parts.push(DirectOp {
                whole: Rc::clone(&whole),
                file: Rc::clone(op.file()),
                direct: Rc::clone(&direct),
                slot,
                offset,
                len: range.len(),
                done: 0,
            });
        }
        if whole.is_sound() {
            let token = op.token();
            self.ready.push_back(Ready::Accepted { token });
        }
        for part in parts {
            self.start(Op::Direct(part));
        }
        if let Some(whole) = Rc::into_inner(whole) {
            self.ready.push_back(Ready::Written {
                token: whole.token,
                result: whole.outcome(),
            });
        }
        true
    }

    pub(super) fn on_direct(&mut self, id: OpId, result: i32, sink: &mut Sink<'_>) {
        let Some(Op::Direct(op)) = self.ops.get_mut(id) else {
            return;
        };
        let result = match op.advance(outcome(result)) {
            Progress::Unfinished => return self.rearm(id),
            Progress::Unaligned { refused } => {
                if refused {
                    self.direct.refuse(&op.file);
                }
                op.finish_buffered()
            }
            Progress::Finished(result) => result,
        };
        let Some(Op::Direct(op)) = self.ops.remove(id) else {
            return;
        };
        if result.is_ok() {
            // Otherwise it is kept for the next start.
            op.slot.release();
        }
        op.whole.note(result);
        if let Some(whole) = Rc::into_inner(op.whole) {
            self.route.on_written(Way::Direct, whole.len);
            sink(Completion::Written {
                token: whole.token,
                result: whole.outcome(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_direct_writes_are_continued_or_finished_buffered() {
        let file = Rc::new(OwnedFd::from(tempfile::tempfile().unwrap()));
        let dir = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(dir.path().to_owned(), dir.path().join("stage"));
        let mut slot = stage.lend(Now(0), 1).unwrap().remove(0);
        let identity = stage.identify(&file).unwrap();
        stage.keep(&mut slot, (&identity, 4096, 4 * BLOCK), |to| to.fill(7));
        let mut op = DirectOp {
            whole: Rc::new(Whole {
                token: 1,
                len: 4 * BLOCK,
                error: RefCell::new(None),
            }),
            file: Rc::clone(&file),
            direct: Rc::clone(&file),
            slot,
            offset: 4096,
            len: 4 * BLOCK,
            done: 0,
        };
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
        assert_eq!(len, 5 * BLOCK);
        assert!(found[..hole].iter().all(|byte| *byte == 0));
        assert!(found[hole..len].iter().all(|byte| *byte == 7));
        let failed = Err(io::Error::from_raw_os_error(libc::EIO));
        assert!(matches!(op.advance(failed), Progress::Finished(Err(_))));
    }

    #[test]
    fn the_first_error_of_a_write_in_parts_counts() {
        let whole = Whole {
            token: 1,
            len: 1,
            error: RefCell::new(None),
        };
        whole.note(Ok(()));
        whole.note(Err(io::Error::from_raw_os_error(libc::EIO)));
        whole.note(Err(io::Error::from_raw_os_error(libc::ENOSPC)));
        whole.note(Ok(()));
        let error = whole.outcome().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn whole_blocks_leave_the_edges() {
        let cases = [
            (0, 0, 0..0),
            (0, 4096, 0..4096),
            (0, 4095, 0..0),
            (1, 4095, 4095..4095),
            (1, 4096, 4095..4095),
            (1, 8191, 4095..8191),
            (4000, 10_000, 96..8288),
            (4097, 10, 10..10),
            (8192, 9000, 0..8192),
        ];
        for (offset, len, expected) in cases {
            assert_eq!(whole_blocks(offset, len), expected, "{offset} {len}");
        }
    }
}
