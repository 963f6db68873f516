//! Settings that are accepted although what they ask for does not exist here.
//!
//! Each that is in use costs its user one warning at start.

use nsq_cli::Settings;

/// Flags that are warned about when they differ from their default, and why.
const UNREADY: &[(&str, &str)] = &[
    ("queue-scan-selection-count", SCAN),
    ("queue-scan-worker-pool-max", SCAN),
    ("worker-id", "it is deprecated, use --node-id"),
];

/// TLS 1.2 as TLS numbers it.
const TLS12: i64 = 0x0303;

const SCAN: &str = "timeouts and deferrals have timers of their own, queues are not scanned";

/// One line per setting in use that has no effect.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let changed = UNREADY.iter().filter(|(flag, _)| settings.is_changed(flag));
    let mut lines: Vec<String> = changed.map(|(flag, reason)| line(flag, reason)).collect();
    let min_version = settings.int("tls-min-version");
    if settings.is_changed("tls-min-version") && min_version < TLS12 {
        lines.push(line(
            "tls-min-version",
            "TLS 1.2 is the oldest version spoken",
        ));
    }
    lines
}

fn line(flag: &str, reason: &str) -> String {
    format!("--{flag} has no effect: {reason}")
}
