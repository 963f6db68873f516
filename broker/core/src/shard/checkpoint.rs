//! Writing a topic's state down, and what the log must keep for it.
//!
//! Runs a few times per second per busy topic. `checkpoint.rs` of the crate has the encoding.

use super::Shard;
use crate::channel::Channel;
use crate::channel::journal::PAGE_SPAN;
use crate::channel::window::{Slot, State};
use crate::checkpoint::{
    ChannelEntry, KIND_CHANNEL, KIND_PAGE, Mark, PAGE_LEN, Page, TOPIC_KEY, TOPIC_NUMBER,
    TopicEntry, encode_page,
};
use crate::timers::Timers;
use crate::topic::Topic;
use crate::{CheckpointKey, CheckpointScope, Sequence, TopicKey};

/// Where the entries go, and the buffer they are encoded in.
struct Writer<P> {
    put: P,
    value: Vec<u8>,
}

impl<P: FnMut(CheckpointKey, &[u8])> Writer<P> {
    fn page(&mut self, channel: u32, page: u64, marks: &Page) -> bool {
        encode_page(marks, &mut self.value);
        (self.put)(
            CheckpointKey {
                kind: KIND_PAGE,
                channel,
                page,
            },
            &self.value,
        );
        !self.value.is_empty()
    }

    fn remove_page(&mut self, channel: u32, page: u64) {
        (self.put)(
            CheckpointKey {
                kind: KIND_PAGE,
                channel,
                page,
            },
            &[],
        );
    }
}

impl Shard {
    /// Whether anything changed since the topic's last checkpoint.
    #[must_use]
    pub fn is_checkpoint_due(&self, topic: TopicKey) -> bool {
        let Some(topic) = self.topics.get(topic).filter(|topic| !topic.ephemeral) else {
            return false;
        };
        let mut channels = topic
            .channels
            .iter()
            .map(|&channel| &self.channels[channel]);
        topic.agenda.changed || channels.any(|channel| channel.journal.changed)
    }

    /// Encodes entries; an empty value removes its key.
    pub fn checkpoint(
        &mut self,
        topic: TopicKey,
        scope: CheckpointScope,
        put: impl FnMut(CheckpointKey, &[u8]),
    ) {
        if self.topics.get(topic).is_none_or(|topic| topic.ephemeral) {
            return;
        }
        self.pump(topic);
        let found = &mut self.topics[topic];
        let mut writer = Writer {
            put,
            value: Vec::new(),
        };
        let removed = std::mem::take(&mut found.agenda.removed);
        if scope == CheckpointScope::Changed {
            removed.into_iter().for_each(|key| (writer.put)(key, &[]));
        }
        write_topic(found, scope, &mut writer);
        found.agenda.changed = false;
        found.tail.relax();
        let pump = found.backlog.pump;
        for &key in &found.channels {
            let channel = &mut self.channels[key];
            if channel.journal.enabled && (channel.journal.changed || scope == CheckpointScope::All)
            {
                write_channel(channel, pump, scope, &self.timers, &mut writer);
            }
            channel.relax();
        }
    }

    /// Whether any channel (or the topic's own backlog) still owes a message in `[start, end)`.
    #[must_use]
    pub fn owes(&self, topic: TopicKey, start: Sequence, end: Sequence) -> bool {
        let Some(found) = self.topics.get(topic) else {
            return false;
        };
        let mut channels = found
            .channels
            .iter()
            .map(|&channel| &self.channels[channel]);
        found.backlog.owes(start.0, end.0, found.head())
            || channels.any(|channel| channel.owes(start.0, end.0))
    }
}

fn write_topic<P: FnMut(CheckpointKey, &[u8])>(
    topic: &mut Topic,
    scope: CheckpointScope,
    writer: &mut Writer<P>,
) {
    let entry = TopicEntry {
        pump: topic.backlog.pump,
        head: topic.head(),
        epoch: topic.epoch(),
        next_channel: topic.next_channel,
        epochs: topic
            .epochs
            .iter()
            .map(|&(first, epoch)| (first, epoch))
            .collect(),
    };
    entry.encode(&mut writer.value);
    (writer.put)(TOPIC_KEY, &writer.value);
    write_due_times(topic, scope, writer);
}

