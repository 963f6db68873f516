//! `/debug`: an object of lists, one per key that has a producer.

use std::sync::Arc;

use nsq_proto::{ChannelName, TopicName};
use serde::Serialize;

use super::{Commas, Listing, Slice};
use crate::json;
use crate::registry::{Now, Producer, ProducerId, Progress, Registry};

/// What Go shows for a time that was never set: its zero time in Unix nanoseconds, overflowed.
const NEVER: i64 = -6_795_364_578_871_345_152;

/// Its JSON is made anew each time, unlike that of other lists.
const ENTRIES_PER_ENTRY: usize = 8;

/// A key of the registry, in order: the clients, then each topic and its channels.
#[derive(Debug, Clone, Default)]
enum Key {
    #[default]
    Clients,
    Topic(TopicName),
    Channel(TopicName, ChannelName),
}

impl Key {
    fn text(&self) -> String {
        match self {
            Self::Clients => "client::".to_owned(),
            Self::Topic(topic) => format!("topic:{topic}:"),
            Self::Channel(topic, channel) => format!("channel:{topic}:{channel}"),
        }
    }

    fn next(&self, registry: &Registry) -> Option<Self> {
        let (topic, channel) = match self {
            Self::Clients => (None, None),
            Self::Topic(topic) => (Some(topic), None),
            Self::Channel(topic, channel) => (Some(topic), Some(channel)),
        };
        if let Some(topic) = topic
            && let Some(entry) = registry.topic(topic.as_str())
            && let Some(channel) = entry.channels_after(channel).next()
        {
            return Some(Self::Channel(topic.clone(), channel.clone()));
        }
        let (name, _) = registry.topics_after(topic).next()?;
        Some(Self::Topic(name.clone()))
    }

    /// The first producer behind one, and when its tombstone was set.
    fn producer_after(
        &self,
        registry: &Registry,
        last: Option<ProducerId>,
    ) -> Option<(Arc<Producer>, Option<Now>)> {
        match self {
            Self::Clients => {
                let (id, _) = registry.nodes_after(last).next()?;
                Some((registry.producer(id)?, None))
            }
            Self::Topic(topic) => {
                let topic = registry.topic(topic.as_str())?;
                let producer = topic.producers_after(last).next()?;
                Some((Arc::clone(producer), topic.tombstone_of(producer.id())))
            }
            Self::Channel(topic, channel) => {
                let topic = registry.topic(topic.as_str())?;
                let producer = topic.producers_of_channel_after(channel, last).next()?;
                Some((Arc::clone(producer), None))
            }
        }
    }
}

/// One registration; keys in alphabetical order.
#[derive(Serialize)]
struct Entry<'a> {
    broadcast_address: &'a str,
    hostname: &'a str,
    http_port: i64,
    id: &'a str,
    last_update: i64,
    tcp_port: i64,
    tombstoned: bool,
    tombstoned_at: i64,
    topology_region: &'a str,
    topology_zone: &'a str,
    version: &'a str,
}

/// Where the listing is.
#[derive(Default)]
pub(super) struct Debug {
    key: Key,
    last: Option<ProducerId>,
    keys: Commas,
    entries: Commas,
}

impl Debug {
    fn write_entry(&mut self, producer: &Producer, tombstone: Option<Now>, slice: &mut Slice) {
        if !self.entries.is_open {
            self.keys.before(slice, "{");
            slice.push(&format!("\"{}\":", self.key.text()));
        }
        self.entries.before(slice, "[");
        let announcement = producer.announcement();
        slice.push(&json::to_string(&Entry {
            broadcast_address: &announcement.broadcast_address,
            hostname: &announcement.hostname,
            http_port: announcement.http_port,
            id: &announcement.remote_address,
            last_update: producer.last_update().0,
            tcp_port: announcement.tcp_port,
            tombstoned: tombstone.is_some(),
            tombstoned_at: tombstone.map_or(NEVER, |set| set.0),
            topology_region: &announcement.topology_region,
            topology_zone: &announcement.topology_zone,
            version: &announcement.version,
        }));
    }
}

impl Listing for Debug {
    fn write(&mut self, registry: &Registry, slice: &mut Slice) -> Progress {
        while slice.admit_as(ENTRIES_PER_ENTRY) {
            if let Some((producer, tombstone)) = self.key.producer_after(registry, self.last) {
                self.last = Some(producer.id());
                if !producer.is_retired() {
                    self.write_entry(&producer, tombstone, slice);
                }
                continue;
            }
            if self.entries.is_open {
                slice.push("]");
            }
            let Some(key) = self.key.next(registry) else {
                self.keys.end(slice, "{", "}");
                return Progress::Done;
            };
            (self.key, self.last, self.entries) = (key, None, Commas::default());
        }
        Progress::More
    }
}
