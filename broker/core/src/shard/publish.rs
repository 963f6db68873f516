//! Publishing, and the traffic with the log.
//!
//! Hot path: no allocation (blocks apart), formatting or hashing per message.

use std::time::Duration;

use bytes::Bytes;

use super::Shard;
use crate::reads::ReadChunk;
use crate::topic::Topic;
use crate::{Batch, Now, PublishError, Published, Sequence, TopicKey};

/// When a message published at `now` with this delay is due, in Unix milliseconds; 0 = at once.
fn due_ms(now: Now, delay: Duration) -> u64 {
    if delay.is_zero() {
        0
    } else {
        now.after(delay).0.div_ceil(1_000_000).max(1)
    }
}

/// How many more messages the topic's own backlog takes; only ephemeral ones are bounded, and only
/// while nothing takes the backlog away.
fn backlog_room(topic: &Topic, mem_queue_size: u64) -> u64 {
    if topic.ephemeral && !topic.is_pumping() {
        mem_queue_size.saturating_sub(topic.backlog.depth(topic.head()))
    } else {
        u64::MAX
    }
}

impl Shard {
    /// Appends the bodies, all or none, to the topic. `delay` defers them.
    ///
    /// # Errors
    /// `Exiting` when the topic is gone or the shard stops, `Log` when the topic's log has failed.
    pub fn publish<'a>(
        &mut self,
        now: Now,
        topic: TopicKey,
        delay: Duration,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Published, PublishError> {
        self.observe(now);
        let key = topic;
        let topic = self.topics.get_mut(key).filter(|_| !self.draining);
        let topic = topic.ok_or(PublishError::Exiting)?;
        if let Some(reason) = &topic.poisoned {
            return Err(PublishError::Log(reason.clone()));
        }
        let due_ms = due_ms(now, delay);
        let mut room = backlog_room(topic, self.limits.mem_queue_size);
        topic.tail.begin(now.0, due_ms);
        let (mut count, mut body_bytes, mut frame_bytes) = (0u64, 0usize, 0usize);
        for body in bodies {
            count += 1;
            body_bytes += body.len();
            if room == 0 {
                continue;
            }
            room -= 1;
            if due_ms > 0 {
                topic
                    .backlog
                    .deferred
                    .push_back((topic.tail.head(), due_ms));
            }
            frame_bytes += topic.tail.append(body);
        }
        topic.accepted.0 += count;
        topic.accepted.1 += body_bytes as u64;
        let published = Published {
            end: Sequence(topic.head()),
            logged: !topic.ephemeral,
        };
        if published.logged {
            topic.agenda.changed = true;
            self.cache.unwritten_bytes += frame_bytes;
            if !topic.agenda.unsent {
                topic.agenda.unsent = true;
                self.lists.unsent.push(key);
            }
        }
        self.mark_topic(key);
        Ok(published)
    }

    /// Lends every batch gathered since the last call, topic by topic, oldest first. The frames
    /// stay cached in the core. Topics without a log (ephemeral ones) have none.
    pub fn take_batches(&mut self, mut append: impl FnMut(TopicKey, Batch<'_>)) {
        for key in self.lists.unsent.drain(..) {
            let Some(topic) = self.topics.get_mut(key) else {
                continue;
            };
            topic.agenda.unsent = false;
            let epoch = topic.epoch();
            topic.tail.seal();
            while let Some((chunk, ends)) = topic.tail.lend() {
                self.cache.admit(key, chunk);
                let first = Sequence(chunk.first);
                let frames = chunk.bytes.clone();
                append(
                    key,
                    Batch {
                        first,
                        epoch,
                        due_ms: chunk.due_ms,
                        frames,
                        ends,
                    },
                );
            }
        }
        self.compact_cache();
    }

    /// The log wrote everything below `end` to the kernel: the cache may now drop it.
    pub fn on_written(&mut self, topic: TopicKey, end: Sequence) {
        let Some(found) = self.topics.get_mut(topic) else {
            return;
        };
        let settled = found.tail.on_written(end.0);
        if found.poisoned.is_none() {
            self.cache.unwritten_bytes -= settled;
        }
        self.trim(topic);
        self.enforce_cache();
    }

    /// The publishers of everything below `end` are answered before what is dispatched from now on:
    /// it may be handed to consumers. Ephemeral topics need none of this.
    pub fn reveal(&mut self, topic: TopicKey, end: Sequence) {
        let found = self.topics.get_mut(topic);
        if found.is_some_and(|topic| topic.reveal(end.0)) {
            self.mark_topic(topic);
        }
    }

    /// The log failed for good: publishes to this topic are refused from now on. What was not
    /// written stays deliverable, but holds no other publisher up.
    pub fn on_poisoned(&mut self, topic: TopicKey, reason: String) {
        let Some(found) = self.topics.get_mut(topic) else {
            return;
        };
        if found.poisoned.is_none() {
            self.cache.unwritten_bytes -= found.tail.unwritten_bytes();
            found.poisoned = Some(reason);
        }
        let head = found.head();
        self.reveal(topic, Sequence(head));
    }

    /// Publishers are to wait: too much is gathered and not yet written.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.cache.unwritten_bytes > self.limits.unwritten_bytes_max
    }

    /// Refuse further publishes with `Exiting` (clean stop).
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Answers the `Fetch` of `from`: `frames` holds whole frames at `spans` (start, end), for consecutive
    /// sequences from `first`, `first <= from`. `next`: the sequence after the last one given;
    /// when it is greater than `first + spans.len()`, what lies between is damaged and counts as
    /// finished.
    #[expect(
        clippy::too_many_arguments,
        reason = "an answer of the log, spread out"
    )]
    pub fn on_fetched(
        &mut self,
        topic: TopicKey,
        from: Sequence,
        first: Sequence,
        frames: Bytes,
        spans: Vec<(u32, u32)>,
        next: Sequence,
    ) {
        let Some(found) = self.topics.get_mut(topic) else {
            return;
        };
        let end = first.0 + spans.len() as u64;
        self.cache.planned_bytes -= found.fetches.close(from.0);
        if !spans.is_empty() {
            let chunk = ReadChunk::new(frames, spans, self.cache.next_stamp());
            self.cache.admit_read(topic, first.0, &chunk);
            if let Some(replaced) = found.reads.insert(first.0, chunk) {
                self.cache.dismiss_read(&replaced);
            }
        }
        self.lose(topic, end, next.0);
        self.mark_channels(topic);
    }

    /// Answers `Fetch`: `[from, next)` cannot be read and counts as finished.
    pub fn on_fetch_failed(&mut self, topic: TopicKey, from: Sequence, next: Sequence) {
        let Some(found) = self.topics.get_mut(topic) else {
            return;
        };
        self.cache.planned_bytes -= found.fetches.close(from.0);
        self.lose(topic, from.0, next.0);
        self.mark_channels(topic);
    }

    /// `[start, end)` is damaged: nobody waits for it any more.
    fn lose(&mut self, key: TopicKey, start: u64, end: u64) {
        let topic = &mut self.topics[key];
        let end = end.min(topic.head());
        if start >= end {
            return;
        }
        topic.backlog.lose(start, end);
        topic.agenda.changed = true;
        for channel in &self.topics[key].channels {
            self.channels[*channel].lose(start, end, &mut self.timers);
        }
    }

    fn mark_channels(&mut self, key: TopicKey) {
        for at in 0..self.topics[key].channels.len() {
            let channel = self.topics[key].channels[at];
            self.mark_channel(channel);
        }
        self.mark_topic(key);
    }
}
