//! What there is to register: every topic and channel, and its changes as they come.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use nsq_proto::{ChannelName, TopicName};
use tokio::sync::broadcast;

/// Changes that a peer may be behind; one that is further behind begins again with everything.
const BEHIND_MAX: usize = 4096;

/// A name that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameChange {
    /// The topic, or whose channel.
    pub(crate) topic: TopicName,
    /// `None`: the topic itself.
    pub(crate) channel: Option<ChannelName>,
    /// Whether it is there.
    pub(crate) exists: bool,
}

impl NameChange {
    /// `topic` or `channel`: which of the two it is about.
    pub(super) fn kind(&self) -> &'static str {
        if self.channel.is_some() {
            "channel"
        } else {
            "topic"
        }
    }
}

/// The command that tells it to an nsqlookupd, without the end of the line.
impl fmt::Display for NameChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.exists {
            "REGISTER"
        } else {
            "UNREGISTER"
        };
        write!(f, "{verb} {}", self.topic)?;
        match &self.channel {
            Some(channel) => write!(f, " {channel}"),
            None => Ok(()),
        }
    }
}

/// Shared by the peers' tasks; a lock is never held across an await.
#[derive(Debug)]
pub(super) struct Registry {
    names: Mutex<BTreeMap<TopicName, BTreeSet<ChannelName>>>,
    changes: broadcast::Sender<NameChange>,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            names: Mutex::default(),
            changes: broadcast::Sender::new(BEHIND_MAX),
        }
    }

    /// Takes a change over and tells the peers, if it is one.
    pub(super) fn apply(&self, change: NameChange) {
        let mut names = self.lock();
        let is_new = match (&change.channel, change.exists) {
            (None, true) if !names.contains_key(&change.topic) => {
                names.insert(change.topic.clone(), BTreeSet::new());
                true
            }
            (None, true) => false,
            (None, false) => names.remove(&change.topic).is_some(),
            (Some(channel), true) => {
                let channels = names.entry(change.topic.clone()).or_default();
                channels.insert(channel.clone())
            }
            (Some(channel), false) => names
                .get_mut(&change.topic)
                .is_some_and(|channels| channels.remove(channel)),
        };
        if is_new {
            // Without peers there is nobody to tell.
            drop(self.changes.send(change));
        }
    }

    /// Everything there is, one registration per channel and per topic without any, and what
    /// changes from now on.
    pub(super) fn subscribe(&self) -> (Vec<NameChange>, broadcast::Receiver<NameChange>) {
        let names = self.lock();
        let registration = |topic: &TopicName, channel: Option<&ChannelName>| NameChange {
            topic: topic.clone(),
            channel: channel.cloned(),
            exists: true,
        };
        let mut all = Vec::new();
        for (topic, channels) in &*names {
            if channels.is_empty() {
                all.push(registration(topic, None));
            }
            all.extend(channels.iter().map(|name| registration(topic, Some(name))));
        }
        (all, self.changes.subscribe())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TopicName, BTreeSet<ChannelName>>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(exists: bool, topic: &str, channel: Option<&str>) -> NameChange {
        NameChange {
            topic: TopicName::parse(topic.as_bytes()).unwrap(),
            channel: channel.map(|name| ChannelName::parse(name.as_bytes()).unwrap()),
            exists,
        }
    }

    fn all(registry: &Registry) -> Vec<String> {
        let (all, _) = registry.subscribe();
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_is_one_registration_per_channel_and_per_bare_topic() {
        let registry = Registry::new();
        registry.apply(change(true, "b", None));
        registry.apply(change(true, "a", None));
        registry.apply(change(true, "a", Some("y")));
        registry.apply(change(true, "a", Some("x#ephemeral")));
        assert_eq!(
            all(&registry),
            ["REGISTER a x#ephemeral", "REGISTER a y", "REGISTER b"]
        );
        registry.apply(change(false, "a", Some("y")));
        registry.apply(change(false, "b", None));
        assert_eq!(all(&registry), ["REGISTER a x#ephemeral"]);
    }

    #[test]
    fn only_what_changes_is_told() {
        let registry = Registry::new();
        registry.apply(change(true, "a", None));
        let (_, mut changes) = registry.subscribe();
        registry.apply(change(true, "a", None));
        registry.apply(change(false, "zz", None));
        registry.apply(change(false, "a", Some("c")));
        registry.apply(change(true, "a", Some("c")));
        registry.apply(change(false, "a", Some("c")));
        registry.apply(change(false, "a", None));
        let told: Vec<String> =
            std::iter::from_fn(|| changes.try_recv().ok().map(|c| c.to_string())).collect();
        assert_eq!(told, ["REGISTER a c", "UNREGISTER a c", "UNREGISTER a"]);
    }
}
