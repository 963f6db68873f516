//! A channel: a cursor over its topic's log, and what it owes behind and ahead of it.
//!
//! A message handed over by the topic is in exactly one place until it is settled:
//! `pending` (never delivered), or a slot of the `window` that is in flight, requeued or deferred.
//! Owned by the shard. Hot path: delivering, finishing and requeueing allocate nothing per message.
//!
//! Invariants (see [`Channel::check_invariants`]):
//! - `messages + restored = finished + dropped + depth + in flight + deferred`;
//! - `requeued` lists every slot that is requeued, once;
//! - `in_flight` and `deferred` count the slots in those states.

pub(crate) mod journal;
pub(crate) mod window;

use std::collections::VecDeque;
use std::ops::Range;

use nsq_proto::ChannelName;

use crate::latency::Latencies;
use crate::ranges::Ranges;
use crate::timers::Timers;
use crate::types::ChannelKey;
use crate::wheel::Timer;
use crate::{ConsumerKey, Locality, TopicKey};
use journal::{Journal, PAGE_SPAN};
use window::{Slot, State, Window};

/// What happened since the process started, and what is so now.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Handed over by the topic.
    pub(crate) message_count: u64,
    /// Deliveries by [`Locality`] of the consumer.
    pub(crate) delivered_counts: [u64; Locality::ALL.len()],
    pub(crate) finish_count: u64,
    /// By REQ only.
    pub(crate) requeue_count: u64,
    pub(crate) timeout_count: u64,
    /// Emptied, sampled away, over an ephemeral channel's bound, or lost to damage.
    pub(crate) dropped_count: u64,
    /// Owed from before the process started.
    pub(crate) restored_count: u64,
    pub(crate) in_flight_count: u64,
    pub(crate) deferred_count: u64,
}

/// The consumers of a channel.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    pub(crate) members: Vec<ConsumerKey>,
    /// Those that may have room, in turn, by [`Locality`]; each at most once (`Consumer::queued`).
    ready: [VecDeque<ConsumerKey>; Locality::ALL.len()],
}

impl Crowd {
    /// Those of one locality that may have room.
    pub(crate) fn ready(&mut self, locality: Locality) -> &mut VecDeque<ConsumerKey> {
        &mut self.ready[locality as usize]
    }

    /// All that may have room.
    pub(crate) fn all_ready(&self) -> impl Iterator<Item = ConsumerKey> {
        self.ready.iter().flatten().copied()
    }

    /// A consumer has left.
    pub(crate) fn remove(&mut self, gone: ConsumerKey) {
        self.members.retain(|&member| member != gone);
        for ready in &mut self.ready {
            ready.retain(|&member| member != gone);
        }
    }
}

/// What a topic hands to its channels in one go.
#[derive(Debug)]
pub(crate) struct HandOver<'a> {
    pub(crate) range: Range<u64>,
    /// Those of the range that are not due at once, `(sequence, due ms)`, ascending.
    pub(crate) deferred: &'a VecDeque<(u64, u64)>,
    pub(crate) now_ms: u64,
    /// How many the channel may take without delay; the rest is dropped.
    pub(crate) room: u64,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: ChannelName,
    pub(crate) topic: TopicKey,
    /// In memory only: what exceeds `--mem-queue-size` is dropped.
    pub(crate) bounded: bool,
    pub(crate) paused: bool,
    /// Something changed since the last dispatch.
    pub(crate) dirty: bool,
    pub(crate) pending: Ranges,
    /// Waiting for redelivery, in the order of their return.
    pub(crate) requeued: VecDeque<u64>,
    /// Whose turn it is when both fresh and requeued messages wait.
    pub(crate) requeued_next: bool,
    pub(crate) window: Window,
    pub(crate) crowd: Crowd,
    pub(crate) counters: Counters,
    pub(crate) journal: Journal,
    /// `None` until the first FIN, and always where latency is not measured.
    pub(crate) latencies: Option<Box<Latencies>>,
}

impl Channel {
    pub(crate) fn new(name: ChannelName, topic: TopicKey, bounded: bool, journal: Journal) -> Self {
        Self {
            name,
            topic,
            bounded,
            paused: false,
            dirty: false,
            pending: Ranges::default(),
            requeued: VecDeque::new(),
            requeued_next: false,
            window: Window::default(),
            crowd: Crowd::default(),
            counters: Counters::default(),
            journal,
            latencies: None,
        }
    }

    /// Messages ready for delivery.
    pub(crate) fn depth(&self) -> u64 {
        self.pending.len() + self.requeued.len() as u64
    }

    /// Everything below it is settled, outliers of the window excepted.
    pub(crate) fn floor(&self, pump: u64) -> u64 {
        let cursor = || self.pending.front().map_or(pump, |range| range.start);
        self.window.floor().unwrap_or_else(cursor)
    }

