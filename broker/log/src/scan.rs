//! The forward scan of segment files at start: blocking, sequential, in bounded memory.
//!
//! A scan follows the batches of a segment as long as there is an acceptable one where the one
//! before ended. Where there is none, it has to tell three cases apart:
//!
//! - *the end:* nothing was written there (zeros), or what stands there is stale (it parses, but
//!   its sequence or epoch is too low);
//! - *damage:* the segment is known to have gone further, or there is garbage; and there is an
//!   acceptable batch further on;
//! - *a torn tail:* garbage, and nothing acceptable within [`TAIL_SEARCH_BYTES`]. In a recycled
//!   file this looks no different from the end.
//!
//! Stale batches can never be accepted. Those of a recycled file lie below the segment's name.
//! Those behind a place where an earlier recovery cut the log have an epoch of an earlier run;
//! the journal has a *floor* for that place, every batch that was appended since has a later epoch,
//! and a scan never goes back to a lower one.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::checkpoint::Floor;
use crate::format::{self, Header, Parsed};
use crate::segment::{Expectation, Search, Segment};

/// Where nothing says that there is more, garbage is searched this far: several times the
/// largest batch that the broker gathers by default, and a millisecond's worth of reading.
const TAIL_SEARCH_BYTES: u64 = 4 << 20;
/// Bytes of the first read of a file: an idle log's tail needs no more.
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// What is given up where the medium fails.
const BLOCK_BYTES: usize = 4 << 10;

/// A file seen through a buffer that moves forward.
#[derive(Debug)]
pub(crate) struct Window {
    file: File,
    pub(crate) file_len: u64,
    base: u64,
    bytes: Vec<u8>,
    chunk: usize,
    /// Bytes that the medium did not give.
    pub(crate) unreadable: u64,
}

impl Window {
    pub(crate) const fn new(file: File, file_len: u64) -> Self {
        Self {
            file,
            file_len,
            base: 0,
            bytes: Vec::new(),
            chunk: CHUNK_BYTES_MIN,
            unreadable: 0,
        }
    }

    /// The bytes from `offset` on: at least `need`, unless the file ends before.
    pub(crate) fn at(&mut self, offset: u64, need: usize) -> &[u8] {
        let window_end = self.base + self.bytes.len() as u64;
        if offset < self.base || offset + need as u64 > window_end {
            self.fill(offset, need);
        }
        let start = usize::try_from(offset - self.base).expect("inside the window");
        &self.bytes[start.min(self.bytes.len())..]
    }

    fn fill(&mut self, offset: u64, need: usize) {
        let left = usize::try_from(self.file_len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = need.max(self.chunk).min(left);
        self.chunk = (self.chunk * 4).min(CHUNK_BYTES_MAX);
        self.base = offset;
        self.bytes.resize(len, 0);
        if self.file.read_exact_at(&mut self.bytes, offset).is_ok() {
            return;
        }
        for (at, block) in self.bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            let block_offset = offset + (at * BLOCK_BYTES) as u64;
            if self.file.read_exact_at(block, block_offset).is_err() {
                // Neither zeros nor a batch: garbage that is searched for what comes behind it.
                block.fill(0xFF);
                self.unreadable += block.len() as u64;
            }
        }
    }
}

/// The last batch, whose damage can still turn out to be a torn tail.
#[derive(Debug)]
struct LastBatch {
    header: Header,
    /// Offset and sequence at which it was expected: where the batch before ended. What is missing
    /// from there to its own start is damaged. If the epoch changed, that counts to the later one,
    /// so that no stale batch of the earlier one fits there.
    expected: (u64, u64),
    /// Ranges of damaged records.
    bad: Vec<(u64, u64)>,
}

/// What happened to the last batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    Whole,
    /// The last records of it are missing.
    Torn,
    /// All records of it are missing: the log ends at this offset and sequence, before it and
    /// before whatever is missing in front of it.
    Cut {
        offset: u64,
        sequence: u64,
    },
}

/// What a scan of all segments adds up to.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) epochs: Vec<(u64, u32)>,
    pub(crate) epoch_max: u32,
    pub(crate) deferred: Vec<(u64, u64)>,
    pub(crate) damaged: Vec<(u64, u64)>,
    last: Option<LastBatch>,
}

impl Findings {
    pub(crate) fn new(epoch_max: u32) -> Self {
        Self {
            epoch_max,
            ..Self::default()
        }
    }

