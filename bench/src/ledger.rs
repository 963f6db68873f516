//! Which messages arrived: exact, and bounded to a bit per message.
//!
//! A ledger belongs to the consumers of one channel on one thread; the ledgers of a channel are merged
//! when the threads have ended. Sequences are kept in chunks, and a chunk of which everything has been
//! seen costs nothing, so messages in order need 8 KiB per stream, however many they are.

use serde::Serialize;

/// Sequences in a chunk: its bits fill two pages.
const CHUNK_BITS: u64 = 1 << 16;
const CHUNK_WORDS: usize = 1 << 10;
/// Streams and sequences beyond these are not ours: a damaged body must not cost memory.
const STREAMS_MAX: u32 = 1 << 16;
const SEQUENCE_MAX: u64 = 1 << 36;

#[derive(Debug, Clone)]
enum Chunk {
    Empty,
    Some {
        words: Box<[u64; CHUNK_WORDS]>,
        seen: u64,
    },
    Full,
}

#[derive(Debug, Default)]
struct Stream {
    chunks: Vec<Chunk>,
    seen: u64,
}

/// What has been seen of every stream.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    streams: Vec<Stream>,
    duplicated: u64,
    foreign: u64,
}

/// What a ledger says when all that should have come has been compared with it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Messages published (or, if that is unknown, up to the highest sequence) that never came.
    pub(crate) lost: u64,
    /// Messages that were finished more than once.
    pub(crate) duplicated: u64,
    /// Messages that came after a later one of the same stream on the same connection. No failure: the
    /// protocol promises no order.
    pub(crate) reordered: u64,
    /// Messages without a stamp, or with one that was never given.
    pub(crate) foreign: u64,
}

impl Verdict {
    /// Whether every message came once.
    pub(crate) fn holds(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.foreign == 0
    }

    /// The sum over channels.
    pub(crate) fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.foreign += other.foreign;
    }
}

impl Ledger {
    /// A message without a stamp.
    pub(crate) fn record_foreign(&mut self) {
        self.foreign += 1;
    }

    /// A message with a stamp.
    pub(crate) fn record(&mut self, stream: u32, sequence: u64) {
        if stream >= STREAMS_MAX || sequence >= SEQUENCE_MAX {
            self.foreign += 1;
            return;
        }
        let first = self.stream(index(u64::from(stream))).record(sequence);
        self.duplicated += u64::from(!first);
    }

    /// Takes in what another thread has seen of the same channel.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.duplicated += other.duplicated;
        self.foreign += other.foreign;
        for (number, theirs) in other.streams.iter().enumerate() {
            self.duplicated += self.stream(number).merge(theirs);
        }
    }

    /// Compares with what was published per stream; without that knowledge the highest sequence seen
    /// stands for it.
    pub(crate) fn verdict(&self, published: Option<&[u64]>) -> Verdict {
        let mut verdict = Verdict {
            duplicated: self.duplicated,
            foreign: self.foreign,
            ..Verdict::default()
        };
        let streams = published.map_or(0, <[u64]>::len).max(self.streams.len());
        for number in 0..streams {
            let stream = self.streams.get(number);
            let want = match published {
                Some(counts) => counts.get(number).copied().unwrap_or(0),
                None => stream.map_or(0, Stream::end),
            };
            let inside = stream.map_or(0, |stream| stream.seen_below(want));
            verdict.lost += want - inside;
            verdict.foreign += stream.map_or(0, |stream| stream.seen) - inside;
        }
        verdict
    }

    fn stream(&mut self, number: usize) -> &mut Stream {
        if self.streams.len() <= number {
            self.streams.resize_with(number + 1, Stream::default);
        }
        &mut self.streams[number]
    }
}

impl Stream {
    /// Whether the sequence is new.
    fn record(&mut self, sequence: u64) -> bool {
        let chunk = self.chunk(index(sequence / CHUNK_BITS));
        let first = chunk.record(sequence % CHUNK_BITS);
        self.seen += u64::from(first);
        first
    }

    /// How many of theirs were here already.
    fn merge(&mut self, theirs: &Self) -> u64 {
        let mut both = 0;
        for (number, chunk) in theirs.chunks.iter().enumerate() {
            both += self.chunk(number).merge(chunk);
        }
        self.seen += theirs.seen - both;
        both
    }

    fn chunk(&mut self, number: usize) -> &mut Chunk {
        if self.chunks.len() <= number {
            self.chunks.resize(number + 1, Chunk::Empty);
        }
        &mut self.chunks[number]
    }

    /// One more than the highest sequence seen.
    fn end(&self) -> u64 {
        let last = self.chunks.iter().rposition(|chunk| chunk.seen() > 0);
        last.map_or(0, |number| base(number) + self.chunks[number].end())
    }

