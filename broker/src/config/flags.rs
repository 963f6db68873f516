//! The flag table of nsqd: one row per flag. Command line, file, `-help` and `/config` follow.

use nsq_cli::{Custom, Flag, FlagTable, Form, Kind, Value, parse_bool, parse_int};

use super::{PROGRAM, SegmentIo, SyncMode};

/// TLS versions by name and as TLS numbers them.
const TLS_VERSIONS: [(&str, i64); 4] = [
    ("tls1.0", 0x0301),
    ("tls1.1", 0x0302),
    ("tls1.2", 0x0303),
    ("tls1.3", 0x0304),
];

/// All flags of nsqd on a host of that name.
pub(super) fn table(hostname: &str) -> FlagTable {
    let groups = [
        basic(hostname),
        listen(hostname),
        outbound(),
        storage(),
        messages(),
        clients(),
        metrics(),
        security(),
        ours(),
    ];
    FlagTable::new(PROGRAM, groups.into_iter().flatten().collect())
}

fn basic(hostname: &str) -> Vec<Flag> {
    let node_id = i64::from(nsq_cli::default_node_id(hostname));
    let worker_id = Custom {
        parse: parse_worker_id,
        form: Form::BareOrInteger,
        type_name: "",
    };
    vec![
        Flag::bool("version", false, "print version string").without_key(),
        Flag::text("config", "", "path to config file").without_key(),
        nsq_cli::log_level_flag(),
        Flag::text("log-prefix", "[nsqd] ", "log message prefix"),
        Flag::bool(
            "verbose",
            false,
            "[deprecated] has no effect, use --log-level",
        )
        .without_key(),
        Flag::int(
            "node-id",
            node_id,
            "unique part for message IDs, (int) in range [0,1024) (default is hash of hostname)",
        )
        .key("id"),
        Flag::new(
            "worker-id",
            Kind::Custom(worker_id),
            Value::Text(String::new()),
            "[deprecated] use --node-id",
        )
        .without_key(),
    ]
}

fn listen(hostname: &str) -> Vec<Flag> {
    vec![
        Flag::text(
            "https-address",
            "0.0.0.0:4152",
            "<addr>:<port> to listen on for HTTPS clients",
        ),
        Flag::text(
            "http-address",
            "0.0.0.0:4151",
            "address to listen on for HTTP clients \
             (<addr>:<port> for TCP/IP or <path> for unix socket)",
        ),
        Flag::text(
            "tcp-address",
            "0.0.0.0:4150",
            "address to listen on for TCP clients \
             (<addr>:<port> for TCP/IP or <path> for unix socket)",
        ),
        Flag::text(
            "broadcast-address",
            hostname,
            "address that will be registered with lookupd (defaults to the OS hostname)",
        ),
        Flag::int(
            "broadcast-tcp-port",
            0,
            "TCP port that will be registered with lookupd \
             (defaults to the TCP port that this nsqd is listening on)",
        ),
        Flag::int(
            "broadcast-http-port",
            0,
            "HTTP port that will be registered with lookupd \
             (defaults to the HTTP port that this nsqd is listening on)",
        ),
        Flag::text(
            "topology-region",
            "",
            "A region represents a larger domain, made up of one or more zones \
             for preferring closer consumer",
        ),
        Flag::text(
            "topology-zone",
            "",
            "A zone represents a logical failure domain for preferring closer consumer",
        ),
    ]
}

fn outbound() -> Vec<Flag> {
    vec![
        Flag::list(
            "lookupd-tcp-address",
            "lookupd TCP address (may be given multiple times)",
        )
        .key("nsqlookupd_tcp_addresses"),
        Flag::list(
            "auth-http-address",
            "<addr>:<port> or a full url to query auth server (may be given multiple times)",
        )
        .key("auth_http_addresses"),
        Flag::text(
            "auth-http-request-method",
            "get",
            "HTTP method to use for auth server requests",
        ),
        Flag::duration(
            "http-client-connect-timeout",
            "2s",
            "timeout for HTTP connect",
        ),
        Flag::duration(
            "http-client-request-timeout",
            "5s",
            "timeout for HTTP request",
        ),
    ]
}

