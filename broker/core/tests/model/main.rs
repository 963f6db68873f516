//! Random scripts against a shard and a naive model of it.
//!
//! After every step the invariants of the shard are checked, everything delivered was ready in the
//! model, everything ready in the model was delivered where there was room, and the statistics
//! agree. Crashes check the promises: what was written and not finished comes back, what was
//! finished before the last checkpoint does not, and nothing comes before its time.
//!
//! `MODEL_SEED=<seed>` runs one script; `MODEL_SEEDS=<count>` sets how many are run.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;
mod crash;
mod queue;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{World, channel_name, limits};
use nsq_core::{CheckpointScope, ConsumerKey, ConsumerOptions, Locality, MessageId, ShardLimits};
use queue::{Channel, Consumer, Counters, Model, Topic};

const TOPICS: [&str; 3] = ["t", "u", "v#ephemeral"];
const CHANNELS: [&str; 3] = ["a", "b", "c#ephemeral"];
const STEPS: usize = 150;

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let bound = items.len() as u64;
        (bound > 0).then(|| &items[usize::try_from(self.below(bound)).unwrap()])
    }
}

struct Known {
    id: MessageId,
    topic: String,
}

struct Run {
    random: Random,
    world: World,
    model: Model,
    keys: BTreeMap<u64, ConsumerKey>,
    /// Bodies that some consumer has seen.
    seen: BTreeMap<String, Known>,
    /// By body: time of publishing in ns, and due time.
    published: BTreeMap<String, (u64, u64)>,
    next_body: u64,
    next_conn: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let limits = ShardLimits {
            cache_bytes_max: *random.pick(&[0, 200, 2_000, 1 << 20]).unwrap(),
            mem_queue_size: *random.pick(&[0, 3, 10_000]).unwrap(),
            msg_timeout_max: Duration::from_secs(5),
            requeue_delay_max: Duration::from_secs(20),
            ..limits()
        };
        let model = Model {
            now_ms: common::START.as_millis(),
            mem_queue_size: limits.mem_queue_size,
            touch_max_ms: 5_000,
            requeue_max_ms: 20_000,
            ..Model::default()
        };
        let read_len = usize::try_from(random.below(4) * 3 + 1).unwrap();
        let mut world = World::new(limits);
        world.read_len = read_len;
        world.plans = seed % 2 == 1;
        world.shuffle = usize::try_from(seed % 7).unwrap();
        let (keys, seen, published) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            random,
            world,
            model,
            keys,
            seen,
            published,
            next_body: 0,
            next_conn: 0,
        }
    }

    fn topic_and_channel(&mut self) -> (String, String) {
        let topic = (*self.random.pick(&TOPICS).unwrap()).to_owned();
        let channel = (*self.random.pick(&CHANNELS).unwrap()).to_owned();
        (topic, channel)
    }

    fn ensure_topic(&mut self, topic: &str) {
        self.world.topic(topic);
        let ephemeral = topic.ends_with("#ephemeral");
        let entry = self.model.topics.entry(topic.to_owned());
        entry.or_insert_with(|| Topic {
            ephemeral,
            ..Topic::default()
        });
    }

    fn ensure_channel(&mut self, topic: &str, channel: &str) {
        self.ensure_topic(topic);
        let key = self.world.topic(topic);
        let created = self
            .world
            .shard
            .create_channel(self.world.now, key, &channel_name(channel));
        let topic = self.model.topics.get_mut(topic).unwrap();
        assert_eq!(created, !topic.channels.contains_key(channel));
        let bounded = topic.ephemeral || channel.ends_with("#ephemeral");
        let entry = topic.channels.entry(channel.to_owned());
        entry.or_insert_with(|| Channel {
            bounded,
            unknown: true,
            ..Channel::default()
        });
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..22 => self.publish(),
            22..28 => self.subscribe(),
            28..40 => self.adjust_consumer(),
            40..72 => self.acknowledge(),
            72..84 => {
                let ms = *self
                    .random
                    .pick(&[1, 40, 700, 3_000, 9_000, 100_000])
                    .unwrap();
                self.advance(ms);
            }
            84..94 => self.administrate(),
            94..97 => {
                let scope = *self
                    .random
                    .pick(&[
                        CheckpointScope::Changed,
                        CheckpointScope::Changed,
                        CheckpointScope::All,
                    ])
                    .unwrap();
                self.checkpoint(scope);
            }
            97..98 => self.world.writes_reported = !self.world.writes_reported,
            98..99 => self.restart(),
            _ => self.crash(),
        }
        self.turn();
        if self.random.below(3) == 0 {
            self.world.prepare_checkpoints();
        }
    }

    fn publish(&mut self) {
        let (topic, _) = self.topic_and_channel();
        self.ensure_topic(&topic);
        let delay_ms = *self.random.pick(&[0, 0, 0, 500, 10_000]).unwrap();
        let due_ms = if delay_ms > 0 {
            self.model.now_ms + delay_ms
        } else {
            0
        };
        let count = *self.random.pick(&[1, 1, 3, 20]).unwrap();
        let bodies: Vec<String> = (self.next_body..self.next_body + count)
            .map(|number| format!("m{number}"))
            .collect();
        self.next_body += count;
        for body in &bodies {
            self.published
                .insert(body.clone(), (self.world.now.0, due_ms));
        }
        let slices: Vec<&str> = bodies.iter().map(String::as_str).collect();
        self.world
            .publish(&topic, Duration::from_millis(delay_ms), &slices);
        self.model.publish(&topic, &bodies, due_ms);
    }

    fn subscribe(&mut self) {
        let (topic, channel) = self.topic_and_channel();
        self.ensure_channel(&topic, &channel);
        self.next_conn += 1;
        let timeout_ms = *self.random.pick(&[300, 2_000, 4_000]).unwrap();
        let rdy = self.random.below(4);
        self.join(self.next_conn, (&topic, &channel), timeout_ms, rdy);
    }

    fn join(&mut self, conn: u64, (topic, channel): (&str, &str), timeout_ms: u64, rdy: u64) {
        let msg_timeout = Duration::from_millis(timeout_ms);
        let options = ConsumerOptions {
            msg_timeout,
            sample_rate: 0,
            locality: Locality::Global,
        };
        let key = self.world.subscribe((topic, channel), conn, &options);
        self.world.shard.ready(key, u32::try_from(rdy).unwrap());
        self.keys.insert(conn, key);
        let (topic, channel) = (topic.to_owned(), channel.to_owned());
        let consumer = Consumer {
            topic,
            channel,
            rdy,
            closing: false,
            writable: true,
            timeout_ms,
        };
        self.model.consumers.insert(conn, consumer);
    }

    fn any_consumer(&mut self) -> Option<u64> {
        let conns: Vec<u64> = self.model.consumers.keys().copied().collect();
        self.random.pick(&conns).copied()
    }

    fn adjust_consumer(&mut self) {
        let Some(conn) = self.any_consumer() else {
            return;
        };
        let key = self.keys[&conn];
        let consumer = self.model.consumers.get_mut(&conn).unwrap();
        match self.random.below(10) {
            0 => {
                self.world.shard.close(key);
                consumer.closing = true;
            }
            1 | 2 => {
                consumer.writable = !consumer.writable;
                self.world.shard.set_writable(key, consumer.writable);
            }
            3 => {
                self.world.shard.unsubscribe(key);
                self.model.unsubscribe(conn);
            }
            _ => {
                let rdy = *self.random.pick(&[0, 1, 2, 5, 50]).unwrap();
                consumer.rdy = if consumer.closing { consumer.rdy } else { rdy };
                self.world.shard.ready(key, u32::try_from(rdy).unwrap());
            }
        }
    }

    fn acknowledge(&mut self) {
        let Some(conn) = self.any_consumer() else {
            return;
        };
        let consumer = &self.model.consumers[&conn];
        let (topic, channel) = (consumer.topic.clone(), consumer.channel.clone());
        let flying = self
            .model
            .channel(&topic, &channel)
            .in_flight
            .keys()
            .cloned();
        let candidates: Vec<String> = if self.random.below(8) == 0 {
            self.seen
                .iter()
                .filter(|(_, known)| known.topic == topic)
                .map(|(b, _)| b.clone())
                .collect()
        } else {
            flying.collect()
        };
        for _ in 0..=self.random.below(3) {
            let Some(body) = self.random.pick(&candidates).cloned() else {
                return;
            };
            let (key, id, now) = (self.keys[&conn], self.seen[&body].id, self.world.now);
            let shard = &mut self.world.shard;
            let (ours, theirs) = match self.random.below(6) {
                0..3 => (shard.finish(now, key, &id), self.model.finish(conn, &body)),
                3 => (shard.touch(now, key, &id), self.model.touch(conn, &body)),
                _ => {
                    let delay_ms = *self.random.pick(&[0, 0, 300, 8_000, 50_000]).unwrap();
                    let delay = Duration::from_millis(delay_ms);
                    let ours = shard.requeue(now, key, &id, delay);
                    (ours, self.model.requeue(conn, &body, delay_ms))
                }
            };
            assert_eq!(ours, theirs, "{body} of c{conn}");
        }
    }

    fn administrate(&mut self) {
        let (topic, channel) = self.topic_and_channel();
        let Some(key) = self.world.shard.topic(&topic) else {
            return;
        };
        let shard = &mut self.world.shard;
        let exists = self.model.topics[&topic].channels.contains_key(&channel);
        assert_eq!(shard.has_channel(key, &channel), exists);
        let pause = self.random.below(3) == 0;
        match self.random.below(12) {
            0..3 => {
                shard.pause_topic(key, pause);
                self.model.topics.get_mut(&topic).unwrap().paused = pause;
            }
            3..6 if exists => {
                assert!(shard.pause_channel(key, &channel, pause));
                self.model.channel(&topic, &channel).paused = pause;
            }
            6 => {
                shard.empty_topic(key);
                self.model.empty_topic(&topic);
            }
            7 if exists => {
                assert!(shard.empty_channel(key, &channel));
                self.model.empty_channel(&topic, &channel);
            }
            8 if exists => {
                assert!(shard.delete_channel(key, &channel));
                self.model.delete_channel(&topic, &channel);
            }
            9 if self.random.below(3) == 0 => {
                shard.delete_topic(key);
                self.model.delete_topic(&topic);
            }
            3..9 => {
                assert!(!shard.pause_channel(key, &channel, pause));
                assert!(!shard.empty_channel(key, &channel));
                assert!(!shard.delete_channel(key, &channel));
            }
            _ => self.ensure_channel(&topic, &channel),
        }
    }

    fn advance(&mut self, ms: u64) {
        let target = self.world.now.after(Duration::from_millis(ms));
        while let Some(at) = self.world.shard.next_deadline().filter(|at| *at < target) {
            self.world.now = self.world.now.max(at);
            self.at_this_time();
        }
        self.world.now = target;
        self.at_this_time();
    }

    fn at_this_time(&mut self) {
        self.world.shard.advance(self.world.now);
        self.model.advance(self.world.now.as_millis());
        self.turn();
    }

    fn checkpoint(&mut self, scope: CheckpointScope) {
        self.world.checkpoint(scope);
        self.model.note_checkpoint();
        if self.random.below(2) == 0 {
            self.world.reclaim(4);
        }
    }

    /// A clean stop and start.
    fn restart(&mut self) {
        self.turn();
        self.world.append();
        self.world.report_written();
        self.checkpoint(CheckpointScope::Changed);
        self.world.restart();
        self.model.now_ms = self.world.now.as_millis();
        self.model.restart();
    }

    fn turn(&mut self) {
        self.world.turn();
        self.model.pump();
        for (conn, deliveries) in std::mem::take(&mut self.world.inbox) {
            for delivery in deliveries {
                self.model
                    .deliver(conn.0, &delivery.body, delivery.attempts);
                let (published_ns, _) = self.published[&delivery.body];
                assert_eq!(
                    delivery.timestamp, published_ns,
                    "timestamp of {}",
                    delivery.body
                );
                let topic = self.model.consumers[&conn.0].topic.clone();
                let known = Known {
                    id: delivery.id,
                    topic,
                };
                if let Some(before) = self.seen.insert(delivery.body, known) {
                    assert_eq!(before.id, delivery.id, "an id is for life");
                }
            }
        }
        self.compare();
    }

    /// Everything ready was delivered where there was room, and the statistics agree.
    fn compare(&self) {
        for (name, topic) in &self.model.topics {
            let key = self.world.shard.topic(name).expect("a live topic");
            let stats = self.world.shard.topic_stats(key).unwrap();
            assert_eq!(stats.depth, topic.backlog.len() as u64, "depth of {name}");
            assert_eq!(stats.message_count, topic.messages, "messages of {name}");
            assert_eq!(stats.paused, topic.paused);
            assert_eq!(stats.channels.len(), topic.channels.len());
            for ours in &stats.channels {
                let theirs = &topic.channels[ours.name.as_str()];
                let place = format!("{name}/{}", ours.name);
                let waits = !theirs.ready.is_empty();
                let spare = self.model.channel_spare(name, ours.name.as_str());
                assert!(
                    !waits || spare == 0,
                    "{place}: {:?} wait for nobody",
                    theirs.ready
                );
                assert_eq!(ours.depth, theirs.ready.len() as u64, "depth of {place}");
                assert_eq!(
                    ours.in_flight_count,
                    theirs.in_flight.len() as u64,
                    "{place}"
                );
                assert_eq!(ours.deferred_count, theirs.deferred.len() as u64, "{place}");
                let counters = Counters {
                    messages: ours.message_count,
                    delivered: ours.global_msg_count,
                    finished: ours.finish_count,
                    requeued: ours.requeue_count,
                    timeouts: ours.timeout_count,
                };
                assert_eq!(counters, theirs.counters, "{place}");
                assert_eq!(ours.paused, theirs.paused);
            }
        }
        assert_eq!(self.world.shard.topics().count(), self.model.topics.len());
        for (conn, consumer) in &self.model.consumers {
            let stats = self.world.shard.consumer_stats(self.keys[conn]).unwrap();
            let channel = &self.model.topics[&consumer.topic].channels[&consumer.channel];
            assert_eq!(stats.in_flight_count, channel.in_flight_of(*conn));
        }
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            run.step();
        }
    }));
    if let Err(panic) = outcome {
        panic!("MODEL_SEED={seed}: {}", common::script::message(&*panic));
    }
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

#[test]
fn random_scripts_agree_with_the_model() {
    if let Some(seed) = number_from("MODEL_SEED") {
        run(seed);
        return;
    }
    for seed in 0..number_from("MODEL_SEEDS").unwrap_or(2_000) {
        run(seed);
    }
}
