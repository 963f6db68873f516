//! The newest messages of a topic, as the frames that go to the log and to the consumers.
//!
//! Publishing appends finished frames to the current block; *sealing* turns what was gathered since
//! into a chunk, a slice of the block. Chunks of one block lie next to each other in memory.
//! Owned by the topic. Hot path: no allocation (blocks apart), formatting or hashing per message.
//!
//! Invariants:
//! - `first <= lent <= gathered <= head` and `written <= lent`; chunks cover `[first, gathered)`
//!   without gaps and the block holds the frames of `[gathered, head)`;
//! - `ends` holds one entry per sequence of `[first, head)`: where its frame ends, from the start of
//!   its chunk (or of what is gathered);
//! - all messages of a chunk have one due time;
//! - what is not written yet is never dropped.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use nsq_proto::{FRAME_TYPE_MESSAGE, MESSAGE_HEADER_LEN};

use crate::id::{ID_LEN, PREFIX_LEN, encode_digits};

/// First block of a topic: 100,000 mostly idle topics are to cost little.
const BLOCK_BYTES_MIN: usize = 4 << 10;
/// Blocks double up to this: large enough for one append per turn, small enough for the L2 cache.
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// Where the parts of a message frame stand.
pub(crate) const TIMESTAMP_AT: usize = 8;
pub(crate) const ATTEMPTS_AT: usize = 16;
const ID_AT: usize = 18;
const _: () = assert!(ID_AT + ID_LEN == MESSAGE_HEADER_LEN);
/// Within this many sequences only the last two digits of an id change.
const ID_STEM_SPAN: u64 = 1 << 10;

/// Where frames end: two slices of a ring buffer.
pub(crate) type Ends<'a> = (&'a [u32], &'a [u32]);

/// Frames of consecutive sequences in one piece of memory.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) first: u64,
    pub(crate) count: u32,
    /// Due time in Unix milliseconds, 0 = at once.
    pub(crate) due_ms: u64,
    pub(crate) bytes: Bytes,
}

impl Chunk {
    pub(crate) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Tail {
    block: BytesMut,
    /// Capacity of the next block.
    block_bytes: usize,
    /// The header of the next frame but for size, timestamp and the last two digits.
    header: [u8; MESSAGE_HEADER_LEN],
    /// Due time of what is gathered.
    due_ms: u64,
    chunks: VecDeque<Chunk>,
    ends: VecDeque<u32>,
    first: u64,
    gathered: u64,
    head: u64,
    lent: u64,
    written: u64,
}

impl Tail {
    /// A tail without messages whose next one is `head`.
    pub(crate) fn new(head: u64, id_prefix: [u8; PREFIX_LEN]) -> Self {
        let mut header = [0; MESSAGE_HEADER_LEN];
        header[4..8].copy_from_slice(&FRAME_TYPE_MESSAGE.to_be_bytes());
        header[ATTEMPTS_AT..ID_AT].copy_from_slice(&1u16.to_be_bytes());
        header[ID_AT..ID_AT + PREFIX_LEN].copy_from_slice(&id_prefix);
        encode_digits(&mut header[ID_AT + PREFIX_LEN..], head);
        Self {
            block: BytesMut::new(),
            block_bytes: BLOCK_BYTES_MIN,
            header,
            due_ms: 0,
            chunks: VecDeque::new(),
            ends: VecDeque::new(),
            first: head,
            gathered: head,
            head,
            lent: head,
            written: head,
        }
    }

    /// The next sequence.
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    /// Everything before it is no longer here.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Everything before it was written to the log.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Everything before it was lent to the log.
    pub(crate) fn lent(&self) -> u64 {
        self.lent
    }

    /// Starts a publish: the time of all its messages.
    pub(crate) fn begin(&mut self, timestamp_ns: u64, due_ms: u64) {
        self.header[TIMESTAMP_AT..ATTEMPTS_AT].copy_from_slice(&timestamp_ns.to_be_bytes());
        if self.due_ms != due_ms {
            self.seal();
            self.due_ms = due_ms;
        }
    }

