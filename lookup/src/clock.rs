//! The one place where time is read: wall time at start plus monotonic time since, so that it never
//! goes back and still means Unix time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::registry::Now;

/// Shared by all connections; copies tell the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start_unix_ns: i64,
    start: Instant,
}

impl Clock {
    /// Reads the wall clock, once per process.
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            start_unix_ns: i64::try_from(unix.as_nanos()).unwrap_or(i64::MAX / 2),
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        let elapsed = i64::try_from(self.start.elapsed().as_nanos()).unwrap_or(i64::MAX / 2);
        Now(self.start_unix_ns.saturating_add(elapsed))
    }
}
