//! IDENTIFY, on both sides.

use std::time::Duration;

use serde::de::IgnoredAny;

use super::identify_limits;
use crate::{ClientIdentity, IdentifyReply, IdentifyRequest, ServerFeatures, json_text};

/// The body of an IDENTIFY, or of the answer to one.
pub(super) fn run(body: &[u8]) {
    // The answer of any server: what is no JSON is no error of ours.
    drop(ServerFeatures::parse(body));
    let limits = identify_limits();
    let text = json_text(body);
    let is_json = serde_json::from_str::<IgnoredAny>(&text).is_ok();
    let request = match IdentifyRequest::parse(body, &limits) {
        Ok(request) => request,
        Err(error) => {
            assert!(error.code.is_fatal() && error.to_string().starts_with("E_BAD_BODY IDENTIFY"));
            return;
        }
    };
    assert!(is_json && text.trim_start().starts_with(['{', 'n']));
    check(&request);
    answer(&request);
    ask_again(&request);
}

/// What is accepted is within the limits.
fn check(request: &IdentifyRequest) {
    let limits = identify_limits();
    let second = Duration::from_secs(1);
    let heartbeat = request.heartbeat_interval.unwrap_or(second);
    assert!((second..=limits.max_heartbeat_interval).contains(&heartbeat));
    assert!(request.output_buffer_timeout <= limits.max_output_buffer_timeout);
    assert!((1..=limits.max_output_buffer_size).contains(&request.output_buffer_size));
    assert!((1..=limits.max_deflate_level).contains(&request.deflate_level));
    assert!(request.sample_rate <= 99);
    assert!((second..=limits.max_msg_timeout).contains(&request.msg_timeout));
}

/// A client reads what the server answers.
fn answer(request: &IdentifyRequest) {
    let millis = |span: Duration| u64::try_from(span.as_millis()).expect("minutes");
    let reply = IdentifyReply {
        max_rdy_count: 2500,
        version: &request.user_agent,
        max_msg_timeout: 900_000,
        msg_timeout: millis(request.msg_timeout),
        tls_v1: request.tls_v1,
        deflate: request.deflate,
        deflate_level: request.deflate_level,
        max_deflate_level: 6,
        snappy: request.snappy,
        sample_rate: request.sample_rate,
        auth_required: false,
        output_buffer_size: request.output_buffer_size,
        output_buffer_timeout: millis(request.output_buffer_timeout),
        topology_region: &request.topology_region,
        topology_zone: &request.topology_zone,
    };
    let features = ServerFeatures::parse(reply.to_json().as_bytes()).expect("our own answer");
    assert_eq!(features.version, request.user_agent);
    assert_eq!(features.msg_timeout, reply.msg_timeout);
    assert_eq!(
        (features.tls_v1, features.deflate, features.snappy),
        (request.tls_v1, request.deflate, request.snappy)
    );
}

/// A client of ours that asks for the same is given the same.
fn ask_again(request: &IdentifyRequest) {
    let millis = |span: Duration| i64::try_from(span.as_millis()).expect("minutes");
    let disabled_or = |span: Duration| match millis(span) {
        0 => -1,
        millis => millis,
    };
    let identity = ClientIdentity {
        client_id: &request.client_id,
        deflate: request.deflate,
        deflate_level: request.deflate_level,
        feature_negotiation: request.feature_negotiation,
        heartbeat_interval: request.heartbeat_interval.map_or(-1, millis),
        hostname: &request.hostname,
        msg_timeout: millis(request.msg_timeout).unsigned_abs(),
        output_buffer_size: match request.output_buffer_size {
            1 => -1,
            size => i64::try_from(size).expect("within its limit"),
        },
        output_buffer_timeout: disabled_or(request.output_buffer_timeout),
        sample_rate: request.sample_rate,
        snappy: request.snappy,
        tls_v1: request.tls_v1,
        topology_region: &request.topology_region,
        topology_zone: &request.topology_zone,
        user_agent: &request.user_agent,
    };
    let again = IdentifyRequest::parse(identity.to_json().as_bytes(), &identify_limits());
    assert_eq!(again.as_ref(), Ok(request));
}

/// What the standard clients send, and answers.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "{}",
        "null",
        r#"{"client_id":"c","deflate":true,"deflate_level":9,"feature_negotiation":true,
            "heartbeat_interval":30000,"hostname":"h.example","msg_timeout":0,
            "output_buffer_size":16384,"output_buffer_timeout":250,"sample_rate":7,"snappy":false,
            "tls_v1":false,"user_agent":"go-nsq/1.1.0"}"#,
        r#"{"HEARTBEAT_INTERVAL":-1,"output_buffer_size":-1,"output_buffer_timeout":-1,
            "sample_rate":100,"topology_zone":"z","topology_region":"\u00e9\ud800"}"#,
        r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,
            "tls_v1":true,"deflate":false,"snappy":true,"auth_required":false}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
