//! What the core wants done.

use bytes::Bytes;
use nsq_proto::{ChannelName, TopicName};

use crate::{ConnToken, Epoch, Sequence, TopicKey};

/// One thing for the shell to do. Effects are in order; the shell drains them every turn.
#[derive(Debug)]
pub enum Effect {
    /// Send these bytes (one or more whole message frames) to the consumer's connection.
    Deliver {
        /// Whose connection.
        conn: ConnToken,
        /// Whole frames.
        frames: Bytes,
    },
    /// A channel needs messages from `from` on that are not in memory: read them from the log and
    /// answer with [`crate::Shard::on_fetched`] or [`crate::Shard::on_fetch_failed`], and say before
    /// that how far the answer will reach, where that is known, with
    /// [`crate::Shard::on_fetch_planned`]. At most one request for the same `(topic, from)` is open
    /// at a time.
    Fetch {
        /// Whose log.
        topic: TopicKey,
        /// First sequence wanted.
        from: Sequence,
        /// Messages wanted from there on, as far as is known: few where they lie scattered. More
        /// may be given.
        count: u32,
    },
    /// Close this connection without an error frame: its channel or topic was deleted.
    Disconnect {
        /// Whose connection.
        conn: ConnToken,
    },
    /// An ephemeral topic removed itself because its last channel went, or a topic was deleted:
    /// its key is dead; drop its log.
    TopicGone {
        /// The dead key.
        topic: TopicKey,
    },
    /// Persistent names or pause flags changed: `nsqd.dat` is to be written.
    CatalogueChanged,
    /// A topic or channel, ephemeral ones included, is there from now on, or no more. A topic is
    /// named before its channels come, and after they went.
    Name {
        /// The topic, or whose channel.
        topic: TopicName,
        /// `None`: the topic itself.
        channel: Option<ChannelName>,
        /// Whether it is there.
        exists: bool,
    },
    /// A deadline that the shell scheduled with [`crate::Shard::schedule`] has come.
    Due(Deadline),
    /// A line for the operators' log, at INFO.
    Log(String),
}

/// The closed set of things that can come due on a shard's wheel on the shell's behalf.
/// (Delivery timeouts and deferrals are on the same wheel, and private to the core.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Send a heartbeat on this connection.
    Heartbeat(ConnToken),
    /// The peer of this connection has said nothing for too long.
    ReadTimeout(ConnToken),
    /// The peer of this connection has taken nothing for too long, or a lingering close is over.
    WriteTimeout(ConnToken),
    /// Checkpoint this topic.
    Checkpoint(TopicKey),
    /// fdatasync this topic's log.
    Sync(TopicKey),
    /// Anything of the shell's that has no key of its own.
    Tick(u32),
}

/// What one append writes: consecutive messages with one due time, lent for the call.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Sequence of the first message; the others follow without gaps.
    pub first: Sequence,
    /// Epoch under which the ids were made.
    pub epoch: Epoch,
    /// Not to be delivered before this time, in Unix milliseconds; 0 = at once.
    pub due_ms: u64,
    /// The frames, one after the other.
    pub frames: Bytes,
    /// Where each frame ends, in bytes from the start of `frames`; two slices of a ring buffer.
    pub ends: (&'a [u32], &'a [u32]),
}

/// Names one entry of a topic's checkpoint; the last value written under a key counts.
/// `kind` 0 = topic, 1 = channel, 2 = page of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointKey {
    /// What the entry describes.
    pub kind: u8,
    /// The channel's number within the topic (never reused), 0 for the topic.
    pub channel: u32,
    /// Page number (sequence / 64) for kind 2, else 0.
    pub page: u64,
}

impl CheckpointKey {
    /// The least of all keys.
    pub const FIRST: Self = Self {
        kind: 0,
        channel: 0,
        page: 0,
    };
}

/// How much of a topic's state a checkpoint is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointScope {
    /// What changed since the last checkpoint.
    Changed,
    /// Everything (for a fresh journal file).
    All,
}
