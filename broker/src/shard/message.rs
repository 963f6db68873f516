//! What shards tell each other, and what the control thread tells them.
//!
//! Mailboxes are bounded. A sender that finds one full keeps the message in its own outbox for
//! that shard and tries again every turn; what may gather there is bounded at its source, which
//! each variant names.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use nsq_core::{Now, TopicKey};
use nsq_log::{Op, Token};
use nsq_proto::{ChannelName, TopicName};
use rustls::ServerConfig;

use crate::conn::{Connection, Ticket};
use crate::gateway::{AdminError, AdminRequest, ProfileError, StatsFilter};
use crate::grants::Grants;
use crate::shard::stats::StatsPart;

/// Index of a shard, `0..shards`.
pub(crate) type ShardId = usize;

/// Whom to tell that a publish is committed or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publisher {
    /// A connection of the shard that sent the publish: its key and the reply that waits.
    Connection(u64, Ticket),
    /// A local task (HTTP) of that shard, by request number.
    Task(u64),
}

/// One publish command on its way to the shard that owns its topic.
#[derive(Debug)]
pub(crate) struct RemotePublish {
    pub(crate) publisher: Publisher,
    pub(crate) topic: TopicName,
    pub(crate) delay: Duration,
    /// Length-prefixed bodies in the batch's `bodies`.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// All publishes of one turn from one shard to another.
#[derive(Debug)]
pub(crate) struct PublishBatch {
    pub(crate) origin: ShardId,
    /// When it was sent, by the clock that all shards share.
    pub(crate) sent: Now,
    pub(crate) publishes: Vec<RemotePublish>,
    /// `[length u32 | body]*`, native endian: it never leaves the process.
    pub(crate) bodies: Bytes,
}

/// How a remote publish ended.
#[derive(Debug)]
pub(crate) struct PublishOutcome {
    pub(crate) publisher: Publisher,
    pub(crate) result: Result<(), String>,
}

/// A message between threads; see the module documentation for full mailboxes.
#[derive(Debug)]
pub(crate) enum ShardMessage {
    /// A connection moves here. Bounded by the number of connections.
    Connection(OwnedFd, Box<Connection>),
    /// The shard that sends it has room for publishes again. One per end of a congestion.
    Room,
    /// Memory that can be done without is to be given back. Bounded by HTTP connections.
    FreeMemory,
    /// Publishes for topics of this shard. Bounded per connection (`REMOTE_BYTES_MAX`).
    Publish(Box<PublishBatch>),
    /// Answers to a `Publish`. Bounded by what was asked.
    Published(Vec<PublishOutcome>),
    /// An administrative request from the HTTP door of `origin`. Bounded by its connections.
    Admin {
        /// Who asks.
        origin: ShardId,
        /// The asker's number for it.
        request: u64,
        /// What.
        admin: AdminRequest,
    },
    /// The answer to `Admin`.
    AdminDone {
        /// The asker's number.
        request: u64,
        /// How it ended.
        result: Result<(), AdminError>,
    },
    /// Statistics are wanted. Bounded by HTTP connections.
    Stats {
        /// Who asks.
        origin: ShardId,
        /// The asker's number for it.
        request: u64,
        /// Which.
        filter: StatsFilter,
    },
    /// The answer to `Stats`.
    StatsDone {
        /// The asker's number.
        request: u64,
        /// This shard's share.
        part: Box<StatsPart>,
    },
    /// All numbers of the shard are wanted, without clients. Bounded by who asks: once an interval.
    Numbers(oneshot::Sender<Box<StatsPart>>),
    /// The answer to a request for a CPU profile. There is one at a time.
    ProfileDone {
        /// The asker's number.
        request: u64,
        /// The profile.
        result: Result<Bytes, ProfileError>,
    },
    /// The disk now holds (or, on an error, could not be made to hold) every change of this
    /// shard up to `version`.
    CatalogueSaved {
        /// The newest change covered.
        version: u64,
        /// Why it failed.
        result: Result<(), String>,
    },
    /// The channels that nsqlookupd has for a new topic; the topic need not be held any longer.
    /// Bounded by the new topics.
    ChannelsFound {
        /// Which, if it still exists.
        topic: TopicKey,
        /// Legal names of lasting channels, may be none.
        channels: Vec<ChannelName>,
    },
    /// An authorization server has answered for a connection. Bounded by the connections.
    Authorized {
        /// Its tag.
        connection: u64,
        /// `None`: no server gave a usable answer.
        grants: Option<Arc<Grants>>,
    },
    /// An operation of a log that ran on the storage thread.
    Stored {
        /// Whose log.
        topic: TopicKey,
        /// The log's token.
        token: Token,
        /// The outcome.
        result: io::Result<Option<OwnedFd>>,
    },
    /// Certificates for the TLS connections of the future.
    Certificates(Arc<ServerConfig>),
    /// Every shard is ready: start to accept connections.
    Serve,
    /// Stop cleanly.
    Stop,
}

/// An operation of a log for the storage thread.
#[derive(Debug)]
pub(crate) struct StorageJob {
    pub(crate) shard: ShardId,
    pub(crate) topic: TopicKey,
    pub(crate) token: Token,
    pub(crate) op: StorageOp,
}

/// The operations of [`Op`] that touch names; they may block for milliseconds.
#[derive(Debug)]
pub(crate) enum StorageOp {
    Open {
        path: std::path::PathBuf,
    },
    Create {
        path: std::path::PathBuf,
        len: u64,
        is_written: bool,
    },
    Recycle {
        from: std::path::PathBuf,
        to: std::path::PathBuf,
    },
    Replace {
        path: std::path::PathBuf,
        contents: Bytes,
    },
    Remove {
        path: std::path::PathBuf,
    },
    RemoveAll {
        path: std::path::PathBuf,
    },
}

impl StorageOp {
    /// The storage thread's share of the log's operations; gives the others back.
    ///
    /// # Errors
    /// The operation itself, when it belongs on the ring.
    pub(crate) fn from_op(op: Op) -> Result<Self, Op> {
        Ok(match op {
            Op::Open { path } => Self::Open { path },
            Op::Create {
                path,
                len,
                is_written,
            } => Self::Create {
                path,
                len,
                is_written,
            },
            Op::Recycle { from, to } => Self::Recycle { from, to },
            Op::Replace { path, contents } => Self::Replace { path, contents },
            Op::Remove { path } => Self::Remove { path },
            Op::RemoveAll { path } => Self::RemoveAll { path },
            Op::Write { .. } | Op::Sync { .. } | Op::Read { .. } => return Err(op),
        })
    }
}
