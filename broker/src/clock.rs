//! The one place where the broker reads a clock.
//!
//! A [`Clock`] is the wall clock at start plus monotonic time since: it never goes back while the
//! process lives, and its values mean Unix time, so that a due time survives a restart (K31).

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nsq_core::Now;

/// Tries to read both clocks at the same time.
const READS: u32 = 32;

/// Shared by all shards; copies tell the same time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start_unix_ns: u64,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock, once per process. The two clocks are read until nothing came between
    /// them: were they apart, the due times of this process would be off for the next one.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub fn start() -> Self {
        let read = || {
            let before = Instant::now();
            let unix = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            (before.elapsed(), before, unix)
        };
        let (_, start, unix) = (0..READS)
            .map(|_| read())
            .min_by_key(|(apart, ..)| *apart)
            .unwrap_or_else(read);
        Self {
            start_unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX / 2),
            start,
        }
    }

    /// The time of a turn.
    #[must_use]
    pub fn now(&self) -> Now {
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
