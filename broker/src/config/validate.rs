//! From resolved settings to a [`Config`]: every range and contradiction is found here.
//!
//! Order: first what the reference checks, in its order and words, then what it found out only
//! later by crashing or hanging, then the addresses, where the reference would begin to listen.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nsq_cli::{Level, Settings, Value, format_duration};
use rustls::ServerConfig;

use super::{
    Address, AuthMethod, ClientAuthPolicy, Compression, Config, Durability, Identity, Limits,
    Listen, LogSettings, Metrics, Peers, RawConfig, RuntimeConfig, Security, SegmentIo, Shards,
    StartupError, Statsd, SyncMode, Timeouts, Tls, TlsRequired, redacted, unready,
};

type Checked<T> = Result<T, StartupError>;

/// Largest message body: with its frame's header the size still fits the signed 32 bits of the
/// wire.
const MSG_SIZE_MAX: i64 = i32::MAX as i64 - 64;
/// Largest size that the wire can express.
const WIRE_SIZE_MAX: i64 = i32::MAX as i64;
/// More shards than any machine has cores; catches a mistyped number.
const SHARDS_MAX: i64 = 1024;
/// The only experiment there is.
const TOPOLOGY_AWARE: &str = "topology-aware-consumption";

pub(super) fn validate(raw: RawConfig) -> Checked<Config> {
    let data_path = raw.data_path();
    let RawConfig {
        mut settings,
        hostname,
    } = raw;
    let settings = &mut settings;
    let compression = compression(settings)?;
    let node_id = int(settings, "node-id", 0..=1023, "[0,1024)")?;
    let security = security(settings)?;
    let metrics = metrics(settings)?;
    let identity = identity(settings, node_id, hostname)?;
    let durability = durability(settings, data_path)?;
    let shards = shards(settings)?;
    let limits = limits(settings, compression)?;
    let timeouts = timeouts(settings)?;
    let peers = peers(settings)?;
    let listen = listen(settings)?;
    let log = LogSettings {
        level: Level::from_number(settings.int("log-level")).expect("the flag takes only levels"),
        prefix: settings.string("log-prefix").to_owned(),
    };

    settings.set(
        "shards",
        Value::Int(i64::try_from(shards.count).expect("at most SHARDS_MAX")),
    );
    let mut warnings = settings.warnings().to_vec();
    warnings.extend(unready::warnings(settings));
    let runtime = RuntimeConfig::new(settings);
    Ok(Config {
        identity,
        listen,
        durability,
        shards,
        limits,
        timeouts,
        security,
        peers,
        metrics,
        log,
        runtime,
        warnings,
    })
}

fn compression(settings: &Settings) -> Checked<Compression> {
    Ok(Compression {
        deflate: settings.bool("deflate"),
        max_deflate_level: int(settings, "max-deflate-level", 1..=9, "[1,9]")?,
        snappy: settings.bool("snappy"),
    })
}

fn security(settings: &mut Settings) -> Checked<Security> {
    let client_auth_policy = match settings.string("tls-client-auth-policy") {
        "" => ClientAuthPolicy::None,
        "require" => ClientAuthPolicy::Require,
        "require-verify" => ClientAuthPolicy::RequireVerify,
        _ => return Err(range("tls-client-auth-policy", "require or require-verify")),
    };
    if client_auth_policy != ClientAuthPolicy::None && settings.int("tls-required") == 0 {
        settings.set("tls-required", Value::Int(2));
    }
    let tls = tls(settings, client_auth_policy);
    let tls_server = tls_server(&tls)?;
    let auth_http_method = match settings.string("auth-http-request-method") {
        "get" => AuthMethod::Get,
        "post" => AuthMethod::Post,
        _ => return Err(range("auth-http-request-method", "post or get")),
    };
    let auth_http_addresses = settings.list("auth-http-address").to_vec();
    let shown = auth_http_addresses.iter().map(|address| redacted(address));
    settings.set("auth-http-address", Value::List(shown.collect()));
    Ok(Security {
        tls,
        tls_server,
        auth_http_addresses,
        auth_http_method,
    })
}