    /// Appends one message; the length of its frame.
    pub(crate) fn append(&mut self, body: &[u8]) -> usize {
        let len = MESSAGE_HEADER_LEN + body.len();
        if self.block.capacity() - self.block.len() < len {
            self.start_block(len);
        }
        let size = u32::try_from(len - 4).expect("bodies are limited far below 4 GiB");
        if self.head.is_multiple_of(ID_STEM_SPAN) {
            encode_digits(&mut self.header[ID_AT + PREFIX_LEN..], self.head);
        }
        // What differs is written into the block and not into the header before: to read back at once
        // what was just written would wait for all writes before it, those of the last body too.
        let start = self.block.len();
        self.block.extend_from_slice(&self.header);
        let header = &mut self.block[start..];
        header[..4].copy_from_slice(&size.to_be_bytes());
        encode_digits(&mut header[MESSAGE_HEADER_LEN - 2..], self.head);
        self.block.extend_from_slice(body);
        let end = u32::try_from(self.block.len()).expect("a block holds 256 KiB or one frame");
        self.ends.push_back(end);
        self.head += 1;
        len
    }

    #[cold]
    fn start_block(&mut self, frame_bytes: usize) {
        self.seal();
        self.block = BytesMut::with_capacity(self.block_bytes.max(frame_bytes));
        self.block_bytes = (self.block_bytes * 2).min(BLOCK_BYTES_MAX);
    }

    /// Makes a chunk of what was gathered.
    pub(crate) fn seal(&mut self) {
        if self.gathered == self.head {
            return;
        }
        let count = u32::try_from(self.head - self.gathered).expect("a block holds 256 KiB");
        let bytes = self.block.split().freeze();
        self.chunks.push_back(Chunk {
            first: self.gathered,
            count,
            due_ms: self.due_ms,
            bytes,
        });
        self.gathered = self.head;
    }

    /// Lends the next sealed chunk that was not lent before, and where its frames end.
    pub(crate) fn lend(&mut self) -> Option<(&Chunk, Ends<'_>)> {
        if self.lent == self.gathered {
            return None;
        }
        let at = self.chunks.partition_point(|chunk| chunk.first < self.lent);
        let chunk = &self.chunks[at];
        self.lent = chunk.end();
        let start = index(chunk.first - self.first);
        Some((chunk, slices(&self.ends, start, chunk.count as usize)))
    }

    /// For topics without a log: everything sealed counts as lent and written.
    pub(crate) fn forgo_log(&mut self) {
        self.lent = self.gathered;
        self.written = self.gathered;
    }

    /// The log wrote everything below `end`; the bytes that this settles.
    pub(crate) fn on_written(&mut self, end: u64) -> usize {
        let end = end.min(self.lent);
        let from = self
            .chunks
            .partition_point(|chunk| chunk.first < self.written);
        let settled = self
            .chunks
            .range(from..)
            .take_while(|chunk| chunk.end() <= end);
        let bytes = settled.map(|chunk| chunk.bytes.len()).sum();
        let to = self.chunks.partition_point(|chunk| chunk.end() <= end);
        if let Some(last) = to.checked_sub(1) {
            self.written = self.written.max(self.chunks[last].end());
        }
        bytes
    }

    /// Bytes that were appended and are not written.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        let from = self
            .chunks
            .partition_point(|chunk| chunk.first < self.written);
        let sealed: usize = self
            .chunks
            .range(from..)
            .map(|chunk| chunk.bytes.len())
            .sum();
        sealed + self.block.len()
    }

