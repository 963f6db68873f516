//! The broker's configuration: flags and file resolved, validated, and grouped by owner.
//!
//! Two steps, because the data path is locked between them: [`parse_args`] resolves command line,
//! configuration file and defaults into a [`RawConfig`]; [`RawConfig::validate`] turns that into
//! the small structs below, each handed to the part of the broker that owns it.
//!
//! Invariants:
//! - A [`Config`] exists only if every value in it is legal; nobody checks a range again.
//! - What operators read and change at run time lives in [`RuntimeConfig`]; nothing on the message
//!   path looks there.
//!
//! Not here: sockets, locks, log output. Validation reads the named TLS files and nothing else.

mod flags;
mod redact;
mod runtime;
mod unready;
mod validate;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nsq_cli::{EarlyExit, Level, LockError, Settings};
use rustls::ServerConfig;

pub use nsq_cli::{Address, AddressError};
pub use redact::redacted;
pub use runtime::{RuntimeChange, RuntimeConfig};

/// The program's name as it appears in usage, banner, log prefix and errors.
pub const PROGRAM: &str = "nsqd";

/// Everything the broker was told, checked. One struct per owner.
#[derive(Debug)]
pub struct Config {
    /// Who this broker is to others.
    pub identity: Identity,
    /// Where it listens.
    pub listen: Listen,
    /// Where and how messages are kept.
    pub durability: Durability,
    /// How the cores are used.
    pub shards: Shards,
    /// Sizes and counts that bound what clients may ask for.
    pub limits: Limits,
    /// Durations of the message and client life cycle.
    pub timeouts: Timeouts,
    /// TLS and authorization.
    pub security: Security,
    /// Other services that the broker calls.
    pub peers: Peers,
    /// What is measured and where it is sent.
    pub metrics: Metrics,
    /// How log lines look.
    pub log: LogSettings,
    /// The resolved values for `GET` and `PUT /config/<key>`.
    pub runtime: RuntimeConfig,
    /// One line per setting that is given but has no effect (yet), to be logged at WARNING.
    pub warnings: Vec<String>,
}

/// Who this broker is to clients, nsqlookupd and statsd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `--node-id`, below 1024: part of every message id.
    pub node_id: u16,
    /// The host name of the operating system.
    pub hostname: String,
    /// `--broadcast-address`.
    pub broadcast_address: String,
    /// `--broadcast-tcp-port`; 0 until [`Config::on_bound`] fills in the bound port.
    pub broadcast_tcp_port: u16,
    /// `--broadcast-http-port`; 0 until [`Config::on_bound`] fills in the bound port.
    pub broadcast_http_port: u16,
    /// `--topology-region`, may be empty.
    pub topology_region: String,
    /// `--topology-zone`, may be empty.
    pub topology_zone: String,
    /// `--enable-experiment=topology-aware-consumption`.
    pub topology_aware: bool,
}

/// Where the broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// `--tcp-address`.
    pub tcp: Address,
    /// `--http-address`; `None` = no HTTP.
    pub http: Option<Address>,
    /// `--https-address`, always TCP; `None` = no HTTPS. Used only with a certificate.
    pub https: Option<Address>,
}

/// When an accepted message counts as safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    /// `--sync=interval`: `OK` when the kernel has it; fdatasync by count and time.
    #[default]
    Interval,
    /// `--sync=always`: `OK` when fdatasync has covered it.
    Always,
}

impl SyncMode {
    /// Their words: on the command line, over HTTP and in `nsqd.dat`.
    pub(crate) const WORDS: [&str; 2] = [Self::Interval.as_str(), Self::Always.as_str()];

    /// Its word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Interval => "interval",
            Self::Always => "always",
        }
    }

    /// The mode of a word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let modes = [Self::Interval, Self::Always];
        modes.into_iter().find(|mode| mode.as_str() == word)
    }
}

/// How large parts of segment files are written. What is small is always buffered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SegmentIo {
    /// `--segment-io=auto`: around the page cache while that gets more written.
    #[default]
    Auto,
    /// `--segment-io=buffered`: through the page cache.
    Buffered,
    /// `--segment-io=direct`: around the page cache, where the file system can.
    Direct,
}

impl SegmentIo {
    /// Their words on the command line.
    pub(crate) const WORDS: [&str; 3] = [
        Self::Auto.as_str(),
        Self::Buffered.as_str(),
        Self::Direct.as_str(),
    ];

    /// Its word.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Buffered => "buffered",
            Self::Direct => "direct",
        }
    }

    /// What a word stands for.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let ways = [Self::Auto, Self::Buffered, Self::Direct];
        ways.into_iter().find(|way| way.as_str() == word)
    }
}

