//! A shard with everything around it simulated: connections, time, and a log per topic.

#![expect(dead_code, reason = "each test binary uses its part")]

pub(crate) mod log;
pub(crate) mod script;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use nsq_core::{
    CheckpointScope, ConnToken, ConsumerKey, ConsumerOptions, Deadline, Effect, MessageId, NodeId,
    Now, RestoredChannel, Shard, ShardLimits, TopicKey,
};
use nsq_proto::{ChannelName, TopicName};

use log::{Draft, SimLog};

/// When every world begins: some Unix time.
pub(crate) const START: Now = Now(1_700_000_000_000_000_000);

pub(crate) fn limits() -> ShardLimits {
    ShardLimits {
        node: NodeId(7),
        mem_queue_size: 10_000,
        msg_timeout_max: Duration::from_secs(900),
        requeue_delay_max: Duration::from_secs(3_600),
        channel_consumers_max: 0,
        cache_bytes_max: 1 << 20,
        unwritten_bytes_max: 64 << 20,
        requeue_on_disconnect: false,
        seed: 1,
        latency: None,
    }
}

/// A message as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) id: MessageId,
    pub(crate) attempts: u16,
    pub(crate) timestamp: u64,
    pub(crate) body: String,
}

/// Takes whole message frames apart.
pub(crate) fn parse_frames(mut frames: &[u8]) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while !frames.is_empty() {
        let size = u32::from_be_bytes(frames[..4].try_into().unwrap()) as usize;
        let (frame, rest) = frames.split_at(4 + size);
        assert_eq!(frame[4..8], 2u32.to_be_bytes(), "a message frame");
        deliveries.push(Delivery {
            timestamp: u64::from_be_bytes(frame[8..16].try_into().unwrap()),
            attempts: u16::from_be_bytes(frame[16..18].try_into().unwrap()),
            id: MessageId(frame[18..34].try_into().unwrap()),
            body: String::from_utf8(frame[34..].to_vec()).unwrap(),
        });
        frames = rest;
    }
    deliveries
}

/// See the module documentation.
pub(crate) struct World {
    pub(crate) shard: Shard,
    pub(crate) now: Now,
    pub(crate) limits: ShardLimits,
    pub(crate) logs: BTreeMap<String, SimLog>,
    pub(crate) inbox: BTreeMap<ConnToken, Vec<Delivery>>,
    pub(crate) disconnected: BTreeSet<ConnToken>,
    pub(crate) lines: Vec<String>,
    pub(crate) catalogue_changes: usize,
    /// `topic` and `topic:channel`, as told by effects.
    pub(crate) names: BTreeSet<String>,
    pub(crate) gone: usize,
    pub(crate) fired: Vec<Deadline>,
    pub(crate) fetches: usize,
    /// How many of them were open at a time.
    pub(crate) most_open: usize,
    /// Answer reads at once.
    pub(crate) reads_answered: bool,
    /// Assert the invariants every turn: costs time in proportion to the state.
    pub(crate) checked: bool,
    /// Messages per read; 0 = one.
    pub(crate) read_len: usize,
    /// The logs tell where reads will end.
    pub(crate) plans: bool,
    /// So many of the open reads are answered last that were asked for first.
    pub(crate) shuffle: usize,
    /// Reveal publishes at once.
    pub(crate) reveals: bool,
    /// Report appends as written at once.
    pub(crate) writes_reported: bool,
    open_reads: Vec<(TopicKey, u64)>,
    keys: BTreeMap<TopicKey, String>,
}

pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName::parse(name.as_bytes()).unwrap()
}

pub(crate) fn channel_name(name: &str) -> ChannelName {
    ChannelName::parse(name.as_bytes()).unwrap()
}

impl World {
    pub(crate) fn new(limits: ShardLimits) -> Self {
        Self {
            shard: Shard::new(limits.clone(), START),
            now: START,
            limits,
            logs: BTreeMap::new(),
            inbox: BTreeMap::new(),
            disconnected: BTreeSet::new(),
            lines: Vec::new(),
            catalogue_changes: 0,
            names: BTreeSet::new(),
            gone: 0,
            fired: Vec::new(),
            fetches: 0,
            most_open: 0,
            reads_answered: true,
            checked: true,
            read_len: 0,
            plans: false,
            shuffle: 0,
            writes_reported: true,
            reveals: true,
            open_reads: Vec::new(),
            keys: BTreeMap::new(),
        }
    }

