//! Writing a topic's state down, and what the log must keep for it.
//!
//! Runs a few times per second per busy topic. `checkpoint.rs` of the crate has the encoding.

use std::ops::Range;

use super::Shard;
use crate::channel::Channel;
use crate::channel::journal::PAGE_SPAN;
use crate::channel::window::{Slot, State};
use crate::checkpoint::{
    ChannelEntry, KIND_CHANNEL, KIND_PAGE, Mark, PAGE_LEN, Page, TOPIC_KEY, TOPIC_NUMBER,
    TopicEntry, encode_page,
};
use crate::timers::Timers;
use crate::topic::{Backlog, Topic};
use crate::{CheckpointKey, CheckpointScope, Sequence, TopicKey};

/// Where the entries go, and the buffer they are encoded in.
struct Writer<P> {
    put: P,
    value: Vec<u8>,
}

impl<P: FnMut(CheckpointKey, &[u8])> Writer<P> {
    fn page(&mut self, channel: u32, page: u64, marks: &Page) -> bool {
        encode_page(marks, &mut self.value);
        (self.put)(key_of(KIND_PAGE, channel, page), &self.value);
        !self.value.is_empty()
    }

    fn remove_page(&mut self, channel: u32, page: u64) {
        (self.put)(key_of(KIND_PAGE, channel, page), &[]);
    }
}

