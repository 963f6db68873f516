//! The registry: which producer announced which topics and channels, and until when each is hidden.
//!
//! A plain data structure that takes `now`; the process owns one behind a lock (`directory`).
//!
//! - A producer is in a channel only if it is in the topic of that channel.
//! - Every registration is found from the topic and from the node; both sides change together.
//! - Topics and channels outlive their producers, ephemeral ones do not.
//! - What may touch many entries works in slices: it stops after a budget and says whether there is
//!   more, so that nobody waits for longer than a slice. A producer that leaves is hidden before its
//!   first slice.
//!
//! Not here: names of flags, JSON of answers, log lines, locks.

mod producer;
mod reads;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nsq_proto::{ChannelName, TopicName};

pub use producer::{Announcement, NodeAddress, Now, Producer, ProducerId};
pub use reads::Visibility;

/// Bounds of what peers can make the registry hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Registrations (topics and channels) of one producer.
    pub registrations_max: usize,
    /// Topics and channels altogether.
    pub keys_max: usize,
}

/// Why nothing was registered or created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The producer has as many registrations as it may have.
    TooManyRegistrations,
    /// There are as many topics and channels as there may be.
    TooManyKeys,
}

/// Whether a sliced operation is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The budget was used up: call again.
    More,
    /// Nothing is left to do.
    Done,
}

/// A topic, or a channel of it, in which a producer was or is registered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// The topic.
    pub topic: TopicName,
    /// `None`: the topic itself.
    pub channel: Option<ChannelName>,
}

/// What a REGISTER really added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after what was added")]
pub struct Added {
    pub topic: bool,
    pub channel: bool,
}

/// What a slice removed.
#[derive(Debug, Default)]
pub struct Removed {
    /// Registrations of the producer, in order.
    pub registrations: Vec<Registration>,
    /// Ephemeral topics that went with their last producer: kept only to be dropped by the caller,
    /// who holds no lock by then.
    pub dropped: Vec<Topic>,
}

/// Whom to hide, and from when on.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "described by the type")]
pub struct Tombstone<'a> {
    pub node: NodeAddress<'a>,
    pub set: Now,
}

/// A topic: who has it, who is hidden for it, and its channels.
#[derive(Debug, Default)]
pub struct Topic {
    producers: BTreeMap<ProducerId, Arc<Producer>>,
    /// When each was set; only of producers that are registered.
    tombstones: BTreeMap<ProducerId, Now>,
    channels: BTreeMap<ChannelName, BTreeSet<ProducerId>>,
}

/// One identified connection, and what it has registered.
#[derive(Debug)]
pub struct Node {
    producer: Arc<Producer>,
    topics: BTreeSet<TopicName>,
    channels: BTreeSet<(TopicName, ChannelName)>,
    /// Topics for which a tombstone is set, expired ones included.
    tombstones: usize,
}

impl Node {
    fn registrations(&self) -> usize {
        self.topics.len() + self.channels.len()
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Registry {
    nodes: BTreeMap<ProducerId, Node>,
    topics: BTreeMap<TopicName, Topic>,
    /// Topics and channels in `topics`.
    keys: usize,
    next_id: ProducerId,
    limits: Limits,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            nodes: BTreeMap::new(),
            topics: BTreeMap::new(),
            keys: 0,
            next_id: ProducerId::FIRST,
            limits,
        }
    }

    /// IDENTIFY: a new producer, without registrations. It is known until [`Self::leave`] is done.
    pub fn identify(&mut self, announcement: Announcement, now: Now) -> Arc<Producer> {
        let id = self.next_id;
        self.next_id = id.next();
        let producer = Arc::new(Producer::new(id, announcement, now));
        let node = Node {
            producer: Arc::clone(&producer),
            topics: BTreeSet::new(),
            channels: BTreeSet::new(),
            tombstones: 0,
        };
        self.nodes.insert(id, node);
        producer
    }

    /// REGISTER: adds the producer to the topic, and to the channel if there is one. What is
    /// registered already stays as it is, with its tombstone.
    ///
    /// # Errors
    /// [`Refusal`]; nothing was added then.
    ///
    /// # Panics
    /// When the producer is not known: it identifies first and leaves last.
    pub fn register(
        &mut self,
        id: ProducerId,
        topic: &TopicName,
        channel: Option<&ChannelName>,
    ) -> Result<Added, Refusal> {
        let node = self
            .nodes
            .get(&id)
            .expect("a producer registers while it is known");
        let is_new_topic = !node.topics.contains(topic);
        let key = channel.map(|channel| (topic.clone(), channel.clone()));
        let is_new_channel = key.as_ref().is_some_and(|key| !node.channels.contains(key));
        let more = usize::from(is_new_topic) + usize::from(is_new_channel);
        if more > 0 && node.registrations() + more > self.limits.registrations_max {
            return Err(Refusal::TooManyRegistrations);
        }
        if more > 0 {
            self.create(topic, channel)?;
            self.add(id, topic, channel);
        }
        Ok(Added {
            topic: is_new_topic,
            channel: is_new_channel,
        })
    }

