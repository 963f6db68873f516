//! Messages of a topic that came back from its log, or (ephemeral topics) outlived the tail.
//!
//! Owned by the topic; its bytes are bounded by the shard's cache budget. A chunk that was fetched is
//! *fresh* until its topic has been dispatched once: the channel that waited for it has then had its
//! chance, so a budget however small cannot lead to fetching and dropping for ever. What a dispatch
//! has to look at afterwards is listed, so that it costs nothing per chunk that lies here.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

/// Whole frames of consecutive sequences.
#[derive(Debug)]
pub(crate) struct ReadChunk {
    pub(crate) bytes: Bytes,
    /// Start and end of each frame.
    spans: Vec<(u32, u32)>,
    /// Not to be dropped yet.
    pub(crate) fresh: bool,
    /// Tells this chunk from an earlier one at the same sequence.
    pub(crate) stamp: u64,
}

impl ReadChunk {
    pub(crate) fn new(bytes: Bytes, spans: Vec<(u32, u32)>, stamp: u64) -> Self {
        debug_assert!(
            spans
                .iter()
                .all(|&(start, end)| start <= end && end as usize <= bytes.len())
        );
        Self {
            bytes,
            spans,
            fresh: true,
            stamp,
        }
    }

    /// How many messages.
    pub(crate) fn count(&self) -> u64 {
        self.spans.len() as u64
    }

    /// Bytes from the `at`-th of its frames to its last.
    fn bytes_from(&self, at: u64) -> usize {
        let at = usize::try_from(at).expect("chunks fit into memory");
        let &(_, end) = self.spans.last().expect("a chunk holds a message");
        (end - self.spans[at].0) as usize
    }

    /// What it costs: the frames and the index of their spans.
    pub(crate) fn cost(&self) -> usize {
        self.bytes.len() + size_of_val(self.spans.as_slice())
    }
}

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// By first sequence; chunks may overlap.
    chunks: BTreeMap<u64, ReadChunk>,
    /// First sequences of the chunks that came or were delivered from since the last dispatch, and of
    /// some that are gone.
    touched: Vec<u64>,
}

impl Reads {
    /// Adds; the chunk that began at the same sequence, if any.
    pub(crate) fn insert(&mut self, first: u64, chunk: ReadChunk) -> Option<ReadChunk> {
        self.touched.push(first);
        self.chunks.insert(first, chunk)
    }

    pub(crate) fn get(&self, first: u64) -> Option<&ReadChunk> {
        self.chunks.get(&first)
    }

    pub(crate) fn remove(&mut self, first: u64) -> Option<ReadChunk> {
        self.chunks.remove(&first)
    }

    /// The chunk with the lowest first sequence.
    pub(crate) fn first(&self) -> Option<(u64, &ReadChunk)> {
        self.chunks
            .first_key_value()
            .map(|(&first, chunk)| (first, chunk))
    }