/// Where and how messages are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// `--data-path`, absolute or relative; `.` when the flag is empty.
    pub data_path: PathBuf,
    /// `--sync`.
    pub sync: SyncMode,
    /// `--sync-every`, at least 1: messages between syncs under [`SyncMode::Interval`].
    pub sync_every: u64,
    /// `--sync-timeout`, positive: longest time between syncs while active.
    pub sync_timeout: Duration,
    /// `--max-bytes-per-file`, at least 1: size of a full-grown segment file.
    pub segment_bytes_max: u64,
    /// `--mem-queue-size`: messages that an ephemeral topic or channel holds.
    pub mem_queue_size: u64,
    /// `--segment-io`.
    pub segment_io: SegmentIo,
}

/// How the cores are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards {
    /// `--shards`, at least 1; 0 on the command line becomes the cores this process may use.
    pub count: usize,
    /// `--spin`: how long an idle shard spins before it parks; zero = never.
    pub spin: Duration,
    /// `--mem-limit`: bytes for message caches in the whole process; `None` = chosen at start.
    pub mem_limit: Option<u64>,
}

/// Sizes and counts that bound what clients may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `--max-msg-size`: bytes of one message body, at least 1.
    pub max_msg_size: u32,
    /// `--max-body-size`: bytes of one command body, at least 1.
    pub max_body_size: u32,
    /// `--max-rdy-count`, at least 1.
    pub max_rdy_count: u32,
    /// `--max-output-buffer-size` in bytes.
    pub max_output_buffer_size: u32,
    /// `--max-channel-consumers`; `None` = unlimited.
    pub max_channel_consumers: Option<u32>,
    /// `--requeue-on-disconnect`: a vanished consumer's messages are requeued at once.
    pub requeue_on_disconnect: bool,
    /// What compression a client may negotiate.
    pub compression: Compression,
}

/// What compression a client may negotiate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// `--deflate`.
    pub deflate: bool,
    /// `--max-deflate-level`, 1 to 9.
    pub max_deflate_level: u8,
    /// `--snappy`.
    pub snappy: bool,
}

/// Durations of the message and client life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `--msg-timeout`, positive, at most `max_msg_timeout`.
    pub msg_timeout: Duration,
    /// `--max-msg-timeout`.
    pub max_msg_timeout: Duration,
    /// `--max-req-timeout`: cap of REQ, DPUB and `defer`.
    pub max_req_timeout: Duration,
    /// `--max-heartbeat-interval`.
    pub max_heartbeat_interval: Duration,
    /// `--output-buffer-timeout`, positive: what a client gets that asks for nothing.
    pub output_buffer_timeout: Duration,
    /// `--min-output-buffer-timeout`.
    pub min_output_buffer_timeout: Duration,
    /// `--max-output-buffer-timeout`.
    pub max_output_buffer_timeout: Duration,
}

/// TLS and authorization.
#[derive(Debug, Clone)]
pub struct Security {
    /// What was made of the certificate and key of `tls` at start; `None` without them.
    pub tls_server: Option<Arc<ServerConfig>>,
    /// `--tls-*`.
    pub tls: Tls,
    /// `--auth-http-address`; non-empty means that authorization is required.
    pub auth_http_addresses: Vec<String>,
    /// `--auth-http-request-method`.
    pub auth_http_method: AuthMethod,
}

/// `--auth-http-request-method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "HTTP's own words")]
pub enum AuthMethod {
    Get,
    Post,
}

/// `--tls-required`, after the client certificate policy has had its say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsRequired {
    /// Plain connections are welcome.
    No,
    /// Required on TCP, not on HTTP (`tcp-https`).
    ExceptHttp,
    /// Required on TCP and HTTP.
    Yes,
}

/// `--tls-client-auth-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthPolicy {
    /// No client certificate is asked for.
    None,
    /// Any certificate will do.
    Require,
    /// The certificate must verify against `--tls-root-ca-file`.
    RequireVerify,
}

/// `--tls-*`. The files have been read once, and are read again on SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `--tls-cert`.
    pub cert: Option<PathBuf>,
    /// `--tls-key`.
    pub key: Option<PathBuf>,
    /// `--tls-root-ca-file`.
    pub root_ca_file: Option<PathBuf>,
    /// `--tls-client-auth-policy`.
    pub client_auth_policy: ClientAuthPolicy,
    /// `--tls-required`.
    pub required: TlsRequired,
    /// `--tls-min-version` as TLS numbers it: 0x0301 (1.0) to 0x0304 (1.3).
    pub min_version: u16,
}

/// Other services that the broker calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// `--lookupd-tcp-address`: the value at start; [`RuntimeConfig`] has the current one.
    pub lookupd_tcp_addresses: Vec<String>,
    /// `--http-client-connect-timeout`; zero = none.
    pub http_connect_timeout: Duration,
    /// `--http-client-request-timeout`; zero = none.
    pub http_request_timeout: Duration,
}

