//! What operators read and change over HTTP while the broker runs.

use std::sync::Arc;

use nsq_cli::{ConfigTable, Level, Settings, Value};

use super::Identity;

const LOOKUPD_KEY: &str = "nsqlookupd_tcp_addresses";
const LOG_LEVEL_KEY: &str = "log_level";
const INVALID_OPTION: &str = "INVALID_OPTION";
const INVALID_VALUE: &str = "INVALID_VALUE";

/// The resolved values by key. Clones share them; nothing on the message path looks here.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    table: Arc<ConfigTable>,
}

/// A change that was made in the table, for its owner to act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeChange {
    /// The nsqlookupd peers from now on; `None` was asked for as `null` and means none.
    LookupdTcpAddresses(Option<Vec<String>>),
    /// The log level from now on.
    LogLevel(Level),
}

impl RuntimeChange {
    /// The body that answers the request, and whether it is JSON.
    #[must_use]
    pub fn to_body(&self) -> (String, bool) {
        match self {
            Self::LookupdTcpAddresses(None) => ("null".to_owned(), true),
            Self::LookupdTcpAddresses(Some(addresses)) => Value::List(addresses.clone()).to_body(),
            Self::LogLevel(level) => Value::Int(level.number()).to_body(),
        }
    }
}

impl RuntimeConfig {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            table: Arc::new(settings.config_table()),
        }
    }

    /// `GET /config/<key>`: the body and whether it is JSON, else text. `None` = no such option.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<(String, bool)> {
        self.table.body(key)
    }

    /// `PUT /config/<key>` with a body whose size has been checked. The value is changed here; the
    /// caller hands the change to its owner and answers [`RuntimeChange::to_body`].
    ///
    /// # Errors
    /// The error code: `INVALID_OPTION` or `INVALID_VALUE`.
    pub fn put(&self, key: &str, body: &[u8]) -> Result<RuntimeChange, &'static str> {
        match key {
            LOOKUPD_KEY => {
                let addresses: Option<Vec<String>> =
                    serde_json::from_slice(body).map_err(|_| INVALID_VALUE)?;
                let list = addresses.clone().unwrap_or_default();
                self.table.set(LOOKUPD_KEY, Value::List(list));
                Ok(RuntimeChange::LookupdTcpAddresses(addresses))
            }
            LOG_LEVEL_KEY => {
                let text = std::str::from_utf8(body).map_err(|_| INVALID_VALUE)?;
                let level: Level = text.parse().map_err(|_| INVALID_VALUE)?;
                self.table.set(LOG_LEVEL_KEY, Value::Int(level.number()));
                Ok(RuntimeChange::LogLevel(level))
            }
            _ => Err(INVALID_OPTION),
        }
    }

    /// The nsqlookupd peers as they are now.
    #[must_use]
    pub fn lookupd_tcp_addresses(&self) -> Vec<String> {
        match self.table.get(LOOKUPD_KEY) {
            Some(Value::List(addresses)) => addresses,
            other => unreachable!("a row of the flag table, a list: {other:?}"),
        }
    }

    /// Shows the ports that were bound and the statsd prefix that follows, which is returned.
    pub(super) fn on_bound(&self, identity: &Identity) -> String {
        let Identity {
            broadcast_tcp_port,
            broadcast_http_port,
            ..
        } = identity;
        self.table.set(
            "broadcast_tcp_port",
            Value::Int(i64::from(*broadcast_tcp_port)),
        );
        self.table.set(
            "broadcast_http_port",
            Value::Int(i64::from(*broadcast_http_port)),
        );
        let template = match self.table.get("statsd_prefix") {
            Some(Value::Text(template)) => template,
            other => unreachable!("a row of the flag table, a text: {other:?}"),
        };
        let prefix = statsd_prefix(&template, &identity.broadcast_address, *broadcast_http_port);
        self.table.set("statsd_prefix", Value::Text(prefix.clone()));
        prefix
    }
}

/// The prefix of statsd keys: `%s` becomes host and port with `_` for `.` and `:`, and a dot ends
/// it. An empty template stays empty.
pub(super) fn statsd_prefix(template: &str, host: &str, port: u16) -> String {
    if template.is_empty() {
        return String::new();
    }
    let address = if host.contains([':', '%']) {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let mut prefix = template.replace("%s", &address.replace(['.', ':'], "_"));
    if !prefix.ends_with('.') {
        prefix.push('.');
    }
    prefix
}
