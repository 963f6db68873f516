//! Rebuilding a topic from its log and the last checkpoint.
//!
//! The log is the truth about what exists, `nsqd.dat` about which channels there are, and the
//! checkpoint about what they have done; where they disagree, what was not finished for certain is
//! owed. A crash can leave the checkpoint ahead of the log (a message was delivered and finished
//! before it was written): positions are clamped to what the log holds, and to what it held when the
//! checkpoint was written, which the epochs tell: after such a crash the same sequences may since
//! have been given to other messages.

use std::collections::BTreeMap;
use std::ops::Range;

use nsq_proto::{ChannelName, TopicName};

use super::Shard;
use crate::channel::HandOver;
use crate::channel::journal::PAGE_SPAN;
use crate::channel::window::{Slot, State};
use crate::checkpoint::{
    ChannelEntry, KIND_CHANNEL, KIND_PAGE, Mark, TOPIC_KEY, TopicEntry, decode_page,
};
use crate::topic::Topic;
use crate::types::ChannelKey;
use crate::wheel::Timer;
use crate::{CheckpointKey, Effect, Epoch, Now, RestoredTopic, Sequence, TopicKey};

/// The checkpoint, decoded and clamped to the log.
#[derive(Debug, Default)]
struct Saved {
    topic: TopicEntry,
    /// By name: number and floor.
    channels: BTreeMap<String, (u32, u64)>,
    /// By channel number (0 = the topic's backlog), where the sequences differ from the default.
    marks: BTreeMap<u32, Vec<(u64, Mark)>>,
    /// Every page that has a value.
    pages: BTreeMap<u32, Vec<u64>>,
    /// Messages in the log when it was written that still exist: `[first, pump)`.
    pumped: Range<u64>,
}

impl Saved {
    fn decode(restored: &RestoredTopic) -> Self {
        let mut saved = Self::default();
        let first = restored.first.0;
        let topic_entry = restored.checkpoint.get(&TOPIC_KEY);
        saved.topic = topic_entry
            .and_then(|value| TopicEntry::decode(value))
            .unwrap_or_else(|| TopicEntry {
                pump: first,
                ..TopicEntry::default()
            });
        let newer = restored
            .epochs
            .iter()
            .find(|&&(_, epoch)| epoch > saved.topic.epoch);
        let end = newer
            .map_or(restored.head, |&(start, _)| start.min(restored.head))
            .0
            .max(first);
        let mut numbers = 1;
        for (key, value) in &restored.checkpoint {
            numbers = numbers.max(key.channel.saturating_add(1));
            match key.kind {
                KIND_CHANNEL => {
                    if let Some(channel) = ChannelEntry::decode(value) {
                        saved
                            .channels
                            .insert(channel.name, (key.channel, channel.floor));
                    }
                }
                KIND_PAGE => saved.read_page(key, value, first..end),
                _ => {}
            }
        }
        saved.topic.next_channel = saved.topic.next_channel.max(numbers);
        saved.pumped = first..saved.topic.pump.clamp(first, end);
        saved
    }

    fn read_page(&mut self, key: &CheckpointKey, value: &[u8], log: Range<u64>) {
        self.pages.entry(key.channel).or_default().push(key.page);
        let Some(start) = key.page.checked_mul(PAGE_SPAN) else {
            return;
        };
        let Some(page) = decode_page(value) else {
            return;
        };
        let marks = (start..).zip(page.iter().copied());
        let told =
            marks.filter(|(sequence, mark)| *mark != Mark::Default && log.contains(sequence));
        self.marks.entry(key.channel).or_default().extend(told);
    }

    /// Due times of messages that were not pumped when the checkpoint was written.
    fn due_times(&self) -> BTreeMap<u64, u64> {
        let marks = self.marks.get(&0).into_iter().flatten();
        let due = marks.filter_map(|&(sequence, mark)| match mark {
            Mark::Owed { due_ms, .. } => Some((sequence, due_ms)),
            Mark::Default | Mark::Finished => None,
        });
        due.collect()
    }
}