    /// How many messages from `first` on will be wanted, of which `max` now: all that follow where
    /// they are fresh, and no others where they come back or were deferred.
    pub(crate) fn wanted_from(&self, first: u64, max: u32) -> u32 {
        match self.window.get(first) {
            Some(_) => max,
            None => u32::MAX,
        }
    }

    /// Whether it owes a message of `[start, end)`.
    pub(crate) fn owes(&self, start: u64, end: u64) -> bool {
        self.pending.intersects(start, end) || self.window.owes(start, end)
    }

    /// Takes new messages from the topic.
    pub(crate) fn hand_over(&mut self, me: ChannelKey, batch: &HandOver<'_>, timers: &mut Timers) {
        let Range { start, end } = batch.range;
        self.counters.message_count += end - start;
        self.journal.changed |= self.journal.enabled;
        let mut room = batch.room;
        let mut next = start;
        for &(sequence, due_ms) in batch.deferred {
            if sequence >= end {
                break;
            }
            if due_ms <= batch.now_ms {
                continue;
            }
            room -= self.take_pending(next..sequence, room);
            self.defer_unseen(me, (sequence, due_ms), timers);
            next = sequence + 1;
        }
        self.take_pending(next..end, room);
    }

    /// Takes as much as there is room for; how much that was.
    fn take_pending(&mut self, range: Range<u64>, room: u64) -> u64 {
        let taken = room.min(range.end - range.start);
        self.pending.push(range.start..range.start + taken);
        self.counters.dropped_count += range.end - range.start - taken;
        taken
    }

    /// Sets a deferral for a message that was never delivered.
    fn defer_unseen(
        &mut self,
        me: ChannelKey,
        (sequence, due_ms): (u64, u64),
        timers: &mut Timers,
    ) {
        let timer = Timer::Deferred {
            channel: me,
            sequence,
        };
        let key = timers.wheel.insert_tick(due_ms, timer);
        self.window.insert_outlier(
            sequence,
            Slot {
                key,
                attempts: 0,
                state: State::Deferred,
            },
        );
        self.counters.deferred_count += 1;
        self.journal.mark(sequence);
    }

    /// The first `count` pending messages went out as a run.
    pub(crate) fn deliver_fresh(&mut self, count: u32, run: u32) {
        let first = self
            .pending
            .front()
            .expect("the caller has seen pending messages")
            .start;
        self.pending.advance(u64::from(count));
        self.window.push(
            first,
            count,
            Slot {
                key: run,
                attempts: 1,
                state: State::InFlight,
            },
        );
        self.counters.in_flight_count += u64::from(count);
        self.journal.mark_range(first, first + u64::from(count));
        if self.journal.is_prune_due() {
            let Self {
                journal,
                window,
                pending,
                ..
            } = self;
            let cursor = || pending.front().map_or(first, |range| range.start);
            let floor = window.floor().unwrap_or_else(cursor);
            let end = |page: u64| (page + 1) * PAGE_SPAN;
            journal.prune(|page| {
                end(page) > floor || window.owes_outlier(page * PAGE_SPAN, end(page))
            });
        }
    }

    /// The first `count` requeued messages went out as a run.
    pub(crate) fn deliver_requeued(&mut self, count: u32, run: u32) {
        for sequence in self.requeued.drain(..count as usize) {
            let slot = self
                .window
                .get_mut(sequence)
                .expect("requeued messages are unfinished");
            debug_assert_eq!(slot.state, State::Requeued);
            slot.attempts = slot.attempts.saturating_add(1);
            slot.state = State::InFlight;
            slot.key = run;
            self.journal.mark(sequence);
        }
        self.counters.in_flight_count += u64::from(count);
    }

    /// The first pending message was sampled away.
    pub(crate) fn discard_fresh(&mut self) {
        let first = self
            .pending
            .front()
            .expect("the caller has seen pending messages")
            .start;
        self.pending.advance(1);
        self.window.push(
            first,
            1,
            Slot {
                key: 0,
                attempts: 0,
                state: State::Finished,
            },
        );
        self.counters.dropped_count += 1;
        self.journal.mark(first);
    }

    /// The first requeued message was sampled away; its sequence, if it was an outlier.
    pub(crate) fn discard_requeued(&mut self) -> Option<u64> {
        let sequence = self
            .requeued
            .pop_front()
            .expect("the caller has seen requeued messages");
        self.counters.dropped_count += 1;
        self.journal.mark(sequence);
        self.window.finish(sequence).then_some(sequence)
    }

    /// A message that was released from flight is settled; whether it was an outlier.
    pub(crate) fn finish(&mut self, sequence: u64) -> bool {
        self.counters.finish_count += 1;
        self.journal.mark(sequence);
        self.window.finish(sequence)
    }

