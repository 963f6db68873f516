//! A topic: a log of messages, of which the tail is at hand, and its channels.
//!
//! Owned by the shard. Two positions say what a channel sees: `head`, the next sequence, and the
//! *pump*, before which everything was handed to the channels that existed. While the topic is
//! paused, held or without a channel the pump stands still, and what gathers before the head is the
//! topic's own backlog. It goes no further than what is *revealed*: whose publishers have their
//! answers.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use nsq_proto::TopicName;

use crate::fetches::Fetches;
use crate::id::encode_prefix;
use crate::reads::Reads;
use crate::tail::Tail;
use crate::types::ChannelKey;
use crate::{CheckpointKey, Epoch, MessageId, NodeId};

/// What has not been handed to any channel.
///
/// Invariants: `deferred` and `damaged` ascend and lie in `[pump, head)`.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    pub(crate) pump: u64,
    /// Messages with a due time, `(sequence, due ms)`.
    pub(crate) deferred: VecDeque<(u64, u64)>,
    /// Ranges that cannot be read, `[start, end)`; they count as finished.
    pub(crate) damaged: Vec<(u64, u64)>,
    /// Due times of sequences below it are in the checkpoint.
    pub(crate) saved: u64,
    /// Pages of due times that have a value in the checkpoint.
    pub(crate) pages_written: BTreeSet<u64>,
}

impl Backlog {
    /// How many messages wait before `head`.
    pub(crate) fn depth(&self, head: u64) -> u64 {
        let lost: u64 = self.damaged.iter().map(|(start, end)| end - start).sum();
        head - self.pump - lost
    }

    /// Whether a message of `[start, end)` waits.
    pub(crate) fn owes(&self, start: u64, end: u64, head: u64) -> bool {
        let (start, end) = (start.max(self.pump), end.min(head));
        let mut next = start;
        for &(lost, lost_end) in &self.damaged {
            if lost > next {
                break;
            }
            next = next.max(lost_end);
        }
        next < end
    }

    /// `[start, end)` cannot be read.
    pub(crate) fn lose(&mut self, start: u64, end: u64) {
        let last = self.damaged.last().map_or(self.pump, |&(_, end)| end);
        let start = start.max(last).max(self.pump);
        if start < end {
            self.damaged.push((start, end));
            self.deferred
                .retain(|(sequence, _)| !(start..end).contains(sequence));
        }
    }

    /// Everything before `end` is with the channels, or dropped.
    pub(crate) fn clear(&mut self, end: u64) {
        self.pump = end;
        let gone = self
            .deferred
            .partition_point(|&(sequence, _)| sequence < end);
        self.deferred.drain(..gone);
        if self.deferred.is_empty() {
            self.deferred.shrink_to(DEFERRED_KEPT);
        }
        self.damaged.retain(|&(_, lost_end)| lost_end > end);
        if let Some((start, _)) = self.damaged.first_mut() {
            *start = end.max(*start);
        }
    }
}

/// Capacity that an empty backlog keeps for due times.
const DEFERRED_KEPT: usize = 4_096;

/// What the shard has to do about a topic.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    /// Listed for the next dispatch.
    pub(crate) dirty: bool,
    /// Listed for the next [`crate::Shard::take_batches`].
    pub(crate) unsent: bool,
    /// Its entry in the checkpoint is out of date.
    pub(crate) changed: bool,
    /// Keys to be removed from the checkpoint.
    pub(crate) removed: Vec<CheckpointKey>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) name: TopicName,
    pub(crate) ephemeral: bool,
    pub(crate) paused: bool,
    /// Its channels are not all known yet: the pump stands still so that none misses a message.
    pub(crate) held: bool,
    /// Why publishes are refused.
    pub(crate) poisoned: Option<String>,
    /// `(first sequence, epoch)`, ascending; the last one is current.
    pub(crate) epochs: Vec<(u64, Epoch)>,
    pub(crate) channels: Vec<ChannelKey>,
    /// Number of the next channel in checkpoints; 0 is the topic itself.
    pub(crate) next_channel: u32,
    pub(crate) tail: Tail,
    /// Where what may be handed to channels ends. Ephemeral topics hide nothing.
    revealed: u64,
    pub(crate) reads: Reads,
    pub(crate) fetches: Fetches,
    pub(crate) backlog: Backlog,
    /// Messages and body bytes accepted since the process started.
    pub(crate) accepted: (u64, u64),
    pub(crate) agenda: Agenda,
}

