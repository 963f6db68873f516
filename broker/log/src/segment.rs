//! Segments: the files that a log's batches lie in, oldest first.
//!
//! Owned by one log. Invariants:
//! - Names grow, and a segment holds only sequences at or above its name: a file is often asked
//!   for ahead of time, when the sequence that it will start with is not known yet, so the name is
//!   a *lower bound* of its first sequence. The first batch tells the exact one.
//! - Whatever a recycled file held before lies below its new name (asserted when it is recycled),
//!   so its stale batches can never pass for new ones.
//! - Only the last segment is appended to; the others are sealed. Sequences grow from segment to
//!   segment; where the one in between was freed there is a hole.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::checkpoint::Sealed;
use crate::disk::File;
use crate::format::{self, Header, IndexEntry, Parsed};

/// Bytes between two entries of a segment's index: what is walked through to find a scattered message.
const INDEX_STEP_BYTES: u64 = 8 * 1024;
/// Segments whose index is so dense, counted from the newest: 4 MiB of memory for full-grown ones.
const DENSE_SEGMENTS_MAX: usize = 32;
/// The same for older segments: 16 KiB of memory per 64 MiB of log. Without an index a backlog could not
/// be read ahead, see [`crate::reader`].
const OLD_STEP_BYTES: u64 = 64 * 1024;
/// The same in the journal: 3 KiB of it per 64 MiB of log. A read-ahead goes from one of these places to
/// another, so two of them, with the batches that go beyond, are to be less than one.
const KEPT_STEP_BYTES: u64 = 192 * 1024;
/// Freed full-size files kept for recycling.
pub(crate) const POOL_FILES_MAX: usize = 2;

/// The rule by which a header in a segment is accepted. Everything else that parses is stale: left
/// by an earlier use of the file, or behind the place where an earlier recovery cut the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expectation {
    /// The log's tag, once known.
    pub(crate) tag: Option<u64>,
    /// Name of the segment.
    pub(crate) name: u64,
    /// No batch starts below: where the one before ended.
    pub(crate) next: u64,
    /// No batch ends above: where the segment is known to end, else [`u64::MAX`].
    pub(crate) end: u64,
    /// Epochs never fall along the log.
    pub(crate) epoch: u32,
}

impl Expectation {
    pub(crate) fn accepts(&self, header: &Header) -> bool {
        self.fits(header.first, header.epoch, header.tag) && header.end() <= self.end
    }

    fn fits(&self, first: u64, epoch: u32, tag: u64) -> bool {
        self.tag.is_none_or(|known| known == tag) && self.is_current(first, epoch)
    }

    /// Whether a batch is not stale, by what means the same in every version of the format.
    pub(crate) fn is_current(&self, first: u64, epoch: u32) -> bool {
        first >= self.next.max(self.name) && epoch >= self.epoch
    }

    /// Whether a batch may begin here that would be accepted, as far as its first bytes tell. Sums
    /// over long tables are only made where that is so: bodies may be full of things that look like
    /// headers, and would have everything behind each of them summed up.
    fn may_accept(&self, fixed: &[u8]) -> bool {
        let (first, epoch, tag) = format::claims(fixed);
        fixed.starts_with(&format::MAGIC) && self.fits(first, epoch, tag)
    }

    /// Moves past an accepted batch.
    pub(crate) const fn advance(&mut self, header: &Header) {
        self.tag = Some(header.tag);
        self.next = header.end();
        self.epoch = header.epoch;
    }

    /// Searches `bytes`, which lie at a multiple of [`format::ALIGN`], for an acceptable batch, or one
    /// of an unknown version that claims to be current.
    /// `reach` is how many bytes there are in the file from there on.
    pub(crate) fn search(&self, bytes: &[u8], reach: u64) -> Search {
        let mut at = 0;
        while at + format::FIXED_LEN <= bytes.len() {
            if self.may_accept(&bytes[at..at + format::FIXED_LEN]) {
                match format::parse(&bytes[at..]) {
                    Parsed::Batch(header)
                        if self.accepts(&header)
                            && at as u64 + u64::from(header.total_len) <= reach =>
                    {
                        return Search::Found(at);
                    }
                    // Nothing to be passed over in silence.
                    Parsed::Unsupported => return Search::Found(at),
                    Parsed::Short(need) if (at + need) as u64 <= reach => {
                        return Search::More { at, need };
                    }
                    Parsed::Batch(_) | Parsed::Short(_) | Parsed::Zero | Parsed::Invalid => {}
                }
            }
            at += 8;
        }
        Search::More {
            at,
            need: format::FIXED_LEN,
        }
    }
}

