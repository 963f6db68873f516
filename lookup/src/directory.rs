//! The registry behind its lock.
//!
//! Everybody holds the lock for one slice at most: a bounded number of entries, some tens of
//! microseconds. A long answer is read, and a large change made, slice by slice with the lock free
//! in between; so an answer of many megabytes never keeps a registration waiting, and a node with
//! thousands of topics that goes away never keeps a lookup waiting. An answer is therefore no
//! snapshot: each of its entries was true when its slice was made.

use std::sync::Arc;

use nsq_proto::{ChannelName, TopicName};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::task::yield_now;

use crate::registry::{
    Added, Announcement, Limits, Now, Producer, ProducerId, Progress, Refusal, Registration,
    Registry, Removed, Tombstone,
};

/// Entries that one slice changes.
const CHANGES_MAX: usize = 128;
/// Producers that one slice compares with an address.
const COMPARISONS_MAX: usize = 1024;

/// What peers can make us hold. A registration costs about 150 bytes.
pub(crate) const LIMITS: Limits = Limits {
    registrations_max: 65_536,
    keys_max: 4_000_000,
};

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Directory {
    registry: RwLock<Registry>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self {
            registry: RwLock::new(Registry::new(LIMITS)),
        }
    }

    /// Reads one slice.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        let registry = self.registry.read();
        let result = read(&registry);
        // Handed over: who comes back for the next slice at once would starve those who wait.
        RwLockReadGuard::unlock_fair(registry);
        result
    }

    fn write<T>(&self, write: impl FnOnce(&mut Registry) -> T) -> T {
        let mut registry = self.registry.write();
        let result = write(&mut registry);
        RwLockWriteGuard::unlock_fair(registry);
        result
    }

    pub(crate) fn identify(&self, announcement: Announcement, now: Now) -> Arc<Producer> {
        self.write(|registry| registry.identify(announcement, now))
    }

    pub(crate) fn register(
        &self,
        id: ProducerId,
        topic: &TopicName,
        channel: Option<&ChannelName>,
    ) -> Result<Added, Refusal> {
        self.write(|registry| registry.register(id, topic, channel))
    }

    pub(crate) fn create(
        &self,
        topic: &TopicName,
        channel: Option<&ChannelName>,
    ) -> Result<(), Refusal> {
        self.write(|registry| registry.create(topic, channel))
    }

    pub(crate) fn unregister_channel(
        &self,
        id: ProducerId,
        topic: &TopicName,
        channel: &ChannelName,
    ) -> bool {
        self.write(|registry| registry.unregister_channel(id, topic, channel))
    }

    /// Takes a producer out of a topic and its channels; tells `each` of what was really removed.
    pub(crate) async fn unregister_topic(
        &self,
        id: ProducerId,
        topic: &TopicName,
        each: impl FnMut(Registration),
    ) {
        let slice = |registry: &mut Registry, removed: &mut Removed| {
            registry.unregister_topic(id, topic, CHANGES_MAX, removed)
        };
        self.remove(slice, each).await;
    }

    /// Forgets a producer; tells `each` of its registrations.
    pub(crate) async fn leave(&self, id: ProducerId, each: impl FnMut(Registration)) {
        let slice = |registry: &mut Registry, removed: &mut Removed| {
            registry.leave(id, CHANGES_MAX, removed)
        };
        self.remove(slice, each).await;
    }

    async fn remove(
        &self,
        slice: impl Fn(&mut Registry, &mut Removed) -> Progress,
        mut each: impl FnMut(Registration),
    ) {
        loop {
            let mut removed = Removed::default();
            let progress = self.write(|registry| slice(registry, &mut removed));
            removed.registrations.drain(..).for_each(&mut each);
            if progress == Progress::Done {
                return;
            }
            yield_now().await;
        }
    }

    /// Deletes a channel; whether it was known.
    pub(crate) async fn delete_channel(&self, topic: &TopicName, channel: &ChannelName) -> bool {
        let mut was_known = false;
        loop {
            let slice = self.write(|registry| registry.delete_channel(topic, channel, CHANGES_MAX));
            was_known |= slice.is_some();
            if slice != Some(Progress::More) {
                return was_known;
            }
            yield_now().await;
        }
    }

    /// Deletes a topic with its channels, and tells `each` of their names; whether it was known.
    pub(crate) async fn delete_topic(
        &self,
        topic: &TopicName,
        mut each: impl FnMut(ChannelName),
    ) -> bool {
        let mut was_known = false;
        loop {
            let mut channels = Vec::new();
            let slice =
                self.write(|registry| registry.delete_topic(topic, CHANGES_MAX, &mut channels));
            channels.drain(..).for_each(&mut each);
            was_known |= slice.is_some();
            if slice != Some(Progress::More) {
                return was_known;
            }
            yield_now().await;
        }
    }

    /// Hides the producers at a node for a topic.
    pub(crate) async fn tombstone(&self, topic: &str, tombstone: &Tombstone<'_>) {
        let mut cursor = None;
        loop {
            let progress = self.write(|registry| {
                registry.tombstone(topic, tombstone, &mut cursor, COMPARISONS_MAX)
            });
            if progress == Progress::Done {
                return;
            }
            yield_now().await;
        }
    }
}
