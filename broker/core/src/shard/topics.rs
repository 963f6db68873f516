//! Topics and channels: creation, deletion, pause, empty (spec nsqd.md §3.1, §3.2).
//!
//! Before the set of channels or a pause flag changes, what was published so far is pumped, so that
//! the lazy pump is not visible.

use std::hash::Hasher;

use nsq_proto::{ChannelName, TopicName};
use rustc_hash::FxHasher;

use super::Shard;
use crate::channel::journal::Journal;
use crate::channel::{Channel, HandOver};
use crate::checkpoint::{KIND_CHANNEL, KIND_PAGE};
use crate::topic::Topic;
use crate::types::ChannelKey;
use crate::{CheckpointKey, Effect, Epoch, Now, TopicKey};

/// First epochs are spread over the lower half, so that a topic that is deleted and created again
/// does not repeat its ids, and half a million restarts remain.
const FIRST_EPOCH_BITS: u32 = 19;

impl Shard {
    /// The topic of this name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<TopicKey> {
        self.names.get(name).copied()
    }

    /// The live topics, in no particular order.
    pub fn topics(&self) -> impl Iterator<Item = TopicKey> + '_ {
        self.topics.keys()
    }

    /// The name of a live topic.
    #[must_use]
    pub fn topic_name(&self, topic: TopicKey) -> Option<&TopicName> {
        self.topics.get(topic).map(|topic| &topic.name)
    }

    /// Finds or creates; on creation emits `CatalogueChanged` (unless ephemeral) and `Log`.
    pub fn create_topic(&mut self, now: Now, name: &TopicName) -> TopicKey {
        self.observe(now);
        if let Some(&key) = self.names.get(name) {
            return key;
        }
        let epochs = vec![(0, self.first_epoch(name))];
        let topic = Topic::new(name.clone(), self.limits.node, 0, epochs);
        if !topic.ephemeral {
            self.effects.push_back(Effect::CatalogueChanged);
        }
        self.add_topic(topic)
    }

    /// The epoch of a topic of which nothing is known.
    pub(super) fn first_epoch(&mut self, name: &TopicName) -> Epoch {
        self.created += 1;
        let mut hasher = FxHasher::default();
        hasher.write(name.as_str().as_bytes());
        hasher.write_u64(self.now.0);
        hasher.write_u64(self.created);
        let spread = hasher.finish().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FIRST_EPOCH_BITS);
        Epoch(u32::try_from(spread).expect("19 bits"))
    }

    pub(super) fn add_topic(&mut self, mut topic: Topic) -> TopicKey {
        topic.agenda.changed = true;
        self.effects
            .push_back(Effect::Log(format!("TOPIC({}): created", topic.name)));
        let name = topic.name.clone();
        self.tell_name(&name, None, true);
        let key = self.topics.insert(topic);
        self.names.insert(name, key);
        key
    }

    /// Deletes a topic with all its channels; their consumers are disconnected.
    pub fn delete_topic(&mut self, topic: TopicKey) {
        let Some(found) = self.topics.get(topic) else {
            return;
        };
        if !found.ephemeral {
            self.effects.push_back(Effect::CatalogueChanged);
        }
        self.remove_topic(topic);
    }

    fn remove_topic(&mut self, key: TopicKey) {
        let topic = self.topics.remove(key).expect("the caller has found it");
        self.effects
            .push_back(Effect::Log(format!("TOPIC({}): deleting", topic.name)));
        for channel in &topic.channels {
            let name = self.drop_channel(*channel);
            self.tell_name(&topic.name, Some(&name), false);
        }
        self.tell_name(&topic.name, None, false);
        self.cache.forget_topic(&topic);
        self.names.remove(&topic.name);
        self.effects.push_back(Effect::TopicGone { topic: key });
    }

    /// Drops the topic's own backlog; what was handed to channels stays with them.
    pub fn empty_topic(&mut self, topic: TopicKey) {
        if !self.topics.contains_key(topic) {
            return;
        }
        // The channels also get what is not revealed yet: it will be answered like the rest.
        self.pump_to(topic, self.topics[topic].head());
        let found = &mut self.topics[topic];
        let (start, head) = (found.backlog.pump, found.head());
        found.backlog.clear(head);
        found.agenda.changed = true;
        // The checkpoint would have the channels owe everything before the pump.
        for channel in &found.channels {
            self.channels[*channel].journal.mark_range(start, head);
        }
        self.mark_topic(topic);
    }

    /// Stops or starts the pump.
    pub fn pause_topic(&mut self, topic: TopicKey, paused: bool) {
        if !self.topics.contains_key(topic) {
            return;
        }
        self.pump(topic);
        let found = &mut self.topics[topic];
        if found.paused != paused {
            found.paused = paused;
            if !found.ephemeral {
                self.effects.push_back(Effect::CatalogueChanged);
            }
            self.mark_topic(topic);
        }
    }

    /// Keeps the pump still until [`Self::release_topic`]: what is published meanwhile goes to every
    /// channel that exists by then.
    pub fn hold_topic(&mut self, topic: TopicKey) {
        if !self.topics.contains_key(topic) {
            return;
        }
        self.pump(topic);
        self.topics[topic].held = true;
    }

    /// Ends [`Self::hold_topic`].
    pub fn release_topic(&mut self, topic: TopicKey) {
        if let Some(found) = self.topics.get_mut(topic) {
            found.held = false;
            self.mark_topic(topic);
        }
    }

    /// Finds or creates; `true` when it was created.
    pub fn create_channel(&mut self, now: Now, topic: TopicKey, name: &ChannelName) -> bool {
        self.observe(now);
        if !self.topics.contains_key(topic) || self.has_channel(topic, name.as_str()) {
            return false;
        }
        self.pump(topic);
        self.add_channel(topic, name, None);
        let found = &self.topics[topic];
        if !found.ephemeral && !name.is_ephemeral() {
            self.effects.push_back(Effect::CatalogueChanged);
        }
        self.mark_topic(topic);
        true
    }

    /// `number`: under which the checkpoint knows it already.
    pub(super) fn add_channel(
        &mut self,
        topic_key: TopicKey,
        name: &ChannelName,
        number: Option<u32>,
    ) -> ChannelKey {
        let topic = &mut self.topics[topic_key];
        let number = number.unwrap_or_else(|| {
            topic.next_channel += 1;
            topic.next_channel - 1
        });
        topic.agenda.changed = true;
        let bounded = topic.ephemeral || name.is_ephemeral();
        let journal = Journal::new(number, !bounded);
        let key = self
            .channels
            .insert(Channel::new(name.clone(), topic_key, bounded, journal));
        topic.channels.push(key);
        self.effects.push_back(Effect::Log(format!(
            "TOPIC({}): new channel({name})",
            topic.name
        )));
        let topic = topic.name.clone();
        self.tell_name(&topic, Some(name), true);
        key
    }

    fn tell_name(&mut self, topic: &TopicName, channel: Option<&ChannelName>, exists: bool) {
        self.effects.push_back(Effect::Name {
            topic: topic.clone(),
            channel: channel.cloned(),
            exists,
        });
    }

    /// Whether there is such a channel.
    #[must_use]
    pub fn has_channel(&self, topic: TopicKey, name: &str) -> bool {
        self.find_channel(topic, name).is_some()
    }

    /// `false` when there is no such channel. Its consumers are disconnected; an ephemeral topic
    /// goes with its last channel.
    pub fn delete_channel(&mut self, topic: TopicKey, name: &str) -> bool {
        let Some(channel) = self.find_channel(topic, name) else {
            return false;
        };
        self.pump(topic);
        self.remove_channel(channel);
        true
    }

    /// Takes a channel out of its topic, and the topic with it if it is ephemeral and was its last.
    pub(super) fn remove_channel(&mut self, key: ChannelKey) {
        let topic_key = self.channels[key].topic;
        let topic = &mut self.topics[topic_key];
        let channel = &self.channels[key];
        topic.channels.retain(|&other| other != key);
        let line = format!("TOPIC({}): deleting channel {}", topic.name, channel.name);
        self.effects.push_back(Effect::Log(line));
        if channel.journal.enabled {
            topic.agenda.changed = true;
            let number = channel.journal.number;
            let pages = channel.journal.written.iter();
            let page_key = |&page| CheckpointKey {
                kind: KIND_PAGE,
                channel: number,
                page,
            };
            topic.agenda.removed.extend(pages.map(page_key));
            let entry = CheckpointKey {
                kind: KIND_CHANNEL,
                channel: number,
                page: 0,
            };
            topic.agenda.removed.push(entry);
            self.effects.push_back(Effect::CatalogueChanged);
        }
        let is_last = topic.ephemeral && topic.channels.is_empty();
        let topic_name = topic.name.clone();
        let name = self.drop_channel(key);
        self.tell_name(&topic_name, Some(&name), false);
        if is_last {
            self.remove_topic(topic_key);
        } else {
            self.sweep_kept(topic_key);
            self.mark_topic(topic_key);
        }
    }

    /// Ends a channel that its topic has let go of; its name.
    fn drop_channel(&mut self, key: ChannelKey) -> ChannelName {
        let mut channel = self
            .channels
            .remove(key)
            .expect("a topic lists live channels");
        self.effects
            .push_back(Effect::Log(format!("CHANNEL({}): deleting", channel.name)));
        channel.empty(&mut self.timers);
        for member in &channel.crowd.members {
            let consumer = self
                .consumers
                .remove(*member)
                .expect("a channel lists live consumers");
            self.effects.push_back(Effect::Disconnect {
                conn: consumer.conn,
            });
        }
        channel.name
    }

    /// `false` when there is no such channel. Drops everything that it owes; its consumers stay,
    /// with nothing in flight.
    pub fn empty_channel(&mut self, topic: TopicKey, name: &str) -> bool {
        let Some(key) = self.find_channel(topic, name) else {
            return false;
        };
        self.pump(topic);
        let channel = &mut self.channels[key];
        channel.empty(&mut self.timers);
        for at in 0..self.channels[key].crowd.members.len() {
            let member = self.channels[key].crowd.members[at];
            self.consumers[member].stats.in_flight_count = 0;
            self.wake(member);
        }
        self.sweep_kept(topic);
        self.mark_channel(key);
        true
    }

    /// `false` when there is no such channel. Stops or starts deliveries.
    pub fn pause_channel(&mut self, topic: TopicKey, name: &str, paused: bool) -> bool {
        let Some(key) = self.find_channel(topic, name) else {
            return false;
        };
        self.pump(topic);
        let channel = &mut self.channels[key];
        if channel.paused != paused {
            channel.paused = paused;
            if channel.journal.enabled {
                self.effects.push_back(Effect::CatalogueChanged);
            }
            self.mark_channel(key);
        }
        true
    }

    /// Hands everything revealed so far to the channels, unless the topic is paused or has none.
    pub(super) fn pump(&mut self, key: TopicKey) {
        self.pump_to(key, self.topics[key].revealed());
    }

    fn pump_to(&mut self, key: TopicKey, end: u64) {
        let topic = &mut self.topics[key];
        if !topic.is_pumping() || topic.backlog.pump >= end {
            return;
        }
        topic.agenda.changed = true;
        let range = topic.backlog.pump..end;
        let mut backlog = std::mem::take(&mut topic.backlog);
        let now_ms = self.now.as_millis();
        for at in 0..self.topics[key].channels.len() {
            let channel = self.topics[key].channels[at];
            let room = self.room(channel);
            let hand_over = HandOver {
                range: range.clone(),
                deferred: &backlog.deferred,
                now_ms,
                room,
            };
            self.channels[channel].hand_over(channel, &hand_over, &mut self.timers);
            for &(start, end) in &backlog.damaged {
                self.channels[channel].lose(start, end, &mut self.timers);
            }
            self.mark_channel(channel);
        }
        backlog.clear(end);
        self.topics[key].backlog = backlog;
    }

    /// How many more messages a channel may take: an ephemeral one holds `mem_queue_size`, and what
    /// its consumers can be sent at once.
    fn room(&self, key: ChannelKey) -> u64 {
        let channel = &self.channels[key];
        if !channel.bounded {
            return u64::MAX;
        }
        let members = channel.crowd.members.iter().filter(|_| !channel.paused);
        let spare: u64 = members.map(|&member| self.consumers[member].spare()).sum();
        self.limits
            .mem_queue_size
            .saturating_add(spare)
            .saturating_sub(channel.depth())
    }
}