    /// The key of a topic, created if it does not exist.
    pub(crate) fn topic(&mut self, name: &str) -> TopicKey {
        let key = self.shard.create_topic(self.now, &topic_name(name));
        self.keys.insert(key, name.to_owned());
        let log = self.logs.entry(name.to_owned()).or_default();
        (log.read_len, log.plans) = (self.read_len, self.plans);
        key
    }

    pub(crate) fn publish(&mut self, topic: &str, delay: Duration, bodies: &[&str]) {
        let key = self.topic(topic);
        let published = self.shard.publish(
            self.now,
            key,
            delay,
            bodies.iter().map(|body| body.as_bytes()),
        );
        let published = published.unwrap();
        assert_eq!(published.logged, !topic.ends_with("#ephemeral"));
        if self.reveals {
            self.shard.reveal(key, published.end);
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        (topic, channel): (&str, &str),
        conn: u64,
        options: &ConsumerOptions,
    ) -> ConsumerKey {
        let key = self.topic(topic);
        self.shard
            .create_channel(self.now, key, &channel_name(channel));
        self.shard
            .subscribe(key, channel, ConnToken(conn), options)
            .unwrap()
    }

    /// One turn of the shard, repeated until it wants nothing more.
    pub(crate) fn turn(&mut self) {
        loop {
            self.append();
            if self.writes_reported {
                self.report_written();
            }
            self.shard.dispatch(self.now);
            if self.checked {
                self.shard.check_invariants();
            }
            self.take_effects();
            if !self.reads_answered || self.open_reads.is_empty() {
                break;
            }
            self.answer_reads();
        }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        let target = self.now.after(by);
        // Stop at every deadline on the way, as the shell would.
        while let Some(at) = self.shard.next_deadline().filter(|at| *at < target) {
            self.now = self.now.max(at);
            self.shard.advance(self.now);
            self.turn();
        }
        self.now = target;
        self.shard.advance(self.now);
        self.turn();
    }

    /// Appends what the shard has gathered to the logs.
    pub(crate) fn append(&mut self) {
        let Self {
            shard, logs, keys, ..
        } = self;
        shard.take_batches(|key, batch| {
            logs.get_mut(&keys[&key]).unwrap().append(&batch);
        });
    }

    /// Reports everything appended as written.
    pub(crate) fn report_written(&mut self) {
        for (key, name) in &self.keys {
            if let Some(end) = self.logs.get_mut(name).and_then(SimLog::write) {
                self.shard.on_written(*key, end);
            }
        }
    }

    pub(crate) fn answer_reads(&mut self) {
        let mut reads = std::mem::take(&mut self.open_reads);
        if !reads.is_empty() {
            let at = self.shuffle % reads.len();
            reads.rotate_left(at);
        }
        for (key, from) in reads {
            self.logs[&self.keys[&key]].answer(&mut self.shard, key, from);
        }
    }

    pub(crate) fn take_effects(&mut self) {
        let mut effects: VecDeque<Effect> = self.shard.drain_effects().collect();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Deliver { conn, frames } => {
                    assert!(!frames.is_empty());
                    self.inbox
                        .entry(conn)
                        .or_default()
                        .extend(parse_frames(&frames));
                }
                Effect::Fetch { topic, from, .. } => {
                    assert!(
                        !self.open_reads.contains(&(topic, from.0)),
                        "asked twice at once"
                    );
                    self.fetches += 1;
                    self.open_reads.push((topic, from.0));
                    self.most_open = self.most_open.max(self.open_reads.len());
                    if let Some((next, bytes)) = self.logs[&self.keys[&topic]].plan(from.0) {
                        self.shard.on_fetch_planned(topic, from, next, bytes);
                    }
                }
                Effect::Disconnect { conn } => assert!(self.disconnected.insert(conn)),
                Effect::TopicGone { topic } => {
                    let name = self.keys.remove(&topic).unwrap();
                    self.logs.remove(&name);
                    self.open_reads.retain(|(key, _)| *key != topic);
                    self.gone += 1;
                }
                Effect::CatalogueChanged => self.catalogue_changes += 1,
                Effect::Name {
                    topic,
                    channel,
                    exists,
                } => self.note_name(&topic, channel.as_ref(), exists),
                Effect::Due(deadline) => self.fired.push(deadline),
                Effect::Log(line) => self.lines.push(line),
            }
            effects.extend(self.shard.drain_effects());
        }
    }

    /// What is told of names is told once and in order.
    fn note_name(&mut self, topic: &TopicName, channel: Option<&ChannelName>, exists: bool) {
        let name = match channel {
            Some(channel) => format!("{topic}:{channel}"),
            None => topic.to_string(),
        };
        assert!(
            channel.is_none() || self.names.contains(topic.as_str()),
            "{name}: no topic"
        );
        let new = match exists {
            true => self.names.insert(name.clone()),
            false => self.names.remove(&name),
        };
        assert!(new, "{name}: told twice");
    }

    /// Writes the checkpoint of every topic down; a full one that has been begun is ended.
    pub(crate) fn checkpoint(&mut self, scope: CheckpointScope) {
        for (key, name) in &self.keys {
            let log = self.logs.get_mut(name).unwrap();
            let shard = &mut self.shard;
            if scope == CheckpointScope::All && !log.drafted.is_begun() {
                log.ahead.clear();
                log.checkpoint.clear();
                shard.checkpoint(*key, scope, |key, value| log.note(key, value));
            } else {
                while scope == CheckpointScope::All && log.draft_again(shard, *key) {}
                let mut record = std::mem::take(&mut log.ahead);
                shard.checkpoint(*key, CheckpointScope::Changed, |key, value| {
                    record.push((key, value.to_vec()));
                });
                log.record(&record);
            }
            if scope == CheckpointScope::All && log.drafted.is_begun() {
                log.checkpoint = std::mem::take(&mut log.drafted).checkpoint;
            }
            assert!(!shard.is_checkpoint_due(*key));
            log.checkpointed = log.head();
        }
    }

    /// Goes on a little with the next checkpoint of every topic, and with a full one.
    pub(crate) fn prepare_checkpoints(&mut self) {
        for (key, name) in &self.keys {
            let log = self.logs.get_mut(name).unwrap();
            let ahead = &mut log.ahead;
            self.shard.checkpoint_ahead(*key, 1, |key, value| {
                ahead.push((key, value.to_vec()));
            });
            log.draft_again(&self.shard, *key);
        }
    }

    /// Frees groups of messages that nobody owes; to be called after a checkpoint.
    pub(crate) fn reclaim(&mut self, group: u64) {
        for (key, name) in &self.keys {
            let shard = &self.shard;
            self.logs
                .get_mut(name)
                .unwrap()
                .reclaim(group, |start, end| shard.owes(*key, start, end));
        }
    }

    /// Starts anew from what the logs hold; connections are gone, names and pause flags survive.
    pub(crate) fn restart(&mut self) {
        // No process starts again at the same instant.
        self.now = self.now.after(Duration::from_millis(1));
        let fresh = Shard::new(self.limits.clone(), self.now);
        let old = std::mem::replace(&mut self.shard, fresh);
        self.inbox.clear();
        self.open_reads.clear();
        self.names.clear();
        let keys = std::mem::take(&mut self.keys);
        for (old_key, name) in keys {
            if name.ends_with("#ephemeral") {
                self.logs.remove(&name);
                continue;
            }
            let stats = old.topic_stats(old_key).unwrap();
            let channels = stats
                .channels
                .iter()
                .filter(|channel| !channel.name.is_ephemeral());
            let channels = channels
                .map(|c| RestoredChannel {
                    name: c.name.clone(),
                    paused: c.paused,
                })
                .collect();
            let log = self.logs.get_mut(&name).unwrap();
            log.ahead.clear();
            log.drafted = Draft::default();
            let restored = log.recover(stats.paused, channels);
            let key = self
                .shard
                .restore_topic(self.now, &topic_name(&name), restored);
            assert!(self.shard.is_checkpoint_due(key));
            self.keys.insert(key, name);
        }
        self.shard.check_invariants();
    }

    pub(crate) fn take_inbox(&mut self, conn: u64) -> Vec<Delivery> {
        self.inbox.remove(&ConnToken(conn)).unwrap_or_default()
    }
}

/// Joins frames with other bytes between them, as a log file has them.
pub(crate) fn scatter(frames: &[Bytes]) -> (Bytes, Vec<(u32, u32)>) {
    let (mut bytes, mut spans) = (Vec::new(), Vec::new());
    for (number, frame) in frames.iter().enumerate() {
        if number % 3 == 0 {
            bytes.extend_from_slice(b"header");
        }
        let start = u32::try_from(bytes.len()).unwrap();
        bytes.extend_from_slice(frame);
        spans.push((start, u32::try_from(bytes.len()).unwrap()));
    }
    (bytes.into(), spans)
}
