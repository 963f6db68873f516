//! Counters and gauges for `/stats` (spec nsqd.md §4.5).

use super::Shard;
use crate::latency::{self, Latencies};
use crate::types::ChannelKey;
use crate::{ChannelStats, LatencyStats, TopicKey, TopicStats};

impl Shard {
    /// Counters and gauges of a live topic; its channels in the order of their creation.
    #[must_use]
    pub fn topic_stats(&self, topic: TopicKey) -> Option<TopicStats> {
        let found = self.topics.get(topic)?;
        let depth = found.backlog.depth(found.head());
        let channels = found.channels.iter();
        let latencies = channels.map(|&channel| self.channels[channel].latencies.as_deref());
        Some(TopicStats {
            name: found.name.clone(),
            depth,
            backend_depth: self.backend_depth(depth, found.ephemeral),
            message_count: found.accepted.0,
            message_bytes: found.accepted.1,
            paused: found.paused,
            channels: found
                .channels
                .iter()
                .map(|&channel| self.channel_stats(channel))
                .collect(),
            latency: self.latency(latencies),
        })
    }

    fn channel_stats(&self, key: ChannelKey) -> ChannelStats {
        let channel = &self.channels[key];
        let counters = &channel.counters;
        let members = channel.crowd.members.iter();
        let [
            zone_local_msg_count,
            region_local_msg_count,
            global_msg_count,
        ] = counters.delivered_counts;
        ChannelStats {
            name: channel.name.clone(),
            depth: channel.depth(),
            backend_depth: self.backend_depth(channel.depth(), channel.bounded),
            in_flight_count: counters.in_flight_count,
            deferred_count: counters.deferred_count,
            message_count: counters.message_count,
            zone_local_msg_count,
            region_local_msg_count,
            global_msg_count,
            finish_count: counters.finish_count,
            requeue_count: counters.requeue_count,
            timeout_count: counters.timeout_count,
            paused: channel.paused,
            consumers: members.map(|&member| self.consumers[member].conn).collect(),
            latency: self.latency(std::iter::once(channel.latencies.as_deref())),
        }
    }

    /// The figures of some channels together.
    fn latency<'a>(&self, channels: impl Iterator<Item = Option<&'a Latencies>>) -> LatencyStats {
        let merge = |config| latency::merged(config, channels, self.now);
        self.limits.latency.as_ref().map(merge).unwrap_or_default()
    }

    /// What of a queue the reference would hold on disk.
    fn backend_depth(&self, depth: u64, in_memory: bool) -> u64 {
        if in_memory {
            0
        } else {
            depth.saturating_sub(self.limits.mem_queue_size)
        }
    }
}
