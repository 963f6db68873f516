//! Changes of topics and channels, and who waits until they are on disk.
//!
//! A change is answered when `nsqd.dat` or its journal holds it and, where it moved positions (a new channel's
//! start, a pause, an emptying), when the topic's checkpoint does.

use nsq_core::TopicKey;
use nsq_proto::{ChannelName, ProtoError, TopicName};

use super::logs::TopicState;
use super::message::{ShardId, ShardMessage};
use super::publish::connection_mut;
use super::{Shard, SocketKey};
use crate::catalogue::{TopicChange, TopicEntry};
use crate::config::SyncMode;
use crate::conn::{Hold, Ticket, response_frame};
use crate::control::{CatalogueChange, ControlMessage, NewTopic};
use crate::gateway::{AdminError, AdminRequest};

/// Version of a change that the catalogue could not take: no version covers it.
const UNSAVED: u64 = u64::MAX;

/// Whom to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChangeDone {
    /// The `OK` of a SUB.
    Subscription(SocketKey, Ticket),
    /// An HTTP request of a shard.
    Admin { origin: ShardId, request: u64 },
}

/// A change that somebody waits for.
#[derive(Debug)]
pub(super) struct Change {
    /// Catalogue version that covers it.
    version: u64,
    /// Topic and ticket of the checkpoint that covers it.
    checkpoint: Option<(TopicKey, u64)>,
    /// Deleted topic whose log is to be gone: until then a crash could bring it back under a new
    /// topic of that name.
    removal: Option<TopicKey>,
    done: ChangeDone,
}

impl Shard {
    /// Sends the topic's present state to the catalogue and returns the version that will hold it.
    pub(super) fn record_change(&mut self, name: &TopicName) -> u64 {
        if name.is_ephemeral() {
            return 0;
        }
        let topic = self.core.topic(name.as_str());
        let entry = topic.and_then(|key| self.core.topic_stats(key));
        let state = topic.and_then(|key| self.topics.get(key));
        let sync = state.and_then(|state| state.sync);
        let entry = entry.map(|stats| TopicEntry {
            paused: stats.paused,
            sync,
            channels: stats
                .channels
                .into_iter()
                .map(|c| (c.name, c.paused))
                .collect(),
        });
        self.catalogue_sent += 1;
        if let Some(state) = topic.and_then(|key| self.topics.get_mut(key)) {
            state.changed_when = self.catalogue_sent;
        }
        let change = CatalogueChange {
            shard: self.id,
            version: self.catalogue_sent,
            change: TopicChange {
                topic: name.clone(),
                entry,
            },
        };
        self.shared.control.send(ControlMessage::Catalogue(change));
        self.catalogue_sent
    }

    /// Where nsqlookupd may know channels of a new topic, its messages wait until they are there. An
    /// ephemeral topic lives by its consumers, and would outlive them with such channels (K29).
    fn ask_for_channels(&mut self, topic: TopicKey, name: &TopicName) {
        if name.is_ephemeral() || !self.shared.has_lookup_peers() {
            return;
        }
        self.core.hold_topic(topic);
        let new = NewTopic {
            shard: self.id,
            topic,
            name: name.clone(),
        };
        self.shared.control.send(ControlMessage::NewTopic(new));
    }

    /// Makes the channels that were found and lets the topic's messages go.
    pub(super) fn on_channels_found(&mut self, topic: TopicKey, channels: &[ChannelName]) {
        let Some(name) = self.core.topic_name(topic).cloned() else {
            return;
        };
        let mut is_change = false;
        for channel in channels {
            is_change |= self.core.create_channel(self.now, topic, channel);
        }
        self.core.release_topic(topic);
        if is_change {
            self.record_change(&name);
            self.schedule_checkpoint(topic);
        }
    }

    /// Sees to it that a new topic gets into the catalogue. Until then nobody is answered, and its
    /// messages stay with it.
    pub(super) fn announce_topic(&mut self, topic: TopicKey, name: &TopicName) {
        let version = self.record_change(name);
        self.topics[topic].saved_when = version;
        if version > self.catalogue_saved {
            self.new_topics.push_back(topic);
        }
        self.ask_for_channels(topic, name);
    }

