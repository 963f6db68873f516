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

    /// So many slots that together hold `bytes`; `None` if there are not enough.
    pub(super) fn lend(&mut self, now: Now, bytes: usize) -> Option<Vec<Slot>> {
        if self.map.is_none() && now >= self.retry_at {
            self.retry_at = now.after(RETRY_AFTER);
            self.map = Map::new(&self.path).ok().map(Rc::new);
        }
        let map = self.map.as_ref()?;
        let wanted = bytes.div_ceil(DATA_BYTES);
        let mut free = map.free.borrow_mut();
        let rest = free.len().checked_sub(wanted)?;
        map.spare.set(map.spare.get().min(rest));
        let slot = |index| Slot {
            map: Rc::clone(map),
            index,
        };
        Some(free.drain(rest..).map(slot).collect())
    }

    /// Fills a slot. When this returns, the bytes that `copy` puts there will get to `offset` of
    /// the file, whatever becomes of the process.
    pub(super) fn keep(
        &mut self,
        slot: &mut Slot,
        (file, offset, len): (&Identity, u64, usize),
        copy: impl FnOnce(&mut [u8]),
    ) {
        self.order += 1;
        let (head, data) = slot.bytes_mut().split_at_mut(HEAD_BYTES);
        copy(&mut data[..len]);
        let word = stage::commit_word(&data[..len]);
        stage::encode_head(head, self.order, file, offset);
        slot.commit().store(word, Ordering::Release);
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

/// A place for the bytes of one write.
#[derive(Debug)]
pub(super) struct Slot {
    map: Rc<Map>,
    index: usize,
}

impl Slot {
    /// The bytes that were put here.
    pub(super) fn data(&self) -> &[u8] {
        // SAFETY: within the mapping, zeros at first, and the slot's while `self` is borrowed:
        // each index has one slot.
        unsafe { std::slice::from_raw_parts(self.start().add(HEAD_BYTES), DATA_BYTES) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start(), SLOT_BYTES) }
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
