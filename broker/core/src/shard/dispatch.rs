//! Once per turn: new messages go to the channels, runs to ready consumers.
//!
//! A run of fresh messages is a slice of the cached frames and costs the same however long it is;
//! only a redelivery is copied, because its attempts are patched.
//! Hot path: no allocation (growth apart), formatting or hashing per message.

use bytes::{BufMut, Bytes, BytesMut};

use super::Shard;
use crate::tail::{ATTEMPTS_AT, TIMESTAMP_AT};
use crate::timers::NewRun;
use crate::types::ChannelKey;
use crate::{ConsumerKey, Effect, Locality, Now, Sequence, TopicKey};

/// Messages per turn of a consumer while others wait: small enough for fairness, large enough that
/// the cost of a run vanishes.
const QUANTUM: u64 = 128;
/// Messages per run when nobody else waits.
const RUN_MAX: u64 = 32_768;
/// Patched copies are gathered in blocks of this many bytes.
const SCRATCH_BYTES: usize = 64 << 10;

impl Shard {
    /// Hands new messages to the channels and runs to ready consumers.
    pub fn dispatch(&mut self, now: Now) {
        self.observe(now);
        let mut dirty = std::mem::take(&mut self.lists.dirty);
        for key in dirty.drain(..) {
            if let Some(topic) = self.topics.get_mut(key) {
                topic.agenda.dirty = false;
                self.dispatch_topic(key);
            }
        }
        debug_assert!(
            self.lists.dirty.is_empty(),
            "a dispatch leaves nothing to dispatch"
        );
        self.lists.dirty = dirty;
        self.enforce_cache();
    }

    fn dispatch_topic(&mut self, key: TopicKey) {
        let topic = &mut self.topics[key];
        topic.tail.seal();
        if topic.ephemeral {
            topic.tail.forgo_log();
        }
        self.pump_listed(key);
        for at in 0..self.topics[key].channels.len() {
            let channel = self.topics[key].channels[at];
            if std::mem::take(&mut self.channels[channel].dirty) {
                self.dispatch_channel(channel);
            }
        }
        self.settle_reads(key);
        self.trim(key);
    }

    /// Pumps a topic that is being dispatched: its channels need not list it again.
    fn pump_listed(&mut self, key: TopicKey) {
        self.topics[key].agenda.dirty = true;
        self.pump(key);
        self.topics[key].agenda.dirty = false;
    }

    fn dispatch_channel(&mut self, key: ChannelKey) {
        let mut has_served = false;
        while let Some(consumer) = self.next_ready(key) {
            // Whoever's turn it is; where that side has nothing at hand, the other one.
            let requeued_next = self.channels[key].requeued_next;
            let served = (requeued_next && self.deliver_requeued(key, consumer))
                || self.deliver_fresh(key, consumer)
                || (!requeued_next && self.deliver_requeued(key, consumer));
            if !served {
                self.read_requeued(key);
                break;
            }
            has_served = true;
            // Its turn is over; the loop drops it when it comes round without room.
            let locality = self.consumers[consumer].options.locality;
            self.channels[key].crowd.ready(locality).rotate_left(1);
        }
        if has_served {
            self.read_ahead(key);
        }
    }

    /// The consumer whose turn it is: of the closest that have room.
    fn next_ready(&mut self, key: ChannelKey) -> Option<ConsumerKey> {
        let channel = &mut self.channels[key];
        if channel.paused {
            return None;
        }
        for locality in Locality::ALL {
            let ready = channel.crowd.ready(locality);
            while let Some(&front) = ready.front() {
                let consumer = &mut self.consumers[front];
                if consumer.spare() > 0 {
                    return Some(front);
                }
                consumer.queued = false;
                ready.pop_front();
            }
        }
        None
    }