    /// The last batch is not the last any more, or there is nothing to be torn: counts it.
    pub(crate) fn settle(&mut self) {
        let Some(LastBatch {
            header,
            expected,
            bad,
        }) = self.last.take()
        else {
            return;
        };
        let (_, start) = expected;
        if self
            .epochs
            .last()
            .is_none_or(|&(_, epoch)| epoch != header.epoch)
        {
            self.epochs.push((start, header.epoch));
        }
        if start < header.first {
            self.damaged.push((start, header.first));
        }
        if header.due_ms != 0 {
            let is_bad = |sequence: u64| {
                bad.iter()
                    .any(|&(start, end)| (start..end).contains(&sequence))
            };
            let intact = (header.first..header.end()).filter(|&sequence| !is_bad(sequence));
            self.deferred
                .extend(intact.map(|sequence| (sequence, header.due_ms)));
        }
        self.damaged.extend(bad);
    }

    fn take(&mut self, header: Header, expected: (u64, u64), batch: &[u8]) {
        self.settle();
        let mut bad: Vec<(u64, u64)> = Vec::new();
        for (sequence, (_, _, is_intact)) in (header.first..).zip(header.records(batch)) {
            if is_intact {
                continue;
            }
            match bad.last_mut() {
                Some(range) if range.1 == sequence => range.1 += 1,
                _ => bad.push((sequence, sequence + 1)),
            }
        }
        self.last = Some(LastBatch {
            header,
            expected,
            bad,
        });
    }

    /// Decides about the last batch, after all segments.
    pub(crate) fn finish(&mut self) -> Tail {
        let Some(LastBatch {
            header,
            expected,
            bad,
        }) = &self.last
        else {
            return Tail::Whole;
        };
        let (first, end) = (header.first, header.end());
        let tail = match bad[..] {
            [range] if range == (first, end) => {
                let &(offset, sequence) = expected;
                let tail = Tail::Cut { offset, sequence };
                self.last = None;
                tail
            }
            [.., range] if range.1 == end => Tail::Torn,
            _ => Tail::Whole,
        };
        self.settle();
        tail
    }
}

/// A segment was written by a version that this program does not know; what such a version has left
/// behind in a recycled file or behind a cut is as stale as anything else.
#[derive(Debug)]
pub(crate) struct NewerVersion;

/// What stands where a batch may start.
enum Look {
    Batch(Header),
    /// Zeros, a stale batch, or the end of the file.
    Nothing,
    /// Something else; whether it begins like a batch of ours.
    Garbage {
        has_magic: bool,
    },
}

/// How the scan of a segment went.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// Of the first batch, if there is one.
    pub(crate) first: Option<u64>,
    /// Where the next batch would go.
    pub(crate) used: u64,
    /// Something that began like a batch stands at the end.
    pub(crate) has_torn_end: bool,
}

/// The scan of one segment.
pub(crate) struct Scan<'a> {
    pub(crate) window: &'a mut Window,
    pub(crate) findings: &'a mut Findings,
    pub(crate) expectation: &'a mut Expectation,
    /// Takes the index.
    pub(crate) segment: &'a mut Segment,
    /// Where later epochs begin.
    pub(crate) floors: &'a [Floor],
    /// Name of the segment before.
    pub(crate) before: Option<u64>,
    /// How far this segment is known to have gone: from the journal, or from the segment after, if
    /// that one says that it follows this one.
    pub(crate) known_end: Option<u64>,
}

