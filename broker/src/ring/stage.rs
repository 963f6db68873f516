//! The stage of a ring: shared memory that direct writes are made from (see [`crate::stage`]).
//!
//! Made when it is needed first and removed when it was not for a while. A [`Slot`] has one owner;
//! it is free again when that owner says that its bytes are where they belong. One that is dropped
//! without that keeps its bytes for the next start.

#![expect(unsafe_code, reason = "a file that is mapped")]

use std::cell::{Cell, RefCell};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crc_fast::{CrcAlgorithm, Digest};
use nix::fcntl::{FallocateFlags, fallocate};
use nsq_core::Now;

use super::pool::Mapping;
use crate::stage::{self, COMMIT, DATA_BYTES, HEAD_BYTES, Identity, SLOT_BYTES, SLOTS};

const LEN: usize = SLOTS * SLOT_BYTES;
/// After a stage could not be made, how long until it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Where a ring's stage is, and the stage, once there is one.
#[derive(Debug)]
pub(super) struct Stage {
    /// What paths are told relative to.
    data_path: PathBuf,
    path: PathBuf,
    map: Option<Rc<Map>>,
    /// Not tried before.
    retry_at: Now,
    /// Writes so far.
    order: u64,
}

impl Stage {
    pub(super) fn new(data_path: PathBuf, path: PathBuf) -> Self {
        Self {
            data_path,
            path,
            map: None,
            retry_at: Now(0),
            order: 0,
        }
    }

    /// Which file that is, and which life of it.
    pub(super) fn identify(&self, file: &OwnedFd) -> io::Result<Identity> {
        Identity::of(file, &self.data_path)
    }

    /// Whether there are free slots that together hold `bytes`. Makes the stage if there is none.
    pub(super) fn has_room(&mut self, now: Now, bytes: usize) -> bool {
        if self.map.is_none() && now >= self.retry_at {
            self.retry_at = now.after(RETRY_AFTER);
            self.map = Map::new(&self.path).ok().map(Rc::new);
        }
        let free = |map: &Rc<Map>| map.free.borrow().len() * DATA_BYTES;
        self.map.as_ref().is_some_and(|map| free(map) >= bytes)
    }

    /// An empty slot for what is to come to `offset` of the file; `None` if all are in use.
    pub(super) fn lend(&mut self, file: &Identity, offset: u64) -> Option<Slot> {
        let map = self.map.as_ref()?;
        let index = map.free.borrow_mut().pop()?;
        map.spare.set(map.spare.get().min(map.free.borrow().len()));
        let mut slot = Slot {
            map: Rc::clone(map),
            index,
            len: 0,
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
        };
        self.order += 1;
        stage::encode_head(slot.head_mut(), self.order, file, offset);
        Some(slot)
    }

    /// Removes a stage of which nothing was used since the last call.
    pub(super) fn trim(&mut self) {
        let is_idle = |map: &Rc<Map>| map.spare.replace(SLOTS) == SLOTS && map.is_free();
        if self.map.as_ref().is_some_and(is_idle) {
            self.map = None;
            drop(fs::remove_file(&self.path));
        }
    }

    pub(super) fn is_made(&self) -> bool {
        self.map.is_some()
    }

    /// Slots that are in use.
    #[cfg(test)]
    pub(super) fn lent(&self) -> usize {
        let free = |map: &Rc<Map>| map.free.borrow().len();
        self.map.as_ref().map_or(0, |map| SLOTS - free(map))
    }
}

/// The mapping, and which of its slots are free.
#[derive(Debug)]
struct Map {
    memory: Mapping,
    /// The last one to come back goes out first: it is in the processor's caches.
    free: RefCell<Vec<usize>>,
    /// The fewest that were free since the last [`Stage::trim`].
    spare: Cell<usize>,
}

impl Map {
    fn new(path: &Path) -> io::Result<Self> {
        fs::create_dir_all(path.parent().expect("a file in the folder of stages"))?;
        let mut options = OpenOptions::new();
        // What a killed process kept was written before the first ring was made.
        let file = options.read(true).write(true).create(true).truncate(true);
        let file = file.open(path)?;
        let made = Self::of(&file);
        if made.is_err() {
            drop(fs::remove_file(path));
        }
        made
    }

    fn of(file: &File) -> io::Result<Self> {
        let len = i64::try_from(LEN).expect("a few MiB");
        // Room that is sure: a page of a file without room would be a signal when it is touched.
        fallocate(file, FallocateFlags::empty(), 0, len)?;
        Ok(Self {
            memory: Mapping::of_file(file, LEN)?,
            free: RefCell::new((0..SLOTS).collect()),
            spare: Cell::new(SLOTS),
        })
    }

    fn is_free(&self) -> bool {
        self.free.borrow().len() == SLOTS
    }
}

/// A place for bytes that follow each other in a file.
pub(super) struct Slot {
    map: Rc<Map>,
    index: usize,
    /// Bytes that were put here.
    len: usize,
    /// Of those bytes.
    crc: Digest,
}

impl Slot {
    /// The bytes that were put here.
    pub(super) fn data(&self) -> &[u8] {
        // SAFETY: within the mapping, as `len` is at most `DATA_BYTES`; initialised, for a file
        // begins with zeros; the slot's while `self` is borrowed: each index has one slot.
        unsafe { std::slice::from_raw_parts(self.start().wrapping_add(HEAD_BYTES), self.len) }
    }

    /// How many more bytes there is room for.
    pub(super) fn room(&self) -> usize {
        DATA_BYTES - self.len
    }

    /// Adds `len` bytes, no more than there is room for, which `copy` puts into their place. When this
    /// returns, they will get to the file, whatever becomes of the process.
    pub(super) fn extend(&mut self, len: usize, copy: impl FnOnce(&mut [u8])) {
        assert!(len <= self.room(), "the owner has asked for the room");
        let place = self.start().wrapping_add(HEAD_BYTES + self.len);
        // SAFETY: within the mapping (asserted) and otherwise as in `data`; borrowed exclusively.
        let place = unsafe { std::slice::from_raw_parts_mut(place, len) };
        copy(place);
        self.crc.update(place);
        self.len += len;
        let word = stage::commit_word(self.len, self.crc.finalize());
        self.commit().store(word, Ordering::Release);
    }

    /// The head, of a slot that is empty.
    fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `extend`.
        unsafe { std::slice::from_raw_parts_mut(self.start(), HEAD_BYTES) }
    }

    fn start(&self) -> *mut u8 {
        let base = self.map.memory.base.as_ptr();
        base.wrapping_add(self.index * SLOT_BYTES)
    }

    fn commit(&self) -> &AtomicU64 {
        let word = self.start().wrapping_add(COMMIT.start);
        // SAFETY: within the mapping and aligned to 8, as slots begin at pages; nobody borrows the
        // head while this is called.
        unsafe { AtomicU64::from_ptr(word.cast()) }
    }

    /// The bytes are where they belong.
    pub(super) fn release(self) {
        self.commit().store(0, Ordering::Release);
        self.map.free.borrow_mut().push(self.index);
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("index", &self.index)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
