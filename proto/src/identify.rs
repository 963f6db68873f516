//! IDENTIFY: the request body, its validation, and the reply (spec nsqd.md §2.6).
//!
//! Parsing yields what the connection will use: defaults filled in, "disabled" made explicit, levels
//! clamped. What needs more than the body and the flags is the connection's business: granting
//! features, and refusing both compressions at once.

mod client;
mod json;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::{ProtoError, json_text};

pub use client::{ClientIdentity, ServerFeatures};

/// Fixed in NSQ, not a flag, and kept even when `--max-heartbeat-interval` is lower.
const HEARTBEAT_INTERVAL_DEFAULT: Duration = Duration::from_secs(30);
const HEARTBEAT_INTERVAL_MIN: Duration = Duration::from_secs(1);
const MSG_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Bytes.
const OUTPUT_BUFFER_SIZE_DEFAULT: u64 = 16 * 1024;
/// Bytes.
const OUTPUT_BUFFER_SIZE_MIN: i64 = 64;
const DEFLATE_LEVEL_DEFAULT: u8 = 6;
/// Percent; 100 would be no sampling, which is 0.
const SAMPLE_RATE_MAX: u8 = 99;
/// In the fields that know it, this number switches the feature off.
const DISABLED: i64 = -1;

/// The server settings that IDENTIFY is checked against.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "named after the flags")]
pub struct IdentifyLimits {
    pub max_heartbeat_interval: Duration,
    pub min_output_buffer_timeout: Duration,
    pub max_output_buffer_timeout: Duration,
    pub output_buffer_timeout: Duration,
    pub max_output_buffer_size: u64,
    pub msg_timeout: Duration,
    pub max_msg_timeout: Duration,
    pub max_deflate_level: u8,
}

/// A validated request with defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the JSON keys")]
pub struct IdentifyRequest {
    pub client_id: String,
    pub hostname: String,
    pub user_agent: String,
    pub feature_negotiation: bool,
    /// `None` = heartbeats and read deadline off.
    pub heartbeat_interval: Option<Duration>,
    /// Effective; zero when disabled.
    pub output_buffer_timeout: Duration,
    /// Effective; 1 when unbuffered.
    pub output_buffer_size: u64,
    pub tls_v1: bool,
    pub deflate: bool,
    /// Effective, clamped.
    pub deflate_level: u8,
    pub snappy: bool,
    /// Percent, 0..=99.
    pub sample_rate: u8,
    pub msg_timeout: Duration,
    pub topology_region: String,
    pub topology_zone: String,
}

impl IdentifyRequest {
    /// Parses and validates in the order of spec §2.6.
    ///
    /// # Errors
    /// `E_BAD_BODY IDENTIFY …`.
    pub fn parse(body: &[u8], limits: &IdentifyLimits) -> Result<Self, ProtoError> {
        IdentifyBody::parse(body)?.check(limits)
    }
}

impl IdentifyBody {
    /// Reads the JSON.
    ///
    /// # Errors
    /// `E_BAD_BODY IDENTIFY failed to decode JSON body`.
    pub fn parse(body: &[u8]) -> Result<Self, ProtoError> {
        serde_json::from_str(&json_text(body)).map_err(|error| ProtoError::identify_json(&error))
    }

    /// Validates the fields in the order of spec §2.6.
    ///
    /// # Errors
    /// `E_BAD_BODY IDENTIFY <field> (<value>) is invalid`.
    pub fn check(self, limits: &IdentifyLimits) -> Result<IdentifyRequest, ProtoError> {
        let heartbeat_interval = heartbeat_interval(self.heartbeat_interval, limits)?;
        let (output_buffer_size, output_buffer_timeout) = output_buffer(&self, limits)?;
        let sample_rate = sample_rate(self.sample_rate)?;
        let msg_timeout = msg_timeout(self.msg_timeout, limits)?;
        Ok(IdentifyRequest {
            feature_negotiation: self.feature_negotiation,
            heartbeat_interval,
            output_buffer_timeout,
            output_buffer_size,
            tls_v1: self.tls_v1,
            deflate: self.deflate,
            deflate_level: deflate_level(&self, limits),
            snappy: self.snappy,
            sample_rate,
            msg_timeout,
            client_id: self.client_id,
            hostname: self.hostname,
            user_agent: self.user_agent,
            topology_region: self.topology_region,
            topology_zone: self.topology_zone,
        })
    }
}