impl Topic {
    /// A topic whose next message is `head`, under the last of `epochs`.
    pub(crate) fn new(name: TopicName, node: NodeId, head: u64, epochs: Vec<(u64, Epoch)>) -> Self {
        let &(_, epoch) = epochs.last().expect("there is a current epoch");
        Self {
            ephemeral: name.is_ephemeral(),
            name,
            paused: false,
            held: false,
            poisoned: None,
            epochs,
            channels: Vec::new(),
            next_channel: 1,
            tail: Tail::new(head, encode_prefix(node, epoch)),
            revealed: head,
            reads: Reads::default(),
            fetches: Fetches::default(),
            backlog: Backlog {
                pump: head,
                saved: head,
                ..Backlog::default()
            },
            accepted: (0, 0),
            agenda: Agenda::default(),
        }
    }

    pub(crate) fn head(&self) -> u64 {
        self.tail.head()
    }

    /// Where what may be handed to channels ends.
    pub(crate) fn revealed(&self) -> u64 {
        if self.ephemeral {
            self.head()
        } else {
            self.revealed.min(self.head())
        }
    }

    /// Everything before `end` may be handed to channels; `false` when it could be already.
    pub(crate) fn reveal(&mut self, end: u64) -> bool {
        let is_news = end > self.revealed;
        self.revealed = self.revealed.max(end);
        is_news
    }

    /// The epoch under which new messages are numbered.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epochs.last().expect("there is a current epoch").1
    }

    /// Whether messages are handed to channels.
    pub(crate) fn is_pumping(&self) -> bool {
        !self.paused && !self.held && !self.channels.is_empty()
    }

    /// The sequence that an id of this topic names.
    pub(crate) fn resolve(&self, node: NodeId, id: &MessageId) -> Option<u64> {
        let (id_node, epoch, sequence) = id.decode()?;
        let after = match self.epochs.last() {
            Some(&(first, _)) if first <= sequence.0 => self.epochs.len(),
            _ => self
                .epochs
                .partition_point(|&(first, _)| first <= sequence.0),
        };
        let &(_, made_under) = self.epochs.get(after.checked_sub(1)?)?;
        (id_node == node && epoch == made_under).then_some(sequence.0)
    }

    /// Frames from `sequence` on as one slice, up to `max` of them.
    pub(crate) fn frames(&self, sequence: u64, max: u32) -> Option<(Bytes, u32)> {
        self.tail
            .frames(sequence, max)
            .or_else(|| self.reads.frames(sequence, max))
    }

    /// The frame of one message.
    pub(crate) fn frame(&self, sequence: u64) -> Option<&[u8]> {
        self.tail
            .frame(sequence)
            .or_else(|| self.reads.frame(sequence))
    }

    /// The first sequence from `sequence` on that neither was read back nor is planned to be;
    /// `None` when more than `bytes_max` bytes lie before it.
    pub(crate) fn uncovered(&self, sequence: u64, bytes_max: usize) -> Option<u64> {
        let mut next = sequence;
        let mut bytes = 0;
        while let Some((end, cost)) = self.reads.ahead(next).or_else(|| self.fetches.find(next)) {
            next = end;
            bytes += cost;
            if bytes > bytes_max {
                return None;
            }
        }
        Some(next)
    }

    /// Notes that the log is to be asked for `from` on behalf of `channel`; `false` when it is on
    /// its way already.
    pub(crate) fn want(&mut self, from: u64, channel: ChannelKey) -> bool {
        debug_assert!(
            !self.ephemeral,
            "the cache of an ephemeral topic is all it has"
        );
        self.fetches.want(from, channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sequence;

    #[test]
    fn an_id_resolves_only_under_the_epoch_of_its_sequence() {
        let name = TopicName::parse(b"t").unwrap();
        let epochs = vec![(0, Epoch(3)), (10, Epoch(5))];
        let topic = Topic::new(name, NodeId(1), 20, epochs);
        let id = |node, epoch, sequence| {
            MessageId::encode(NodeId(node), Epoch(epoch), Sequence(sequence))
        };
        assert_eq!(topic.resolve(NodeId(1), &id(1, 3, 9)), Some(9));
        assert_eq!(topic.resolve(NodeId(1), &id(1, 5, 10)), Some(10));
        assert_eq!(topic.resolve(NodeId(1), &id(1, 3, 10)), None);
        assert_eq!(topic.resolve(NodeId(1), &id(1, 5, 9)), None);
        assert_eq!(topic.resolve(NodeId(1), &id(2, 5, 10)), None);
        assert_eq!(
            topic.resolve(NodeId(1), &MessageId(*b"not an id at all")),
            None
        );
    }

    #[test]
    fn damage_does_not_count_as_backlog() {
        let mut backlog = Backlog {
            pump: 10,
            ..Backlog::default()
        };
        backlog.deferred.extend([(12, 5), (20, 5)]);
        backlog.lose(5, 15);
        assert_eq!(backlog.depth(30), 15);
        assert_eq!(backlog.deferred, [(20, 5)]);
        assert!(!backlog.owes(0, 15, 30) && backlog.owes(0, 16, 30) && backlog.owes(29, 99, 30));
        assert!(!backlog.owes(30, 99, 30));
    }
}
