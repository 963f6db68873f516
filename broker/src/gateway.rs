//! What the HTTP door may ask of the broker, and what it gets back.
//!
//! The door runs as local tasks on a shard; [`Broker`] is implemented by a handle to that shard,
//! which answers from its own core or asks the owning shards by message. Futures are not `Send`.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nsq_core::{ChannelStats, TopicStats};
use nsq_proto::{ChannelName, TopicName};

use crate::clock::Clock;
use crate::config::SyncMode;

/// A change of topics and channels.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "named after the endpoints of spec nsqd.md §4.2"
)]
pub enum AdminRequest {
    /// Makes it unless it is there; with `sync` also changes what an `OK` of it means.
    CreateTopic {
        topic: TopicName,
        sync: Option<SyncMode>,
    },
    DeleteTopic {
        topic: TopicName,
    },
    EmptyTopic {
        topic: TopicName,
    },
    PauseTopic {
        topic: TopicName,
        paused: bool,
    },
    CreateChannel {
        topic: TopicName,
        channel: ChannelName,
    },
    DeleteChannel {
        topic: TopicName,
        channel: ChannelName,
    },
    EmptyChannel {
        topic: TopicName,
        channel: ChannelName,
    },
    PauseChannel {
        topic: TopicName,
        channel: ChannelName,
        paused: bool,
    },
}

impl AdminRequest {
    /// The topic that decides which shard answers.
    #[must_use]
    pub fn topic(&self) -> &TopicName {
        match self {
            Self::CreateTopic { topic, .. }
            | Self::DeleteTopic { topic }
            | Self::EmptyTopic { topic }
            | Self::PauseTopic { topic, .. }
            | Self::CreateChannel { topic, .. }
            | Self::DeleteChannel { topic, .. }
            | Self::EmptyChannel { topic, .. }
            | Self::PauseChannel { topic, .. } => topic,
        }
    }
}

/// Why an [`AdminRequest`] was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// 404 `TOPIC_NOT_FOUND`.
    #[error("topic not found")]
    TopicNotFound,
    /// 404 `CHANNEL_NOT_FOUND`.
    #[error("channel not found")]
    ChannelNotFound,
    /// 500 `INTERNAL_ERROR`; the text is for the log.
    #[error("{0}")]
    Internal(String),
}

/// Why a publish was not accepted: 503 `EXITING`; the text is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PublishFailure(pub String);

/// Why there is no CPU profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// There is one at a time.
    #[error("cpu profiling already in use")]
    InUse,
    /// The system's reason.
    #[error("{0}")]
    Failed(String),
}

/// Which part of the statistics is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsFilter {
    /// Exact topic name; empty = all.
    pub topic: String,
    /// Exact channel name; empty = all.
    pub channel: String,
    /// Whether client objects are wanted.
    pub include_clients: bool,
}

/// The whole broker's statistics, gathered from all shards.
#[derive(Debug, Clone, Default)]
pub struct BrokerStats {
    /// Sorted by topic name, channels sorted by name; filtered.
    pub topics: Vec<TopicEntry>,
    /// Connections that have published, unsorted; empty unless clients are wanted.
    pub producers: Vec<ClientStats>,
}

/// A topic with its channels.
#[derive(Debug, Clone)]
pub struct TopicEntry {
    /// The core's numbers; `stats.channels` is empty, see `channels`.
    pub stats: TopicStats,
    /// What an `OK` of it means, where that was chosen for this topic.
    pub sync: Option<SyncMode>,
    /// Channels with their clients.
    pub channels: Vec<ChannelEntry>,
}

/// A channel with its clients.
#[derive(Debug, Clone)]
pub struct ChannelEntry {
    /// The core's numbers; `stats.consumers.len()` is the client count.
    pub stats: ChannelStats,
    /// One per consumer, empty unless clients are wanted.
    pub clients: Vec<ClientStats>,
}