    /// The chunks, oldest first.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.chunks.iter()
    }

    /// The oldest chunk.
    pub(crate) fn front(&self) -> Option<&Chunk> {
        self.chunks.front()
    }

    /// Drops the oldest chunk, which must be written.
    pub(crate) fn drop_front(&mut self) {
        let chunk = self
            .chunks
            .pop_front()
            .expect("the caller has seen the oldest chunk");
        assert!(
            chunk.end() <= self.written,
            "what is not written is never dropped"
        );
        self.first = chunk.end();
        self.ends.drain(..chunk.count as usize);
    }

    /// Start and end of the frame of `sequence` in its chunk, which the caller has found.
    pub(crate) fn span(&self, chunk: &Chunk, sequence: u64) -> (usize, usize) {
        let at = index(sequence - self.first);
        let start = if sequence == chunk.first {
            0
        } else {
            self.ends[at - 1] as usize
        };
        (start, self.ends[at] as usize)
    }

    /// Frames from `sequence` on, up to `max` of them and to the end of a chunk.
    pub(crate) fn frames(&self, sequence: u64, max: u32) -> Option<(Bytes, u32)> {
        let chunk = self.find(sequence)?;
        let left = u32::try_from(chunk.end() - sequence).expect("no more than the chunk's count");
        let count = max.min(left);
        let (start, _) = self.span(chunk, sequence);
        let (_, end) = self.span(chunk, sequence + u64::from(count) - 1);
        Some((chunk.bytes.slice(start..end), count))
    }

    /// The frame of one message.
    pub(crate) fn frame(&self, sequence: u64) -> Option<&[u8]> {
        let chunk = self.find(sequence)?;
        let (start, end) = self.span(chunk, sequence);
        Some(&chunk.bytes[start..end])
    }

    fn find(&self, sequence: u64) -> Option<&Chunk> {
        if sequence < self.first || sequence >= self.gathered {
            return None;
        }
        let after = self.chunks.partition_point(|chunk| chunk.first <= sequence);
        self.chunks.get(after.checked_sub(1)?)
    }

    /// Gives back what an idle topic does not need: called now and then, not per turn.
    pub(crate) fn relax(&mut self) {
        if self.head > self.first {
            return;
        }
        self.block = BytesMut::new();
        self.block_bytes = (self.block_bytes / 2).max(BLOCK_BYTES_MIN);
        self.ends.shrink_to(ENDS_KEPT);
        self.chunks.shrink_to(CHUNKS_KEPT);
    }

    /// Asserts the invariants of the module documentation.
    pub(crate) fn check_invariants(&self) {
        assert!(
            self.first <= self.lent && self.lent <= self.gathered && self.gathered <= self.head
        );
        assert!(self.written <= self.lent);
        let mut next = self.first;
        for chunk in &self.chunks {
            assert!(chunk.first == next && chunk.count > 0);
            next = chunk.end();
            let (_, end) = self.span(chunk, next - 1);
            assert_eq!(end, chunk.bytes.len());
        }
        assert_eq!(next, self.gathered);
        assert_eq!(self.ends.len() as u64, self.head - self.first);
    }
}

/// Capacities that an idle topic keeps.
const ENDS_KEPT: usize = 64;
const CHUNKS_KEPT: usize = 4;

/// A distance between two cached sequences as an index.
fn index(distance: u64) -> usize {
    usize::try_from(distance).expect("cached sequences fit into memory")
}