/// The epochs of what exists, from the log where it tells, else from the checkpoint.
/// `least`: what the next one is at least.
fn epochs_of(restored: &RestoredTopic, saved: &TopicEntry, least: Epoch) -> Vec<(u64, Epoch)> {
    let (first, head) = (restored.first.0, restored.head.0);
    let told_from = restored.epochs.first().map_or(head, |(first, _)| first.0);
    let known = saved
        .epochs
        .iter()
        .copied()
        .filter(|&(start, _)| start < told_from.min(head));
    let told = restored
        .epochs
        .iter()
        .map(|&(start, epoch)| (start.0, epoch));
    let mut epochs: Vec<(u64, Epoch)> = known
        .chain(told.filter(|&(start, _)| start < head))
        .collect();
    // An epoch is of interest while one of its messages may exist.
    let passed = epochs
        .partition_point(|&(start, _)| start <= first)
        .saturating_sub(1);
    epochs.drain(..passed);
    epochs.push((head, restored.epoch.max(least).min(Epoch::MAX)));
    epochs
}

impl Shard {
    /// Re-creates a topic at start. Emits nothing but `Log`.
    pub fn restore_topic(
        &mut self,
        now: Now,
        name: &TopicName,
        restored: RestoredTopic,
    ) -> TopicKey {
        self.observe(now);
        let saved = Saved::decode(&restored);
        // Where nothing tells which epochs were used, only a spread one is most likely new.
        let least = if restored.epochs.is_empty() && saved.topic.epochs.is_empty() {
            self.first_epoch(name)
        } else {
            Epoch(saved.topic.epoch.0.saturating_add(1))
        };
        let epochs = epochs_of(&restored, &saved.topic, least);
        let head = restored.head.0;
        let mut topic = Topic::new(name.clone(), self.limits.node, head, epochs);
        topic.paused = restored.paused;
        topic.next_channel = saved.topic.next_channel;
        fill_backlog(&mut topic, &restored, &saved);
        let key = self.add_topic(topic);
        for channel in restored.channels {
            let known = saved.channels.get(channel.name.as_str()).copied();
            let number = known.map(|(number, _)| number);
            let channel_key = self.add_channel(key, &channel.name, number);
            self.channels[channel_key].paused = channel.paused;
            if let Some((number, floor)) = known {
                let pages = saved.pages.get(&number).into_iter().flatten().copied();
                self.channels[channel_key].journal.written.extend(pages);
                self.report_gone(&channel.name, floor..restored.first.0);
                let marks = saved.marks.get(&number).map_or(&[][..], Vec::as_slice);
                self.restore_channel(channel_key, floor, marks, &saved.pumped);
            } else {
                self.restore_unknown_channel(channel_key, &saved.pumped, &restored.deferred);
            }
            for &(start, end) in &restored.damaged {
                self.channels[channel_key].lose(start.0, end.0, &mut self.timers);
            }
            // Everything is written anew once, so that nothing depends on what was clamped here.
            self.channels[channel_key].journal.mark_written();
        }
        self.forget_lost_channels(key, &saved);
        self.pump(key);
        self.count_as_restored(key);
        key
    }

    /// What a channel owes is kept, so what the log does not begin with any more was removed.
    fn report_gone(&mut self, channel: &ChannelName, gone: Range<u64>) {
        if !gone.is_empty() {
            let Range { start, end } = gone;
            let line = format!("CHANNEL({channel}): messages {start}..{end} are gone from the log");
            self.effects.push_back(Effect::Log(line));
        }
    }