/// One connection (client object of spec nsqd.md §4.5).
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "named after the JSON keys")]
pub struct ClientStats {
    pub client_id: String,
    pub hostname: String,
    pub remote_address: String,
    pub state: u8,
    pub ready_count: u32,
    pub in_flight_count: u64,
    pub message_count: u64,
    pub zone_local_msg_count: u64,
    pub region_local_msg_count: u64,
    pub global_msg_count: u64,
    pub finish_count: u64,
    pub requeue_count: u64,
    /// Unix seconds.
    pub connect_ts: i64,
    pub sample_rate: u8,
    pub deflate: bool,
    pub snappy: bool,
    pub user_agent: String,
    /// An authorization server granted it something.
    pub authed: bool,
    pub auth_identity: String,
    pub auth_identity_url: String,
    pub topology_zone: String,
    pub topology_region: String,
    /// Messages published per topic, sorted by topic.
    pub pub_counts: Vec<(String, u64)>,
    /// `None` for a connection without TLS.
    pub tls: Option<ClientTls>,
}

/// TLS of one connection.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// `TLS1.2` or `TLS1.3`.
    pub version: &'static str,
    /// The suite by its IANA name (K45).
    pub cipher_suite: String,
}

/// What does not change while the process runs, or changes rarely.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the JSON keys of /info")]
pub struct BrokerInfo {
    /// The clock of the process, for what is shown and logged.
    pub clock: Clock,
    pub version: String,
    pub broadcast_address: String,
    pub hostname: String,
    pub http_port: i64,
    pub tcp_port: i64,
    /// Unix seconds.
    pub start_time: i64,
    pub max_heartbeat_interval: Duration,
    pub max_output_buffer_size: u64,
    pub max_output_buffer_timeout: Duration,
    pub max_deflate_level: u8,
    pub topology_zone: String,
    pub topology_region: String,
    /// `--max-msg-size`.
    pub max_msg_size: u64,
    /// `--max-body-size`.
    pub max_body_size: u64,
    /// `--max-req-timeout`.
    pub max_req_timeout: Duration,
}

/// The broker as the HTTP door sees it.
#[expect(
    async_fn_in_trait,
    reason = "local tasks only: the futures need not be Send"
)]
pub trait Broker: Clone + 'static {
    /// Publishes all bodies or none; resolves when they are committed as `--sync` promises.
    ///
    /// # Errors
    /// [`PublishFailure`] when the topic's log failed or the broker is stopping.
    async fn publish(
        &self,
        topic: TopicName,
        delay: Duration,
        bodies: Vec<Bytes>,
    ) -> Result<(), PublishFailure>;

    /// Waits until the shard of a topic has room for publishes. [`Self::publish`] waits as well;
    /// asked before a body is read, this keeps the body out of memory.
    ///
    /// *Cancellation:* leaves nothing.
    async fn room(&self, topic: &TopicName);

    /// Carries out a change; resolves when it is on disk.
    ///
    /// # Errors
    /// See [`AdminError`].
    async fn admin(&self, request: AdminRequest) -> Result<(), AdminError>;

    /// Gathers statistics from all shards.
    async fn stats(&self, filter: StatsFilter) -> BrokerStats;

    /// Takes a CPU profile of the process for so long, in the encoding of pprof.
    ///
    /// # Errors
    /// See [`ProfileError`].
    async fn cpu_profile(&self, span: Duration) -> Result<Bytes, ProfileError>;

    /// Has every shard give back the memory that it can do without. They do so in their next turn.
    fn free_memory(&self);

    /// The broker is being stopped: no connection goes on after its answer.
    fn is_stopping(&self) -> bool;

    /// Constants of this process.
    fn info(&self) -> &BrokerInfo;

    /// `None` while healthy, else why not.
    fn health(&self) -> Option<String>;

    /// `GET /config/<key>`: the body and whether it is JSON (else text); `None` for unknown keys.
    fn config_get(&self, key: &str) -> Option<(String, bool)>;

    /// `PUT /config/<key>` (spec §4.6): the new value as for `config_get`.
    ///
    /// # Errors
    /// The error code: `INVALID_OPTION` or `INVALID_VALUE`.
    fn config_put(&self, key: &str, body: &[u8]) -> Result<(String, bool), &'static str>;

    /// Resolves when a task may take a step of a TLS handshake, of which a turn has few.
    fn poll_handshake_step(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// A line for the access log, at INFO.
    fn log_access(&self, line: std::fmt::Arguments<'_>);
    /// A line at ERROR.
    fn log_error(&self, line: std::fmt::Arguments<'_>);
    /// A line at WARNING.
    fn log_warning(&self, line: std::fmt::Arguments<'_>);
}