/// `count` entries from `start` on, as up to two slices.
fn slices(ring: &VecDeque<u32>, start: usize, count: usize) -> Ends<'_> {
    let (left, right) = ring.as_slices();
    let end = start + count;
    if end <= left.len() {
        (&left[start..end], &[])
    } else if start >= left.len() {
        (&right[start - left.len()..end - left.len()], &[])
    } else {
        (&left[start..], &right[..end - left.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::encode_prefix;
    use crate::{Epoch, MessageId, NodeId, Sequence};

    fn tail(head: u64) -> Tail {
        Tail::new(head, encode_prefix(NodeId(5), Epoch(9)))
    }

    fn body(frame: &[u8]) -> &[u8] {
        &frame[MESSAGE_HEADER_LEN..]
    }

    #[test]
    fn a_frame_is_what_the_wire_wants() {
        let mut tail = tail(1_023);
        tail.begin(0x0102_0304_0506_0708, 0);
        tail.append(b"hello");
        tail.append(b"x");
        tail.seal();
        let frame = tail.frame(1_023).unwrap();
        let id = MessageId::encode(NodeId(5), Epoch(9), Sequence(1_023));
        let mut expected = vec![0, 0, 0, 35, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1];
        expected.extend_from_slice(&id.0);
        expected.extend_from_slice(b"hello");
        assert_eq!(frame, expected);
        let id = MessageId::encode(NodeId(5), Epoch(9), Sequence(1_024));
        assert_eq!(
            &tail.frame(1_024).unwrap()[ID_AT..MESSAGE_HEADER_LEN],
            &id.0
        );
    }

    #[test]
    fn ids_follow_the_sequence_over_stems() {
        let mut tail = tail(1_000);
        tail.begin(1, 0);
        for sequence in 1_000..4_000u64 {
            tail.append(&sequence.to_be_bytes());
        }
        tail.seal();
        for sequence in 1_000..4_000 {
            let frame = tail.frame(sequence).unwrap();
            let id = MessageId::encode(NodeId(5), Epoch(9), Sequence(sequence));
            assert_eq!(&frame[ID_AT..MESSAGE_HEADER_LEN], &id.0);
            assert_eq!(body(frame), sequence.to_be_bytes());
        }
        tail.check_invariants();
    }

    #[test]
    fn chunks_of_a_block_are_adjacent_and_runs_stop_at_their_ends() {
        let mut tail = tail(0);
        tail.begin(1, 0);
        tail.append(b"a");
        tail.append(b"b");
        tail.seal();
        tail.append(b"c");
        tail.seal();
        let (first, count) = tail.frames(0, 10).unwrap();
        assert_eq!(count, 2);
        let (second, _) = tail.frames(2, 10).unwrap();
        assert_eq!(first.as_ptr().wrapping_add(first.len()), second.as_ptr());
        assert_eq!(tail.frames(1, 1).unwrap().0.len(), MESSAGE_HEADER_LEN + 1);
        assert!(tail.frames(3, 1).is_none());
    }

    #[test]
    fn a_due_time_has_a_chunk_of_its_own() {
        let mut tail = tail(0);
        tail.begin(1, 0);
        tail.append(b"a");
        tail.begin(1, 77);
        tail.append(b"b");
        tail.begin(1, 0);
        tail.append(b"c");
        tail.seal();
        let mut lent = Vec::new();
        while let Some((chunk, ends)) = tail.lend() {
            lent.push((chunk.first, chunk.due_ms, [ends.0, ends.1].concat()));
        }
        assert_eq!(
            lent,
            [(0, 0, vec![35]), (1, 77, vec![35]), (2, 0, vec![35])]
        );
        tail.check_invariants();
    }

    #[test]
    fn large_frames_get_blocks_of_their_own() {
        let mut tail = tail(0);
        tail.begin(1, 0);
        let large = vec![7; BLOCK_BYTES_MAX + 1];
        tail.append(b"a");
        tail.append(&large);
        tail.append(b"b");
        tail.seal();
        assert_eq!(body(tail.frame(0).unwrap()), b"a");
        assert_eq!(body(tail.frame(1).unwrap()), large);
        assert_eq!(body(tail.frame(2).unwrap()), b"b");
        tail.check_invariants();
    }

    #[test]
    fn written_chunks_can_be_dropped_and_are_gone() {
        let mut tail = tail(0);
        tail.begin(1, 0);
        for _ in 0..3 {
            tail.append(b"a");
            tail.seal();
        }
        while tail.lend().is_some() {}
        assert_eq!(tail.unwritten_bytes(), 105);
        assert_eq!(tail.on_written(2), 70);
        assert_eq!(tail.on_written(2), 0);
        assert_eq!(tail.unwritten_bytes(), 35);
        tail.drop_front();
        assert!(tail.frame(0).is_none());
        assert!(tail.frame(1).is_some());
        tail.check_invariants();
    }

    #[test]
    #[should_panic(expected = "never dropped")]
    fn unwritten_chunks_stay() {
        let mut tail = tail(0);
        tail.begin(1, 0);
        tail.append(b"a");
        tail.seal();
        tail.drop_front();
    }
}
