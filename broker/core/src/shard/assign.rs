//! Taking over messages that only some channels owe: the queues of another broker.
//!
//! Runs before the broker serves, on a topic that is held: what is published to it goes to no
//! channel by itself, but is assigned to those that owe it, one by one.

use super::Shard;
use crate::channel::window::{Slot, State};
use crate::{Sequence, TopicKey};

impl Shard {
    /// Whether every message of the topic so far was handed to its channels, so that more may be
    /// assigned.
    #[must_use]
    pub fn is_assignable(&self, topic: TopicKey) -> bool {
        let topic = self.topics.get(topic);
        topic.is_some_and(|topic| topic.backlog.pump == topic.head())
    }

    /// The channel owes these messages, which were published since [`Self::hold_topic`]; with each
    /// goes how often it was delivered. Each message is assigned to a channel once at most.
    pub fn assign(&mut self, topic: TopicKey, channel: &str, owed: &[(Sequence, u16)]) {
        let Some(key) = self.find_channel(topic, channel) else {
            return;
        };
        let channel = &mut self.channels[key];
        for &(Sequence(sequence), attempts) in owed {
            if attempts == 0 && sequence >= channel.pending.end() {
                channel.pending.push(sequence..sequence + 1);
                continue;
            }
            let slot = Slot {
                key: 0,
                attempts,
                state: State::Requeued,
            };
            channel.window.insert_outlier(sequence, slot);
            channel.requeued.push_back(sequence);
        }
        channel.counters.restored_count += owed.len() as u64;
        channel.journal.changed |= channel.journal.enabled;
    }

    /// Everything published so far is with those that owe it; what follows is for all channels.
    pub fn end_assignment(&mut self, topic: TopicKey) {
        if let Some(topic) = self.topics.get_mut(topic) {
            let head = topic.head();
            topic.backlog.clear(head);
            topic.agenda.changed = true;
        }
    }
}
