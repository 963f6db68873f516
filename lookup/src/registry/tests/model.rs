//! The registry against tables of tuples, under random scripts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{announcement, channel, topic, visibility};
use crate::registry::{
    Limits, NodeAddress, Now, Producer, ProducerId, Progress, Registry, Removed, Tombstone,
};

const TOPICS: [&str; 3] = ["t", "u", "e#ephemeral"];
const CHANNELS: [&str; 3] = ["c", "d", "f#ephemeral"];
const HOSTS: [&str; 3] = ["x", "y", "z"];

/// Numbers are indices into the tables above, of nodes modulo those that are there.
#[derive(Debug, Clone)]
enum Step {
    Identify(usize),
    Register(usize, usize, Option<usize>),
    Unregister(usize, usize, Option<usize>),
    Leave(usize),
    Create(usize, Option<usize>),
    DeleteTopic(usize),
    DeleteChannel(usize, usize),
    Tombstone(usize, usize),
    /// Seconds.
    Wait(i64),
    Ping(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..3_usize;
    let maybe = || prop::option::of(0..3_usize);
    let node = || 0..8_usize;
    let step = prop_oneof![
        2 => name().prop_map(Step::Identify),
        6 => (node(), name(), maybe()).prop_map(|(n, t, c)| Step::Register(n, t, c)),
        3 => (node(), name(), maybe()).prop_map(|(n, t, c)| Step::Unregister(n, t, c)),
        1 => node().prop_map(Step::Leave),
        1 => (name(), maybe()).prop_map(|(t, c)| Step::Create(t, c)),
        1 => name().prop_map(Step::DeleteTopic),
        1 => (name(), name()).prop_map(|(t, c)| Step::DeleteChannel(t, c)),
        2 => (name(), name()).prop_map(|(t, h)| Step::Tombstone(t, h)),
        1 => (0..200_i64).prop_map(Step::Wait),
        2 => node().prop_map(Step::Ping),
    ];
    prop::collection::vec(step, 1..80)
}

/// What is true, as a lookup would show it.
#[derive(Default)]
struct Model {
    now: i64,
    topics: BTreeSet<usize>,
    channels: BTreeSet<(usize, usize)>,
    in_topic: BTreeSet<(ProducerId, usize)>,
    in_channel: BTreeSet<(ProducerId, usize, usize)>,
    tombstones: BTreeMap<(ProducerId, usize), i64>,
    nodes: BTreeMap<ProducerId, (usize, i64)>,
}

impl Model {
    fn register(&mut self, id: ProducerId, topic: usize, channel: Option<usize>) {
        self.topics.insert(topic);
        self.in_topic.insert((id, topic));
        if let Some(channel) = channel {
            self.channels.insert((topic, channel));
            self.in_channel.insert((id, topic, channel));
        }
    }

    fn unregister_channel(&mut self, id: ProducerId, topic: usize, channel: usize) {
        self.in_channel.remove(&(id, topic, channel));
        let is_used = self
            .in_channel
            .iter()
            .any(|(_, t, c)| (*t, *c) == (topic, channel));
        if !is_used && CHANNELS[channel].ends_with("#ephemeral") {
            self.channels.remove(&(topic, channel));
        }
    }

    fn unregister_topic(&mut self, id: ProducerId, topic: usize) {
        for channel in 0..CHANNELS.len() {
            if self.in_channel.contains(&(id, topic, channel)) {
                self.unregister_channel(id, topic, channel);
            }
        }
        self.in_topic.remove(&(id, topic));
        self.tombstones.remove(&(id, topic));
        let is_used = self.in_topic.iter().any(|(_, t)| *t == topic);
        if !is_used && TOPICS[topic].ends_with("#ephemeral") {
            self.delete_topic(topic);
        }
    }

    fn delete_topic(&mut self, topic: usize) {
        self.topics.remove(&topic);
        self.channels.retain(|(t, _)| *t != topic);
        self.in_topic.retain(|(_, t)| *t != topic);
        self.in_channel.retain(|(_, t, _)| *t != topic);
        self.tombstones.retain(|(_, t), _| *t != topic);
    }

    fn shown(&self, topic: usize) -> Vec<ProducerId> {
        let visibility = visibility(self.now);
        let is_shown = |id: &ProducerId| {
            let tombstone = self.tombstones.get(&(*id, topic));
            let (_, heard) = self.nodes[id];
            self.now - heard <= visibility.inactive_timeout
                && tombstone.is_none_or(|set| self.now - set >= visibility.tombstone_lifetime)
        };
        let ids = self
            .in_topic
            .iter()
            .filter(|(_, t)| *t == topic)
            .map(|(id, _)| *id);
        ids.filter(is_shown).collect()
    }
}

/// The registry, with the budget of its slices.
struct Pair {
    registry: Registry,
    producers: BTreeMap<ProducerId, std::sync::Arc<Producer>>,
    model: Model,
    budget: usize,
}

impl Pair {
    /// Both do the step.
    fn step(&mut self, step: &Step) {
        let now = Now(self.model.now);
        match *step {
            Step::Identify(host) => {
                let producer = self.registry.identify(announcement(HOSTS[host]), now);
                self.model.nodes.insert(producer.id(), (host, now.0));
                self.producers.insert(producer.id(), producer);
            }
            Step::Create(t, c) => {
                let name = c.map(|c| channel(CHANNELS[c]));
                self.registry
                    .create(&topic(TOPICS[t]), name.as_ref())
                    .unwrap();
                self.model.topics.insert(t);
                self.model.channels.extend(c.map(|c| (t, c)));
            }
            Step::DeleteTopic(t) => self.delete_topic(t),
            Step::DeleteChannel(t, c) => {
                let (name, of) = (topic(TOPICS[t]), channel(CHANNELS[c]));
                while self.registry.delete_channel(&name, &of, self.budget) == Some(Progress::More)
                {
                }
                self.model.channels.remove(&(t, c));
                self.model
                    .in_channel
                    .retain(|(_, t2, c2)| (*t2, *c2) != (t, c));
            }
            Step::Tombstone(t, host) => self.tombstone(t, host),
            Step::Wait(seconds) => self.model.now += seconds * 1_000_000_000,
            Step::Register(n, ..) | Step::Unregister(n, ..) | Step::Leave(n) | Step::Ping(n) => {
                if let Some(id) = self.pick(n) {
                    self.step_of(id, step);
                }
            }
        }
    }