    /// How many messages the next run to this consumer may hold.
    fn quota(&mut self, key: ChannelKey, consumer: ConsumerKey) -> u32 {
        let consumer = &self.consumers[consumer];
        let crowd = &mut self.channels[key].crowd;
        let alone = crowd.ready(consumer.options.locality).len() == 1;
        let turn = match (consumer.options.sample_rate, alone) {
            (1.., _) => 1,
            (0, true) => RUN_MAX,
            (0, false) => QUANTUM,
        };
        u32::try_from(consumer.spare().min(turn)).expect("at most RUN_MAX")
    }

    /// Delivers pending messages; `false` when there are none, or none in memory.
    fn deliver_fresh(&mut self, key: ChannelKey, consumer: ConsumerKey) -> bool {
        let Some(pending) = self.channels[key].pending.front() else {
            return false;
        };
        let left = u32::try_from(pending.end - pending.start).unwrap_or(u32::MAX);
        let max = self.quota(key, consumer).min(left);
        if self.samples_away(key, consumer, pending.start) {
            self.channels[key].discard_fresh();
            return true;
        }
        let (max, published_at) = self.same_age(key, pending.start, max);
        let count = self.send(key, consumer, pending.start, max);
        if count == 0 {
            return false;
        }
        let messages = (pending.start, count, published_at);
        let run = self.open_run(key, consumer, messages);
        let channel = &mut self.channels[key];
        channel.deliver_fresh(count, run);
        channel.requeued_next = true;
        true
    }

    /// Delivers requeued messages; `false` when there are none, or the first is not in memory.
    fn deliver_requeued(&mut self, key: ChannelKey, consumer: ConsumerKey) -> bool {
        let Some(&first) = self.channels[key].requeued.front() else {
            return false;
        };
        let max = self.quota(key, consumer);
        if self.samples_away(key, consumer, first) {
            let outlier = self.channels[key].discard_requeued();
            if let Some(sequence) = outlier {
                self.release_kept(self.channels[key].topic, sequence);
            }
            return true;
        }
        let channel = &self.channels[key];
        let attempts = |sequence| {
            channel
                .window
                .get(sequence)
                .expect("requeued is unfinished")
                .attempts
        };
        // A run is contiguous, and either needs patching or does not.
        let is_new = attempts(first) == 0;
        let sequences = channel.requeued.iter().take(max as usize).copied();
        let fits = |&(expected, sequence): &(u64, u64)| {
            expected == sequence && (attempts(sequence) == 0) == is_new
        };
        let count = (first..).zip(sequences).take_while(fits).count();
        let count = u32::try_from(count).expect("at most the quota");
        let (count, published_at) = self.same_age(key, first, count);
        let count = if is_new {
            self.send(key, consumer, first, count)
        } else {
            self.send_again(key, consumer, first, count)
        };
        if count == 0 {
            return false;
        }
        let run = self.open_run(key, consumer, (first, count, published_at));
        let channel = &mut self.channels[key];
        self.topics[channel.topic]
            .reads
            .touch(first..first + u64::from(count));
        channel.deliver_requeued(count, run);
        channel.requeued_next = false;
        true
    }

    /// Whether a sampling consumer lets this message go by. Decided only once its frame is in
    /// memory, so that waiting for the log does not give it a second chance.
    fn samples_away(&mut self, key: ChannelKey, consumer: ConsumerKey, sequence: u64) -> bool {
        let rate = self.consumers[consumer].options.sample_rate;
        rate > 0
            && self.topics[self.channels[key].topic]
                .frame(sequence)
                .is_some()
            && !self.coin.lands(rate)
    }

    /// Sends frames as they are; how many are in memory, up to `max`.
    fn send(&mut self, key: ChannelKey, consumer: ConsumerKey, first: u64, max: u32) -> u32 {
        let topic_key = self.channels[key].topic;
        let topic = &mut self.topics[topic_key];
        let conn = self.consumers[consumer].conn;
        let mut count = 0;
        while count < max {
            let Some((frames, more)) = topic.frames(first + u64::from(count), max - count) else {
                break;
            };
            self.effects.push_back(Effect::Deliver { conn, frames });
            count += more;
        }
        if count == 0 && topic.want(first, key) {
            self.effects.push_back(Effect::Fetch {
                topic: topic_key,
                from: Sequence(first),
                count: self.channels[key].wanted_from(first, max),
            });
        }
        count
    }

