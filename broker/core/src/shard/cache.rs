//! What of the frames stays in memory.
//!
//! The tails and read-ahead of all topics share one budget. A chunk goes when nobody needs it any
//! more (*trim*), or when the budget is exceeded (*enforce*): then the oldest goes first, and who
//! needs it later asks the log. What is not written yet is not counted here and never dropped; it is
//! bounded by `unwritten_bytes_max`, at which publishers wait.
//!
//! Ephemeral topics have no log: their chunks are outside of the budget (bounded by
//! `mem_queue_size`) and go only when nobody owes any of their messages. A message that outlives its
//! neighbours is moved out of the tail, so that it does not pin what came after it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Shard;
use crate::TopicKey;
use crate::channel::Channel;
use crate::channel::window::State;
use crate::reads::ReadChunk;
use crate::tail::Chunk;
use crate::topic::Topic;

/// A queue may hold this many stale entries, and as many as there are live ones.
const STALE_MAX: usize = 64;

/// The accounts. Invariants: `bytes` is what the lent chunks of the tails and the read chunks of
/// topics with a log cost together, `read_bytes` the latter's part; `planned_bytes` is what the open
/// requests of all topics are planned to bring; `tails` lists every lent chunk
/// and `reads` every read chunk, oldest first, among stale entries.
#[derive(Debug)]
pub(super) struct Cache {
    bytes_max: usize,
    pub(super) bytes: usize,
    pub(super) read_bytes: usize,
    /// What the answers of the log that are on their way will cost, as far as is known.
    pub(super) planned_bytes: usize,
    /// Appended and not written, over all topics whose log is in order.
    pub(super) unwritten_bytes: usize,
    /// By first sequence.
    tails: VecDeque<(TopicKey, u64)>,
    /// By first sequence and stamp.
    reads: VecDeque<(TopicKey, u64, u64)>,
    tails_live: usize,
    reads_live: usize,
    stamp: u64,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            read_bytes: 0,
            planned_bytes: 0,
            unwritten_bytes: 0,
            tails: VecDeque::new(),
            reads: VecDeque::new(),
            tails_live: 0,
            reads_live: 0,
            stamp: 0,
        }
    }

    pub(super) fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// A chunk of a tail was lent to the log: from when it is written, it can be dropped.
    pub(super) fn admit(&mut self, topic: TopicKey, chunk: &Chunk) {
        self.bytes += chunk.bytes.len();
        self.tails_live += 1;
        self.tails.push_back((topic, chunk.first));
    }

    /// Whether what was read back, with what is planned to be, fills less than `1 / share` of the
    /// budget.
    pub(super) fn has_room_ahead(&self, share: usize) -> bool {
        self.read_bytes + self.planned_bytes < self.bytes_max / share
    }

    fn dismiss(&mut self, chunk: &Chunk) {
        self.bytes -= chunk.bytes.len();
        self.tails_live -= 1;
    }

    pub(super) fn admit_read(&mut self, topic: TopicKey, first: u64, chunk: &ReadChunk) {
        self.bytes += chunk.cost();
        self.read_bytes += chunk.cost();
        self.reads_live += 1;
        self.reads.push_back((topic, first, chunk.stamp));
    }

    pub(super) fn dismiss_read(&mut self, chunk: &ReadChunk) {
        self.bytes -= chunk.cost();
        self.read_bytes -= chunk.cost();
        self.reads_live -= 1;
    }

    /// A topic is gone with all that it had cached.
    pub(super) fn forget_topic(&mut self, topic: &Topic) {
        if topic.ephemeral {
            return;
        }
        if topic.poisoned.is_none() {
            self.unwritten_bytes -= topic.tail.unwritten_bytes();
        }
        self.planned_bytes -= topic.fetches.planned_bytes();
        let lent = topic.tail.lent();
        topic
            .tail
            .chunks()
            .take_while(|chunk| chunk.first < lent)
            .for_each(|c| self.dismiss(c));
        topic
            .reads
            .iter()
            .for_each(|(_, chunk)| self.dismiss_read(chunk));
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tails_live, self.reads_live)
    }
}

impl Shard {
    /// Drops stale entries of the queues once they outnumber the live ones.
    pub(super) fn compact_cache(&mut self) {
        let Self { cache, topics, .. } = self;
        if cache.tails.len() > 2 * cache.tails_live + STALE_MAX {
            cache.tails.retain(|&(key, first)| {
                let front = topics.get(key).and_then(|topic| topic.tail.front());
                front.is_some_and(|front| front.first <= first)
            });
        }
        if cache.reads.len() > 2 * cache.reads_live + STALE_MAX {
            cache.reads.retain(|&(key, first, stamp)| {
                let chunk = topics.get(key).and_then(|topic| topic.reads.get(first));
                chunk.is_some_and(|chunk| chunk.stamp == stamp)
            });
        }
    }

