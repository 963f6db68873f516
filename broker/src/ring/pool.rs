//! Page-aligned buffers that are used again: memory that the kernel has given to this process
//! already, while a fresh page costs a fault, and on a virtual machine perhaps one of the host's.
//!
//! A [`Pool`] belongs to a ring. A [`Buffer`] comes back when it is dropped, on whichever thread:
//! what was read from a file moves between shards. Hence the lock, taken twice per large read and
//! never held over more than a push or a pop.
//!
//! Invariants
//! - A buffer has one owner: the shelf, or whoever borrowed it.
//! - `free.len() <= made <= buffers_max`.

#![expect(unsafe_code, reason = "memory mapped by hand, for its alignment")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Mapped memory.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned, like a boxed slice; nothing about it is bound to a thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared references only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private memory, zeros at first.
    fn new(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
    }

    /// The start of a file, which has at least `len` bytes and is not cut while this lives.
    pub(super) fn of_file(file: &File, len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_SHARED, file.as_raw_fd())
    }

    fn map(len: usize, flags: libc::c_int, fd: RawFd) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping; no existing memory is affected.
        let base = unsafe { libc::mmap(ptr::null_mut(), len, access, flags, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).expect("mmap does not map page 0");
        Ok(Self { base, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no borrow of it outlives us.
        let outcome = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(outcome, 0, "unmapping what was mapped");
    }
}

/// A page-aligned buffer. Its contents are whatever the last user left, zeros at first.
#[derive(Debug)]
pub(super) struct Buffer {
    /// `None` only while being dropped.
    mapping: Option<Mapping>,
    /// Where it goes when it is dropped; `None`: back to the kernel.
    home: Option<Arc<Mutex<Shelf>>>,
}

impl Buffer {
    /// A buffer of no pool.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn unpooled(len: usize) -> io::Result<Self> {
        Ok(Self {
            mapping: Some(Mapping::new(len)?),
            home: None,
        })
    }

    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().expect("taken by drop alone")
    }

    /// The address of the first byte.
    pub(super) fn start(&self) -> *mut u8 {
        self.mapping().base.as_ptr()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        let Mapping { base, len } = self.mapping();
        // SAFETY: mapped, initialised (zeros at first) and ours while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), *len) }
    }

    #[cfg(test)]
    fn bytes_mut(&mut self) -> &mut [u8] {
        let Mapping { base, len } = self.mapping();
        // SAFETY: as in `bytes`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), *len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(mapping), Some(home)) = (self.mapping.take(), &self.home) {
            lock(home).free.push(mapping);
        }
    }
}

/// Buffers of one size, made when they are wanted first, up to a limit.
#[derive(Debug)]
pub(super) struct Pool {
    shelf: Arc<Mutex<Shelf>>,
    buffer_bytes: usize,
    buffers_max: usize,
}

#[derive(Debug, Default)]
struct Shelf {
    /// The last one to come back goes out first: it is in the processor's caches.
    free: Vec<Mapping>,
    /// Free and lent.
    made: usize,
    /// The fewest that were free since the last [`Pool::trim`].
    spare: usize,
}

impl Pool {
    /// `buffer_bytes` is a multiple of the page size.
    pub(super) fn new(buffer_bytes: usize, buffers_max: usize) -> Self {
        Self {
            shelf: Arc::default(),
            buffer_bytes,
            buffers_max,
        }
    }

    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// How many can be borrowed now.
    #[cfg(test)]
    pub(super) fn available(&self) -> usize {
        let shelf = lock(&self.shelf);
        shelf.free.len() + self.buffers_max - shelf.made
    }

    /// A buffer, or `None` if all are lent or there is no memory.
    pub(super) fn lend(&self) -> Option<Buffer> {
        let mut shelf = lock(&self.shelf);
        let mapping = match shelf.free.pop() {
            Some(mapping) => mapping,
            None if shelf.made < self.buffers_max => {
                let mapping = Mapping::new(self.buffer_bytes).ok()?;
                shelf.made += 1;
                mapping
            }
            None => return None,
        };
        shelf.spare = shelf.spare.min(shelf.free.len());
        Some(Buffer {
            mapping: Some(mapping),
            home: Some(Arc::clone(&self.shelf)),
        })
    }

    /// Gives back to the kernel what was free all the time since the last call. To be called
    /// every few seconds.
    pub(super) fn trim(&self) {
        let mut shelf = lock(&self.shelf);
        let spare = shelf.spare;
        // The bottom of the stack has been idle for longest.
        drop(shelf.free.drain(..spare));
        shelf.made -= spare;
        shelf.spare = shelf.free.len();
    }

    /// No buffer exists.
    pub(super) fn is_empty(&self) -> bool {
        self.made() == 0
    }

    /// Buffers that exist, free and lent.
    pub(super) fn made(&self) -> usize {
        lock(&self.shelf).made
    }
}

/// No code that could panic runs under the lock, so there is no broken state to fear.
fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn buffers_are_made_lazily_up_to_the_limit_and_used_again_last_first() {
        let pool = Pool::new(8192, 2);
        assert_eq!((pool.made(), pool.available()), (0, 2));
        let mut first = pool.lend().unwrap();
        first.bytes_mut()[8191] = 7;
        let second = pool.lend().unwrap();
        assert!(pool.lend().is_none());
        assert_eq!((pool.made(), pool.available()), (2, 0));
        drop(second);
        drop(first);
        assert_eq!(pool.available(), 2);
        assert_eq!(pool.lend().unwrap().bytes()[8191], 7);
        assert_eq!(pool.made(), 2);
    }

    #[test]
    fn what_was_spare_throughout_is_given_back() {
        let pool = Pool::new(4096, 4);
        let lent: Vec<Buffer> = (0..3).map_while(|_| pool.lend()).collect();
        drop(lent);
        pool.trim();
        assert_eq!(pool.made(), 3, "they were in use since the last look");
        drop(pool.lend());
        pool.trim();
        assert_eq!(pool.made(), 1, "one was wanted");
        pool.trim();
        assert_eq!((pool.made(), pool.available()), (0, 4));
    }

    #[test]
    fn buffers_come_back_from_other_threads_and_outlive_the_pool() {
        let pool = Pool::new(4096, 2);
        let (moved, kept) = (pool.lend().unwrap(), pool.lend().unwrap());
        thread::spawn(move || drop(moved)).join().unwrap();
        assert_eq!(pool.available(), 1);
        drop(pool);
        assert_eq!(kept.bytes().len(), 4096);
    }

    #[test]
    fn buffers_are_aligned() {
        let own = Buffer::unpooled(4096).unwrap();
        let pooled = Pool::new(4096, 1).lend().unwrap();
        for buffer in [own, pooled] {
            assert_eq!(buffer.bytes().as_ptr().align_offset(4096), 0);
            assert!(buffer.bytes().iter().all(|byte| *byte == 0));
        }
    }
}