    /// A message that was released from flight, or has come due, waits for delivery.
    pub(crate) fn requeue(&mut self, sequence: u64) {
        let slot = self
            .window
            .get_mut(sequence)
            .expect("an unfinished message");
        slot.state = State::Requeued;
        self.requeued.push_back(sequence);
    }

    /// A message that was released from flight waits for its time, at this node of the wheel.
    pub(crate) fn defer(&mut self, sequence: u64, key: u32) {
        let slot = self
            .window
            .get_mut(sequence)
            .expect("an unfinished message");
        slot.state = State::Deferred;
        slot.key = key;
        self.counters.deferred_count += 1;
        self.journal.mark(sequence);
    }

    /// The timer of a deferred message has fired.
    pub(crate) fn come_due(&mut self, sequence: u64) {
        self.counters.deferred_count -= 1;
        self.requeue(sequence);
    }

    /// Requeues what is still in flight of a run that has timed out; how many those were.
    pub(crate) fn time_out(&mut self, number: u32, messages: Range<u64>) -> u64 {
        let mut count = 0;
        for sequence in messages {
            let Some(slot) = self.window.get_mut(sequence) else {
                continue;
            };
            if slot.state == State::InFlight && slot.key == number {
                slot.state = State::Requeued;
                self.requeued.push_back(sequence);
                count += 1;
            }
        }
        self.counters.in_flight_count -= count;
        self.counters.timeout_count += count;
        count
    }

    /// Drops everything it owes.
    pub(crate) fn empty(&mut self, timers: &mut Timers) {
        let counters = &mut self.counters;
        counters.dropped_count += self.pending.len() + self.requeued.len() as u64;
        counters.dropped_count += counters.in_flight_count + counters.deferred_count;
        counters.in_flight_count = 0;
        counters.deferred_count = 0;
        for (_, slot) in self.window.unfinished() {
            match slot.state {
                State::InFlight => timers.settle(slot.key),
                State::Deferred => timers.wheel.cancel(slot.key),
                State::Requeued | State::Finished | State::Elsewhere => {}
            }
        }
        self.window.clear();
        self.pending.clear();
        self.requeued = VecDeque::new();
        self.journal.mark_written();
    }

    /// `[start, end)` is lost to damage: drops what waits there. What is in flight has been read.
    pub(crate) fn lose(&mut self, start: u64, end: u64, timers: &mut Timers) {
        let mut lost = self.pending.remove(start, end);
        let waiting: Vec<(u64, Slot)> = self
            .window
            .outliers_of(start, end)
            .chain(self.window.slots_of(start, end))
            .filter(|(_, slot)| matches!(slot.state, State::Requeued | State::Deferred))
            .collect();
        for (sequence, slot) in waiting {
            if slot.state == State::Deferred {
                timers.wheel.cancel(slot.key);
                self.counters.deferred_count -= 1;
            }
            self.window.finish(sequence);
            lost += 1;
        }
        self.requeued
            .retain(|sequence| !(start..end).contains(sequence));
        self.counters.dropped_count += lost;
        self.journal.mark_range(start, end);
    }

    /// Gives back what an idle channel does not need: called now and then, not per turn.
    pub(crate) fn relax(&mut self) {
        self.window.relax();
        if self.requeued.is_empty() {
            self.requeued = VecDeque::new();
        }
    }

    /// Asserts the invariants of the module documentation.
    pub(crate) fn check_invariants(&self, timers: &Timers) {
        self.pending.check_invariants();
        self.window.check_invariants();
        let (mut in_flight, mut deferred, mut requeued) = (0, 0, Vec::new());
        for (sequence, slot) in self.window.unfinished() {
            match slot.state {
                State::InFlight => {
                    in_flight += 1;
                    let run = timers.run(slot.key);
                    assert!(run.remaining > 0 && sequence - run.first < u64::from(run.count));
                    assert!(slot.attempts > 0);
                }
                State::Deferred => deferred += 1,
                State::Requeued => requeued.push(sequence),
                State::Finished | State::Elsewhere => panic!("{sequence} is not unfinished"),
            }
            assert!(
                !self.pending.intersects(sequence, sequence + 1),
                "{sequence} is pending as well"
            );
        }
        let mut listed: Vec<u64> = self.requeued.iter().copied().collect();
        listed.sort_unstable();
        requeued.sort_unstable();
        assert_eq!(listed, requeued, "requeued slots and their queue");
        let counters = &self.counters;
        assert_eq!(in_flight, counters.in_flight_count);
        assert_eq!(deferred, counters.deferred_count);
        assert_eq!(
            counters.message_count + counters.restored_count,
            counters.finish_count + counters.dropped_count + self.depth() + in_flight + deferred,
            "{counters:?}"
        );
    }
}
