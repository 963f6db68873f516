//! Small value types shared by the whole core.

use std::time::Duration;

slotmap::new_key_type! {
    /// A topic of this shard. A key of a deleted topic never names another one.
    pub struct TopicKey;
    /// A subscribed connection of this shard.
    pub struct ConsumerKey;
    /// A channel of this shard.
    pub(crate) struct ChannelKey;
}

/// A scheduled [`crate::Deadline`], for cancelling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey(pub(crate) u32, pub(crate) u32);

/// The shell's name for a connection; opaque to the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnToken(pub u64);

/// The position of a message in its topic's log: dense, from 0, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Sequence(pub u64);

/// The time of a turn: nanoseconds since the Unix epoch on a clock that never goes back while
/// the process lives (wall clock at start plus monotonic time since).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now(pub u64);

impl Now {
    /// Whole milliseconds since the Unix epoch, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// This time plus `duration`, saturating.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}