    /// Adds a known producer to keys that exist.
    fn add(&mut self, id: ProducerId, topic: &TopicName, channel: Option<&ChannelName>) {
        let node = self.nodes.get_mut(&id).expect("checked by register");
        let (topic, entry) = shared_mut(&mut self.topics, topic).expect("created by register");
        entry.producers.insert(id, Arc::clone(&node.producer));
        if let Some(channel) = channel {
            let (channel, producers) =
                shared_mut(&mut entry.channels, channel).expect("created by register");
            producers.insert(id);
            node.channels.insert((topic.clone(), channel));
        }
        node.topics.insert(topic);
    }

    /// Makes a topic and a channel of it known, if they are not.
    ///
    /// # Errors
    /// [`Refusal::TooManyKeys`]; nothing was created then.
    pub fn create(
        &mut self,
        topic: &TopicName,
        channel: Option<&ChannelName>,
    ) -> Result<(), Refusal> {
        let known = self.topics.get(topic);
        let is_new_channel = channel.is_some_and(|channel| {
            !known.is_some_and(|topic| topic.channels.contains_key(channel))
        });
        let more = usize::from(known.is_none()) + usize::from(is_new_channel);
        if more == 0 {
            return Ok(());
        }
        if self.keys + more > self.limits.keys_max {
            return Err(Refusal::TooManyKeys);
        }
        self.keys += more;
        let entry = self.topics.entry(topic.clone()).or_default();
        if let Some(channel) = channel {
            entry.channels.entry(channel.clone()).or_default();
        }
        Ok(())
    }

    /// UNREGISTER of a channel; whether the producer was in it. An ephemeral channel without
    /// producers goes.
    pub fn unregister_channel(
        &mut self,
        id: ProducerId,
        topic: &TopicName,
        channel: &ChannelName,
    ) -> bool {
        let was_in = self.remove_from_channel(id, topic, channel);
        self.drop_idle_channel(topic, channel);
        was_in
    }

    /// UNREGISTER of a topic: takes the producer out of its channels, then out of the topic.
    pub fn unregister_topic(
        &mut self,
        id: ProducerId,
        topic: &TopicName,
        budget: usize,
        removed: &mut Removed,
    ) -> Progress {
        for _ in 0..budget {
            let Some(channel) = self.first_channel_of(id, topic) else {
                self.unregister_bare_topic(id, topic, removed);
                return Progress::Done;
            };
            self.unregister_channel(id, topic, &channel);
            removed.registrations.push(Registration {
                topic: topic.clone(),
                channel: Some(channel),
            });
        }
        Progress::More
    }

    /// The end of a connection: hides the producer at once, then takes it out of everything.
    /// It is no longer known when this is done.
    pub fn leave(&mut self, id: ProducerId, budget: usize, removed: &mut Removed) -> Progress {
        let Some(node) = self.nodes.get(&id) else {
            return Progress::Done;
        };
        node.producer.retire();
        for _ in 0..budget {
            let Some(node) = self.nodes.get(&id) else {
                return Progress::Done;
            };
            if let Some((topic, channel)) = node.channels.first().cloned() {
                self.unregister_channel(id, &topic, &channel);
                removed.registrations.push(Registration {
                    topic,
                    channel: Some(channel),
                });
            } else if let Some(topic) = node.topics.first().cloned() {
                self.unregister_bare_topic(id, &topic, removed);
            } else {
                self.nodes.remove(&id);
                return Progress::Done;
            }
        }
        Progress::More
    }

    /// Deletes a channel with its registrations; `None` when it is not known.
    pub fn delete_channel(
        &mut self,
        topic: &TopicName,
        channel: &ChannelName,
        budget: usize,
    ) -> Option<Progress> {
        for _ in 0..budget {
            let producers = self.topics.get(topic)?.channels.get(channel)?;
            let Some(id) = producers.first().copied() else {
                self.remove_channel_key(topic, channel);
                return Some(Progress::Done);
            };
            self.remove_from_channel(id, topic, channel);
        }
        Some(Progress::More)
    }

