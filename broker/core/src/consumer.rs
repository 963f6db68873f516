//! A connection that is subscribed to a channel.

use crate::types::ChannelKey;
use crate::{ConnToken, ConsumerOptions, ConsumerStats};

/// Owned by the shard; the channel knows it by key.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) conn: ConnToken,
    pub(crate) channel: ChannelKey,
    pub(crate) options: ConsumerOptions,
    /// RDY, and what it is measured by. `in_flight_count` falls with every settled message and is
    /// reset when the channel is emptied.
    pub(crate) stats: ConsumerStats,
    /// CLS was received.
    pub(crate) closing: bool,
    /// The connection takes more output.
    pub(crate) writable: bool,
    /// Stands in the channel's queue of ready consumers.
    pub(crate) queued: bool,
}

impl Consumer {
    pub(crate) fn new(conn: ConnToken, channel: ChannelKey, options: ConsumerOptions) -> Self {
        let stats = ConsumerStats {
            locality: options.locality,
            ..ConsumerStats::default()
        };
        Self {
            conn,
            channel,
            options,
            stats,
            closing: false,
            writable: true,
            queued: false,
        }
    }

    /// How many more messages it may be sent now.
    pub(crate) fn spare(&self) -> u64 {
        if self.closing || !self.writable {
            return 0;
        }
        u64::from(self.stats.ready_count).saturating_sub(self.stats.in_flight_count)
    }
}