/// Writes the due times of the topic's own backlog; they are only ever appended, or all dropped.
fn write_due_times<P: FnMut(CheckpointKey, &[u8])>(
    topic: &mut Topic,
    scope: CheckpointScope,
    writer: &mut Writer<P>,
) {
    let head = topic.head();
    let backlog = &mut topic.backlog;
    let from = match scope {
        CheckpointScope::All => {
            backlog.pages_written.clear();
            0
        }
        CheckpointScope::Changed => backlog.saved,
    };
    let oldest = backlog
        .deferred
        .front()
        .map_or(u64::MAX, |&(first, _)| first / PAGE_SPAN);
    while let Some(page) = backlog
        .pages_written
        .first()
        .copied()
        .filter(|&page| page < oldest)
    {
        backlog.pages_written.pop_first();
        writer.remove_page(TOPIC_NUMBER, page);
    }
    backlog.saved = head;
    let mut at = backlog
        .deferred
        .partition_point(|&(sequence, _)| sequence < from);
    while let Some(&(sequence, _)) = backlog.deferred.get(at) {
        let page = sequence / PAGE_SPAN;
        let start = backlog
            .deferred
            .partition_point(|&(other, _)| other / PAGE_SPAN < page);
        let end = backlog
            .deferred
            .partition_point(|&(other, _)| other / PAGE_SPAN <= page);
        let mut marks = [Mark::Default; PAGE_LEN];
        for &(sequence, due_ms) in backlog.deferred.range(start..end) {
            marks[slot_of(sequence)] = Mark::Owed {
                attempts: 0,
                due_ms,
            };
        }
        writer.page(TOPIC_NUMBER, page, &marks);
        backlog.pages_written.insert(page);
        at = end;
    }
}

fn write_channel<P: FnMut(CheckpointKey, &[u8])>(
    channel: &mut Channel,
    pump: u64,
    scope: CheckpointScope,
    timers: &Timers,
    writer: &mut Writer<P>,
) {
    let number = channel.journal.number;
    let floor = channel.floor(pump);
    ChannelEntry::encode(floor, channel.name.as_str(), &mut writer.value);
    (writer.put)(
        CheckpointKey {
            kind: KIND_CHANNEL,
            channel: number,
            page: 0,
        },
        &writer.value,
    );
    if scope == CheckpointScope::All {
        channel.journal.forget_written();
        channel.journal.clear_marks();
        mark_everything(channel, floor, pump);
    }
    let end = |page: u64| (page + 1) * PAGE_SPAN;
    let is_passed = |channel: &Channel, page: u64| {
        end(page) <= floor && !channel.window.owes_outlier(page * PAGE_SPAN, end(page))
    };
    // Pages that the floor has passed since say nothing any more, but for their outliers.
    let mut passed = channel.journal.sweep(floor);
    passed.retain(|&page| is_passed(channel, page));
    for page in passed {
        channel.journal.written.remove(&page);
        writer.remove_page(number, page);
    }
    let marked = std::mem::take(&mut channel.journal.marked);
    for &page in &marked {
        let was_written = channel.journal.written.contains(&page);
        if !was_written && is_passed(channel, page) {
            continue;
        }
        let marks = page_of(channel, page, floor..pump, timers);
        let says_nothing = marks.iter().all(|mark| *mark == Mark::Default);
        if says_nothing && !was_written {
            continue;
        }
        if writer.page(number, page, &marks) {
            channel.journal.written.insert(page);
        } else {
            channel.journal.written.remove(&page);
        }
    }
    // The set keeps its memory for the next round.
    channel.journal.marked = marked;
    channel.journal.clear_marks();
}

/// Marks every page that may say something.
fn mark_everything(channel: &mut Channel, floor: u64, pump: u64) {
    let Channel {
        journal,
        window,
        pending,
        ..
    } = channel;
    window
        .outliers_of(0, u64::MAX)
        .for_each(|(sequence, _)| journal.mark(sequence));
    let mut next = floor;
    for range in pending.overlapping(0, u64::MAX) {
        journal.mark_range(next, range.start);
        next = range.end;
    }
    journal.mark_range(next, pump);
}

/// Index within its page.
fn slot_of(sequence: u64) -> usize {
    usize::try_from(sequence % PAGE_SPAN).expect("below PAGE_LEN")
}

/// What a page says; `known` is from the floor to the pump.
fn page_of(channel: &Channel, page: u64, known: std::ops::Range<u64>, timers: &Timers) -> Page {
    let mut marks = [Mark::Default; PAGE_LEN];
    let (start, end) = (page * PAGE_SPAN, (page + 1) * PAGE_SPAN);
    let mut fill = |from: u64, to: u64, mark| {
        for sequence in from.max(start)..to.min(end) {
            marks[slot_of(sequence)] = mark;
        }
    };
    fill(known.start, known.end, Mark::Finished);
    for range in channel.pending.overlapping(start, end) {
        fill(range.start, range.end, Mark::Default);
    }
    let slots = channel
        .window
        .slots_of(start, end)
        .chain(channel.window.outliers_of(start, end));
    for (sequence, slot) in slots {
        if let Some(mark) = mark_of(slot, timers) {
            marks[slot_of(sequence)] = mark;
        }
    }
    marks
}

fn mark_of(slot: Slot, timers: &Timers) -> Option<Mark> {
    let due_ms = match slot.state {
        State::InFlight | State::Requeued => 0,
        State::Deferred => timers.wheel.tick(slot.key),
        State::Finished | State::Elsewhere => return None,
    };
    Some(Mark::Owed {
        attempts: slot.attempts,
        due_ms,
    })
}
