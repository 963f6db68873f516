//! Around the page cache: descriptors with `O_DIRECT`, and what the cache holds.
//!
//! Durability: both descriptors name one inode. An fdatasync of the ordinary one writes out what
//! is buffered, commits the extents that direct writes have filled, and flushes the device.

#![expect(unsafe_code, reason = "cachestat has no wrapper")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::sys::stat::{Mode, SFlag, fstat};
use nsq_core::Now;

use super::stage::Stage;
use crate::stage::Identity;

/// Direct transfers begin and end at multiples of this, in the file and in memory. No device that
/// matters has larger blocks; one that has refuses, and is served by the page cache.
pub(super) const BLOCK: usize = 4096;
/// So many times in a row a file must have been slow to count as slow ...
const SLOW_TIMES: u32 = 8;
/// ... for so long.
const SLOW_FOR: Duration = Duration::from_secs(1);
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
    /// How often in a row little had gathered for the device when it was time.
    slow_times: u32,
    slow_until: Now,
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
    pub(super) fn identify(&mut self, file: &Rc<OwnedFd>, stage: &Stage) -> Option<Rc<Identity>> {
        let entry = self.find(file)?;
        if entry.identity.is_none() {
            entry.identity = stage.identify(file).ok().map(Rc::new);
        }
        entry.identity.clone()
    }

    /// Something has gathered for the device, a little or more. Whether the file counts as slow now.
    pub(super) fn note_pace(&mut self, file: &Rc<OwnedFd>, is_little: bool, now: Now) -> bool {
        let Some(entry) = self.find(file) else {
            return false;
        };
        entry.slow_times = if is_little { entry.slow_times + 1 } else { 0 };
        let is_slow = entry.slow_times >= SLOW_TIMES;
        if is_slow {
            entry.slow_times = 0;
            entry.slow_until = now.after(SLOW_FOR);
        }
        is_slow
    }

    /// Whether so little comes to a file that small writes had better not be gathered for the device.
    pub(super) fn is_slow(&mut self, file: &Rc<OwnedFd>, now: Now) -> bool {
        self.find(file).is_some_and(|entry| now < entry.slow_until)
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
            slow_times: 0,
            slow_until: Now(0),
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

/// Opens a regular file once more, with the access that `file` has, and turns off the kernel's reading
/// ahead for `file`: what it brought into the page cache around one read the next would find there, and
/// so on to the end of the file, all of it copied once more.
fn open(file: &OwnedFd) -> nix::Result<OwnedFd> {
    let kind = SFlag::from_bits_truncate(fstat(file)?.st_mode & SFlag::S_IFMT.bits());
    if kind != SFlag::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let access = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = access | OFlag::O_DIRECT | OFlag::O_CLOEXEC;
    let direct = nix::fcntl::open(path.as_str(), flags, Mode::empty())?;
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM)?;
    Ok(direct)
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