fn storage() -> Vec<Flag> {
    vec![
        Flag::text("data-path", "", "path to store disk-backed messages"),
        Flag::int(
            "mem-queue-size",
            10_000,
            "number of messages to keep in memory (per ephemeral topic/channel)",
        ),
        Flag::int(
            "max-bytes-per-file",
            104_857_600,
            "number of bytes per segment file",
        ),
        Flag::int(
            "sync-every",
            2_500,
            "number of messages per fsync (per topic)",
        ),
        Flag::duration("sync-timeout", "2s", "duration of time per fsync"),
        Flag::int(
            "queue-scan-worker-pool-max",
            4,
            "accepted for compatibility, has no effect",
        ),
        Flag::int(
            "queue-scan-selection-count",
            20,
            "accepted for compatibility, has no effect",
        ),
    ]
}

fn messages() -> Vec<Flag> {
    vec![
        Flag::duration(
            "msg-timeout",
            "60s",
            "default duration to wait before auto-requeing a message",
        ),
        Flag::duration(
            "max-msg-timeout",
            "15m",
            "maximum duration before a message will timeout",
        ),
        Flag::int(
            "max-msg-size",
            1_048_576,
            "maximum size of a single message in bytes",
        ),
        Flag::duration(
            "max-req-timeout",
            "1h",
            "maximum requeuing timeout for a message",
        ),
        Flag::int(
            "max-body-size",
            5_242_880,
            "maximum size of a single command body",
        ),
    ]
}

fn clients() -> Vec<Flag> {
    vec![
        Flag::duration(
            "max-heartbeat-interval",
            "60s",
            "maximum client configurable duration of time between client heartbeats",
        ),
        Flag::int("max-rdy-count", 2_500, "maximum RDY count for a client"),
        Flag::int(
            "max-output-buffer-size",
            65_536,
            "maximum client configurable size (in bytes) for a client output buffer",
        ),
        Flag::duration(
            "max-output-buffer-timeout",
            "30s",
            "maximum client configurable duration of time between flushing to a client",
        ),
        Flag::duration(
            "min-output-buffer-timeout",
            "25ms",
            "minimum client configurable duration of time between flushing to a client",
        ),
        Flag::duration(
            "output-buffer-timeout",
            "250ms",
            "default duration of time between flushing data to clients",
        ),
        Flag::int(
            "max-channel-consumers",
            0,
            "maximum channel consumer connection count per nsqd instance \
             (default 0, i.e., unlimited)",
        ),
        Flag::bool(
            "deflate",
            true,
            "enable deflate feature negotiation (client compression)",
        )
        .field("DeflateEnabled"),
        Flag::int(
            "max-deflate-level",
            6,
            "max deflate compression level a client can negotiate \
             (> values == > nsqd CPU usage)",
        ),
        Flag::bool(
            "snappy",
            true,
            "enable snappy feature negotiation (client compression)",
        )
        .field("SnappyEnabled"),
        Flag::list(
            "enable-experiment",
            "enable experimental feature (may be given multiple times) \
             (valid options: \"topology-aware-consumption\")",
        )
        .field("Experiments"),
    ]
}

fn metrics() -> Vec<Flag> {
    vec![
        Flag::text(
            "statsd-address",
            "",
            "UDP <addr>:<port> of a statsd daemon for pushing stats",
        ),
        Flag::duration(
            "statsd-interval",
            "60s",
            "duration between pushing to statsd",
        ),
        Flag::bool(
            "statsd-mem-stats",
            true,
            "toggle sending memory stats to statsd",
        ),
        Flag::text(
            "statsd-prefix",
            "nsq.%s",
            "prefix used for keys sent to statsd (%s for host replacement)",
        ),
        Flag::int(
            "statsd-udp-packet-size",
            508,
            "the size in bytes of statsd UDP packets",
        ),
        Flag::bool(
            "statsd-exclude-ephemeral",
            false,
            "Skip ephemeral topics and channels when sending stats to statsd",
        ),
        Flag::floats(
            "e2e-processing-latency-percentile",
            "message processing time percentiles (as float (0, 1.0]) to track \
             (can be specified multiple times or comma separated '1.0,0.99,0.95', default none)",
        )
        .key("e2e_processing_latency_percentiles"),
        Flag::duration(
            "e2e-processing-latency-window-time",
            "10m",
            "calculate end to end latency quantiles for this duration of time \
             (ie: 60s would only show quantile calculations from the past 60 seconds)",
        ),
    ]
}