/// The JSON of a negotiated reply; field order is the wire order.
#[derive(Debug, Clone, serde::Serialize)]
#[expect(missing_docs, reason = "the JSON keys of spec §2.6.2")]
pub struct IdentifyReply<'a> {
    pub max_rdy_count: u64,
    pub version: &'a str,
    pub max_msg_timeout: u64,
    pub msg_timeout: u64,
    pub tls_v1: bool,
    pub deflate: bool,
    pub deflate_level: u8,
    pub max_deflate_level: u8,
    pub snappy: bool,
    pub sample_rate: u8,
    pub auth_required: bool,
    pub output_buffer_size: u64,
    pub output_buffer_timeout: u64,
    pub topology_region: &'a str,
    pub topology_zone: &'a str,
}

impl IdentifyReply<'_> {
    /// The data of the response frame.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, booleans and strings always serialize")
    }
}

/// The body as sent; absent and zero are the same, as in Go.
#[derive(Debug, Default)]
pub struct IdentifyBody {
    client_id: String,
    hostname: String,
    user_agent: String,
    feature_negotiation: bool,
    heartbeat_interval: i64,
    output_buffer_timeout: i64,
    output_buffer_size: i64,
    tls_v1: bool,
    deflate: bool,
    deflate_level: i64,
    snappy: bool,
    sample_rate: i32,
    msg_timeout: i64,
    topology_region: String,
    topology_zone: String,
}

/// In the words of the reference's log, so that what operators search for is found.
impl fmt::Display for IdentifyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{{ClientID:{} Hostname:{} HeartbeatInterval:{} OutputBufferSize:{} \
             OutputBufferTimeout:{} FeatureNegotiation:{} TLSv1:{} Deflate:{} DeflateLevel:{} \
             Snappy:{} SampleRate:{} UserAgent:{} MsgTimeout:{} TopologyRegion:{} \
             TopologyZone:{}}}",
            self.client_id,
            self.hostname,
            self.heartbeat_interval,
            self.output_buffer_size,
            self.output_buffer_timeout,
            self.feature_negotiation,
            self.tls_v1,
            self.deflate,
            self.deflate_level,
            self.snappy,
            self.sample_rate,
            self.user_agent,
            self.msg_timeout,
            self.topology_region,
            self.topology_zone,
        )
    }
}

impl IdentifyBody {
    /// Reads the value of `key` into its field; a key of no field is skipped.
    fn read<'de, A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        // The long s is the only letter beyond ASCII that in another case is one of a key's.
        match key.to_ascii_lowercase().replace('ſ', "s").as_str() {
            "client_id" => json::read(&mut self.client_id, map),
            "hostname" => json::read(&mut self.hostname, map),
            "user_agent" => json::read(&mut self.user_agent, map),
            "feature_negotiation" => json::read(&mut self.feature_negotiation, map),
            "heartbeat_interval" => json::read_integer(&mut self.heartbeat_interval, map),
            "output_buffer_timeout" => json::read_integer(&mut self.output_buffer_timeout, map),
            "output_buffer_size" => json::read_integer(&mut self.output_buffer_size, map),
            "tls_v1" => json::read(&mut self.tls_v1, map),
            "deflate" => json::read(&mut self.deflate, map),
            "deflate_level" => json::read_integer(&mut self.deflate_level, map),
            "snappy" => json::read(&mut self.snappy, map),
            "sample_rate" => json::read_integer(&mut self.sample_rate, map),
            "msg_timeout" => json::read_integer(&mut self.msg_timeout, map),
            "topology_region" => json::read(&mut self.topology_region, map),
            "topology_zone" => json::read(&mut self.topology_zone, map),
            _ => map.next_value::<IgnoredAny>().map(|_| ()),
        }
    }
}