const _: () = assert!(format::ALIGN == 8);

/// Outcome of [`Expectation::search`]; offsets from the start of what was searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// An acceptable header.
    Found(usize),
    /// None before `at`; go on from there with at least `need` bytes.
    More { at: usize, need: usize },
}

/// What is known of a segment's file.
#[derive(Debug)]
pub(crate) enum FileState {
    /// There, and to be opened on need.
    Closed,
    /// Not there yet: making it failed for want of space or descriptors, to be tried again.
    Unmade,
    /// Being created, recycled or opened.
    Busy,
    Open(File),
}

/// One segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: u64,
    /// Sequence of the first batch; the name while there is none.
    pub(crate) first: u64,
    /// One past the last sequence placed here.
    pub(crate) end: u64,
    /// Bytes preallocated.
    pub(crate) len: u64,
    /// Where the next batch goes.
    pub(crate) used: u64,
    /// Bytes from the start that are written: what may be read. Never above `used`.
    pub(crate) readable: u64,
    pub(crate) is_sealed: bool,
    /// Name of the freed file that it is made from; `None` for a new one.
    pub(crate) origin: Option<u64>,
    pub(crate) file: FileState,
    /// Operations in flight on the file.
    pub(crate) users: u32,
    /// Sparse, ascending; every entry is where a batch starts.
    pub(crate) index: Vec<IndexEntry>,
    /// Bytes between two entries of the index, at least.
    step: u64,
    /// Nothing in it is owed: it goes when the journal has written its record of this number.
    pub(crate) condemned: Option<u64>,
}

impl Segment {
    /// A segment that has no batch yet, whose file is being made.
    pub(crate) const fn new(name: u64, len: u64) -> Self {
        Self {
            name,
            first: name,
            end: name,
            len,
            used: 0,
            readable: 0,
            is_sealed: false,
            origin: None,
            file: FileState::Busy,
            users: 0,
            index: Vec::new(),
            step: INDEX_STEP_BYTES,
            condemned: None,
        }
    }

    /// A segment of `len` bytes as an earlier run has left it.
    pub(crate) fn restored(known: &Sealed, len: u64) -> Self {
        Self {
            first: known.first,
            end: known.end,
            used: known.used,
            readable: known.used,
            is_sealed: true,
            file: FileState::Closed,
            index: known.index.clone(),
            step: OLD_STEP_BYTES,
            ..Self::new(known.name, len)
        }
    }

    /// What the journal keeps of it once it is sealed.
    pub(crate) fn sealed(&self) -> Sealed {
        Sealed {
            name: self.name,
            first: self.first,
            end: self.end,
            used: self.used,
            index: thinned(&self.index, KEPT_STEP_BYTES),
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Takes note of a batch. Notes may come in any order and more than once; the index keeps
    /// those that stand at least a step apart.
    pub(crate) fn note(&mut self, sequence: u64, offset: u64) {
        if self
            .index
            .last()
            .is_none_or(|last| last.offset + self.step <= offset)
        {
            return self.index.push(IndexEntry { sequence, offset });
        }
        let at = self.index.partition_point(|entry| entry.offset < offset);
        let is_far_from = |other: Option<&IndexEntry>| {
            other.is_none_or(|entry| entry.offset.abs_diff(offset) >= self.step)
        };
        if is_far_from(self.index[..at].last()) && is_far_from(self.index.get(at)) {
            self.index.insert(at, IndexEntry { sequence, offset });
        }
    }

    /// The last known batch that starts at or below `sequence`, or the start of the file.
    pub(crate) fn locate(&self, sequence: u64) -> IndexEntry {
        let after = self
            .index
            .partition_point(|entry| entry.sequence <= sequence);
        let start = IndexEntry {
            sequence: self.first,
            offset: 0,
        };
        after.checked_sub(1).map_or(start, |at| self.index[at])
    }

    /// The last known place at or below `offset` up to which everything may be read, and the
    /// sequence that the batch there starts with, or would: a batch of the index, or the end.
    pub(crate) fn boundary(&self, offset: u64) -> Option<IndexEntry> {
        let readable = format::aligned(self.readable);
        if readable == self.used && readable <= offset {
            return Some(IndexEntry {
                sequence: self.end,
                offset: readable,
            });
        }
        let offset = offset.min(readable);
        let after = self.index.partition_point(|entry| entry.offset <= offset);
        after.checked_sub(1).map(|at| self.index[at])
    }
}

/// A freed file that waits to be used again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freed {
    /// Under which it still lies in the directory.
    pub(crate) name: u64,
    /// One past the last sequence that it holds.
    pub(crate) end: u64,
}

/// All segments of a log.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// With batches, ascending.
    pub(crate) list: VecDeque<Segment>,
    /// The empty one that comes next.
    pub(crate) prepared: Option<Segment>,
    pub(crate) pool: Vec<Freed>,
    /// Freed, with the file not known to be gone.
    pub(crate) removing: Vec<u64>,
}