    /// Records a change that also moved positions of a topic, and who is to be told.
    pub(super) fn change_topic(&mut self, topic: TopicKey, name: &TopicName, done: ChangeDone) {
        let version = self.record_change(name);
        let state = self.topics.get(topic);
        let durable = state.is_some_and(TopicState::is_synced_always);
        if state.is_some_and(TopicState::answers_checkpoints) {
            self.checkpoint(topic, durable);
        }
        self.await_version(topic, version, done);
    }

    /// A topic or one of its channels is not in the catalogue yet.
    pub(super) fn is_unsaved(&self, topic: TopicKey) -> bool {
        let state = self.topics.get(topic);
        state.is_some_and(|state| state.changed_when > self.catalogue_saved)
    }

    /// Waits with whoever made the topic's last change.
    pub(super) fn await_change(&mut self, topic: TopicKey, name: &TopicName, done: ChangeDone) {
        match self.topics.get(topic).map(|state| state.changed_when) {
            Some(UNSAVED) | None => self.change_topic(topic, name, done),
            Some(version) => self.await_version(topic, version, done),
        }
    }

    /// Waits for the catalogue and for what was checkpointed of the topic so far.
    fn await_version(&mut self, topic: TopicKey, version: u64, done: ChangeDone) {
        let state = self.topics.get(topic);
        let checkpoint = state
            .filter(|state| state.answers_checkpoints())
            .map(|state| (topic, state.checkpoint_sent));
        self.changes.push(Change {
            version,
            checkpoint,
            removal: None,
            done,
        });
        self.settle_changes();
    }

    /// `nsqd.dat` was written (or could not be).
    pub(super) fn on_catalogue_saved(&mut self, version: u64, result: &Result<(), String>) {
        if let Err(reason) = result {
            self.on_catalogue_failed(version, reason);
        }
        self.catalogue_saved = version;
        self.settle_changes();
        for topic in self.take_new_topics(version) {
            self.answer_waiters(topic);
            self.reveal(topic);
        }
    }

    /// Those of the new topics that a version of the catalogue covers.
    fn take_new_topics(&mut self, version: u64) -> Vec<TopicKey> {
        let mut covered = Vec::new();
        while let Some(topic) = self.new_topics.front() {
            let state = self.topics.get(*topic);
            if state.is_some_and(|state| state.saved_when > version) {
                break;
            }
            covered.extend(self.new_topics.pop_front());
        }
        covered
    }