    fn pick(&self, n: usize) -> Option<ProducerId> {
        let count = self.model.nodes.len().max(1);
        self.model.nodes.keys().nth(n % count).copied()
    }

    fn step_of(&mut self, id: ProducerId, step: &Step) {
        let mut removed = Removed::default();
        match *step {
            Step::Register(_, t, c) => {
                let name = c.map(|c| channel(CHANNELS[c]));
                self.registry
                    .register(id, &topic(TOPICS[t]), name.as_ref())
                    .unwrap();
                self.model.register(id, t, c);
            }
            Step::Unregister(_, t, Some(c)) => {
                let was_in = self.model.in_channel.contains(&(id, t, c));
                let (name, of) = (topic(TOPICS[t]), channel(CHANNELS[c]));
                assert_eq!(self.registry.unregister_channel(id, &name, &of), was_in);
                self.model.unregister_channel(id, t, c);
            }
            Step::Unregister(_, t, None) => {
                let name = topic(TOPICS[t]);
                let (registry, budget) = (&mut self.registry, self.budget);
                while registry.unregister_topic(id, &name, budget, &mut removed) == Progress::More {
                }
                self.model.unregister_topic(id, t);
            }
            Step::Ping(_) => {
                self.producers[&id].touch(Now(self.model.now));
                self.model.nodes.get_mut(&id).unwrap().1 = self.model.now;
            }
            Step::Leave(_) => {
                while self.registry.leave(id, self.budget, &mut removed) == Progress::More {}
                for t in 0..TOPICS.len() {
                    if self.model.in_topic.contains(&(id, t)) {
                        self.model.unregister_topic(id, t);
                    }
                }
                self.model.nodes.remove(&id);
            }
            Step::Identify(_)
            | Step::Create(..)
            | Step::DeleteTopic(_)
            | Step::DeleteChannel(..)
            | Step::Tombstone(..)
            | Step::Wait(_) => unreachable!("done by step"),
        }
    }

    fn delete_topic(&mut self, t: usize) {
        let (name, mut gone) = (topic(TOPICS[t]), Vec::new());
        let (registry, budget) = (&mut self.registry, self.budget);
        while registry.delete_topic(&name, budget, &mut gone) == Some(Progress::More) {}
        let expected = self
            .model
            .channels
            .iter()
            .filter(|(topic, _)| *topic == t)
            .count();
        assert_eq!(gone.len(), expected);
        self.model.delete_topic(t);
    }

    fn tombstone(&mut self, t: usize, host: usize) {
        let node = format!("{}:4151", HOSTS[host]);
        let tombstone = Tombstone {
            node: NodeAddress::parse(&node).unwrap(),
            set: Now(self.model.now),
        };
        let (mut cursor, budget) = (None, self.budget);
        while self
            .registry
            .tombstone(TOPICS[t], &tombstone, &mut cursor, budget)
            == Progress::More
        {}
        for (id, topic) in &self.model.in_topic {
            if *topic == t && self.model.nodes[id].0 == host {
                self.model.tombstones.insert((*id, t), self.model.now);
            }
        }
    }

    /// Both show the same.
    fn compare(&self) {
        self.registry.check_invariants();
        let known: BTreeSet<usize> = (0..TOPICS.len())
            .filter(|t| self.registry.topic(TOPICS[*t]).is_some())
            .collect();
        assert_eq!(known, self.model.topics);
        for t in known {
            assert_eq!(
                super::shown(&self.registry, TOPICS[t], self.model.now),
                self.model.shown(t)
            );
            let of_topic = self.model.channels.iter().filter(|(topic, _)| *topic == t);
            let names: Vec<&str> = of_topic.map(|(_, c)| CHANNELS[*c]).collect();
            assert_eq!(super::channels(&self.registry, TOPICS[t]), names);
        }
        let nodes: Vec<ProducerId> = self.registry.nodes_after(None).map(|(id, _)| id).collect();
        assert_eq!(nodes, self.model.nodes.keys().copied().collect::<Vec<_>>());
    }
}

proptest! {
    #[test]
    fn any_script_shows_what_the_model_shows(steps in steps(), budget in 1..5_usize) {
        let limits = Limits { registrations_max: 100, keys_max: 100 };
        let mut pair = Pair {
            registry: Registry::new(limits),
            producers: BTreeMap::new(),
            model: Model::default(),
            budget,
        };
        for step in &steps {
            pair.step(step);
            pair.compare();
        }
    }
}