    /// Deletes a topic with its channels and all registrations. `channels` gets the names of those
    /// that are gone; `None` when the topic is not known (or has been gone since the last slice).
    pub fn delete_topic(
        &mut self,
        topic: &TopicName,
        budget: usize,
        channels: &mut Vec<ChannelName>,
    ) -> Option<Progress> {
        for _ in 0..budget {
            let entry = self.topics.get(topic)?;
            if let Some((channel, producers)) = entry.channels.first_key_value() {
                let (channel, first) = (channel.clone(), producers.first().copied());
                match first {
                    Some(id) => drop(self.remove_from_channel(id, topic, &channel)),
                    None => {
                        self.remove_channel_key(topic, &channel);
                        channels.push(channel);
                    }
                }
            } else if let Some(id) = entry.producers.keys().next().copied() {
                self.remove_from_topic(id, topic);
            } else {
                self.topics.remove(topic);
                self.keys -= 1;
                return Some(Progress::Done);
            }
        }
        Some(Progress::More)
    }

    /// Hides the producers at a node for this topic. Looks at `budget` producers
    /// after `cursor` and moves it.
    pub fn tombstone(
        &mut self,
        topic: &str,
        tombstone: &Tombstone<'_>,
        cursor: &mut Option<ProducerId>,
        budget: usize,
    ) -> Progress {
        let Some(entry) = self.topics.get_mut(topic) else {
            return Progress::Done;
        };
        let mut producers = entry.producers.range(reads::after(cursor.as_ref()));
        for _ in 0..budget {
            let Some((id, producer)) = producers.next() else {
                return Progress::Done;
            };
            *cursor = Some(*id);
            if producer.is_at(&tombstone.node)
                && entry.tombstones.insert(*id, tombstone.set).is_none()
            {
                let node = self.nodes.get_mut(id).expect("registrations have a node");
                node.tombstones += 1;
            }
        }
        Progress::More
    }

    fn first_channel_of(&self, id: ProducerId, topic: &TopicName) -> Option<ChannelName> {
        let node = self.nodes.get(&id)?;
        let first = node
            .channels
            .range((topic.clone(), reads::lowest_channel())..)
            .next();
        first
            .filter(|(owner, _)| owner == topic)
            .map(|(_, channel)| channel.clone())
    }

    /// The topic alone: the producer is in no channel of it.
    fn unregister_bare_topic(&mut self, id: ProducerId, topic: &TopicName, removed: &mut Removed) {
        if self.remove_from_topic(id, topic) {
            removed.registrations.push(Registration {
                topic: topic.clone(),
                channel: None,
            });
        }
        removed.dropped.extend(self.drop_idle_topic(topic));
    }

    fn remove_from_topic(&mut self, id: ProducerId, topic: &TopicName) -> bool {
        let (Some(node), Some(entry)) = (self.nodes.get_mut(&id), self.topics.get_mut(topic))
        else {
            return false;
        };
        if entry.tombstones.remove(&id).is_some() {
            node.tombstones -= 1;
        }
        node.topics.remove(topic);
        entry.producers.remove(&id).is_some()
    }

    fn remove_from_channel(
        &mut self,
        id: ProducerId,
        topic: &TopicName,
        channel: &ChannelName,
    ) -> bool {
        let producers = self
            .topics
            .get_mut(topic)
            .and_then(|topic| topic.channels.get_mut(channel));
        let was_in = producers.is_some_and(|producers| producers.remove(&id));
        if was_in && let Some(node) = self.nodes.get_mut(&id) {
            node.channels.remove(&(topic.clone(), channel.clone()));
        }
        was_in
    }

    fn remove_channel_key(&mut self, topic: &TopicName, channel: &ChannelName) {
        let entry = self.topics.get_mut(topic);
        if entry.is_some_and(|entry| entry.channels.remove(channel).is_some()) {
            self.keys -= 1;
        }
    }

    fn drop_idle_channel(&mut self, topic: &TopicName, channel: &ChannelName) {
        let producers = self
            .topics
            .get(topic)
            .and_then(|topic| topic.channels.get(channel));
        if channel.is_ephemeral() && producers.is_some_and(BTreeSet::is_empty) {
            self.remove_channel_key(topic, channel);
        }
    }

    /// An ephemeral topic without producers goes with its channels, which have none either.
    fn drop_idle_topic(&mut self, topic: &TopicName) -> Option<Topic> {
        let is_idle = self
            .topics
            .get(topic)
            .is_some_and(|entry| entry.producers.is_empty());
        if !topic.is_ephemeral() || !is_idle {
            return None;
        }
        let dropped = self.topics.remove(topic)?;
        self.keys -= 1 + dropped.channels.len();
        Some(dropped)
    }
}

/// The entry of a name, and the name as the map has it, so that all who keep it share its text.
fn shared_mut<'m, K, V>(map: &'m mut BTreeMap<K, V>, name: &K) -> Option<(K, &'m mut V)>
where
    K: Ord + Clone,
{
    let key = map.get_key_value(name)?.0.clone();
    let value = map.get_mut(&key)?;
    Some((key, value))
}