fn security() -> Vec<Flag> {
    let required = Custom {
        parse: parse_tls_required,
        form: Form::Bare,
        type_name: "",
    };
    let version = Custom {
        parse: parse_tls_version,
        form: Form::Required,
        type_name: "value",
    };
    vec![
        Flag::text("tls-cert", "", "path to certificate file"),
        Flag::text("tls-key", "", "path to key file"),
        Flag::text(
            "tls-client-auth-policy",
            "",
            "client certificate auth policy ('require' or 'require-verify')",
        ),
        Flag::text("tls-root-ca-file", "", "path to certificate authority file"),
        Flag::new(
            "tls-required",
            Kind::Custom(required),
            Value::Int(0),
            "require TLS for client connections (true, false, tcp-https)",
        ),
        Flag::new(
            "tls-min-version",
            Kind::Custom(version),
            Value::Int(TLS_VERSIONS[0].1),
            "minimum TLS version acceptable ('tls1.0', 'tls1.1', 'tls1.2' or 'tls1.3'; \
             below 1.2 means 1.2)",
        )
        .default_text("tls1.0"),
    ]
}

/// Flags that the reference does not have.
fn ours() -> Vec<Flag> {
    let word = |parse| {
        Kind::Custom(Custom {
            parse,
            form: Form::Required,
            type_name: "string",
        })
    };
    vec![
        Flag::new(
            "sync",
            word(parse_sync),
            Value::Text(SyncMode::default().as_str().to_owned()),
            "what OK promises: 'interval' (the kernel has the message) or \
             'always' (the disk has it)",
        ),
        Flag::new(
            "segment-io",
            word(parse_segment_io),
            Value::Text(SegmentIo::default().as_str().to_owned()),
            "how segment files are written: 'buffered' (through the page cache), \
             'direct' (around it) or 'auto' (whichever gets more done)",
        ),
        Flag::int(
            "shards",
            0,
            "number of cores to use (default 0, i.e., all available)",
        ),
        Flag::duration(
            "spin",
            "50us",
            "how long an idle shard spins before it parks, 0 = never",
        ),
        Flag::int(
            "mem-limit",
            0,
            "bytes for message caches in the whole process (default 0, i.e., chosen at start)",
        ),
        Flag::bool(
            "requeue-on-disconnect",
            false,
            "requeue a consumer's messages when it disconnects, without waiting for their timeout",
        ),
    ]
}

fn parse_worker_id(text: &str) -> Result<Value, String> {
    if parse_bool(text).is_none() && parse_int(text, 0).is_err() {
        return Err("parse error".to_owned());
    }
    Ok(Value::Text(text.to_owned()))
}

/// `false` = 0, `tcp-https` = 1, `true` = 2.
fn parse_tls_required(text: &str) -> Result<Value, String> {
    let word = text.to_ascii_lowercase();
    match (word.as_str(), parse_bool(&word)) {
        ("tcp-https", _) => Ok(Value::Int(1)),
        (_, Some(required)) => Ok(Value::Int(if required { 2 } else { 0 })),
        (_, None) => Err(format!(
            "strconv.ParseBool: parsing {word:?}: invalid syntax"
        )),
    }
}

/// The version as TLS numbers it; empty text keeps the default.
fn parse_tls_version(text: &str) -> Result<Value, String> {
    let word = text.to_ascii_lowercase();
    let known = TLS_VERSIONS
        .iter()
        .find(|(name, _)| *name == word || word.is_empty());
    match known {
        Some((_, number)) => Ok(Value::Int(*number)),
        None => Err(format!("unknown tlsVersionOption {word:?}")),
    }
}

fn parse_sync(text: &str) -> Result<Value, String> {
    one_of(text, &SyncMode::WORDS)
}

fn parse_segment_io(text: &str) -> Result<Value, String> {
    one_of(text, &SegmentIo::WORDS)
}

fn one_of(text: &str, words: &[&str]) -> Result<Value, String> {
    if words.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    Err(format!("must be {}", words.join(" or ")))
}
