//! The body of IDENTIFY, read as Go reads it: keys in any case, unknown ones skipped, `null` leaves a
//! field as it is, numbers of another kind are an error.

use nsq_proto::json_text;
use serde_json::{Map, Value};

use super::ProtocolError;
use crate::registry::Announcement;

/// The announcement in a body; its `remote_address` is empty, whatever the body says.
pub(super) fn parse(body: &[u8]) -> Result<Announcement, ProtocolError> {
    let announcement = read(body).map_err(|cause| {
        ProtocolError::bad_body("IDENTIFY failed to decode JSON body").because(cause)
    })?;
    let Announcement {
        broadcast_address,
        tcp_port,
        http_port,
        version,
        ..
    } = &announcement;
    let is_missing =
        broadcast_address.is_empty() || *tcp_port == 0 || *http_port == 0 || version.is_empty();
    if is_missing {
        return Err(ProtocolError::bad_body("IDENTIFY missing fields"));
    }
    Ok(announcement)
}

fn read(body: &[u8]) -> Result<Announcement, String> {
    let fields = match serde_json::from_str(&json_text(body)) {
        Ok(Value::Object(fields)) => fields,
        Ok(Value::Null) => Map::new(),
        Ok(_) => return Err("not an object".to_owned()),
        Err(error) => return Err(error.to_string()),
    };
    let mut fields: Vec<(String, Value)> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| (key.to_ascii_lowercase(), value))
        .collect();
    let mut take = |name: &str| {
        let at = fields.iter().rposition(|(key, _)| key == name)?;
        Some(fields.swap_remove(at).1)
    };
    let mut text = |name: &str| match take(name) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("{name} must be a string")),
    };
    // Known to the reference as a text, and overwritten by it.
    text("remote_address")?;
    let (hostname, version) = (text("hostname")?, text("version")?);
    let broadcast_address = text("broadcast_address")?;
    let (topology_zone, topology_region) = (text("topology_zone")?, text("topology_region")?);
    let mut number = |name: &str| match take(name) {
        None => Ok(0),
        Some(value) => value
            .as_i64()
            .ok_or_else(|| format!("{name} must be an integer")),
    };
    Ok(Announcement {
        remote_address: String::new(),
        hostname,
        broadcast_address,
        tcp_port: number("tcp_port")?,
        http_port: number("http_port")?,
        version,
        topology_zone,
        topology_region,
    })
}
