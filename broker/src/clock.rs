//! The one place where the broker reads a clock.
//!
//! A [`Clock`] is the wall clock at start plus monotonic time since: it never goes back while the
//! process lives, and its values mean Unix time, so that a due time survives a restart (K31).

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nsq_core::Now;

/// Shared by all shards; copies tell the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start_unix_ns: u64,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock, once per process.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start_unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX / 2),
            start: Instant::now(),
        }
    }

    /// The time of a turn.
    #[must_use]
    pub(crate) fn now(&self) -> Now {
        let elapsed = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX / 2);
        Now(self.start_unix_ns.saturating_add(elapsed))
    }

    /// Unix seconds at which the process started.
    #[must_use]
    pub(crate) fn start_unix_seconds(&self) -> i64 {
        unix_seconds(Now(self.start_unix_ns))
    }
}

/// Whole Unix seconds of a time.
#[must_use]
pub(crate) fn unix_seconds(now: Now) -> i64 {
    i64::try_from(now.0 / 1_000_000_000).unwrap_or(i64::MAX)
}