/// What is measured and where it is sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// `--statsd-*`; `None` without `--statsd-address`.
    pub statsd: Option<Statsd>,
    /// `--e2e-processing-latency-percentile`, each in (0, 1], in the order of output.
    pub e2e_percentiles: Vec<f64>,
    /// `--e2e-processing-latency-window-time`, positive.
    pub e2e_window: Duration,
}

/// `--statsd-*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statsd {
    /// `host:port` of the daemon.
    pub address: String,
    /// Prefix of every key; [`Config::on_bound`] replaces `%s` and adds the final dot.
    pub prefix: String,
    /// Time between two pushes, more than one second.
    pub interval: Duration,
    /// Whether `mem.*` is sent.
    pub mem_stats: bool,
    /// Bytes of one datagram.
    pub udp_packet_size: u32,
    /// Whether ephemeral topics and channels are left out.
    pub exclude_ephemeral: bool,
}

/// How log lines look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// `--log-level` at start; see [`RuntimeChange::LogLevel`] for later.
    pub level: Level,
    /// `--log-prefix`.
    pub prefix: String,
}

/// Why the broker cannot start, in the reference's words where it has some. The program reports
/// it as `FATAL: failed to instantiate nsqd - <text>` and exits with 1.
#[derive(Debug, thiserror::Error)]
pub enum StartupError {
    /// The data path is missing or in use.
    #[error("failed to lock data-path: {0}")]
    DataPath(#[from] LockError),
    /// A flag's value is out of its range.
    #[error("--{flag} must be {rule}")]
    Range {
        /// Name without dashes.
        flag: &'static str,
        /// What the value must be.
        rule: &'static str,
    },
    /// Two flags contradict each other.
    #[error("--{flag} ({value}) must not exceed --{limit_flag} ({limit})")]
    Exceeds {
        /// Name of the offending flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// Name of the flag that limits it.
        limit_flag: &'static str,
        /// The limit.
        limit: String,
    },
    /// A certificate or key cannot be used.
    #[error("failed to build TLS config - {0}")]
    Tls(String),
    /// The CA file cannot be used.
    #[error("failed to build client TLS config - {0}")]
    ClientTls(String),
    /// TLS is required but there is nothing to do it with.
    #[error("cannot require TLS client connections without TLS key and cert")]
    TlsRequiredWithoutCertificate,
    /// A percentile outside (0, 1].
    #[error("invalid E2E processing latency percentile: {0}")]
    Percentile(f64),
    /// An experiment that does not exist.
    #[error("--enable-experiment: unknown experiment \"{0}\" (known: topology-aware-consumption)")]
    Experiment(String),
    /// An address is malformed or cannot be listened on.
    #[error("listen ({address}) failed - {reason}")]
    Listen {
        /// As given.
        address: String,
        /// Why not.
        reason: String,
    },
}

/// Flags, configuration file and defaults, resolved but not yet checked.
#[derive(Debug)]
pub struct RawConfig {
    settings: Settings,
    hostname: String,
}

/// Reads command line (without the program's own name) and configuration file.
///
/// # Errors
/// [`EarlyExit`]: the program is to report it and end; also for `-help` and `-version`.
pub fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<RawConfig, EarlyExit> {
    let hostname = nsq_cli::hostname();
    let settings = flags::table(&hostname).load(args)?;
    Ok(RawConfig { settings, hostname })
}

impl RawConfig {
    /// The directory to lock before [`Self::validate`]: `--data-path`, `.` when empty.
    #[must_use]
    pub fn data_path(&self) -> PathBuf {
        match self.settings.string("data-path") {
            "" => PathBuf::from("."),
            path => PathBuf::from(path),
        }
    }

    /// Checks every value, in the reference's order where it has one.
    ///
    /// # Errors
    /// The first value that is wrong.
    pub fn validate(self) -> Result<Config, StartupError> {
        validate::validate(self)
    }
}

impl Config {
    /// Fills in what is known only once the listeners are bound: broadcast ports that were 0 and
    /// the statsd prefix. A port of 0 stands for a disabled or unix listener.
    pub fn on_bound(&mut self, tcp_port: u16, http_port: u16) {
        if self.identity.broadcast_tcp_port == 0 {
            self.identity.broadcast_tcp_port = tcp_port;
        }
        if self.identity.broadcast_http_port == 0 {
            self.identity.broadcast_http_port = http_port;
        }
        let prefix = self.runtime.on_bound(&self.identity);
        if let Some(statsd) = &mut self.metrics.statsd {
            statsd.prefix = prefix;
        }
    }
}