    /// A channel as the checkpoint has it: it owes what was pumped, from its floor on, but for what
    /// the marks say.
    fn restore_channel(
        &mut self,
        key: ChannelKey,
        floor: u64,
        marks: &[(u64, Mark)],
        pumped: &Range<u64>,
    ) {
        let now_ms = self.now.as_millis();
        let channel = &mut self.channels[key];
        let mut next = floor.clamp(pumped.start, pumped.end);
        for &(sequence, mark) in marks.iter().filter(|(sequence, _)| *sequence < pumped.end) {
            if sequence >= next {
                channel.pending.push(next..sequence);
                next = sequence + 1;
            }
            let Mark::Owed { attempts, due_ms } = mark else {
                continue;
            };
            let mut slot = Slot {
                key: 0,
                attempts,
                state: State::Requeued,
            };
            if due_ms > now_ms {
                slot.state = State::Deferred;
                let timer = Timer::Deferred {
                    channel: key,
                    sequence,
                };
                slot.key = self.timers.wheel.insert_tick(due_ms, timer);
                channel.counters.deferred_count += 1;
            } else {
                channel.requeued.push_back(sequence);
            }
            channel.window.insert_outlier(sequence, slot);
            channel.journal.mark(sequence);
        }
        channel.pending.push(next..pumped.end);
        let owed = channel.depth() + channel.counters.deferred_count;
        channel.counters.restored_count += owed;
    }

    /// A channel that the checkpoint does not know owes everything that was pumped.
    fn restore_unknown_channel(
        &mut self,
        key: ChannelKey,
        pumped: &Range<u64>,
        deferred: &[(Sequence, u64)],
    ) {
        let due = deferred
            .iter()
            .map(|&(sequence, due_ms)| (sequence.0, due_ms));
        let deferred = due
            .filter(|(sequence, _)| pumped.contains(sequence))
            .collect();
        let now_ms = self.now.as_millis();
        let range = pumped.clone();
        let hand_over = HandOver {
            range,
            deferred: &deferred,
            now_ms,
            room: u64::MAX,
        };
        self.channels[key].hand_over(key, &hand_over, &mut self.timers);
    }

    /// Keys of channels that `nsqd.dat` does not have go with the next checkpoint.
    fn forget_lost_channels(&mut self, key: TopicKey, saved: &Saved) {
        let topic = &mut self.topics[key];
        let live: Vec<u32> = topic
            .channels
            .iter()
            .map(|&channel| self.channels[channel].journal.number)
            .collect();
        let is_lost = |number: &u32| *number != 0 && !live.contains(number);
        let entries = saved
            .channels
            .values()
            .map(|&(number, _)| (KIND_CHANNEL, number, 0));
        let pages = saved
            .pages
            .iter()
            .flat_map(|(&number, pages)| pages.iter().map(move |&page| (KIND_PAGE, number, page)));
        let lost = entries
            .chain(pages)
            .filter(|(_, number, _)| is_lost(number));
        let lost = lost.map(|(kind, channel, page)| CheckpointKey {
            kind,
            channel,
            page,
        });
        topic.agenda.removed.extend(lost);
    }

    /// What was handed over so far came from before the start: it is owed, not counted.
    fn count_as_restored(&mut self, key: TopicKey) {
        for channel in &self.topics[key].channels {
            let counters = &mut self.channels[*channel].counters;
            counters.restored_count += std::mem::take(&mut counters.message_count);
        }
    }
}

/// The topic's own backlog: everything from the pump on, with its due times and without the damage.
fn fill_backlog(topic: &mut Topic, restored: &RestoredTopic, saved: &Saved) {
    let backlog = &mut topic.backlog;
    backlog.pump = saved.pumped.end;
    let mut due = saved.due_times();
    due.extend(
        restored
            .deferred
            .iter()
            .map(|&(sequence, due_ms)| (sequence.0, due_ms)),
    );
    let waits = |(sequence, _): &(u64, u64)| (backlog.pump..restored.head.0).contains(sequence);
    backlog.deferred = due.into_iter().filter(waits).collect();
    // The due times are written anew once: the pages may be those of an older backlog.
    backlog.saved = 0;
    backlog.pages_written = saved.pages.get(&0).into_iter().flatten().copied().collect();
    let mut damaged: Vec<(u64, u64)> = restored
        .damaged
        .iter()
        .map(|&(start, end)| (start.0, end.0.min(restored.head.0)))
        .collect();
    damaged.sort_unstable();
    for (start, end) in damaged {
        backlog.lose(start, end);
    }
}