impl Scan<'_> {
    /// Follows the batches from `start` on.
    pub(crate) fn run(mut self, start: u64) -> Result<Scanned, NewerVersion> {
        let mut scanned = Scanned {
            first: None,
            used: start,
            has_torn_end: false,
        };
        let mut at = start;
        loop {
            self.heed_floors(at);
            match self.look(at)? {
                Look::Batch(header) => {
                    self.take(header, at, scanned.used);
                    scanned.first = scanned.first.or(Some(header.first));
                    at += header.stride();
                    scanned.used = at;
                    scanned.has_torn_end = false;
                }
                look @ (Look::Nothing | Look::Garbage { .. }) => {
                    match self.search_behind(&look, at) {
                        Some(found) => at = found,
                        None => {
                            scanned.has_torn_end = self.known_end.is_none()
                                && matches!(look, Look::Garbage { has_magic: true });
                            return Ok(scanned);
                        }
                    }
                }
            }
        }
    }

    fn heed_floors(&mut self, at: u64) {
        let place = (self.expectation.name, at);
        let reached = self
            .floors
            .iter()
            .filter(|floor| (floor.segment, floor.offset) <= place);
        let epoch = reached.map(|floor| floor.epoch).max().unwrap_or(0);
        self.expectation.epoch = self.expectation.epoch.max(epoch);
    }

    fn look(&mut self, at: u64) -> Result<Look, NewerVersion> {
        if at + format::FIXED_LEN as u64 > self.window.file_len {
            return Ok(Look::Nothing);
        }
        let left = self.window.file_len - at;
        let mut need = format::FIXED_LEN;
        loop {
            let bytes = self.window.at(at, need);
            match format::parse(bytes) {
                Parsed::Short(more) if more as u64 <= left && more > need => need = more,
                Parsed::Zero => return Ok(Look::Nothing),
                Parsed::Unsupported => {
                    let (first, epoch, _) = format::claims(bytes);
                    return match self.expectation.is_current(first, epoch) {
                        true => Err(NewerVersion),
                        false => Ok(Look::Nothing),
                    };
                }
                Parsed::Short(_) | Parsed::Invalid => {
                    let has_magic = bytes.starts_with(&format::MAGIC);
                    return Ok(Look::Garbage { has_magic });
                }
                Parsed::Batch(header) => {
                    if self.expectation.tag.is_none_or(|tag| tag == header.tag) {
                        self.findings.epoch_max = self.findings.epoch_max.max(header.epoch);
                    }
                    let is_current = self.expectation.accepts(&header);
                    return Ok(match u64::from(header.total_len) <= left {
                        true if is_current => Look::Batch(header),
                        true => Look::Nothing,
                        false => Look::Garbage { has_magic: true },
                    });
                }
            }
        }
    }

    /// Looks for a batch behind a place where there is none, if that can be.
    fn search_behind(&mut self, look: &Look, at: u64) -> Option<u64> {
        let next = self.expectation.next;
        let reach = match (self.known_end, look) {
            (Some(first), _) if first <= next => return None,
            (Some(_), _) => self.window.file_len,
            (None, Look::Nothing | Look::Batch(_)) => return None,
            // A file that begins with garbage is no file's ordinary end.
            (None, Look::Garbage { .. }) if at == 0 => self.window.file_len,
            (None, Look::Garbage { .. }) => self.window.file_len.min(at + TAIL_SEARCH_BYTES),
        };
        find(self.window, self.expectation, at + format::ALIGN, reach)
    }

    /// Takes the batch at `at`; it was expected at `expected_at`.
    fn take(&mut self, header: Header, at: u64, expected_at: u64) {
        // Between segments, what is missing was freed unless this one followed directly.
        let is_hole = at == 0 && (self.before.is_none() || header.previous != self.before);
        let expected = if is_hole {
            header.first
        } else {
            self.expectation.next
        };
        let batch = self.window.at(at, header.total_len as usize);
        self.findings.take(header, (expected_at, expected), batch);
        self.segment.note(header.first, at);
        self.expectation.advance(&header);
    }
}

/// The first place from `offset` on, and before `reach`, where there is an acceptable batch.
fn find(
    window: &mut Window,
    expectation: &Expectation,
    mut offset: u64,
    reach: u64,
) -> Option<u64> {
    let mut need = format::FIXED_LEN;
    while offset + need as u64 <= reach {
        let left = window.file_len - offset;
        let bytes = window.at(offset, need);
        match expectation.search(bytes, left) {
            Search::Found(ahead) => return Some(offset + ahead as u64),
            Search::More {
                at: ahead,
                need: more,
            } => {
                offset += ahead as u64;
                need = more;
            }
        }
    }
    None
}

/// The highest epoch of the log's batches behind its end, as far as garbage is searched.
pub(crate) fn epoch_behind(window: &mut Window, tag: Option<u64>, end: u64) -> u32 {
    let mut higher = Expectation {
        tag,
        name: 0,
        next: 0,
        end: u64::MAX,
        epoch: 0,
    };
    let reach = window.file_len.min(end + TAIL_SEARCH_BYTES);
    let mut at = end;
    while let Some(found) = find(window, &higher, at, reach) {
        let (_, epoch, _) = format::claims(window.at(found, format::FIXED_LEN));
        higher.epoch = epoch + 1;
        at = found + format::ALIGN;
    }
    higher.epoch.saturating_sub(1)
}

/// The first sequence of a segment that says it follows the one named `before`.
pub(crate) fn peek_first(
    window: &mut Window,
    expectation: &Expectation,
    before: u64,
) -> Option<u64> {
    let mut need = format::FIXED_LEN;
    if let Parsed::Short(more) = format::parse(window.at(0, need)) {
        need = more.min(usize::try_from(window.file_len).unwrap_or(usize::MAX));
    }
    match format::parse(window.at(0, need)) {
        Parsed::Batch(header) => (expectation.accepts(&header) && header.previous == Some(before))
            .then_some(header.first),
        Parsed::Short(_) | Parsed::Zero | Parsed::Unsupported | Parsed::Invalid => None,
    }
}
