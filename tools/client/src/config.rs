//! The options of consumers and producers, by the names, defaults and ranges of the standard clients.
//!
//! Plain data: fields may be set directly, or by name and text with [`Config::set`]. What is set by
//! name is checked at once, what goes together when a consumer or producer is made.

mod tls;
mod value;

use std::net::SocketAddr;
use std::time::Duration;

pub use tls::TlsOptions;
pub(crate) use value::go_duration;
use value::{boolean, duration, float, integer, or_disabled, size};

/// An option that was refused, in the words of the standard clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(crate) String);

impl ConfigError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// How long a back-off of level `n` takes, in terms of `backoff_multiplier` × 2^n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BackoffStrategy {
    /// Exactly that.
    #[default]
    Exponential,
    /// A random time below that.
    FullJitter,
}

/// Every option. Durations of which zero makes no sense are checked by [`Config::validate`].
#[derive(Debug, Clone)]
pub struct Config {
    /// TCP connect, name resolution included; zero is no limit. 1 s.
    pub dial_timeout: Duration,
    /// Silence after which a connection is given up, 100 ms to 5 min. 60 s.
    pub read_timeout: Duration,
    /// Time for a write, 100 ms to 5 min. 1 s.
    pub write_timeout: Duration,
    /// Source address.
    pub local_addr: Option<SocketAddr>,
    /// Time between look-ups, and between attempts to connect to a given nsqd; 10 ms to 5 min. 60 s.
    pub lookupd_poll_interval: Duration,
    /// Random delay of the second look-up, as a fraction of the interval, 0 to 1. 0.3.
    pub lookupd_poll_jitter: f64,
    /// Time for a whole look-up; zero is no limit. 1 min.
    pub lookupd_poll_timeout: Duration,
    /// Bound of the automatic delay of a requeue, up to 60 min. 15 min.
    pub max_requeue_delay: Duration,
    /// The automatic delay of a requeue is this times the attempts, up to 60 min. 90 s.
    pub default_requeue_delay: Duration,
    /// How the time of a back-off grows. Exponential.
    pub backoff_strategy: BackoffStrategy,
    /// Bound of the time of a back-off, up to 60 min; zero is no back-off. 2 min.
    pub max_backoff_duration: Duration,
    /// Unit of the time of a back-off, up to 60 min. 1 s.
    pub backoff_multiplier: Duration,
    /// Deliveries of a message before it is given up; 0 is never. 5.
    pub max_attempts: u16,
    /// Silence after which a connection gives its RDY to another one, when there are more connections
    /// than `max_in_flight`; 1 s to 5 min. 10 s.
    pub low_rdy_idle_timeout: Duration,
    /// Time after which it does so anyway, 1 s to 5 min. 30 s.
    pub low_rdy_timeout: Duration,
    /// Time between such redistributions, 1 ms to 5 s. 5 s.
    pub rdy_redistribute_interval: Duration,
    /// Sent to the nsqd. The host's name up to its first dot.
    pub client_id: String,
    /// Sent to the nsqd. The host's name.
    pub hostname: String,
    /// Sent to the nsqd. The name and version of this library.
    pub user_agent: String,
    /// How often the nsqd is to send a heartbeat; `None` is never. At most `read_timeout`. 30 s.
    pub heartbeat_interval: Option<Duration>,
    /// Percentage of messages to be delivered, 1 to 99; 0 is all of them. 0.
    pub sample_rate: u8,
    /// Ask for TLS. No.
    pub tls_v1: bool,
    /// How TLS is done, if it is; also for `https` URLs of nsqlookupds.
    pub tls: TlsOptions,
    /// Ask for deflate. No.
    pub deflate: bool,
    /// 1 (fast) to 9 (small). 6.
    pub deflate_level: u8,
    /// Ask for snappy. No.
    pub snappy: bool,
    /// Bytes that the nsqd may hold back to send more at once; `None` is none. 16384.
    pub output_buffer_size: Option<u32>,
    /// Time for which the nsqd may hold them back; `None` is none. 250 ms.
    pub output_buffer_timeout: Option<Duration>,
    /// Messages that may be unanswered at one time, over all connections; 0 pauses. 1.
    pub max_in_flight: u32,
    /// Time after which the nsqd delivers an unanswered message again; zero leaves it to the nsqd. 0.
    pub msg_timeout: Duration,
    /// Secret for AUTH.
    pub auth_secret: Option<String>,
    /// Send the secret to nsqlookupds as well (`Authorization: Bearer …`); by name it is
    /// `skip_lookupd_authorization`, where true means yes. Yes.
    pub lookupd_authorization: bool,
    /// Sent to the nsqd.
    pub topology_region: String,
    /// Sent to the nsqd.
    pub topology_zone: String,
    /// Largest message in bytes; 0 is no limit but the protocol's. 0.
    pub max_msg_size: u32,
}

