//! The version that programs report.
//!
//! It is semver: the NSQ version that we are compatible with comes first, so that peers which
//! compare versions see what they expect, and our own follows as build metadata.

/// The version, such as `1.3.0+ringq.0.1.0`.
pub const VERSION: &str = concat!("1.3.0+ringq.", env!("CARGO_PKG_VERSION"));

/// The compiler this was built with, such as `rustc1.95.0`.
pub const TOOLCHAIN: &str = env!("NSQ_TOOLCHAIN");

/// `nsqd v1.3.0+ringq.0.1.0 (built w/rustc1.95.0)`: what daemons print and log.
#[must_use]
pub fn banner(program: &str) -> String {
    format!("{program} v{VERSION} (built w/{TOOLCHAIN})")
}

/// `nsq_tail v1.3.0+ringq.0.1.0`: what utilities print.
#[must_use]
pub fn short_banner(program: &str) -> String {
    format!("{program} v{VERSION}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banner_names_compatible_version_first() {
        let banner = banner("nsqd");
        assert!(banner.starts_with("nsqd v1.3.0+ringq."), "{banner}");
        let toolchain = banner.split_once(" (built w/").expect("toolchain part").1;
        let number = toolchain
            .strip_prefix("rustc")
            .expect("compiler")
            .trim_end_matches(')');
        assert_eq!(number.split('.').count(), 3, "{banner}");
        assert!(
            number
                .split('.')
                .next()
                .is_some_and(|major| major.parse::<u32>().is_ok())
        );
        assert_eq!(short_banner("nsq_tail"), format!("nsq_tail v{VERSION}"));
    }
}