    fn seen_below(&self, limit: u64) -> u64 {
        let below = |(number, chunk): (usize, &Chunk)| match limit.saturating_sub(base(number)) {
            0 => 0,
            rest if rest >= CHUNK_BITS => chunk.seen(),
            rest => (0..rest).map(|bit| u64::from(chunk.has(bit))).sum(),
        };
        self.chunks.iter().enumerate().map(below).sum()
    }
}

impl Chunk {
    fn record(&mut self, bit: u64) -> bool {
        if matches!(self, Self::Empty) {
            *self = Self::Some {
                words: Box::new([0; CHUNK_WORDS]),
                seen: 0,
            };
        }
        let Self::Some { words, seen } = self else {
            return false;
        };
        let (word, mask) = (&mut words[index(bit / 64)], 1 << (bit % 64));
        let first = *word & mask == 0;
        *word |= mask;
        *seen += u64::from(first);
        if *seen == CHUNK_BITS {
            *self = Self::Full;
        }
        first
    }

    fn merge(&mut self, theirs: &Self) -> u64 {
        match theirs {
            Self::Empty => 0,
            Self::Full => {
                let both = self.seen();
                *self = Self::Full;
                both
            }
            Self::Some { .. } => {
                let bits = (0..CHUNK_BITS).filter(|bit| theirs.has(*bit));
                bits.map(|bit| u64::from(!self.record(bit))).sum()
            }
        }
    }

    fn has(&self, bit: u64) -> bool {
        match self {
            Self::Empty => false,
            Self::Full => true,
            Self::Some { words, .. } => words[index(bit / 64)] & (1 << (bit % 64)) != 0,
        }
    }

    fn seen(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Some { seen, .. } => *seen,
            Self::Full => CHUNK_BITS,
        }
    }

    fn end(&self) -> u64 {
        (0..CHUNK_BITS)
            .rev()
            .find(|bit| self.has(*bit))
            .map_or(0, |bit| bit + 1)
    }
}

fn base(chunk: usize) -> u64 {
    u64::try_from(chunk).expect("an index fits 64 bits") * CHUNK_BITS
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("bounded by SEQUENCE_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(sequences: impl IntoIterator<Item = u64>) -> Ledger {
        let mut ledger = Ledger::default();
        sequences
            .into_iter()
            .for_each(|sequence| ledger.record(0, sequence));
        ledger
    }

    #[test]
    fn everything_once_is_fine() {
        let ledger = ledger((0..200_000).rev());
        assert_eq!(ledger.verdict(Some(&[200_000])), Verdict::default());
        assert!(ledger.verdict(None).holds());
    }

    #[test]
    fn full_chunks_take_no_memory() {
        let ledger = ledger(0..3 * CHUNK_BITS);
        assert!(
            ledger.streams[0]
                .chunks
                .iter()
                .all(|chunk| matches!(chunk, Chunk::Full))
        );
    }

    #[test]
    fn losses_are_counted_inside_and_at_the_end() {
        let ledger = ledger((0..100_000).filter(|n| n % 10 != 3));
        assert_eq!(ledger.verdict(Some(&[100_000])).lost, 10_000);
        assert_eq!(ledger.verdict(Some(&[100_007])).lost, 10_007);
        assert_eq!(ledger.verdict(None).lost, 10_000);
        assert_eq!(
            ledger.verdict(Some(&[100_000, 5])).lost,
            10_005,
            "a stream that never came"
        );
    }

    #[test]
    fn duplicates_are_counted_also_in_full_chunks() {
        let mut ledger = ledger(0..CHUNK_BITS);
        ledger.record(0, 5);
        ledger.record(0, CHUNK_BITS);
        ledger.record(0, CHUNK_BITS);
        assert_eq!(ledger.verdict(None).duplicated, 2);
    }

    #[test]
    fn foreign_messages_are_counted() {
        let mut ledger = ledger(0..10);
        ledger.record_foreign();
        ledger.record(u32::MAX, 0);
        ledger.record(0, u64::MAX);
        ledger.record(0, 11);
        assert_eq!(
            ledger.verdict(Some(&[10])),
            Verdict {
                foreign: 4,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn ledgers_of_threads_merge() {
        let mut all = ledger((0..100_000).filter(|n| n % 2 == 0));
        all.merge(&ledger((0..100_000).filter(|n| n % 2 == 1)));
        assert_eq!(all.verdict(Some(&[100_000])), Verdict::default());
        all.merge(&ledger(5..10));
        assert_eq!(all.verdict(Some(&[100_000])).duplicated, 5);
        let mut full = ledger(0..CHUNK_BITS / 2);
        full.merge(&ledger(0..CHUNK_BITS));
        assert_eq!(full.verdict(Some(&[CHUNK_BITS])).duplicated, CHUNK_BITS / 2);
    }
}
