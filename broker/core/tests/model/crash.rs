//! A crash at any moment, and what must be so afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Run;
use super::queue::{Channel, Counters};

/// What a channel may and must deliver after a crash.
#[derive(Debug, Default)]
struct Promise {
    must: BTreeSet<String>,
    /// `None`: the channel is younger than the checkpoint, and may get anything.
    may: Option<BTreeSet<String>>,
    settled: BTreeSet<String>,
}

impl Run {
    pub(super) fn crash(&mut self) {
        let promises = self.promises();
        let paused: Vec<String> = self.model.topics.keys().cloned().collect();
        self.world.restart();
        self.model.consumers.clear();
        self.model.topics.retain(|_, topic| !topic.ephemeral);
        for topic in paused
            .iter()
            .filter(|topic| self.model.topics.contains_key(*topic))
        {
            let key = self.world.shard.topic(topic).unwrap();
            self.world.shard.pause_topic(key, false);
        }
        let mut joined = BTreeMap::new();
        for (topic, channel) in promises.keys() {
            let key = self.world.shard.topic(topic).unwrap();
            let name = super::channel_name(channel);
            self.world.shard.create_channel(self.world.now, key, &name);
            self.world.shard.pause_channel(key, channel, false);
            self.next_conn += 1;
            let msg_timeout = Duration::from_secs(3_600);
            let options = super::ConsumerOptions {
                msg_timeout,
                sample_rate: 0,
                locality: super::Locality::Global,
            };
            let consumer = self
                .world
                .subscribe((topic, channel), self.next_conn, &options);
            self.world.shard.ready(consumer, 100_000);
            joined.insert(self.next_conn, (topic.clone(), channel.clone(), consumer));
        }
        let received = self.drain(&joined, &promises);
        for (place, promise) in &promises {
            let got = &received[place];
            let missing: Vec<&String> = promise.must.difference(got).collect();
            assert!(missing.is_empty(), "{place:?} lost {missing:?}");
            if let Some(may) = &promise.may {
                let risen: Vec<&String> = got.difference(may).collect();
                assert!(risen.is_empty(), "{place:?} got {risen:?} again");
            }
        }
        for (_, _, consumer) in joined.values() {
            self.world.shard.unsubscribe(*consumer);
        }
        self.resume(&promises, &received);
    }

    /// What every channel that survives promises at this moment.
    fn promises(&self) -> BTreeMap<(String, String), Promise> {
        let mut promises = BTreeMap::new();
        for (name, topic) in self
            .model
            .topics
            .iter()
            .filter(|(_, topic)| !topic.ephemeral)
        {
            let written = |body: &String| self.world.logs[name].holds(body);
            let backlog: BTreeSet<String> = topic.backlog.iter().map(|(b, _)| b.clone()).collect();
            let durable = topic
                .channels
                .iter()
                .filter(|(c, _)| !c.ends_with("#ephemeral"));
            for (channel_name, channel) in durable {
                let mut must = channel.owed();
                must.extend(backlog.iter().cloned());
                let may = must.union(&channel.settled).cloned().collect();
                must.retain(written);
                let may = (!channel.unknown).then_some(may);
                let settled = channel.settled.clone();
                let place = (name.clone(), channel_name.clone());
                promises.insert(place, Promise { must, may, settled });
            }
            if !promises.keys().any(|(topic, _)| topic == name) {
                let must = backlog.into_iter().filter(written).collect();
                let promise = Promise {
                    must,
                    ..Promise::default()
                };
                promises.insert((name.clone(), "a".to_owned()), promise);
            }
        }
        promises
    }

    /// Receives and finishes everything, up to the last deferral.
    fn drain(
        &mut self,
        joined: &BTreeMap<u64, (String, String, super::ConsumerKey)>,
        promises: &BTreeMap<(String, String), Promise>,
    ) -> BTreeMap<(String, String), BTreeSet<String>> {
        let places = promises
            .keys()
            .map(|place| (place.clone(), BTreeSet::new()));
        let mut received: BTreeMap<_, BTreeSet<String>> = places.collect();
        for ms in [0, 100, 400, 5_000, 6_000, 10_000, 30_000] {
            self.world.advance(Duration::from_millis(ms));
            for (conn, deliveries) in std::mem::take(&mut self.world.inbox) {
                let (topic, channel, consumer) = &joined[&conn.0];
                let place = (topic.clone(), channel.clone());
                for delivery in deliveries {
                    let (_, due_ms) = self.published[&delivery.body];
                    let known = promises[&place].may.is_some();
                    assert!(
                        !known || due_ms <= self.world.now.as_millis(),
                        "{} came before its time",
                        delivery.body
                    );
                    let finished = self
                        .world
                        .shard
                        .finish(self.world.now, *consumer, &delivery.id);
                    assert_eq!(finished, Ok(()));
                    let news = received
                        .get_mut(&place)
                        .unwrap()
                        .insert(delivery.body.clone());
                    assert!(news, "{} came twice", delivery.body);
                    if let Some(known) = self.seen.get(&delivery.body) {
                        assert_eq!(known.id, delivery.id);
                    }
                }
            }
        }
        self.world.turn();
        received
    }

    /// Goes on from here: all queues are empty.
    fn resume(
        &mut self,
        promises: &BTreeMap<(String, String), Promise>,
        received: &BTreeMap<(String, String), BTreeSet<String>>,
    ) {
        self.model.now_ms = self.world.now.as_millis();
        for (name, topic) in &mut self.model.topics {
            topic.backlog.clear();
            topic.paused = false;
            topic.messages = 0;
            let key = self.world.shard.topic(name).unwrap();
            let stats = self.world.shard.topic_stats(key).unwrap();
            topic
                .channels
                .retain(|channel, _| !channel.ends_with("#ephemeral"));
            for ours in stats.channels {
                let place = (name.clone(), ours.name.as_str().to_owned());
                assert_eq!(
                    (ours.depth, ours.in_flight_count, ours.deferred_count),
                    (0, 0, 0)
                );
                assert_eq!(ours.finish_count, received[&place].len() as u64);
                let channel = Channel {
                    counters: Counters {
                        messages: ours.message_count,
                        delivered: ours.global_msg_count,
                        finished: ours.finish_count,
                        requeued: ours.requeue_count,
                        timeouts: ours.timeout_count,
                    },
                    settled: promises[&place]
                        .settled
                        .union(&received[&place])
                        .cloned()
                        .collect(),
                    unknown: promises[&place].may.is_none(),
                    ..Channel::default()
                };
                topic.channels.insert(place.1, channel);
            }
        }
    }
}
