//! What the threads of a run share: a clock, counters, and the word that it is over.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A counter on a cache line of its own: publishers and consumers do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds, once per batch.
    pub(crate) fn add(&self, count: u64) -> u64 {
        self.0.fetch_add(count, Ordering::Relaxed) + count
    }

    /// The value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    epoch: OnceLock<Instant>,
    /// Messages acknowledged.
    pub(crate) published: Counter,
    /// Messages finished.
    pub(crate) consumed: Counter,
    /// Messages after which consumers may go.
    pub(crate) expected: Counter,
    /// When the latest message came, in nanoseconds since the epoch.
    pub(crate) latest_ns: Counter,
    stopped: AtomicBool,
}

impl Shared {
    /// A run whose consumers go after `expected` messages.
    pub(crate) fn new(expected: u64) -> Self {
        let shared = Self {
            epoch: OnceLock::new(),
            published: Counter::default(),
            consumed: Counter::default(),
            expected: Counter::default(),
            latest_ns: Counter::default(),
            stopped: AtomicBool::new(false),
        };
        shared.expected.set(expected);
        shared
    }

    /// Starts the clock; all is prepared.
    pub(crate) fn begin(&self) {
        self.epoch();
    }

    /// Time 0 of the run and of stamps.
    pub(crate) fn epoch(&self) -> Instant {
        *self.epoch.get_or_init(Instant::now)
    }

    /// Ends the run early, because a thread has failed.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether the run has been ended early.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Nanoseconds since the epoch.
    pub(crate) fn ns(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch()).as_nanos())
            .expect("a run is shorter than 500 years")
    }

    /// How long ago the latest message came (or the run began).
    pub(crate) fn quiet_for(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.ns(now).saturating_sub(self.latest_ns.get()))
    }
}
