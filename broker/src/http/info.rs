//! `/info`: what a peer or an operator must know to address this broker.

use serde::Serialize;

use super::response::{self, Response};
use crate::gateway::BrokerInfo;

/// The keys, in order; times are nanoseconds.
#[derive(Serialize)]
struct Info<'a> {
    version: &'a str,
    broadcast_address: &'a str,
    hostname: &'a str,
    http_port: i64,
    tcp_port: i64,
    start_time: i64,
    max_heartbeat_interval: u128,
    max_output_buffer_size: u64,
    max_output_buffer_timeout: u128,
    max_deflate_level: u8,
    topology_zone: &'a str,
    topology_region: &'a str,
}

/// `GET /info`.
pub(super) fn answer(info: &BrokerInfo) -> Response {
    let info = Info {
        version: &info.version,
        broadcast_address: &info.broadcast_address,
        hostname: &info.hostname,
        http_port: info.http_port,
        tcp_port: info.tcp_port,
        start_time: info.start_time,
        max_heartbeat_interval: info.max_heartbeat_interval.as_nanos(),
        max_output_buffer_size: info.max_output_buffer_size,
        max_output_buffer_timeout: info.max_output_buffer_timeout.as_nanos(),
        max_deflate_level: info.max_deflate_level,
        topology_zone: &info.topology_zone,
        topology_region: &info.topology_region,
    };
    let body = serde_json::to_vec(&info).expect("strings and numbers are always JSON");
    response::json(body)
}