    /// The chunks by first sequence.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &ReadChunk)> {
        self.chunks.iter().map(|(&first, chunk)| (first, chunk))
    }

    /// The chunk that holds `sequence`, and its first sequence.
    pub(crate) fn find(&self, sequence: u64) -> Option<(u64, &ReadChunk)> {
        let (&first, chunk) = self.chunks.range(..=sequence).next_back()?;
        (sequence < first + chunk.count()).then_some((first, chunk))
    }

    /// Where the chunk that holds `sequence` ends, and the bytes from there to its end.
    pub(crate) fn ahead(&self, sequence: u64) -> Option<(u64, usize)> {
        let (first, chunk) = self.find(sequence)?;
        Some((first + chunk.count(), chunk.bytes_from(sequence - first)))
    }

    /// Frames from `sequence` on, up to `max` of them, as far as they lie next to each other.
    pub(crate) fn frames(&self, sequence: u64, max: u32) -> Option<(Bytes, u32)> {
        let (first, chunk) = self.find(sequence)?;
        let at = usize::try_from(sequence - first).expect("chunks fit into memory");
        let (start, mut end) = chunk.spans[at];
        let mut count = 1;
        for &(next_start, next_end) in chunk.spans[at + 1..].iter().take(max as usize - 1) {
            if next_start != end {
                break;
            }
            end = next_end;
            count += 1;
        }
        Some((chunk.bytes.slice(start as usize..end as usize), count))
    }

    /// The frame of one message.
    pub(crate) fn frame(&self, sequence: u64) -> Option<&[u8]> {
        let (first, chunk) = self.find(sequence)?;
        let at = usize::try_from(sequence - first).expect("chunks fit into memory");
        let (start, end) = chunk.spans[at];
        Some(&chunk.bytes[start as usize..end as usize])
    }

    /// These messages were delivered: their chunks may have served their purpose.
    pub(crate) fn touch(&mut self, messages: Range<u64>) {
        let before = self.find(messages.start).map(|(first, _)| first);
        let within = self.chunks.range(messages).map(|(&first, _)| first);
        self.touched.extend(before.into_iter().chain(within));
    }

    /// The topic was dispatched: what was fetched may be dropped from now on. The first sequences of
    /// the chunks that were touched, and of some that are gone.
    pub(crate) fn settle(&mut self) -> Vec<u64> {
        let touched = std::mem::take(&mut self.touched);
        for first in &touched {
            if let Some(chunk) = self.chunks.get_mut(first) {
                chunk.fresh = false;
            }
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(frames: &[&str], gap: u32) -> ReadChunk {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for frame in frames {
            let start = u32::try_from(bytes.len()).unwrap();
            bytes.extend_from_slice(frame.as_bytes());
            spans.push((start, start + u32::try_from(frame.len()).unwrap()));
            bytes.extend(vec![b'#'; gap as usize]);
        }
        ReadChunk::new(bytes.into(), spans, 0)
    }

    #[test]
    fn adjacent_frames_come_as_one_slice() {
        let mut reads = Reads::default();
        reads.insert(10, chunk(&["a", "bb", "c"], 0));
        assert_eq!(reads.frames(10, 2), Some(("abb".into(), 2)));
        assert_eq!(reads.frames(11, 100), Some(("bbc".into(), 2)));
        assert_eq!(reads.frames(13, 1), None);
        assert_eq!(reads.frame(12), Some(&b"c"[..]));
    }

    #[test]
    fn what_lies_ahead_is_the_rest_of_the_chunk() {
        let mut reads = Reads::default();
        reads.insert(10, chunk(&["a", "bb", "c"], 0));
        assert_eq!(reads.ahead(9), None);
        assert_eq!(reads.ahead(10), Some((13, 4)));
        assert_eq!(reads.ahead(11), Some((13, 3)));
        assert_eq!(reads.ahead(13), None);
    }

    #[test]
    fn what_came_since_the_last_dispatch_is_fresh() {
        let mut reads = Reads::default();
        reads.insert(0, chunk(&["a"], 0));
        assert_eq!(reads.settle(), [0]);
        reads.insert(1, chunk(&["b"], 0));
        reads.insert(2, chunk(&["c"], 0));
        reads.remove(1);
        let fresh = |reads: &Reads| reads.iter().map(|(_, c)| c.fresh).collect::<Vec<_>>();
        assert_eq!(fresh(&reads), [false, true]);
        reads.insert(0, chunk(&["a"], 0));
        assert_eq!(fresh(&reads), [true, true]);
        assert_eq!(reads.settle(), [1, 2, 0]);
        assert_eq!(fresh(&reads), [false, false]);
        reads.touch(3..9);
        assert!(reads.settle().is_empty());
        reads.insert(5, chunk(&["f", "g"], 0));
        reads.insert(8, chunk(&["h"], 0));
        reads.settle();
        reads.touch(6..9);
        assert_eq!(reads.settle(), [5, 8]);
    }

    #[test]
    fn what_lies_between_frames_is_not_sent() {
        let mut reads = Reads::default();
        reads.insert(0, chunk(&["a", "b"], 3));
        assert_eq!(reads.frames(0, 2), Some(("a".into(), 1)));
    }
}