impl Segments {
    pub(crate) fn get_mut(&mut self, name: u64) -> Option<&mut Segment> {
        // Nearly always the newest, which the search would try last.
        if self.list.back().is_some_and(|last| last.name == name) {
            return self.list.back_mut();
        }
        match self
            .list
            .binary_search_by_key(&name, |segment| segment.name)
        {
            Ok(at) => self.list.get_mut(at),
            Err(_) => self
                .prepared
                .as_mut()
                .filter(|segment| segment.name == name),
        }
    }

    /// The segment that holds `sequence`, or the one after the hole that it lies in.
    pub(crate) fn covering(&self, sequence: u64) -> Option<&Segment> {
        self.list
            .get(self.list.partition_point(|segment| segment.end <= sequence))
    }

    /// Those whose files could not be made yet.
    pub(crate) fn unmade(&self) -> impl Iterator<Item = &Segment> {
        let segments = self.list.iter().chain(&self.prepared);
        segments.filter(|segment| matches!(segment.file, FileState::Unmade))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Segment> {
        self.list.iter_mut().chain(self.prepared.as_mut())
    }

    /// Thins the index of the segment that has just become too old for a dense one.
    pub(crate) fn trim_indexes(&mut self) {
        if let Some(at) = self.list.len().checked_sub(DENSE_SEGMENTS_MAX + 1) {
            let segment = &mut self.list[at];
            segment.step = OLD_STEP_BYTES;
            segment.index = thinned(&segment.index, OLD_STEP_BYTES);
        }
    }

    /// Asserts what the module documentation promises. Linear: for tests and debug builds.
    pub(crate) fn check_invariants(&self) {
        let mut bound = 0;
        for segment in self.list.iter().chain(&self.prepared) {
            assert!(segment.name >= bound || bound == 0, "names grow");
            assert!(segment.first >= segment.name, "the name is a lower bound");
            assert!(segment.end >= segment.first && segment.readable <= segment.used);
            assert!(segment.index.is_sorted_by_key(|entry| entry.offset));
            bound = segment.name + 1;
        }
        let neighbours = self.list.iter().zip(self.list.iter().skip(1));
        for (before, after) in neighbours {
            assert!(
                before.end <= after.first && before.is_sealed,
                "{before:?} {after:?}"
            );
        }
        assert!(self.pool.len() <= POOL_FILES_MAX, "the pool is bounded");
    }
}

/// The entries that stand at least so many bytes apart.
fn thinned(index: &[IndexEntry], step: u64) -> Vec<IndexEntry> {
    let mut next = 0;
    let is_far = |entry: &&IndexEntry| {
        let is_far = entry.offset >= next;
        if is_far {
            next = entry.offset + step;
        }
        is_far
    };
    index.iter().filter(is_far).copied().collect()
}

/// `dir/<name>.log`.
pub(crate) fn path_of(dir: &Path, name: u64) -> PathBuf {
    dir.join(format!("{name:020}.log"))
}

/// The inverse of [`path_of`] for a bare file name; no segment has a name so high that sums overflow.
pub(crate) fn parse_file_name(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_suffix(".log")?;
    let is_ours = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let name = digits.parse().ok().filter(|_| is_ours)?;
    (name < format::NUMBER_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_survive_the_round_trip() {
        for name in [0, 7, format::NUMBER_MAX - 1] {
            let path = path_of(Path::new("t%d"), name);
            assert_eq!(path.parent(), Some(Path::new("t%d")));
            let file_name = path.file_name().and_then(|name| name.to_str()).unwrap();
            assert_eq!(parse_file_name(file_name), Some(name));
        }
        for other in [
            "checkpoint.log",
            "7.log",
            "0000000000000000000x.log",
            "x",
            "18446744073709551615.log",
        ] {
            assert_eq!(parse_file_name(other), None);
        }
    }

    #[test]
    fn forged_headers_are_passed_without_reading_what_they_claim_to_cover() {
        let mut forged = [0; format::FIXED_LEN];
        forged[..4].copy_from_slice(&format::MAGIC);
        // A header of 48 bytes and a table of 8 MiB, of a log with another tag.
        forged[10] = 48;
        forged[12..16].copy_from_slice(&(16_u32 << 20).to_le_bytes());
        forged[28..32].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        let bytes = forged.repeat(10);
        let mut expectation = Expectation {
            tag: Some(1),
            name: 0,
            next: 0,
            end: u64::MAX,
            epoch: 0,
        };
        let passed = Search::More {
            at: bytes.len() - format::FIXED_LEN + 8,
            need: format::FIXED_LEN,
        };
        assert_eq!(expectation.search(&bytes, u64::MAX), passed);
        expectation.tag = None;
        let Search::More { at: 0, need } = expectation.search(&bytes, u64::MAX) else {
            panic!("with the tag unknown it may be one");
        };
        assert_eq!(need, 48 + (8 << 20));
    }

    #[test]
    fn index_is_sparse_and_finds_the_batch_before() {
        let mut segment = Segment::new(10, 1 << 20);
        for batch in 0..40 {
            segment.note(10 + batch, batch * 1_250);
        }
        segment.note(11, 1_250);
        segment.note(90, 62_500);
        segment.note(60, 52_500);
        let offsets: Vec<_> = segment.index.iter().map(|entry| entry.offset).collect();
        assert_eq!(
            offsets,
            [0, 8_750, 17_500, 26_250, 35_000, 43_750, 52_500, 62_500]
        );
        assert_eq!(segment.locate(10).offset, 0);
        assert_eq!(segment.locate(16).offset, 0);
        assert_eq!(segment.locate(17).offset, 8_750);
        assert_eq!(segment.locate(49).offset, 43_750);
        assert_eq!(segment.locate(89).offset, 52_500);
    }

    #[test]
    fn the_index_of_an_old_segment_is_sparser() {
        let mut segments = Segments::default();
        for name in 0..=DENSE_SEGMENTS_MAX as u64 {
            let mut segment = Segment::new(name * 1_000, 1 << 20);
            for batch in 0..100 {
                segment.note(name * 1_000 + batch, batch * 10_000);
            }
            assert_eq!(segment.index.len(), 100);
            segments.list.push_back(segment);
            segments.trim_indexes();
        }
        let lens: Vec<_> = segments.list.iter().map(|s| s.index.len()).collect();
        assert_eq!(lens[..2], [15, 100]);
        let old = &mut segments.list[0];
        let offsets = old.index.iter().map(|entry| entry.offset);
        assert!(offsets.eq((0..15).map(|at| at * 70_000)));
        // Reading it does not fill it up again.
        (0..100).for_each(|batch| old.note(batch, batch * 10_000));
        assert_eq!(old.index.len(), 15);
        assert_eq!(old.locate(20).offset, 140_000);
        (old.used, old.end, old.is_sealed) = (1_000_000, 100, true);
        let sealed = old.sealed();
        let offsets = sealed.index.iter().map(|entry| entry.offset);
        assert!(offsets.eq((0..5).map(|at| at * 210_000)));
        let again = Segment::restored(&sealed, 1 << 20);
        assert_eq!(again.boundary(500_000), Some(sealed.index[2]));
    }

    #[test]
    fn a_boundary_is_a_batch_that_may_be_read_up_to() {
        let mut segment = Segment::new(10, 1 << 20);
        for batch in 0..4 {
            segment.note(10 + batch, batch * 10_000);
        }
        (segment.used, segment.end) = (40_000, 14);
        let at = |segment: &Segment, offset| {
            let entry = segment.boundary(offset)?;
            Some((entry.sequence, entry.offset))
        };
        segment.readable = 19_995;
        assert_eq!(at(&segment, 9_999), Some((10, 0)));
        assert_eq!(at(&segment, 10_000), Some((11, 10_000)));
        assert_eq!(at(&segment, 99_999), Some((12, 20_000)));
        segment.readable = 39_995;
        assert_eq!(at(&segment, 39_999), Some((13, 30_000)));
        assert_eq!(at(&segment, 40_000), Some((14, 40_000)));
        segment.index.clear();
        assert_eq!(at(&segment, 39_999), None);
    }

    #[test]
    fn covering_finds_the_segment_after_a_hole() {
        let mut segments = Segments::default();
        for (name, end) in [(0, 10), (20, 30)] {
            segments.list.push_back(Segment {
                end,
                ..Segment::new(name, 1)
            });
        }
        let name_of = |sequence| segments.covering(sequence).map(|segment| segment.name);
        assert_eq!(name_of(9), Some(0));
        assert_eq!(name_of(10), Some(20));
        assert_eq!(name_of(29), Some(20));
        assert_eq!(name_of(30), None);
    }
}
