//! The queues of a topic's channels, read side by side.
//!
//! Each queue has its own copy of a message, and they hold them in nearly the same order, that of
//! publishing. So the one whose next record is oldest is read next, and the copies of a message
//! come close to each other: [`Recent`] finds them within a bounded distance. What is farther
//! apart is stored twice, which costs space and nothing else.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use nsq_core::Sequence;

use super::ImportError;
use super::diskqueue::{Reader, Record};

/// Messages that are remembered.
const RECENT_MAX: usize = 64 * 1024;

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Merge {
    sources: Vec<Reader>,
    /// The next record of each source that has one: by time, then id.
    heads: BinaryHeap<Reverse<Head>>,
}

#[derive(Debug)]
struct Head {
    source: usize,
    record: Record,
}

impl Head {
    fn key(&self) -> (u64, [u8; 16], usize) {
        (self.record.timestamp, self.record.id, self.source)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Merge {
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn new(sources: Vec<Reader>) -> Result<Self, ImportError> {
        let heads = BinaryHeap::with_capacity(sources.len());
        let mut merge = Self { sources, heads };
        for source in 0..merge.sources.len() {
            merge.read(source)?;
        }
        Ok(merge)
    }

    fn read(&mut self, source: usize) -> Result<(), ImportError> {
        if let Some(record) = self.sources[source].next()? {
            self.heads.push(Reverse(Head { source, record }));
        }
        Ok(())
    }

    /// The next record and the number of its source.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn next(&mut self) -> Result<Option<(usize, Record)>, ImportError> {
        let Some(Reverse(Head { source, record })) = self.heads.pop() else {
            return Ok(None);
        };
        self.read(source)?;
        Ok(Some((source, record)))
    }
}

/// What was stored last, by the id that the Go nsqd gave it.
#[derive(Debug, Default)]
pub(super) struct Recent {
    stored: HashMap<[u8; 16], Stored>,
    /// Oldest first.
    order: VecDeque<([u8; 16], Sequence)>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Stored {
    sequence: Sequence,
    timestamp: u64,
    /// Length of the body, and its hash under a key that no publisher knows.
    print: (usize, u64),
    /// Sources that have it.
    sources: Vec<usize>,
}

impl Recent {
    /// Where the message of this record is stored, if it is. A source that holds it twice is owed
    /// it twice, so the second one is not found.
    pub(super) fn find(&mut self, source: usize, record: &Record) -> Option<Sequence> {
        let print = self.print(record);
        let stored = self.stored.get_mut(&record.id)?;
        let is_same = stored.timestamp == record.timestamp && stored.print == print;
        if !is_same || stored.sources.contains(&source) {
            return None;
        }
        stored.sources.push(source);
        Some(stored.sequence)
    }

    /// Remembers where a message was stored.
    pub(super) fn insert(&mut self, source: usize, record: &Record, sequence: Sequence) {
        if self.order.len() == RECENT_MAX
            && let Some((id, sequence)) = self.order.pop_front()
            && self.stored.get(&id).is_some_and(|s| s.sequence == sequence)
        {
            self.stored.remove(&id);
        }
        let stored = Stored {
            sequence,
            timestamp: record.timestamp,
            print: self.print(record),
            sources: vec![source],
        };
        self.stored.insert(record.id, stored);
        self.order.push_back((record.id, sequence));
    }

    fn print(&self, record: &Record) -> (usize, u64) {
        (record.body.len(), self.hasher.hash_one(&record.body))
    }
}