    /// What every channel of a topic and its pump have passed; outliers may lie before it.
    fn passed(&self, key: TopicKey) -> u64 {
        let pump = self.topics[key].backlog.pump;
        let floors = self.topics[key]
            .channels
            .iter()
            .map(|&channel| self.channels[channel].floor(pump));
        floors.min().unwrap_or(pump).min(pump)
    }

    /// Drops chunks of a topic that every channel and the pump have passed.
    pub(super) fn trim(&mut self, key: TopicKey) {
        let passed = self.passed(key);
        loop {
            let topic = &mut self.topics[key];
            let Some(front) = topic.tail.front() else {
                break;
            };
            if front.end() > passed.min(topic.tail.written()) {
                break;
            }
            if topic.ephemeral {
                self.rescue_front(key);
            } else {
                self.cache.dismiss(front);
            }
            self.topics[key].tail.drop_front();
        }
        if !self.topics[key].ephemeral {
            self.trim_reads(key, passed);
        }
    }

    /// A topic was dispatched: what was read back for scattered messages goes as soon as none of
    /// them waits. The others in the chunk may not be due for weeks.
    pub(super) fn settle_reads(&mut self, key: TopicKey) {
        let touched = self.topics[key].reads.settle();
        if touched.is_empty() || self.topics[key].ephemeral {
            return;
        }
        let passed = self.passed(key);
        for first in touched {
            self.drop_read(key, first, passed);
        }
    }

    /// Drops what was read back and is passed, up to the first chunk that is still needed: the
    /// budget takes care of the rest.
    fn trim_reads(&mut self, key: TopicKey, passed: u64) {
        while let Some((first, _)) = self.topics[key].reads.first() {
            if !self.drop_read(key, first, passed) {
                break;
            }
        }
    }

    /// Drops what was read back from `first` on, unless it is needed; whether it was there and was
    /// dropped.
    fn drop_read(&mut self, key: TopicKey, first: u64, passed: u64) -> bool {
        let topic = &self.topics[key];
        let Some(chunk) = topic.reads.get(first) else {
            return false;
        };
        let end = first + chunk.count();
        if chunk.fresh || end > passed || self.awaits_outlier(key, first, end) {
            return false;
        }
        self.cache.dismiss_read(chunk);
        self.topics[key].reads.remove(first);
        true
    }

    /// Whether an outlier of `[start, end)` waits for a consumer.
    fn awaits_outlier(&self, key: TopicKey, start: u64, end: u64) -> bool {
        let channels = self.topics[key]
            .channels
            .iter()
            .map(|&channel| &self.channels[channel]);
        let mut outliers = channels.flat_map(|channel| channel.window.outliers_of(start, end));
        outliers.any(|(_, slot)| slot.state == State::Requeued)
    }

    pub(super) fn owes_outlier(&self, key: TopicKey, start: u64, end: u64) -> bool {
        let mut channels = self.topics[key]
            .channels
            .iter()
            .map(|&channel| &self.channels[channel]);
        channels.any(|channel: &Channel| channel.window.owes_outlier(start, end))
    }

    /// Drops the oldest chunks until the budget is kept, or only what must stay is left.
    pub(super) fn enforce_cache(&mut self) {
        while self.cache.bytes > self.cache.bytes_max {
            // Lagging channels read far from the tail: each side may keep a part of the budget.
            let reads_first = self.cache.read_bytes > self.cache.bytes_max / 2;
            let dropped =
                (reads_first && self.evict_read()) || self.evict_tail() || self.evict_read();
            if !dropped {
                break;
            }
        }
        self.compact_cache();
    }

    /// Drops every frame that the log can give again. Who needs one reads it back.
    pub fn drop_caches(&mut self) {
        let bytes_max = std::mem::take(&mut self.cache.bytes_max);
        self.enforce_cache();
        self.cache.bytes_max = bytes_max;
    }

    /// Drops the oldest written chunk of any tail.
    fn evict_tail(&mut self) -> bool {
        while let Some(&(key, first)) = self.cache.tails.front() {
            let topic = self.topics.get_mut(key);
            let live = topic.filter(|topic| topic.tail.front().is_some_and(|f| f.first == first));
            let Some(topic) = live.filter(|topic| !is_stuck(topic)) else {
                self.cache.tails.pop_front();
                continue;
            };
            let front = topic.tail.front().expect("it was seen just now");
            if front.end() > topic.tail.written() {
                return false;
            }
            self.cache.dismiss(front);
            topic.tail.drop_front();
            self.cache.tails.pop_front();
            return true;
        }
        false
    }