    /// Sends copies with their attempts patched; how many are in memory, up to `max`.
    fn send_again(&mut self, key: ChannelKey, consumer: ConsumerKey, first: u64, max: u32) -> u32 {
        let channel = &self.channels[key];
        let topic = &mut self.topics[channel.topic];
        let conn = self.consumers[consumer].conn;
        let scratch = &mut self.lists.scratch;
        let mut count = 0;
        while count < max {
            let sequence = first + u64::from(count);
            let Some(frame) = topic.frame(sequence) else {
                break;
            };
            if scratch.capacity() - scratch.len() < frame.len() {
                let full = scratch.split().freeze();
                if !full.is_empty() {
                    self.effects
                        .push_back(Effect::Deliver { conn, frames: full });
                }
                *scratch = BytesMut::with_capacity(SCRATCH_BYTES.max(frame.len()));
            }
            let slot = channel
                .window
                .get(sequence)
                .expect("requeued is unfinished");
            patch(scratch, frame, slot.attempts.saturating_add(1));
            count += 1;
        }
        let frames: Bytes = scratch.split().freeze();
        if !frames.is_empty() {
            self.effects.push_back(Effect::Deliver { conn, frames });
        }
        if count == 0 && topic.want(first, key) {
            self.effects.push_back(Effect::Fetch {
                topic: channel.topic,
                from: Sequence(first),
                count: max,
            });
        }
        count
    }

    /// How many of these messages were published together with the first, and when: a run has one
    /// time of publishing, so that a FIN finds it without looking for the message. Where latency is
    /// not measured all of them will do.
    fn same_age(&self, key: ChannelKey, first: u64, max: u32) -> (u32, Now) {
        if self.limits.latency.is_none() {
            return (max, Now::default());
        }
        let topic = &self.topics[self.channels[key].topic];
        match topic.frames(first, max) {
            Some((frames, _)) => published_together(&frames),
            // Nothing will be sent.
            None => (max, Now::default()),
        }
    }

    /// Accounts a run that was sent, `(first, count, published at)`; its number.
    fn open_run(
        &mut self,
        key: ChannelKey,
        consumer: ConsumerKey,
        (first, count, published_at): (u64, u32, Now),
    ) -> u32 {
        let found = &mut self.consumers[consumer];
        let delivered = &mut self.channels[key].counters.delivered_counts;
        delivered[found.options.locality as usize] += u64::from(count);
        found.stats.in_flight_count += u64::from(count);
        found.stats.message_count += u64::from(count);
        let deadline = self.now.after(found.options.msg_timeout);
        let run = NewRun {
            consumer,
            channel: key,
            first,
            count,
            delivered_at: self.now,
            published_at,
        };
        self.timers.open_run(run, deadline)
    }
}

/// How many frames at the start carry the time of the first, and that time.
fn published_together(mut frames: &[u8]) -> (u32, Now) {
    let mut published_at = None;
    let mut count = 0;
    while let Some(size) = frames.first_chunk() {
        let stamp = frames[TIMESTAMP_AT..]
            .first_chunk()
            .expect("a whole frame has a header");
        let stamp = Now(u64::from_be_bytes(*stamp));
        if *published_at.get_or_insert(stamp) != stamp {
            break;
        }
        frames = &frames[size_of::<u32>() + u32::from_be_bytes(*size) as usize..];
        count += 1;
    }
    (count, published_at.unwrap_or_default())
}

/// Appends a copy of a frame with other attempts.
fn patch(out: &mut BytesMut, frame: &[u8], attempts: u16) {
    let (before, rest) = frame.split_at(ATTEMPTS_AT);
    out.put_slice(before);
    out.put_u16(attempts);
    out.put_slice(&rest[size_of::<u16>()..]);
}