fn key_of(kind: u8, channel: u32, page: u64) -> CheckpointKey {
    CheckpointKey {
        kind,
        channel,
        page,
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

    /// Encodes up to `pages_max` of the pages that have changed before the first of these calls since the last
    /// checkpoint; whether there are more. They belong to the next checkpoint, before its own entries:
    /// a large one is made in pieces, so that nothing else has to wait for it.
    pub fn checkpoint_ahead(
        &mut self,
        topic: TopicKey,
        pages_max: usize,
        put: impl FnMut(CheckpointKey, &[u8]),
    ) -> bool {
        let Some(found) = self.topics.get(topic).filter(|topic| !topic.ephemeral) else {
            return false;
        };
        let mut writer = Writer {
            put,
            value: Vec::new(),
        };
        let pump = found.backlog.pump;
        let mut left = pages_max;
        let mut has_more = false;
        for &key in &found.channels {
            let channel = &mut self.channels[key];
            let floor = channel.floor(pump);
            let pages = channel.journal.take_due(left);
            left -= pages.len();
            has_more |= channel.journal.has_due();
            for page in pages {
                write_page(channel, page, floor..pump, &self.timers, &mut writer);
            }
        }
        has_more
    }

    /// Encodes again what the checkpoints so far hold: up to `pages_max` pages from `from` on, and the
    /// entries of the channels that begin there. Where to go on; `None` when that was the last one.
    ///
    /// What changes in between is in the next checkpoint of [`CheckpointScope::Changed`]. All pieces
    /// with that one behind them stand for everything, so that nobody has to wait for a large state
    /// to be encoded at once.
    pub fn checkpoint_again(
        &self,
        topic: TopicKey,
        from: CheckpointKey,
        pages_max: usize,
        put: impl FnMut(CheckpointKey, &[u8]),
    ) -> Option<CheckpointKey> {
        let found = self.topics.get(topic).filter(|topic| !topic.ephemeral)?;
        let mut writer = Writer {
            put,
            value: Vec::new(),
        };
        let mut left = pages_max;
        let mut at = from;
        loop {
            let (written, channel) = if at.channel == TOPIC_NUMBER {
                (&found.backlog.pages_written, None)
            } else {
                let channel = self.channel_from(found, at.channel)?;
                if channel.journal.number > at.channel || at.kind != KIND_PAGE {
                    left = left.saturating_sub(1);
                    at = key_of(KIND_PAGE, channel.journal.number, 0);
                    write_channel_entry(channel, channel.floor(found.backlog.pump), &mut writer);
                }
                (&channel.journal.written, Some(channel))
            };
            for &page in written.range(at.page..) {
                if left == 0 {
                    return Some(key_of(KIND_PAGE, at.channel, page));
                }
                left -= 1;
                let marks = match channel {
                    None => due_times_of(&found.backlog, page),
                    Some(channel) => {
                        let known = channel.floor(found.backlog.pump)..found.backlog.pump;
                        page_of(channel, page, known, &self.timers)
                    }
                };
                if marks.iter().any(|mark| *mark != Mark::Default) {
                    writer.page(at.channel, page, &marks);
                }
            }
            at = key_of(KIND_CHANNEL, at.channel.checked_add(1)?, 0);
            if left == 0 {
                return Some(at);
            }
        }
    }

    /// The channel of a topic that is first by number from `number` on, and is written down.
    fn channel_from(&self, topic: &Topic, number: u32) -> Option<&Channel> {
        let channels = topic
            .channels
            .iter()
            .map(|&channel| &self.channels[channel]);
        channels
            .filter(|channel| channel.journal.enabled && channel.journal.number >= number)
            .min_by_key(|channel| channel.journal.number)
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
        let marks = due_times_of(backlog, page);
        writer.page(TOPIC_NUMBER, page, &marks);
        backlog.pages_written.insert(page);
        at = backlog
            .deferred
            .partition_point(|&(other, _)| other / PAGE_SPAN <= page);
    }
}

/// What a page of a topic's own backlog says.
fn due_times_of(backlog: &Backlog, page: u64) -> Page {
    let deferred = &backlog.deferred;
    let start = deferred.partition_point(|&(sequence, _)| sequence / PAGE_SPAN < page);
    let of_page = deferred
        .range(start..)
        .take_while(|(sequence, _)| sequence / PAGE_SPAN == page);
    let mut marks = [Mark::Default; PAGE_LEN];
    for &(sequence, due_ms) in of_page {
        marks[slot_of(sequence)] = Mark::Owed {
            attempts: 0,
            due_ms,
        };
    }
    marks
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
    write_channel_entry(channel, floor, writer);
    if scope == CheckpointScope::All {
        channel.journal.forget_written();
        channel.journal.clear_marks();
        mark_everything(channel, floor, pump);
    }
    // Pages that the floor has passed since say nothing any more, but for their outliers.
    let mut passed = channel.journal.sweep(floor);
    passed.retain(|&page| is_passed(channel, page, floor));
    for page in passed {
        channel.journal.written.remove(&page);
        writer.remove_page(number, page);
    }
    let marked = channel.journal.take_marks();
    for &page in &marked {
        write_page(channel, page, floor..pump, timers, writer);
    }
    // The set keeps its memory for the next round.
    channel.journal.marked = marked;
    channel.journal.clear_marks();
}

/// Whether a page lies below the floor and owns nothing.
fn is_passed(channel: &Channel, page: u64, floor: u64) -> bool {
    let (start, end) = (page * PAGE_SPAN, (page + 1) * PAGE_SPAN);
    end <= floor && !channel.window.owes_outlier(start, end)
}

/// Writes a page that was marked; `known` is from the floor to the pump.
fn write_page<P: FnMut(CheckpointKey, &[u8])>(
    channel: &mut Channel,
    page: u64,
    known: Range<u64>,
    timers: &Timers,
    writer: &mut Writer<P>,
) {
    let was_written = channel.journal.written.contains(&page);
    if !was_written && is_passed(channel, page, known.start) {
        return;
    }
    let marks = page_of(channel, page, known, timers);
    let says_nothing = marks.iter().all(|mark| *mark == Mark::Default);
    if says_nothing && !was_written {
        return;
    }
    if writer.page(channel.journal.number, page, &marks) {
        channel.journal.written.insert(page);
    } else {
        channel.journal.written.remove(&page);
    }
}

fn write_channel_entry<P: FnMut(CheckpointKey, &[u8])>(
    channel: &Channel,
    floor: u64,
    writer: &mut Writer<P>,
) {
    ChannelEntry::encode(floor, channel.name.as_str(), &mut writer.value);
    let key = key_of(KIND_CHANNEL, channel.journal.number, 0);
    (writer.put)(key, &writer.value);
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
fn page_of(channel: &Channel, page: u64, known: Range<u64>, timers: &Timers) -> Page {
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
