//! A log that is a vector: appended, written, read back, damaged, reclaimed, recovered.

use std::collections::BTreeMap;

use bytes::Bytes;
use nsq_core::{
    Batch, CheckpointKey, Epoch, RestoredChannel, RestoredTopic, Sequence, Shard, TopicKey,
};

use super::scatter;

#[derive(Debug, Clone)]
struct Record {
    frame: Bytes,
    due_ms: u64,
    epoch: Epoch,
}

/// A full checkpoint that is being made in pieces.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) checkpoint: BTreeMap<CheckpointKey, Vec<u8>>,
    /// Where to go on.
    next: Option<CheckpointKey>,
    is_whole: bool,
}

impl Draft {
    pub(crate) fn is_begun(&self) -> bool {
        self.is_whole || self.next.is_some()
    }
}

#[derive(Debug, Default)]
pub(crate) struct SimLog {
    /// By sequence; `None` = reclaimed or damaged.
    records: Vec<Option<Record>>,
    written: usize,
    reported: usize,
    damaged: Vec<(u64, u64)>,
    pub(crate) checkpoint: BTreeMap<CheckpointKey, Vec<u8>>,
    /// Of the next one, made already.
    pub(crate) ahead: Vec<(CheckpointKey, Vec<u8>)>,
    pub(crate) drafted: Draft,
    /// The head when the last checkpoint was written: recovery scans from there.
    pub(crate) checkpointed: u64,
    /// The epoch of the last opening.
    opened: u32,
    /// Messages per read.
    pub(crate) read_len: usize,
    /// Tells where reads will end.
    pub(crate) plans: bool,
}