fn tls(settings: &Settings, client_auth_policy: ClientAuthPolicy) -> Tls {
    let path = |flag| {
        Some(settings.string(flag))
            .filter(|text| !text.is_empty())
            .map(PathBuf::from)
    };
    let (cert, key) = (path("tls-cert"), path("tls-key"));
    let root_ca_file = path("tls-root-ca-file");
    let required = match settings.int("tls-required") {
        0 => TlsRequired::No,
        1 => TlsRequired::ExceptHttp,
        _ => TlsRequired::Yes,
    };
    let min_version = u16::try_from(settings.int("tls-min-version")).expect("a TLS version");
    Tls {
        cert,
        key,
        root_ca_file,
        client_auth_policy,
        required,
        min_version,
    }
}

/// Reads the certificates, in the order in which the reference complains about them.
fn tls_server(tls: &Tls) -> Checked<Option<Arc<ServerConfig>>> {
    let server = crate::tls::server_config(tls).map_err(StartupError::Tls)?;
    if server.is_none() && tls.required != TlsRequired::No {
        return Err(StartupError::TlsRequiredWithoutCertificate);
    }
    if let Some(path) = &tls.root_ca_file {
        crate::tls::root_store(path).map_err(StartupError::ClientTls)?;
    }
    Ok(server)
}

fn metrics(settings: &Settings) -> Checked<Metrics> {
    let e2e_percentiles = settings
        .floats("e2e-processing-latency-percentile")
        .to_vec();
    // Written so that NaN is refused, too.
    if let Some(wrong) = e2e_percentiles
        .iter()
        .find(|value| !(**value > 0.0 && **value <= 1.0))
    {
        return Err(StartupError::Percentile(*wrong));
    }
    let e2e_window = positive(settings, "e2e-processing-latency-window-time")?;
    Ok(Metrics {
        statsd: statsd(settings)?,
        e2e_percentiles,
        e2e_window,
    })
}

fn statsd(settings: &Settings) -> Checked<Option<Statsd>> {
    let address = settings.string("statsd-address");
    if address.is_empty() {
        return Ok(None);
    }
    Address::parse_tcp(address).map_err(|_| range("statsd-address", "<addr>:<port>"))?;
    let interval = not_negative(settings, "statsd-interval")?;
    // Datagrams are spread over the interval less one second.
    if interval <= Duration::from_secs(1) {
        return Err(range("statsd-interval", "> 1s"));
    }
    let udp_packet_size = int(settings, "statsd-udp-packet-size", 1..=65_507, "[1,65507]")?;
    Ok(Some(Statsd {
        address: address.to_owned(),
        prefix: settings.string("statsd-prefix").to_owned(),
        interval,
        mem_stats: settings.bool("statsd-mem-stats"),
        udp_packet_size,
        exclude_ephemeral: settings.bool("statsd-exclude-ephemeral"),
    }))
}

fn identity(settings: &Settings, node_id: u16, hostname: String) -> Checked<Identity> {
    let port = |flag| int(settings, flag, 0..=65_535, "[0,65535]");
    let experiments = settings.list("enable-experiment");
    if let Some(unknown) = experiments.iter().find(|name| *name != TOPOLOGY_AWARE) {
        return Err(StartupError::Experiment(unknown.clone()));
    }
    Ok(Identity {
        node_id,
        hostname,
        broadcast_address: settings.string("broadcast-address").to_owned(),
        broadcast_tcp_port: port("broadcast-tcp-port")?,
        broadcast_http_port: port("broadcast-http-port")?,
        topology_region: settings.string("topology-region").to_owned(),
        topology_zone: settings.string("topology-zone").to_owned(),
        topology_aware: !experiments.is_empty(),
    })
}

fn durability(settings: &Settings, data_path: PathBuf) -> Checked<Durability> {
    let sync = SyncMode::parse(settings.string("sync"));
    let segment_io = SegmentIo::parse(settings.string("segment-io"));
    Ok(Durability {
        data_path,
        sync: sync.expect("the flag takes no other word"),
        sync_every: int(settings, "sync-every", 1..=i64::MAX, "> 0")?,
        sync_timeout: positive(settings, "sync-timeout")?,
        segment_bytes_max: int(settings, "max-bytes-per-file", 1..=i64::MAX, "> 0")?,
        mem_queue_size: int(settings, "mem-queue-size", 0..=i64::MAX, ">= 0")?,
        segment_io: segment_io.expect("the flag takes no other word"),
    })
}