    /// Drops the oldest read chunk that has been dispatched from.
    fn evict_read(&mut self) -> bool {
        for _ in 0..self.cache.reads.len() {
            let Some((key, first, stamp)) = self.cache.reads.pop_front() else {
                break;
            };
            let topic = self.topics.get_mut(key);
            let chunk = topic.as_ref().and_then(|topic| topic.reads.get(first));
            let Some(chunk) = chunk.filter(|chunk| chunk.stamp == stamp) else {
                continue;
            };
            if chunk.fresh {
                self.cache.reads.push_back((key, first, stamp));
                continue;
            }
            let removed = topic.and_then(|topic| topic.reads.remove(first));
            self.cache
                .dismiss_read(&removed.expect("it was seen just now"));
            return true;
        }
        false
    }

    /// Moves what is still owed of an ephemeral topic's oldest chunk out of its tail.
    fn rescue_front(&mut self, key: TopicKey) {
        let topic = &self.topics[key];
        let Some(front) = topic.tail.front() else {
            return;
        };
        let (start, end) = (front.first, front.end());
        if !self.owes_outlier(key, start, end) {
            return;
        }
        let channels = topic
            .channels
            .iter()
            .map(|&channel| &self.channels[channel]);
        let outliers = channels.flat_map(|channel| channel.window.outliers_of(start, end));
        let mut owed: Vec<u64> = outliers.map(|(sequence, _)| sequence).collect();
        owed.sort_unstable();
        owed.dedup();
        let kept = keep(topic, front, &owed);
        let stamp = self.cache.next_stamp();
        for (first, bytes, spans) in kept {
            self.topics[key]
                .reads
                .insert(first, ReadChunk::new(bytes, spans, stamp));
        }
    }

    /// A message of an ephemeral topic that had outlived its chunk is settled.
    pub(super) fn release_kept(&mut self, key: TopicKey, sequence: u64) {
        let topic = &self.topics[key];
        if !topic.ephemeral {
            return;
        }
        let Some((first, chunk)) = topic.reads.find(sequence) else {
            return;
        };
        if !self.owes_outlier(key, first, first + chunk.count()) {
            self.topics[key].reads.remove(first);
        }
    }

    /// Messages of an ephemeral topic were settled in bulk.
    pub(super) fn sweep_kept(&mut self, key: TopicKey) {
        let topic = &self.topics[key];
        if !topic.ephemeral {
            return;
        }
        let unneeded = |&(first, end): &(u64, u64)| !self.owes_outlier(key, first, end);
        let kept = topic
            .reads
            .iter()
            .map(|(first, chunk)| (first, first + chunk.count()));
        let unneeded: Vec<(u64, u64)> = kept.filter(unneeded).collect();
        for (first, _) in unneeded {
            self.topics[key].reads.remove(first);
        }
    }
}

/// Its tail can never be dropped, because it will never be written.
fn is_stuck(topic: &Topic) -> bool {
    topic.poisoned.is_some()
        && topic
            .tail
            .front()
            .is_some_and(|front| front.end() > topic.tail.written())
}

/// Consecutive messages that are kept: first sequence, frames, spans.
type Kept = (u64, Bytes, Vec<(u32, u32)>);

/// What to keep of a chunk: all of it where at least half is owed, else copies.
fn keep(topic: &Topic, chunk: &Chunk, owed: &[u64]) -> Vec<Kept> {
    let to_u32 = |at: usize| u32::try_from(at).expect("a chunk is far below 4 GiB");
    let span = |sequence| {
        let (start, end) = topic.tail.span(chunk, sequence);
        (to_u32(start), to_u32(end))
    };
    if owed.len() * 2 >= chunk.count as usize {
        let spans = (chunk.first..chunk.end()).map(span).collect();
        return vec![(chunk.first, chunk.bytes.clone(), spans)];
    }
    let mut kept = Vec::new();
    for group in owed.chunk_by(|a, b| a + 1 == *b) {
        let (start, _) = span(group[0]);
        let (_, end) = span(group[group.len() - 1]);
        let bytes = Bytes::copy_from_slice(&chunk.bytes[start as usize..end as usize]);
        let moved = |&sequence: &u64| {
            let (from, to) = span(sequence);
            (from - start, to - start)
        };
        kept.push((group[0], bytes, group.iter().map(moved).collect()));
    }
    kept
}