impl SimLog {
    pub(crate) fn head(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn append(&mut self, batch: &Batch<'_>) {
        assert_eq!(batch.first.0, self.head(), "batches follow each other");
        let mut start = 0;
        for &end in batch.ends.0.iter().chain(batch.ends.1) {
            let frame = batch.frames.slice(start as usize..end as usize);
            let record = Record {
                frame,
                due_ms: batch.due_ms,
                epoch: batch.epoch,
            };
            self.records.push(Some(record));
            start = end;
        }
        assert_eq!(
            start as usize,
            batch.frames.len(),
            "the ends cover the frames"
        );
    }

    /// Writes what was appended; the end, if there is news.
    pub(crate) fn write(&mut self) -> Option<Sequence> {
        self.written = self.records.len();
        let news = self.written > self.reported;
        self.reported = self.written;
        news.then_some(Sequence(self.written as u64))
    }

    /// Whether a message with this body was written and not reclaimed.
    pub(crate) fn holds(&self, body: &str) -> bool {
        let written = self.records[..self.written].iter().flatten();
        let mut bodies = written.map(|record| &record.frame[34..]);
        bodies.any(|held| held == body.as_bytes())
    }

    pub(crate) fn note(&mut self, key: CheckpointKey, value: &[u8]) {
        note(&mut self.checkpoint, key, value);
    }

    /// Writes a record that adds to the checkpoint.
    pub(crate) fn record(&mut self, entries: &[(CheckpointKey, Vec<u8>)]) {
        for (key, value) in entries {
            note(&mut self.checkpoint, *key, value);
            if self.drafted.is_begun() {
                note(&mut self.drafted.checkpoint, *key, value);
            }
        }
    }

    /// Makes a piece of a full checkpoint; whether there are more.
    pub(crate) fn draft_again(&mut self, shard: &Shard, topic: TopicKey) -> bool {
        let draft = &mut self.drafted;
        if draft.is_whole {
            return false;
        }
        let from = draft.next.unwrap_or(CheckpointKey::FIRST);
        draft.next = shard.checkpoint_again(topic, from, 1, |key, value| {
            note(&mut draft.checkpoint, key, value);
        });
        draft.is_whole = draft.next.is_none();
        !draft.is_whole
    }

    pub(crate) fn damage(&mut self, start: u64, end: u64) {
        self.damaged.push((start, end));
        for sequence in start..end {
            self.records[usize::try_from(sequence).unwrap()] = None;
        }
    }

    pub(crate) fn reclaim(&mut self, group: u64, owed: impl Fn(Sequence, Sequence) -> bool) {
        let mut start = 0;
        while start + group <= self.written as u64 {
            if !owed(Sequence(start), Sequence(start + group)) {
                let range =
                    usize::try_from(start).unwrap()..usize::try_from(start + group).unwrap();
                self.records[range].fill(None);
            }
            start += group;
        }
    }

    /// Where the answer to a read will end, and its bytes, unless there is damage: the log finds it
    /// only when it reads.
    pub(crate) fn plan(&self, from: u64) -> Option<(Sequence, usize)> {
        let at = usize::try_from(from).unwrap();
        let end = self.written.min(at + self.read_len.max(1));
        let frames = self.records.get(at..end)?.iter().flatten();
        let bytes = frames.map(|record| record.frame.len()).sum();
        (self.plans && end > at).then_some((Sequence(end as u64), bytes))
    }

    pub(crate) fn answer(&self, shard: &mut Shard, key: TopicKey, from: u64) {
        let at = usize::try_from(from).unwrap();
        assert!(at < self.written, "only what is written is read back");
        let len = self.read_len.max(1);
        // Begin a little before what was asked for, as a batch boundary would.
        let mut first = at;
        while first > 0 && first + 2 > at && self.records[first - 1].is_some() {
            first -= 1;
        }
        let frames = self.records[first..self.written]
            .iter()
            .take(len + at - first);
        let frames: Vec<Bytes> = frames
            .map_while(|r| r.as_ref().map(|r| r.frame.clone()))
            .collect();
        let end = first + frames.len();
        let gap = self.records[end..self.written]
            .iter()
            .take_while(|record| record.is_none());
        let next = Sequence((end + gap.count()) as u64);
        if end <= at && first == at {
            shard.on_fetch_failed(key, Sequence(from), next);
        } else {
            let (bytes, spans) = scatter(&frames);
            let first = Sequence(first as u64);
            shard.on_fetched(key, Sequence(from), first, bytes, spans, next);
        }
    }

    /// What a restart finds: unwritten messages are gone.
    pub(crate) fn recover(
        &mut self,
        paused: bool,
        channels: Vec<RestoredChannel>,
    ) -> RestoredTopic {
        self.records.truncate(self.written);
        self.reported = self.written;
        let mut restored = RestoredTopic {
            paused,
            channels,
            head: Sequence(self.head()),
            checkpoint: self.checkpoint.clone(),
            damaged: self
                .damaged
                .iter()
                .map(|&(a, b)| (Sequence(a), Sequence(b)))
                .collect(),
            ..RestoredTopic::default()
        };
        let live = self.records.iter().position(Option::is_some);
        restored.first = Sequence(live.unwrap_or(self.records.len()) as u64);
        for (sequence, record) in (0..).map(Sequence).zip(&self.records) {
            let Some(record) = record else { continue };
            if restored
                .epochs
                .last()
                .is_none_or(|&(_, epoch)| epoch != record.epoch)
            {
                restored.epochs.push((sequence, record.epoch));
            }
            if record.due_ms > 0 && sequence.0 >= self.checkpointed {
                restored.deferred.push((sequence, record.due_ms));
            }
        }
        self.checkpointed = self.checkpointed.min(self.head());
        // It counts openings, whether anything was written under the last one or not.
        let found = restored.epochs.last().map_or(0, |(_, epoch)| epoch.0);
        self.opened = self.opened.max(found) + 1;
        restored.epoch = Epoch(self.opened);
        restored
    }
}

fn note(checkpoint: &mut BTreeMap<CheckpointKey, Vec<u8>>, key: CheckpointKey, value: &[u8]) {
    if value.is_empty() {
        checkpoint.remove(&key);
    } else {
        checkpoint.insert(key, value.to_vec());
    }
}
