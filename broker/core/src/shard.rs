//! The shard: every topic, channel, consumer and timer of one core.
//!
//! Each file in `shard/` implements one group of calls; the state that they share is here.

mod acks;
mod assign;
mod cache;
mod check;
mod checkpoint;
mod consumers;
mod dispatch;
mod publish;
mod read_ahead;
mod restore;
mod stats;
mod time;
mod topics;

use std::collections::{HashMap, VecDeque};

use bytes::BytesMut;
use nsq_proto::TopicName;
use slotmap::SlotMap;

use crate::channel::Channel;
use crate::consumer::Consumer;
use crate::timers::Timers;
use crate::topic::Topic;
use crate::types::ChannelKey;
use crate::wheel::Timer;
use crate::{ConsumerKey, Effect, Now, ShardLimits, TopicKey};
use cache::Cache;

/// Everything that one core owns. See the crate documentation for the calling order.
///
/// Calls with the key of a deleted topic or of a consumer that is gone are without effect: the
/// shell may learn of a deletion later than it happens.
#[derive(Debug)]
pub struct Shard {
    limits: ShardLimits,
    /// The latest time seen; calls without a time happen at it.
    now: Now,
    topics: SlotMap<TopicKey, Topic>,
    /// Peers choose the names: the hasher is keyed.
    names: HashMap<TopicName, TopicKey>,
    channels: SlotMap<ChannelKey, Channel>,
    consumers: SlotMap<ConsumerKey, Consumer>,
    timers: Timers,
    /// The shell's orders.
    effects: VecDeque<Effect>,
    cache: Cache,
    lists: Lists,
    coin: Coin,
    /// Topics created so far; two in one turn get different epochs.
    created: u64,
    /// A clean stop has begun.
    draining: bool,
}

/// What has to be looked at, and buffers that keep their memory between turns.
#[derive(Debug, Default)]
struct Lists {
    /// Topics to dispatch (`Agenda::dirty`).
    dirty: Vec<TopicKey>,
    /// Topics with messages to lend to the log (`Agenda::unsent`).
    unsent: Vec<TopicKey>,
    fired: Vec<(u32, Timer)>,
    /// Where redelivered frames are patched.
    scratch: BytesMut,
}

/// Decides which messages a sampling consumer gets: splitmix64.
#[derive(Debug)]
struct Coin(u64);

impl Coin {
    /// `true` in `percent` of 100 cases.
    fn lands(&mut self, percent: u8) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (u128::from(mixed) * 100) >> 64 < u128::from(percent)
    }
}

impl Shard {
    /// A shard without topics.
    #[must_use]
    pub fn new(limits: ShardLimits, now: Now) -> Self {
        Self {
            now,
            topics: SlotMap::with_key(),
            names: HashMap::new(),
            channels: SlotMap::with_key(),
            consumers: SlotMap::with_key(),
            timers: Timers::new(now),
            effects: VecDeque::new(),
            cache: Cache::new(limits.cache_bytes_max),
            lists: Lists::default(),
            coin: Coin(limits.seed),
            created: 0,
            draining: false,
            limits,
        }
    }

    /// Takes the effects gathered so far, in order.
    pub fn drain_effects(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.effects.drain(..)
    }

    /// Notes the time of a call.
    fn observe(&mut self, now: Now) {
        self.now = self.now.max(now);
    }

    /// Lists a topic for the next dispatch.
    fn mark_topic(&mut self, key: TopicKey) {
        let agenda = &mut self.topics[key].agenda;
        if !agenda.dirty {
            agenda.dirty = true;
            self.lists.dirty.push(key);
        }
    }

    /// Lists a channel for the next dispatch.
    fn mark_channel(&mut self, key: ChannelKey) {
        let channel = &mut self.channels[key];
        if !channel.dirty {
            channel.dirty = true;
            let topic = channel.topic;
            self.mark_topic(topic);
        }
    }

    /// Lists a consumer as ready, if it is, and its channel for the next dispatch.
    fn wake(&mut self, key: ConsumerKey) {
        let consumer = &mut self.consumers[key];
        let channel = consumer.channel;
        if !consumer.queued && consumer.spare() > 0 {
            consumer.queued = true;
            let locality = consumer.options.locality;
            self.channels[channel].crowd.ready(locality).push_back(key);
        }
        self.mark_channel(channel);
    }

    /// The channel of this name.
    fn find_channel(&self, topic: TopicKey, name: &str) -> Option<ChannelKey> {
        let channels = &self.topics.get(topic)?.channels;
        channels
            .iter()
            .copied()
            .find(|&key| self.channels[key].name.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::Coin;

    #[test]
    fn the_coin_lands_in_the_share_asked_for() {
        for percent in [1u8, 10, 50, 99] {
            let mut coin = Coin(7);
            let hits = (0..100_000).filter(|_| coin.lands(percent)).count();
            let expected = usize::from(percent) * 1_000;
            assert!(hits.abs_diff(expected) < 700, "{percent}: {hits}");
        }
    }
}
