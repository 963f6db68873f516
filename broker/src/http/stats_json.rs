//! `/stats?format=json`: keys, order and omissions of the reference.
//!
//! `topics` is `[]` when there are none, also when a filter matches none (K39); `clients` is `null`
//! when clients are not wanted; `producers` is `null` then and when there are none.

use nsq_core::{LatencyStats, Percentile};
use serde::{Serialize, Serializer};

use super::stats::{Memory, Report};
use crate::config::SyncMode;
use crate::gateway::{ChannelEntry, ClientStats, TopicEntry};

/// Renders the document.
pub(super) fn render(report: &Report<'_>) -> Vec<u8> {
    let has_clients = report.has_clients;
    let producers = &report.stats.producers;
    let document = Document {
        version: &report.info.version,
        health: &report.health,
        start_time: report.info.start_time,
        topics: report
            .stats
            .topics
            .iter()
            .map(|entry| topic(entry, has_clients))
            .collect(),
        memory: report.memory,
        producers: (has_clients && !producers.is_empty())
            .then(|| producers.iter().map(client).collect()),
    };
    serde_json::to_vec(&document).expect("strings and numbers are always JSON")
}

fn topic(entry: &TopicEntry, has_clients: bool) -> Topic<'_> {
    let stats = &entry.stats;
    Topic {
        topic_name: stats.name.as_str(),
        channels: entry
            .channels
            .iter()
            .map(|entry| channel(entry, has_clients))
            .collect(),
        depth: stats.depth,
        backend_depth: stats.backend_depth,
        message_count: stats.message_count,
        message_bytes: stats.message_bytes,
        paused: stats.paused,
        e2e_processing_latency: latency(&stats.latency),
        sync: entry.sync.map(SyncMode::as_str),
    }
}

fn channel(entry: &ChannelEntry, has_clients: bool) -> Channel<'_> {
    let stats = &entry.stats;
    Channel {
        channel_name: stats.name.as_str(),
        depth: stats.depth,
        backend_depth: stats.backend_depth,
        in_flight_count: stats.in_flight_count,
        deferred_count: stats.deferred_count,
        message_count: stats.message_count,
        zone_local_msg_count: stats.zone_local_msg_count,
        region_local_msg_count: stats.region_local_msg_count,
        global_msg_count: stats.global_msg_count,
        requeue_count: stats.requeue_count,
        timeout_count: stats.timeout_count,
        client_count: stats.consumers.len(),
        clients: has_clients.then(|| entry.clients.iter().map(client).collect()),
        paused: stats.paused,
        e2e_processing_latency: latency(&stats.latency),
    }
}

fn latency(stats: &LatencyStats) -> Latency<'_> {
    Latency {
        count: stats.count,
        percentiles: stats.percentiles.as_deref(),
    }
}

fn client(stats: &ClientStats) -> Client<'_> {
    let tls = stats.tls.as_ref();
    Client {
        client_id: &stats.client_id,
        hostname: &stats.hostname,
        version: "V2",
        remote_address: &stats.remote_address,
        state: stats.state,
        ready_count: stats.ready_count,
        in_flight_count: stats.in_flight_count,
        message_count: stats.message_count,
        zone_local_msg_count: stats.zone_local_msg_count,
        region_local_msg_count: stats.region_local_msg_count,
        global_msg_count: stats.global_msg_count,
        finish_count: stats.finish_count,
        requeue_count: stats.requeue_count,
        connect_ts: stats.connect_ts,
        sample_rate: stats.sample_rate,
        deflate: stats.deflate,
        snappy: stats.snappy,
        user_agent: &stats.user_agent,
        authed: stats.authed,
        auth_identity: &stats.auth_identity,
        auth_identity_url: &stats.auth_identity_url,
        topology_zone: &stats.topology_zone,
        topology_region: &stats.topology_region,
        pub_counts: &stats.pub_counts,
        tls: tls.is_some(),
        tls_cipher_suite: tls.map_or("", |tls| &tls.cipher_suite),
        tls_version: tls.map_or("", |tls| tls.version),
        tls_negotiated_protocol: "",
        tls_negotiated_protocol_is_mutual: tls.is_some(),
    }
}

#[derive(Serialize)]
struct Document<'a> {
    version: &'a str,
    health: &'a str,
    start_time: i64,
    topics: Vec<Topic<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    producers: Option<Vec<Client<'a>>>,
}

#[derive(Serialize)]
struct Topic<'a> {
    topic_name: &'a str,
    channels: Vec<Channel<'a>>,
    depth: u64,
    backend_depth: u64,
    message_count: u64,
    message_bytes: u64,
    paused: bool,
    e2e_processing_latency: Latency<'a>,
    /// Not of the reference, and only there where it was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<&'static str>,
}

#[derive(Serialize)]
struct Channel<'a> {
    channel_name: &'a str,
    depth: u64,
    backend_depth: u64,
    in_flight_count: u64,
    deferred_count: u64,
    message_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    zone_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    region_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    global_msg_count: u64,
    requeue_count: u64,
    timeout_count: u64,
    client_count: usize,
    clients: Option<Vec<Client<'a>>>,
    paused: bool,
    e2e_processing_latency: Latency<'a>,
}

#[derive(Serialize)]
struct Client<'a> {
    client_id: &'a str,
    hostname: &'a str,
    version: &'static str,
    remote_address: &'a str,
    state: u8,
    ready_count: u32,
    in_flight_count: u64,
    message_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    zone_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    region_local_msg_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    global_msg_count: u64,
    finish_count: u64,
    requeue_count: u64,
    connect_ts: i64,
    sample_rate: u8,
    deflate: bool,
    snappy: bool,
    user_agent: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    authed: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth_identity: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    auth_identity_url: &'a str,
    topology_zone: &'a str,
    topology_region: &'a str,
    #[serde(serialize_with = "pub_counts", skip_serializing_if = "<[_]>::is_empty")]
    pub_counts: &'a [(String, u64)],
    tls: bool,
    tls_cipher_suite: &'a str,
    tls_version: &'static str,
    tls_negotiated_protocol: &'static str,
    tls_negotiated_protocol_is_mutual: bool,
}

#[derive(Serialize)]
struct Latency<'a> {
    count: u64,
    #[serde(serialize_with = "percentiles")]
    percentiles: Option<&'a [Percentile]>,
}

/// One figure of [`Latency`], in nanoseconds.
#[derive(Serialize)]
struct Figure {
    quantile: f64,
    value: u64,
}

fn percentiles<S: Serializer>(
    percentiles: &Option<&[Percentile]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let Some(percentiles) = percentiles else {
        return serializer.serialize_none();
    };
    serializer.collect_seq(percentiles.iter().map(|percentile| Figure {
        quantile: percentile.quantile,
        value: percentile.nanos,
    }))
}

#[derive(Serialize)]
struct PubCount<'a> {
    topic: &'a str,
    count: u64,
}

fn pub_counts<S: Serializer>(counts: &[(String, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(counts.iter().map(|(topic, count)| PubCount {
        topic,
        count: *count,
    }))
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature that serde calls"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
