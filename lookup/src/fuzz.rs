//! Fuzz targets of this crate; `nsq-fuzz` says how they are run.

mod commands;

use nsq_fuzz::Target;

/// All of them.
pub const TARGETS: [Target; 2] = [LOOKUP, LOOKUP_HTTP];

/// Commands of an nsqd, however they are cut.
pub const LOOKUP: Target = Target {
    name: "lookup",
    run: commands::run,
    seeds: commands::seeds,
};

/// Requests over HTTP, however they are cut.
pub const LOOKUP_HTTP: Target = Target {
    name: "lookup_http",
    run: crate::http::fuzz::run,
    seeds: crate::http::fuzz::seeds,
};

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_old_findings_pass() {
        super::TARGETS.iter().for_each(nsq_fuzz::replay);
    }
}
