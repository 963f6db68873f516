//! Settings that are accepted although what they ask for does not exist (yet).
//!
//! Each that is in use costs its user one warning at start. Where silence could be taken for
//! safety (TLS, authorization) the broker refuses service instead of being open.

use nsq_cli::Settings;

/// Flags that are warned about when they differ from their default, and why.
const UNREADY: &[(&str, &str)] = &[
    ("auth-http-address", AUTH),
    (
        "auth-http-request-method",
        "authorization is not implemented yet",
    ),
    ("e2e-processing-latency-percentile", E2E),
    ("e2e-processing-latency-window-time", E2E),
    (
        "enable-experiment",
        "topology-aware consumption is not implemented yet",
    ),
    (
        "https-address",
        "HTTPS is not implemented yet, nothing will listen there",
    ),
    (
        "lookupd-tcp-address",
        "registration with nsqlookupd is not implemented yet",
    ),
    ("statsd-address", STATSD),
    ("statsd-exclude-ephemeral", STATSD),
    ("statsd-interval", STATSD),
    ("statsd-mem-stats", STATSD),
    ("statsd-prefix", STATSD),
    ("statsd-udp-packet-size", STATSD),
    ("tls-cert", TLS),
    ("tls-client-auth-policy", TLS),
    ("tls-key", TLS),
    ("tls-min-version", TLS),
    ("tls-required", TLS_REQUIRED),
    ("tls-root-ca-file", TLS),
    (
        "topology-region",
        "topology-aware consumption is not implemented yet",
    ),
    (
        "topology-zone",
        "topology-aware consumption is not implemented yet",
    ),
    ("queue-scan-selection-count", SCAN),
    ("queue-scan-worker-pool-max", SCAN),
    ("worker-id", "it is deprecated, use --node-id"),
];

const AUTH: &str =
    "authorization is not implemented yet, clients will be refused rather than let in unchecked";
const E2E: &str = "end-to-end latency is not implemented yet";
const SCAN: &str = "timeouts and deferrals have timers of their own, queues are not scanned";
const STATSD: &str = "statsd is not implemented yet, nothing will be sent";
const TLS: &str = "TLS is not implemented yet, clients that ask for it will be told so";
const TLS_REQUIRED: &str =
    "TLS is not implemented yet, clients will be refused rather than served in plain text";

/// One line per setting in use that has no effect.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let changed = UNREADY.iter().filter(|(flag, _)| settings.is_changed(flag));
    let mut lines: Vec<String> = changed.map(|(flag, reason)| line(flag, reason)).collect();
    for flag in ["deflate", "snappy"] {
        if settings.is_given(flag) && settings.bool(flag) {
            lines.push(line(
                flag,
                "compression is not implemented yet, it will not be negotiated",
            ));
        }
    }
    for flag in ["tcp-address", "http-address"] {
        if settings.string(flag).contains('/') {
            lines.push(line(
                flag,
                "unix sockets are not implemented yet, nothing will listen there",
            ));
        }
    }
    if settings.string("segment-io") == "direct" {
        lines.push(line(
            "segment-io",
            "direct is not implemented yet, buffered is used",
        ));
    }
    lines
}

fn line(flag: &str, reason: &str) -> String {
    format!("--{flag} has no effect: {reason}")
}
