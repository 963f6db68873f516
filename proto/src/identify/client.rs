//! IDENTIFY from the client's side: what it says of itself, and what it reads from the reply.

use serde::{Deserialize, Serialize};

/// The JSON that a client sends; field order is that of the Go clients, who sort their keys.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the JSON keys of spec §2.6")]
pub struct ClientIdentity<'a> {
    pub client_id: &'a str,
    pub deflate: bool,
    pub deflate_level: u8,
    pub feature_negotiation: bool,
    /// Milliseconds; -1 = none, 0 = the server's default.
    pub heartbeat_interval: i64,
    pub hostname: &'a str,
    /// Milliseconds; 0 = the server's default.
    pub msg_timeout: u64,
    /// Bytes; -1 = unbuffered.
    pub output_buffer_size: i64,
    /// Milliseconds; -1 = unbuffered.
    pub output_buffer_timeout: i64,
    /// Percent; 0 = all.
    pub sample_rate: u8,
    pub snappy: bool,
    pub tls_v1: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub topology_region: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub topology_zone: &'a str,
    pub user_agent: &'a str,
}

impl ClientIdentity<'_> {
    /// The body of the command.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, booleans and strings always serialize")
    }
}

/// What a client needs of the reply. Absent fields are as their types' defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the JSON keys of spec §2.6.2")]
pub struct ServerFeatures {
    pub max_rdy_count: u32,
    pub version: String,
    pub msg_timeout: u64,
    pub tls_v1: bool,
    pub deflate: bool,
    pub snappy: bool,
    pub auth_required: bool,
}

/// What holds for a server that does not negotiate, and for what a reply leaves out.
impl Default for ServerFeatures {
    fn default() -> Self {
        Self {
            max_rdy_count: 2500,
            version: String::new(),
            msg_timeout: 0,
            tls_v1: false,
            deflate: false,
            snappy: false,
            auth_required: false,
        }
    }
}

impl ServerFeatures {
    /// Reads the data of the reply: JSON, or `OK` of a server that does not negotiate.
    ///
    /// # Errors
    /// Why the JSON cannot be used.
    pub fn parse(reply: &[u8]) -> Result<Self, String> {
        if !reply.starts_with(b"{") {
            return Ok(Self::default());
        }
        serde_json::from_slice(reply).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IdentifyLimits, IdentifyRequest};

    #[test]
    fn identity_is_understood_by_the_server_side() {
        let identity = ClientIdentity {
            client_id: "c",
            deflate: false,
            deflate_level: 6,
            feature_negotiation: true,
            heartbeat_interval: -1,
            hostname: "h.example",
            msg_timeout: 0,
            output_buffer_size: 16_384,
            output_buffer_timeout: 250,
            sample_rate: 7,
            snappy: true,
            tls_v1: true,
            topology_region: "",
            topology_zone: "z",
            user_agent: "u",
        };
        let json = identity.to_json();
        assert!(!json.contains("region") && json.contains(r#""topology_zone":"z""#));
        let second = std::time::Duration::from_secs(1);
        let limits = IdentifyLimits {
            max_heartbeat_interval: 60 * second,
            min_output_buffer_timeout: second / 40,
            max_output_buffer_timeout: 30 * second,
            output_buffer_timeout: second / 4,
            max_output_buffer_size: 65_536,
            msg_timeout: 60 * second,
            max_msg_timeout: 900 * second,
            max_deflate_level: 6,
        };
        let request = IdentifyRequest::parse(json.as_bytes(), &limits).unwrap();
        assert_eq!(request.heartbeat_interval, None);
        assert_eq!((request.sample_rate, request.msg_timeout), (7, 60 * second));
        assert!(request.snappy && request.tls_v1 && !request.deflate);
        assert_eq!(request.hostname, "h.example");
    }

    #[test]
    fn replies_are_read_with_defaults_for_what_they_lack() {
        assert_eq!(ServerFeatures::parse(b"OK"), Ok(ServerFeatures::default()));
        let json = br#"{"max_rdy_count":10,"tls_v1":true,"version":"1.3.0","new":[]}"#;
        let features = ServerFeatures::parse(json).unwrap();
        assert_eq!((features.max_rdy_count, features.tls_v1), (10, true));
        assert!(!features.auth_required);
        let without = ServerFeatures::parse(b"{}").unwrap();
        assert_eq!(without.max_rdy_count, 2500);
        assert!(ServerFeatures::parse(b"{").is_err());
    }
}
