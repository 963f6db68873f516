//! Reading: everything is listed in order, from behind the last entry that was seen, so that a long
//! answer can be made in slices.

use std::collections::btree_map;
use std::ops::Bound;
use std::sync::{Arc, LazyLock};

use nsq_proto::{ChannelName, TopicName};

use super::{Node, Now, Producer, ProducerId, Registry, Topic};

/// Which producers are shown, at one moment. Durations are nanoseconds, negative if given so.
#[derive(Debug, Clone, Copy)]
pub struct Visibility {
    /// The moment.
    pub now: Now,
    /// A producer that was last heard of longer ago is hidden.
    pub inactive_timeout: i64,
    /// A tombstone that is this old no longer hides.
    pub tombstone_lifetime: i64,
}

impl Visibility {
    /// Whether its connection stands and it was heard of lately.
    #[must_use]
    pub fn is_active(&self, producer: &Producer) -> bool {
        let silence = self.now.since(producer.last_update());
        !producer.is_retired() && silence <= self.inactive_timeout
    }

    /// Whether a tombstone set then still hides.
    #[must_use]
    pub fn is_tombstoned(&self, set: Option<Now>) -> bool {
        set.is_some_and(|set| self.now.since(set) < self.tombstone_lifetime)
    }
}

/// Everything behind an entry, or everything.
pub(super) fn after<K: ?Sized>(last: Option<&K>) -> (Bound<&K>, Bound<&K>) {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    (from, Bound::Unbounded)
}

/// A legal channel name that no other one comes before.
pub(super) fn lowest_channel() -> ChannelName {
    static LOWEST: LazyLock<ChannelName> =
        LazyLock::new(|| ChannelName::parse(b"-").expect("a legal name"));
    LOWEST.clone()
}

impl Registry {
    /// A topic.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    /// The topics behind a name.
    pub fn topics_after(&self, last: Option<&TopicName>) -> btree_map::Range<'_, TopicName, Topic> {
        self.topics.range::<TopicName, _>(after(last))
    }

    /// The nodes behind a producer.
    pub fn nodes_after(
        &self,
        last: Option<ProducerId>,
    ) -> impl Iterator<Item = (ProducerId, &Node)> {
        let nodes = self.nodes.range(after(last.as_ref()));
        nodes.map(|(id, node)| (*id, node))
    }

    /// A producer that is known.
    #[must_use]
    pub fn producer(&self, id: ProducerId) -> Option<Arc<Producer>> {
        self.nodes.get(&id).map(|node| Arc::clone(&node.producer))
    }

    /// When the producer's tombstone for the topic was set.
    #[must_use]
    pub fn tombstone_of(&self, node: &Node, topic: &TopicName) -> Option<Now> {
        if node.tombstones == 0 {
            return None;
        }
        self.topics.get(topic)?.tombstone_of(node.producer.id())
    }

    /// Topics and channels altogether.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// Checks what the module documentation promises.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn check_invariants(&self) {
        let channels = |topic: &Topic| topic.channels.len();
        let keys = self.topics.len() + self.topics.values().map(channels).sum::<usize>();
        assert_eq!(self.keys, keys, "keys are counted");
        for (name, topic) in &self.topics {
            for id in topic.producers.keys() {
                assert!(
                    self.nodes[id].topics.contains(name),
                    "{name} is known to its node"
                );
            }
            for (channel, producers) in &topic.channels {
                for id in producers {
                    let key = (name.clone(), channel.clone());
                    assert!(
                        self.nodes[id].channels.contains(&key),
                        "{key:?} is known to its node"
                    );
                    assert!(
                        topic.producers.contains_key(id),
                        "{key:?} implies its topic"
                    );
                }
            }
            for id in topic.tombstones.keys() {
                assert!(
                    topic.producers.contains_key(id),
                    "a tombstone is of a registration"
                );
            }
        }
        for (id, node) in &self.nodes {
            for topic in &node.topics {
                assert!(
                    self.topics[topic].producers.contains_key(id),
                    "{topic} knows its node"
                );
            }
            for (topic, channel) in &node.channels {
                let producers = &self.topics[topic].channels[channel];
                assert!(producers.contains(id), "{topic} {channel} knows its node");
            }
            let is_set = |topic: &&TopicName| self.topics[*topic].tombstones.contains_key(id);
            let tombstones = node.topics.iter().filter(is_set).count();
            assert_eq!(node.tombstones, tombstones, "tombstones are counted");
        }
    }
}

impl Topic {
    /// The channels behind a name.
    pub fn channels_after(&self, last: Option<&ChannelName>) -> impl Iterator<Item = &ChannelName> {
        self.channels
            .range::<ChannelName, _>(after(last))
            .map(|(name, _)| name)
    }

    /// The producers behind one, all of them.
    pub fn producers_after(
        &self,
        last: Option<ProducerId>,
    ) -> impl Iterator<Item = &Arc<Producer>> {
        let producers = self.producers.range(after(last.as_ref()));
        producers.map(|(_, producer)| producer)
    }

    /// The producers of a channel behind one, all of them.
    pub fn producers_of_channel_after(
        &self,
        channel: &ChannelName,
        last: Option<ProducerId>,
    ) -> impl Iterator<Item = &Arc<Producer>> {
        let ids = self.channels.get(channel).into_iter();
        let ids = ids.flat_map(move |ids| {
            let from = last.map_or(Bound::Unbounded, Bound::Excluded);
            ids.range((from, Bound::Unbounded))
        });
        ids.filter_map(|id| self.producers.get(id))
    }

    /// When the producer's tombstone was set.
    #[must_use]
    pub fn tombstone_of(&self, id: ProducerId) -> Option<Now> {
        self.tombstones.get(&id).copied()
    }
}

impl Node {
    /// Who it is.
    #[must_use]
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Its topics behind a name.
    pub fn topics_after(&self, last: Option<&TopicName>) -> impl Iterator<Item = &TopicName> {
        self.topics.range::<TopicName, _>(after(last))
    }
}