impl<'de> Deserialize<'de> for IdentifyBody {
    /// Written by hand for what a derive cannot do: keys in any case, duplicates where the last one
    /// wins, and a body that is `null`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = IdentifyBody;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object or null")
    }

    fn visit_unit<E>(self) -> Result<IdentifyBody, E> {
        Ok(IdentifyBody::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<IdentifyBody, A::Error> {
        let mut fields = IdentifyBody::default();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            fields.read(&key, &mut map)?;
        }
        Ok(fields)
    }
}

/// `value` milliseconds if they lie in the range, whose ends count in whole milliseconds.
fn millis_within(value: i64, min: Duration, max: Duration) -> Option<Duration> {
    let value = u64::try_from(value).ok()?;
    let range = min.as_millis()..=max.as_millis();
    range
        .contains(&u128::from(value))
        .then(|| Duration::from_millis(value))
}

fn heartbeat_interval(value: i64, limits: &IdentifyLimits) -> Result<Option<Duration>, ProtoError> {
    match value {
        0 => Ok(Some(HEARTBEAT_INTERVAL_DEFAULT)),
        DISABLED => Ok(None),
        _ => millis_within(value, HEARTBEAT_INTERVAL_MIN, limits.max_heartbeat_interval)
            .map(Some)
            .ok_or_else(|| ProtoError::identify_range("heartbeat interval", value)),
    }
}

/// Size and timeout; an unbuffered connection has nothing that could time out.
fn output_buffer(
    fields: &IdentifyBody,
    limits: &IdentifyLimits,
) -> Result<(u64, Duration), ProtoError> {
    let (size, timeout) = (fields.output_buffer_size, fields.output_buffer_timeout);
    let (min, max) = (
        limits.min_output_buffer_timeout,
        limits.max_output_buffer_timeout,
    );
    let timeout = match timeout {
        0 => limits.output_buffer_timeout,
        DISABLED => Duration::ZERO,
        _ => millis_within(timeout, min, max)
            .ok_or_else(|| ProtoError::identify_range("output buffer timeout", timeout))?,
    };
    match size {
        0 => Ok((OUTPUT_BUFFER_SIZE_DEFAULT, timeout)),
        DISABLED => Ok((1, Duration::ZERO)),
        OUTPUT_BUFFER_SIZE_MIN.. if size.cast_unsigned() <= limits.max_output_buffer_size => {
            Ok((size.cast_unsigned(), timeout))
        }
        _ => Err(ProtoError::identify_range("output buffer size", size)),
    }
}

fn sample_rate(value: i32) -> Result<u8, ProtoError> {
    u8::try_from(value)
        .ok()
        .filter(|rate| *rate <= SAMPLE_RATE_MAX)
        .ok_or_else(|| ProtoError::identify_range("sample rate", value.into()))
}

fn msg_timeout(value: i64, limits: &IdentifyLimits) -> Result<Duration, ProtoError> {
    if value == 0 {
        return Ok(limits.msg_timeout);
    }
    millis_within(value, MSG_TIMEOUT_MIN, limits.max_msg_timeout)
        .ok_or_else(|| ProtoError::identify_range("msg timeout", value))
}

/// Never an error: what is too high means the highest.
fn deflate_level(fields: &IdentifyBody, limits: &IdentifyLimits) -> u8 {
    let level = if fields.deflate && fields.deflate_level > 0 {
        u8::try_from(fields.deflate_level).unwrap_or(u8::MAX)
    } else {
        DEFLATE_LEVEL_DEFAULT
    };
    level.min(limits.max_deflate_level)
}

#[cfg(test)]
mod tests;
