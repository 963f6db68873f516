//! Fuzz targets of this crate; `nsq-fuzz` says how they are run.

mod documents;
mod http;
mod streams;
mod tls;

use nsq_fuzz::Target;

#[cfg(test)]
pub(crate) use tls::configs;

/// All of them.
pub const TARGETS: [Target; 10] = [
    SNAPPY,
    DEFLATE,
    COMPRESSION,
    TLS,
    HTTP,
    NSQD_DAT,
    CHANGES,
    IMPORT,
    GRANTS,
    CONFIG,
];

/// What a client sends as snappy.
pub const SNAPPY: Target = Target {
    name: "snappy",
    run: streams::snappy,
    seeds: streams::snappy_seeds,
};

/// What a client sends as deflate.
pub const DEFLATE: Target = Target {
    name: "deflate",
    run: streams::deflate,
    seeds: streams::deflate_seeds,
};

/// What is compressed for a client.
pub const COMPRESSION: Target = Target {
    name: "compression",
    run: streams::compression,
    seeds: streams::compression_seeds,
};

/// TLS and a compression inside of it, in both directions, intact and not.
pub const TLS: Target = Target {
    name: "tls",
    run: tls::run,
    seeds: tls::seeds,
};

/// Requests over HTTP, however they are cut.
pub const HTTP: Target = Target {
    name: "http",
    run: http::run,
    seeds: http::seeds,
};

/// The file of topics and channels.
pub const NSQD_DAT: Target = Target {
    name: "nsqd_dat",
    run: documents::nsqd_dat,
    seeds: documents::nsqd_dat_seeds,
};

/// The journal beside that file.
pub const CHANGES: Target = Target {
    name: "changes",
    run: crate::catalogue::fuzz::run,
    seeds: crate::catalogue::fuzz::seeds,
};

/// The disk queues of a Go nsqd, whatever is in their files.
pub const IMPORT: Target = Target {
    name: "import",
    run: crate::import::fuzz::run,
    seeds: crate::import::fuzz::seeds,
};

/// What an authorization server answers, and its patterns.
pub const GRANTS: Target = Target {
    name: "grants",
    run: documents::grants,
    seeds: documents::grants_seeds,
};

/// The configuration file, and the command line.
pub const CONFIG: Target = Target {
    name: "config",
    run: documents::config,
    seeds: documents::config_seeds,
};

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_old_findings_pass() {
        super::TARGETS.iter().for_each(nsq_fuzz::replay);
    }
}