fn shards(settings: &Settings) -> Checked<Shards> {
    let count = match int(settings, "shards", 0..=SHARDS_MAX, "[0,1024]")? {
        // Honours the affinity mask and the quota of the control group.
        0 => thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let spin = not_negative(settings, "spin")?;
    let mem_limit: u64 = int(settings, "mem-limit", 0..=i64::MAX, ">= 0")?;
    Ok(Shards {
        count,
        spin,
        mem_limit: Some(mem_limit).filter(|bytes| *bytes > 0),
    })
}

fn limits(settings: &Settings, compression: Compression) -> Checked<Limits> {
    let consumers: u32 = int(settings, "max-channel-consumers", 0..=WIRE_SIZE_MAX, ">= 0")?;
    Ok(Limits {
        max_msg_size: int(settings, "max-msg-size", 1..=MSG_SIZE_MAX, "[1,2147483583]")?,
        max_body_size: int(
            settings,
            "max-body-size",
            1..=WIRE_SIZE_MAX,
            "[1,2147483647]",
        )?,
        max_rdy_count: int(
            settings,
            "max-rdy-count",
            1..=WIRE_SIZE_MAX,
            "[1,2147483647]",
        )?,
        max_output_buffer_size: int(
            settings,
            "max-output-buffer-size",
            0..=WIRE_SIZE_MAX,
            "[0,2147483647]",
        )?,
        max_channel_consumers: Some(consumers).filter(|count| *count > 0),
        requeue_on_disconnect: settings.bool("requeue-on-disconnect"),
        compression,
    })
}

fn timeouts(settings: &Settings) -> Checked<Timeouts> {
    let timeouts = Timeouts {
        msg_timeout: positive(settings, "msg-timeout")?,
        max_msg_timeout: positive(settings, "max-msg-timeout")?,
        max_req_timeout: not_negative(settings, "max-req-timeout")?,
        max_heartbeat_interval: not_negative(settings, "max-heartbeat-interval")?,
        output_buffer_timeout: positive(settings, "output-buffer-timeout")?,
        min_output_buffer_timeout: not_negative(settings, "min-output-buffer-timeout")?,
        max_output_buffer_timeout: not_negative(settings, "max-output-buffer-timeout")?,
    };
    if timeouts.msg_timeout > timeouts.max_msg_timeout {
        let shown = |flag| format_duration(settings.nanos(flag));
        return Err(StartupError::Exceeds {
            flag: "msg-timeout",
            value: shown("msg-timeout"),
            limit_flag: "max-msg-timeout",
            limit: shown("max-msg-timeout"),
        });
    }
    Ok(timeouts)
}

fn peers(settings: &Settings) -> Checked<Peers> {
    Ok(Peers {
        lookupd_tcp_addresses: settings.list("lookupd-tcp-address").to_vec(),
        http_connect_timeout: not_negative(settings, "http-client-connect-timeout")?,
        http_request_timeout: not_negative(settings, "http-client-request-timeout")?,
    })
}

fn listen(settings: &Settings) -> Checked<Listen> {
    let listen_error = |address: &str, error: super::AddressError| StartupError::Listen {
        address: address.to_owned(),
        reason: error.to_string(),
    };
    let parse = |flag| {
        let address = settings.string(flag);
        address
            .parse::<Address>()
            .map_err(|error| listen_error(address, error))
    };
    let is_empty = |flag| settings.string(flag).is_empty();
    let tcp = parse("tcp-address")?;
    let http = if is_empty("http-address") {
        None
    } else {
        Some(parse("http-address")?)
    };
    let https = match settings.string("https-address") {
        "" => None,
        text => Some(Address::parse_tcp(text).map_err(|error| listen_error(text, error))?),
    };
    Ok(Listen { tcp, http, https })
}

fn range(flag: &'static str, rule: &'static str) -> StartupError {
    StartupError::Range { flag, rule }
}

/// An integer within bounds, which must fit `T`; `rule` is how the bounds are put to the user.
fn int<T: TryFrom<i64>>(
    settings: &Settings,
    flag: &'static str,
    bounds: RangeInclusive<i64>,
    rule: &'static str,
) -> Checked<T> {
    let value = settings.int(flag);
    if !bounds.contains(&value) {
        return Err(range(flag, rule));
    }
    T::try_from(value).map_err(|_| range(flag, rule))
}

fn not_negative(settings: &Settings, flag: &'static str) -> Checked<Duration> {
    let nanos = u64::try_from(settings.nanos(flag)).map_err(|_| range(flag, ">= 0"))?;
    Ok(Duration::from_nanos(nanos))
}

fn positive(settings: &Settings, flag: &'static str) -> Checked<Duration> {
    match not_negative(settings, flag) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(range(flag, "> 0")),
    }
}
