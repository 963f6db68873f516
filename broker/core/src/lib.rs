//! Queue semantics as a deterministic state machine: topics, channels, consumers, timers.
//!
//! The grammar: the shell calls *commands* ([`Shard::publish`], [`Shard::finish`], …) with the
//! time as an argument, then once per turn [`Shard::advance`], [`Shard::take_batches`] for the log and
//! [`Shard::dispatch`], and drains the [`Effect`]s. What was published goes to consumers once
//! [`Shard::reveal`] says that its publishers are answered. Nothing here knows files, sockets, tasks
//! or a clock.
//!
//! Read it in the order of a message's life: `shard/publish.rs` → `tail.rs` → `topic.rs` →
//! `shard/dispatch.rs` → `channel/` → `shard/acks.rs`; what survives a restart is in
//! `checkpoint.rs`, `shard/checkpoint.rs` and `shard/restore.rs`; time is in `wheel.rs`.
#![forbid(unsafe_code)]

mod api;
mod channel;
mod checkpoint;
mod consumer;
mod effect;
mod fetches;
mod id;
mod latency;
mod ranges;
mod reads;
mod shard;
mod tail;
mod timers;
mod topic;
mod types;
mod wheel;

pub use api::{
    AckError, ChannelStats, ConsumerOptions, ConsumerStats, Locality, PublishError, Published,
    RestoredChannel, RestoredTopic, ShardLimits, SubscribeError, TopicStats,
};
pub use effect::{Batch, CheckpointKey, CheckpointScope, Deadline, Effect};
pub use id::{Epoch, MessageId, NodeId};
pub use latency::{LatencyConfig, LatencyStats, Percentile};
pub use shard::Shard;
pub use types::{ConnToken, ConsumerKey, Now, Sequence, TimerKey, TopicKey};
