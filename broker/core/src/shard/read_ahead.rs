//! Reading on before anybody waits for it.
//!
//! A channel that was served what had been read back from the log will want what follows. It is
//! asked for while the consumers are still busy with what they were sent: otherwise disk and
//! consumers would take turns, and each would wait for the other. For the same reason several
//! pieces are on their way at a time, each asked for as soon as it is known where the one before
//! will end.
//!
//! Requeued and deferred messages lie scattered. Those that wait are asked for together: one after the
//! other they would be as late as the device is slow, times their number.

use super::Shard;
use crate::types::ChannelKey;
use crate::{Effect, Sequence, TopicKey};

/// So much lies ahead of a channel that reads its backlog, read or on its way: more than its
/// consumers take while a device answers.
const AHEAD_BYTES: usize = 2 << 20;
/// So much while half of the room is free: a device that answers late now and then holds nobody up.
///
/// Measured with a backlog of 10 million messages of 200 bytes that was written around the page cache: 4.1
/// million a second with 2 MiB ahead, 4.4 with 6 MiB (medians of seven).
const AHEAD_BYTES_MAX: usize = 6 << 20;
/// What was read back, or is planned to be, may fill this part of the cache, the reciprocal; beyond
/// it there is no reading ahead. Many channels that lag each need their place more than one of them
/// needs two.
const CACHE_SHARE: usize = 4;

/// So many scattered messages of a channel are on their way at a time.
const SCATTERED_MAX: usize = 16;
/// What lies so few messages behind one that is asked for most likely comes with it.
const NEAR: u64 = 64;

impl Shard {
    /// Tells, right after a `Fetch`, what its answer will hold unless something is damaged: messages
    /// up to `next`, in so many bytes. What follows may be asked for at once.
    pub fn on_fetch_planned(
        &mut self,
        topic: TopicKey,
        from: Sequence,
        next: Sequence,
        bytes: usize,
    ) {
        let Some(found) = self.topics.get_mut(topic) else {
            return;
        };
        let Some(channel) = found.fetches.plan(from.0, next.0, bytes) else {
            return;
        };
        self.cache.planned_bytes += bytes;
        if self.channels.contains_key(channel) {
            self.read_ahead(channel);
        }
    }

    /// Asks the log for what follows the pieces ahead of a channel's cursor, unless enough is there,
    /// it was asked for already, or the rest is in the tail.
    pub(super) fn read_ahead(&mut self, key: ChannelKey) {
        let channel = &self.channels[key];
        let Some(pending) = channel.pending.front() else {
            return;
        };
        let topic_key = channel.topic;
        let topic = &mut self.topics[topic_key];
        let end = pending.end.min(topic.tail.first());
        if topic.ephemeral || pending.start >= end || !self.cache.has_room_ahead(CACHE_SHARE) {
            return;
        }
        let is_roomy = self.cache.has_room_ahead(2 * CACHE_SHARE);
        let ahead = if is_roomy {
            AHEAD_BYTES_MAX
        } else {
            AHEAD_BYTES
        };
        let Some(next) = topic.uncovered(pending.start, ahead) else {
            return;
        };
        if next < end && topic.want(next, key) {
            self.effects.push_back(Effect::Fetch {
                topic: topic_key,
                from: Sequence(next),
                count: channel.wanted_from(next, 1),
            });
        }
    }
    /// Asks the log for the messages that wait for redelivery next and are not in memory.
    pub(super) fn read_requeued(&mut self, key: ChannelKey) {
        let channel = &self.channels[key];
        let topic_key = channel.topic;
        let topic = &mut self.topics[topic_key];
        if topic.ephemeral || !self.cache.has_room_ahead(CACHE_SHARE) {
            return;
        }
        let mut asked = 0..0;
        for &sequence in channel.requeued.iter().take(SCATTERED_MAX) {
            if asked.contains(&sequence) || topic.frame(sequence).is_some() {
                continue;
            }
            asked = sequence..sequence + NEAR;
            if topic.want(sequence, key) {
                self.effects.push_back(Effect::Fetch {
                    topic: topic_key,
                    from: Sequence(sequence),
                    count: 1,
                });
            }
        }
    }
}
