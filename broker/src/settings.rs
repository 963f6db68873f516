//! The configuration as the shards and `/info` need it.

use std::time::Duration;

use nsq_core::{LatencyConfig, NodeId};
use nsq_log::{LogConfig, SyncPolicy};
use nsq_proto::{IdentifyLimits, Limits};

use crate::clock::Clock;
use crate::config::{Config, SyncMode, TlsRequired};
use crate::control::{
    AuthSettings, Certificates, ControlSettings, LookupIdentity, OutboundSettings,
};
use crate::gateway::BrokerInfo;
use crate::shared::Settings;

/// Heartbeat interval of a client that asks for none (spec nsqd.md §1.2, constants).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Message caches of the whole process when `--mem-limit` is not given.
const CACHE_BYTES: u64 = 128 * 1024 * 1024;
/// Smallest segment of a new topic; each next one is twice as large, up to the flag.
const SEGMENT_BYTES_MIN: u64 = 64 * 1024;
/// One read-ahead.
const READ_BYTES: u32 = 512 * 1024;

/// What the shards need, given the bound port of HTTPS.
pub(crate) fn settings(config: &Config, https_port: u16) -> Settings {
    let limits = &config.limits;
    let timeouts = &config.timeouts;
    let cache = config.shards.mem_limit.unwrap_or(CACHE_BYTES) / config.shards.count as u64;
    Settings {
        data_path: config.durability.data_path.clone(),
        node: NodeId(config.identity.node_id),
        limits: byte_limits(config),
        identify: IdentifyLimits {
            max_heartbeat_interval: timeouts.max_heartbeat_interval,
            min_output_buffer_timeout: timeouts.min_output_buffer_timeout,
            max_output_buffer_timeout: timeouts.max_output_buffer_timeout,
            output_buffer_timeout: timeouts.output_buffer_timeout,
            max_output_buffer_size: u64::from(limits.max_output_buffer_size),
            msg_timeout: timeouts.msg_timeout,
            max_msg_timeout: timeouts.max_msg_timeout,
            max_deflate_level: limits.compression.max_deflate_level,
        },
        heartbeat_interval: HEARTBEAT_INTERVAL,
        max_req_timeout: timeouts.max_req_timeout,
        mem_queue_size: config.durability.mem_queue_size,
        channel_consumers_max: limits.max_channel_consumers.unwrap_or(0),
        requeue_on_disconnect: limits.requeue_on_disconnect,
        log: log_config(config),
        sync_timeout: config.durability.sync_timeout,
        cache_bytes_max: usize::try_from(cache).unwrap_or(usize::MAX),
        segment_io: config.durability.segment_io,
        spin: config.shards.spin,
        auth_required: !config.security.auth_http_addresses.is_empty(),
        tls_required: config.security.tls.required != TlsRequired::No,
        https_only: (config.security.tls.required == TlsRequired::Yes).then_some(https_port),
        compression: limits.compression,
        version: nsq_cli::VERSION.to_owned(),
        topology_region: config.identity.topology_region.clone(),
        topology_zone: config.identity.topology_zone.clone(),
        topology_aware: config.identity.topology_aware,
        latency: latency(config),
    }
}

fn latency(config: &Config) -> Option<LatencyConfig> {
    let metrics = &config.metrics;
    (!metrics.e2e_percentiles.is_empty()).then(|| LatencyConfig {
        percentiles: metrics.e2e_percentiles.clone(),
        window: metrics.e2e_window,
    })
}

fn byte_limits(config: &Config) -> Limits {
    let defer_ms = config.timeouts.max_req_timeout.as_millis();
    Limits {
        message_bytes_max: u64::from(config.limits.max_msg_size),
        body_bytes_max: u64::from(config.limits.max_body_size),
        ready_count_max: u64::from(config.limits.max_rdy_count),
        defer_ms_max: u64::try_from(defer_ms).unwrap_or(u64::MAX),
    }
}

/// What a mode means to a log.
pub(crate) const fn policy(mode: SyncMode) -> SyncPolicy {
    match mode {
        SyncMode::Interval => SyncPolicy::Interval,
        SyncMode::Always => SyncPolicy::Always,
    }
}

fn log_config(config: &Config) -> LogConfig {
    let durability = &config.durability;
    LogConfig {
        sync: policy(durability.sync),
        gather: true,
        sync_every: durability.sync_every,
        segment_bytes_max: durability.segment_bytes_max,
        segment_bytes_min: SEGMENT_BYTES_MIN.min(durability.segment_bytes_max),
        read_bytes: READ_BYTES,
    }
}

/// What `/info` tells, given the ports of TCP and HTTP.
pub(crate) fn info(config: &Config, clock: Clock, (tcp, http): (i64, i64)) -> BrokerInfo {
    BrokerInfo {
        clock,
        version: nsq_cli::VERSION.to_owned(),
        broadcast_address: config.identity.broadcast_address.clone(),
        hostname: config.identity.hostname.clone(),
        http_port: http,
        tcp_port: tcp,
        start_time: clock.start_unix_seconds(),
        max_heartbeat_interval: config.timeouts.max_heartbeat_interval,
        max_output_buffer_size: u64::from(config.limits.max_output_buffer_size),
        max_output_buffer_timeout: config.timeouts.max_output_buffer_timeout,
        max_deflate_level: config.limits.compression.max_deflate_level,
        topology_zone: config.identity.topology_zone.clone(),
        topology_region: config.identity.topology_region.clone(),
        max_msg_size: u64::from(config.limits.max_msg_size),
        max_body_size: u64::from(config.limits.max_body_size),
        max_req_timeout: config.timeouts.max_req_timeout,
    }
}

/// What the control thread's tasks need, once the ports are bound.
pub(crate) fn control(config: &Config) -> ControlSettings {
    let identity = &config.identity;
    ControlSettings {
        certificates: Certificates {
            files: config.security.tls.clone(),
            unsent: config.security.tls_server.clone(),
        },
        lookup_identity: LookupIdentity {
            broadcast_address: identity.broadcast_address.clone(),
            hostname: identity.hostname.clone(),
            http_port: identity.broadcast_http_port,
            tcp_port: identity.broadcast_tcp_port,
            topology_region: identity.topology_region.clone(),
            topology_zone: identity.topology_zone.clone(),
            version: nsq_cli::VERSION.to_owned(),
        },
        lookup_peers: config.peers.lookupd_tcp_addresses.clone(),
        auth: AuthSettings {
            addresses: config.security.auth_http_addresses.clone(),
            method: config.security.auth_http_method,
        },
        statsd: config.metrics.statsd.clone(),
        outbound: OutboundSettings {
            connect_timeout: config.peers.http_connect_timeout,
            request_timeout: config.peers.http_request_timeout,
            root_ca_file: config.security.tls.root_ca_file.clone(),
            tls_min_version: config.security.tls.min_version,
            reply_bytes_max: u64::from(config.limits.max_body_size),
            user_agent: format!("{}/{}", crate::config::PROGRAM, nsq_cli::VERSION),
        },
    }
}
