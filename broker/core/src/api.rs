//! Values that the shell and the shard exchange, other than effects.

use std::collections::BTreeMap;
use std::time::Duration;

use nsq_proto::{ChannelName, TopicName};

use crate::{CheckpointKey, ConnToken, Epoch, LatencyConfig, LatencyStats, NodeId, Sequence};

/// Bounds and policies that the flags set.
#[derive(Debug, Clone)]
pub struct ShardLimits {
    /// `--node-id`.
    pub node: NodeId,
    /// `--mem-queue-size`: messages per queue counted as "memory" in stats, and the bound of ephemeral ones.
    pub mem_queue_size: u64,
    /// `--max-msg-timeout`: cap for TOUCH.
    pub msg_timeout_max: Duration,
    /// `--max-req-timeout`: REQ delays are clamped to it.
    pub requeue_delay_max: Duration,
    /// `--max-channel-consumers`; 0 = unlimited.
    pub channel_consumers_max: u32,
    /// Bytes of frames that this shard may keep cached (tails and read-ahead together).
    pub cache_bytes_max: usize,
    /// Bytes appended but not yet written, above which [`crate::Shard::is_congested`] says so.
    pub unwritten_bytes_max: usize,
    /// `--requeue-on-disconnect`: a vanished consumer's messages time out at once.
    pub requeue_on_disconnect: bool,
    /// Seed of the sampling coin.
    pub seed: u64,
    /// What is measured from publish to FIN; `None` = nothing, at no cost.
    pub latency: Option<LatencyConfig>,
}

/// What a consumer asked for in IDENTIFY.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Delivery timeout.
    pub msg_timeout: Duration,
    /// Percentage of messages wanted, 1..=99; 0 = all.
    pub sample_rate: u8,
    /// How close it is to this broker.
    pub locality: Locality,
}

/// How close a consumer is (spec nsqd.md §3.9). Where topology does not matter everybody is global.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Locality {
    /// In the broker's zone: preferred.
    Zone,
    /// In the broker's region: served before the rest.
    Region,
    /// Anywhere.
    #[default]
    Global,
}

impl Locality {
    /// In the order of preference.
    pub const ALL: [Self; 3] = [Self::Zone, Self::Region, Self::Global];
}

/// Where a publish ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// One past the last sequence; the publish may be answered once the log is committed up to here.
    pub end: Sequence,
    /// `false` for an ephemeral topic: there is no log, answer at once.
    pub logged: bool,
}

/// Why a publish was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The topic is being deleted or the shard stops.
    #[error("exiting")]
    Exiting,
    /// The topic's log failed or the disk is full; the text says how.
    #[error("{0}")]
    Log(String),
}

/// Why a subscription was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// `--max-channel-consumers` reached.
    #[error("consumers for {topic}:{channel} exceeds limit of {limit}")]
    TooManyConsumers {
        /// Topic name.
        topic: String,
        /// Channel name.
        channel: String,
        /// The limit.
        limit: u32,
    },
}

/// Why a FIN, REQ or TOUCH failed; never fatal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// Unknown, finished, requeued or timed out.
    #[error("ID not in flight")]
    NotInFlight,
    /// In flight to somebody else.
    #[error("client does not own message")]
    NotOwner,
}

/// A topic as the log and `nsqd.dat` remember it.
#[derive(Debug, Default)]
pub struct RestoredTopic {
    /// Pause flag of `nsqd.dat`.
    pub paused: bool,
    /// Channels of `nsqd.dat`.
    pub channels: Vec<RestoredChannel>,
    /// Oldest sequence still in the log.
    pub first: Sequence,
    /// One past the newest sequence in the log.
    pub head: Sequence,
    /// Epochs of what is in the log: `(first sequence, epoch)`, ascending.
    pub epochs: Vec<(Sequence, Epoch)>,
    /// Epoch for what will be appended; greater than every one before.
    pub epoch: Epoch,
    /// Deferred messages found by the forward scan: `(sequence, due in Unix ms)`, ascending.
    pub deferred: Vec<(Sequence, u64)>,
    /// Ranges lost to damage, treated as finished everywhere: `[start, end)`.
    pub damaged: Vec<(Sequence, Sequence)>,
    /// The checkpoint journal, folded.
    pub checkpoint: BTreeMap<CheckpointKey, Vec<u8>>,
}

/// A channel as `nsqd.dat` remembers it.
#[derive(Debug)]
pub struct RestoredChannel {
    /// Its name.
    pub name: ChannelName,
    /// Its pause flag.
    pub paused: bool,
}

/// Counters and gauges of a topic (spec nsqd.md §4.5).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the JSON keys of /stats")]
pub struct TopicStats {
    pub name: TopicName,
    pub depth: u64,
    pub backend_depth: u64,
    pub message_count: u64,
    pub message_bytes: u64,
    pub paused: bool,
    pub channels: Vec<ChannelStats>,
    /// Of all its channels together.
    pub latency: LatencyStats,
}

/// Counters and gauges of a channel (spec nsqd.md §4.5).
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names are the JSON keys of /stats")]
pub struct ChannelStats {
    pub name: ChannelName,
    pub depth: u64,
    pub backend_depth: u64,
    pub in_flight_count: u64,
    pub deferred_count: u64,
    pub message_count: u64,
    pub zone_local_msg_count: u64,
    pub region_local_msg_count: u64,
    pub global_msg_count: u64,
    pub finish_count: u64,
    pub requeue_count: u64,
    pub timeout_count: u64,
    pub paused: bool,
    /// Connections subscribed to it.
    pub consumers: Vec<ConnToken>,
    pub latency: LatencyStats,
}

/// Counters and gauges of a consumer (spec nsqd.md §4.5, client object). What it was sent counts as
/// `<locality>_msg_count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names are the JSON keys of /stats")]
pub struct ConsumerStats {
    pub locality: Locality,
    pub ready_count: u32,
    pub in_flight_count: u64,
    pub message_count: u64,
    pub finish_count: u64,
    pub requeue_count: u64,
}