    /// Nothing up to `version` is in the file: refuse what depends on it. New topics are tried again
    /// with the next housekeeping; until then publishes to them wait.
    #[cold]
    fn on_catalogue_failed(&mut self, version: u64, reason: &str) {
        let (failed, kept) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change: &Change| change.version <= version);
        self.changes = kept;
        for change in failed {
            self.tell(change.done, Err(reason));
        }
        let unsaved = (self.catalogue_saved + 1)..=version;
        for topic in self.take_new_topics(version) {
            let Some(state) = self.topics.get_mut(topic) else {
                continue;
            };
            state.saved_when = UNSAVED;
            self.unsaved_topics.push(topic);
            self.fail_waiters(topic, reason);
        }
        for state in self.topics.values_mut() {
            if unsaved.contains(&state.changed_when) {
                state.changed_when = UNSAVED;
            }
        }
    }

    /// Tries again to get topics into the catalogue that it could not take.
    pub(super) fn record_unsaved_topics(&mut self) {
        for topic in std::mem::take(&mut self.unsaved_topics) {
            let Some(name) = self.core.topic_name(topic).cloned() else {
                continue;
            };
            let version = self.record_change(&name);
            if let Some(state) = self.topics.get_mut(topic) {
                state.saved_when = version;
                self.new_topics.push_back(topic);
            }
        }
    }

    /// Tells everybody whose change is on disk.
    pub(super) fn settle_changes(&mut self) {
        let mut index = 0;
        while index < self.changes.len() {
            let change = &self.changes[index];
            let saved = change.version <= self.catalogue_saved;
            let checkpointed = change.checkpoint.is_none_or(|(topic, ticket)| {
                self.topics
                    .get(topic)
                    .is_none_or(|state| state.checkpoint_done >= ticket)
            });
            let removed = change
                .removal
                .is_none_or(|topic| !self.removals.contains(&topic));
            if saved && checkpointed && removed {
                let done = self.changes.remove(index).done;
                self.tell(done, Ok(()));
            } else {
                index += 1;
            }
        }
    }

    /// The topic's log failed or is gone: its checkpoints will not come.
    pub(super) fn fail_changes_of(&mut self, topic: TopicKey, reason: &str) {
        let (failed, kept) = std::mem::take(&mut self.changes)
            .into_iter()
            .partition(|change: &Change| change.checkpoint.is_some_and(|(key, _)| key == topic));
        self.changes = kept;
        for change in failed {
            self.tell(change.done, Err(reason));
        }
    }

    /// The connection is gone: nobody waits for its subscription.
    pub(super) fn forget_changes_of(&mut self, key: SocketKey) {
        self.changes
            .retain(|change| !matches!(change.done, ChangeDone::Subscription(of, _) if of == key));
    }

    fn tell(&mut self, done: ChangeDone, result: Result<(), &str>) {
        match (done, result) {
            (ChangeDone::Subscription(key, ticket), Ok(())) => {
                if let Some(connection) = connection_mut(&mut self.sockets, key) {
                    connection.replies.fulfil(ticket, response_frame(b"OK"));
                }
                self.release(key, Hold::Change);
            }
            (ChangeDone::Subscription(key, ticket), Err(reason)) => {
                if let Some(connection) = connection_mut(&mut self.sockets, key) {
                    connection.replies.withdraw(ticket);
                }
                self.fail_connection(key, &ProtoError::sub_failed(reason));
            }
            (ChangeDone::Admin { origin, request }, result) => {
                let result = result.map_err(|reason| AdminError::Internal(reason.to_owned()));
                self.send(origin, ShardMessage::AdminDone { request, result });
            }
        }
    }

    /// Carries out a request of the HTTP door of some shard.
    pub(super) fn on_admin(&mut self, origin: ShardId, request: u64, admin: &AdminRequest) {
        let done = ChangeDone::Admin { origin, request };
        let name = admin.topic();
        if let AdminRequest::CreateTopic { sync, .. } = admin {
            return self.on_create_topic(name, *sync, done);
        }
        let Some(topic) = self.core.topic(name.as_str()) else {
            let result = Err(AdminError::TopicNotFound);
            self.send(origin, ShardMessage::AdminDone { request, result });
            return;
        };
        if self.apply_admin(topic, admin) {
            self.apply_effects();
            if self.core.topic(name.as_str()).is_some() {
                self.change_topic(topic, name, done);
            } else {
                let version = self.record_change(name);
                self.changes.push(Change {
                    version,
                    checkpoint: None,
                    removal: Some(topic),
                    done,
                });
                self.settle_changes();
            }
        } else {
            let result = Err(AdminError::ChannelNotFound);
            self.send(origin, ShardMessage::AdminDone { request, result });
        }
    }

    fn on_create_topic(&mut self, name: &TopicName, sync: Option<SyncMode>, done: ChangeDone) {
        let topic = self.topic(name);
        if self.topics[topic].saved_when == UNSAVED {
            self.record_unsaved_topics();
        }
        let mut version = self.topics[topic].saved_when;
        if let Some(mode) = sync {
            let is_new = self.choose_sync(topic, mode);
            version = match self.topics[topic].changed_when {
                known if !is_new && known != UNSAVED => known,
                _ => self.record_change(name),
            };
        }
        self.changes.push(Change {
            version,
            checkpoint: None,
            removal: None,
            done,
        });
        self.settle_changes();
    }

    /// `false`: there is no such channel.
    fn apply_admin(&mut self, topic: TopicKey, admin: &AdminRequest) -> bool {
        match admin {
            AdminRequest::CreateTopic { .. } => true,
            AdminRequest::DeleteTopic { .. } => {
                self.core.delete_topic(topic);
                true
            }
            AdminRequest::EmptyTopic { .. } => {
                self.core.empty_topic(topic);
                true
            }
            AdminRequest::PauseTopic { paused, .. } => {
                self.core.pause_topic(topic, *paused);
                true
            }
            AdminRequest::CreateChannel { channel, .. } => {
                self.core.create_channel(self.now, topic, channel);
                true
            }
            AdminRequest::DeleteChannel { channel, .. } => {
                self.core.delete_channel(topic, channel.as_str())
            }
            AdminRequest::EmptyChannel { channel, .. } => {
                self.core.empty_channel(topic, channel.as_str())
            }
            AdminRequest::PauseChannel {
                channel, paused, ..
            } => self.core.pause_channel(topic, channel.as_str(), *paused),
        }
    }
}