impl Default for Config {
    fn default() -> Self {
        let hostname = nsq_cli::hostname();
        let short = hostname.split('.').next().unwrap_or(&hostname);
        Self {
            dial_timeout: SECOND,
            read_timeout: 60 * SECOND,
            write_timeout: SECOND,
            local_addr: None,
            lookupd_poll_interval: 60 * SECOND,
            lookupd_poll_jitter: 0.3,
            lookupd_poll_timeout: MINUTE,
            max_requeue_delay: 15 * MINUTE,
            default_requeue_delay: 90 * SECOND,
            backoff_strategy: BackoffStrategy::Exponential,
            max_backoff_duration: 2 * MINUTE,
            backoff_multiplier: SECOND,
            max_attempts: 5,
            low_rdy_idle_timeout: 10 * SECOND,
            low_rdy_timeout: 30 * SECOND,
            rdy_redistribute_interval: 5 * SECOND,
            client_id: short.to_owned(),
            user_agent: format!("nsq-client/{}", env!("CARGO_PKG_VERSION")),
            heartbeat_interval: Some(30 * SECOND),
            sample_rate: 0,
            tls_v1: false,
            tls: TlsOptions::default(),
            deflate: false,
            deflate_level: 6,
            snappy: false,
            output_buffer_size: Some(16 * 1024),
            output_buffer_timeout: Some(250 * MILLISECOND),
            max_in_flight: 1,
            msg_timeout: Duration::ZERO,
            auth_secret: None,
            lookupd_authorization: true,
            topology_region: String::new(),
            topology_zone: String::new(),
            max_msg_size: 0,
            hostname,
        }
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Longest Go duration.
const FOREVER: Duration = Duration::from_nanos(i64::MAX.cast_unsigned());

/// The ranges of durations, as (least, greatest).
mod range {
    use super::{Duration, FOREVER, MILLISECOND, MINUTE, SECOND};

    pub(super) const ANY: (Duration, Duration) = (Duration::ZERO, FOREVER);
    pub(super) const IO: (Duration, Duration) = (Duration::from_millis(100), minutes(5));
    pub(super) const POLL: (Duration, Duration) = (Duration::from_millis(10), minutes(5));
    pub(super) const HOUR: (Duration, Duration) = (Duration::ZERO, minutes(60));
    pub(super) const LOW_RDY: (Duration, Duration) = (SECOND, minutes(5));
    pub(super) const REDISTRIBUTE: (Duration, Duration) = (MILLISECOND, Duration::from_secs(5));

    const fn minutes(count: u64) -> Duration {
        Duration::from_secs(count * MINUTE.as_secs())
    }
}

fn unknown(key: &str) -> ConfigError {
    ConfigError(format!("invalid option {key}"))
}

impl Config {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the option that `text` describes as the switches `--consumer-opt` and `--producer-opt`
    /// do: `key,value`, or `key` alone for what is to be true.
    ///
    /// # Errors
    /// As [`Config::set`].
    pub fn set_option(&mut self, text: &str) -> Result<(), ConfigError> {
        if let Some((key, value)) = text.split_once(',') {
            return self.set(key, value);
        }
        self.set(text, "true").map_err(|error| {
            let key = text.replace('-', "_");
            if error == unknown(&key) {
                error
            } else {
                value::unreadable(&key, "true", "invalid value type")
            }
        })
    }

    /// Sets an option by its name, in which `-` and `_` are equal. Certificates and keys are read from
    /// their files at once.
    ///
    /// # Errors
    /// Unknown names, and values that cannot be read or are out of their range.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let key = key.replace('-', "_");
        let known = self.set_time(&key, value)?
            || self.set_network(&key, value)?
            || self.set_consumer(&key, value)?
            || self.tls.set(&key, value)?;
        if known { Ok(()) } else { Err(unknown(&key)) }
    }

    /// Durations that have nothing special about them. Says whether the name is one of theirs.
    fn set_time(&mut self, key: &str, value: &str) -> Result<bool, ConfigError> {
        let (field, range) = match key {
            "dial_timeout" => (&mut self.dial_timeout, range::ANY),
            "read_timeout" => (&mut self.read_timeout, range::IO),
            "write_timeout" => (&mut self.write_timeout, range::IO),
            "lookupd_poll_interval" => (&mut self.lookupd_poll_interval, range::POLL),
            "lookupd_poll_timeout" => (&mut self.lookupd_poll_timeout, range::ANY),
            "max_requeue_delay" => (&mut self.max_requeue_delay, range::HOUR),
            "default_requeue_delay" => (&mut self.default_requeue_delay, range::HOUR),
            "max_backoff_duration" => (&mut self.max_backoff_duration, range::HOUR),
            "backoff_multiplier" => (&mut self.backoff_multiplier, range::HOUR),
            "low_rdy_idle_timeout" => (&mut self.low_rdy_idle_timeout, range::LOW_RDY),
            "low_rdy_timeout" => (&mut self.low_rdy_timeout, range::LOW_RDY),
            "rdy_redistribute_interval" => {
                (&mut self.rdy_redistribute_interval, range::REDISTRIBUTE)
            }
            "msg_timeout" => (&mut self.msg_timeout, range::ANY),
            _ => return Ok(false),
        };
        *field = duration(key, value, range)?;
        Ok(true)
    }

    /// What concerns connections.
    fn set_network(&mut self, key: &str, value: &str) -> Result<bool, ConfigError> {
        match key {
            "local_addr" => self.local_addr = Some(value::address(key, value)?),
            "client_id" => value.clone_into(&mut self.client_id),
            "hostname" => value.clone_into(&mut self.hostname),
            "user_agent" => value.clone_into(&mut self.user_agent),
            "heartbeat_interval" => {
                self.heartbeat_interval = or_disabled(key, value)?;
            }
            "tls_v1" => self.tls_v1 = boolean(key, value)?,
            "deflate" => self.deflate = boolean(key, value)?,
            "deflate_level" => self.deflate_level = integer(key, value, 1, 9)?,
            "snappy" => self.snappy = boolean(key, value)?,
            "output_buffer_size" => self.output_buffer_size = size(key, value)?,
            "output_buffer_timeout" => {
                self.output_buffer_timeout = or_disabled(key, value)?;
            }
            "auth_secret" => {
                self.auth_secret = (!value.is_empty()).then(|| value.to_owned());
            }
            "skip_lookupd_authorization" => self.lookupd_authorization = boolean(key, value)?,
            "topology_region" => value.clone_into(&mut self.topology_region),
            "topology_zone" => value.clone_into(&mut self.topology_zone),
            "max_msg_size" => self.max_msg_size = integer(key, value, 0, i64::from(i32::MAX))?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What concerns consumers.
    fn set_consumer(&mut self, key: &str, value: &str) -> Result<bool, ConfigError> {
        match key {
            "lookupd_poll_jitter" => self.lookupd_poll_jitter = float(key, value, 0.0, 1.0)?,
            "backoff_strategy" => {
                self.backoff_strategy = match value {
                    "" | "exponential" => BackoffStrategy::Exponential,
                    "full_jitter" => BackoffStrategy::FullJitter,
                    _ => return Err(value::unreadable(key, value, "invalid value type")),
                }
            }
            "max_attempts" => self.max_attempts = integer(key, value, 0, 65_535)?,
            "sample_rate" => self.sample_rate = integer(key, value, 0, 99)?,
            "max_in_flight" => {
                self.max_in_flight = integer(key, value, 0, i64::from(i32::MAX))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks what was set by field, and what goes together. Consumers and producers do it when they
    /// are made.
    ///
    /// # Errors
    /// The first value that is out of its range, and a heartbeat interval above the read timeout.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let durations = [
            ("ReadTimeout", self.read_timeout, range::IO),
            ("WriteTimeout", self.write_timeout, range::IO),
            (
                "LookupdPollInterval",
                self.lookupd_poll_interval,
                range::POLL,
            ),
            ("MaxRequeueDelay", self.max_requeue_delay, range::HOUR),
            (
                "DefaultRequeueDelay",
                self.default_requeue_delay,
                range::HOUR,
            ),
            ("MaxBackoffDuration", self.max_backoff_duration, range::HOUR),
            ("BackoffMultiplier", self.backoff_multiplier, range::HOUR),
            (
                "LowRdyIdleTimeout",
                self.low_rdy_idle_timeout,
                range::LOW_RDY,
            ),
            ("LowRdyTimeout", self.low_rdy_timeout, range::LOW_RDY),
            (
                "RDYRedistributeInterval",
                self.rdy_redistribute_interval,
                range::REDISTRIBUTE,
            ),
        ];
        for (name, value, range) in durations {
            value::check_duration(name, value, range)?;
        }
        value::check_float("LookupdPollJitter", self.lookupd_poll_jitter, 0.0, 1.0)?;
        value::check_integer("SampleRate", i64::from(self.sample_rate), 0, 99)?;
        value::check_integer("DeflateLevel", i64::from(self.deflate_level), 1, 9)?;
        self.tls.check()?;
        let heartbeat = self.heartbeat_interval.unwrap_or_default();
        if heartbeat > self.read_timeout {
            return Err(ConfigError(format!(
                "HeartbeatInterval {} must be less than ReadTimeout {}",
                go_duration(heartbeat),
                go_duration(self.read_timeout)
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
