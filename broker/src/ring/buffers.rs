//! The provided buffers: a pool shared with the kernel, out of which multishot receives take a
//! buffer only when there is something to put into it. Ten thousand idle connections hold none.
//!
//! Invariant: a buffer is either in the shared ring (the kernel may write it) or named by one
//! completion that has not been answered by [`Buffers::lend`] (only we touch it).

#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The only buffer group of a ring.
pub(super) const GROUP: u16 = 0;
const PAGE: usize = 4096;

#[derive(Debug)]
pub(super) struct Buffers {
    /// Start of the mapping: `count` ring entries, padded to a page, then the buffers.
    base: NonNull<u8>,
    map_bytes: usize,
    data_offset: usize,
    /// A power of two.
    count: u16,
    buffer_bytes: u32,
    /// Free-running, our copy of the shared tail.
    tail: u16,
}

impl Buffers {
    /// Maps the memory and fills the ring; the kernel does not know it before `register`.
    pub(super) fn new(count: u16, buffer_bytes: u32) -> io::Result<Self> {
        if !count.is_power_of_two() || count > 1 << 15 || buffer_bytes == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "receive buffers: the count must be a power of two up to 32768, the size not 0",
            ));
        }
        let data_offset = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(PAGE);
        let map_bytes = data_offset + usize::from(count) * widen(buffer_bytes);
        // SAFETY: a fresh private anonymous mapping; no existing memory is affected.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                map_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).expect("mmap does not map page 0");
        let mut buffers = Self {
            base,
            map_bytes,
            data_offset,
            count,
            buffer_bytes,
            tail: 0,
        };
        for id in 0..count {
            buffers.put(id);
        }
        Ok(buffers)
    }

    pub(super) fn count(&self) -> usize {
        usize::from(self.count)
    }

    pub(super) fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        let address = self.base.as_ptr().expose_provenance() as u64;
        // SAFETY: the mapping holds `count` entries and outlives the registration: the owner
        // unregisters before it drops us.
        unsafe { submitter.register_buf_ring_with_flags(address, self.count, GROUP, 0) }
    }

    /// Shows `len` bytes of buffer `id` to `look`, then gives the buffer back to the kernel.
    ///
    /// # Safety
    /// The kernel must have named `id` in a completion that was not passed to this function
    /// before.
    pub(super) unsafe fn lend(&mut self, id: u16, len: usize, look: impl FnOnce(&[u8])) {
        assert!(
            id < self.count && len <= widen(self.buffer_bytes),
            "the kernel keeps to its ring"
        );
        let start = self.data(id);
        // SAFETY: in bounds (asserted) and initialised (the mapping starts zeroed); by the
        // caller's promise the kernel does not write it until `put` below.
        let data = unsafe { std::slice::from_raw_parts(start, len) };
        look(data);
        self.put(id);
    }

    /// Start of buffer `id`.
    fn data(&self, id: u16) -> *mut u8 {
        let offset = self.data_offset + usize::from(id) * widen(self.buffer_bytes);
        // SAFETY: `id < count`, so the offset lies within the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Puts buffer `id` at the tail of the shared ring.
    fn put(&mut self, id: u16) {
        let entries = self.base.as_ptr().cast::<BufRingEntry>();
        let address = self.data(id).expose_provenance() as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: the index is masked to `count` entries; the kernel does not read this entry
        // before the tail has passed it, and it has at most `count` entries outstanding. The
        // mapping is page-aligned, zeroed, and valid for `BufRingEntry`, which is plain data.
        let entry = unsafe { &mut *entries.add(index) };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `entries` is the start of the ring, where the first entry's reserved field
        // doubles as the tail.
        let tail = unsafe { BufRingEntry::tail(entries) };
        // SAFETY: the tail is aligned and lives as long as the mapping, and is only accessed
        // atomically.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and the owner has unregistered it and seen the end of all
        // receives before it drops us.
        let outcome = unsafe { libc::munmap(self.base.as_ptr().cast(), self.map_bytes) };
        debug_assert_eq!(outcome, 0, "unmapping what was mapped");
    }
}

/// A u32 as an index; Linux targets have at least 32-bit addresses.
pub(super) fn widen(value: u32) -> usize {
    usize::try_from(value).expect("usize holds 32 bits on Linux")
}
