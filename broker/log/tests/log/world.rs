//! A log under random load on a simulated disk, with a model of what it has promised.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nsq_log::{LogConfig, LogEvent, Recovered, SyncPolicy, TopicLog};

use crate::common::sim_disk::{Crash, SimDisk};
use crate::common::{Rng, TestDisk, append_due, config, due_ms, frame, read_all, settle};

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// What was promised, over all runs.
#[derive(Debug, Default)]
struct Promises {
    /// Sequence and epoch of what the last recovery found readable.
    known: BTreeMap<u64, u32>,
    /// May not be lost when the process dies.
    kill: BTreeMap<u64, u32>,
    /// May not be lost when the power fails.
    power: BTreeMap<u64, u32>,
    /// Consumers are done with these: they may go.
    finished: BTreeSet<u64>,
    /// Sequence, epoch and due time of what was appended.
    due: BTreeSet<(u64, u32, u64)>,
    /// Checkpoint states, oldest first; of the first one nothing was asked.
    states: Vec<Entries>,
    /// Index of the last state that was confirmed.
    confirmed: usize,
    /// Index of the last state that was confirmed as synced.
    confirmed_durable: usize,
    /// The head when the last checkpoint was made.
    checkpoint_head: u64,
}

/// One run of the log.
pub(crate) struct World {
    pub(crate) log: TopicLog,
    pub(crate) disk: SimDisk,
    dir: PathBuf,
    sync: SyncPolicy,
    rng: Rng,
    epoch: u32,
    start: u64,
    pub(crate) head: u64,
    pub(crate) written: u64,
    pub(crate) committed: u64,
    pub(crate) poisoned: u32,
    /// The disk runs full and is given room again now and then.
    pub(crate) is_disk_tight: bool,
    /// Times that publishes were to be refused for it.
    pub(crate) refusals: u32,
    answered: usize,
    asked: usize,
    /// Where the answers to what was asked for are to end.
    plans: BTreeMap<u64, Vec<u64>>,
    entries: Entries,
    /// State index and durability of the checkpoints in flight, by ticket.
    tickets: BTreeMap<u64, (usize, bool)>,
    wants_full: bool,
    promises: Promises,
}

fn log_config(sync: SyncPolicy) -> LogConfig {
    LogConfig {
        // Once too short for most plans, once long enough.
        read_bytes: match sync {
            SyncPolicy::Interval => 4 * 1024,
            SyncPolicy::Always => 10 * 1024,
        },
        ..config(sync)
    }
}

impl World {
    pub(crate) fn new(dir: &Path, sync: SyncPolicy, seed: u64) -> Self {
        let log = TopicLog::create(dir.to_owned(), log_config(sync));
        let promises = Promises {
            states: vec![Entries::new()],
            ..Promises::default()
        };
        Self::start(log, SimDisk::new(seed), (dir, sync, seed, 1), promises)
    }

    fn start(
        log: TopicLog,
        disk: SimDisk,
        (dir, sync, seed, epoch): (&Path, SyncPolicy, u64, u32),
        promises: Promises,
    ) -> Self {
        Self {
            log,
            disk,
            dir: dir.to_owned(),
            sync,
            rng: Rng(seed ^ 0x5EED),
            epoch,
            start: 0,
            head: 0,
            written: 0,
            committed: 0,
            poisoned: 0,
            is_disk_tight: false,
            refusals: 0,
            answered: 0,
            asked: 0,
            plans: BTreeMap::new(),
            entries: promises.states.last().unwrap().clone(),
            tickets: BTreeMap::new(),
            wants_full: true,
            promises,
        }
    }

    /// One random thing.
    pub(crate) fn step(&mut self) {
        if self.is_disk_tight && self.rng.chance(3) {
            let spare = self.rng.index(40_000);
            let capacity = self.disk.used() + spare;
            self.disk.capacity = self.rng.chance(60).then_some(capacity);
        }
        match self.rng.below(100) {
            0..30 => {
                let count = 1 + self.rng.below(12);
                self.append(count);
            }
            30..32 => {
                let count = 40 + self.rng.below(60);
                self.append(count);
            }
            32..72 => self.finish_ops(1),
            72..78 => self.accept(),
            78..84 => self.finish_messages(),
            84..89 => self.checkpoint(),
            89..92 => self.log.sync(&mut self.disk),
            92..97 => self.read(),
            97..99 => self.log.release_files(),
            _ => {
                let events = settle(&mut self.log, &mut self.disk);
                self.take(events);
            }
        }
        self.log.check_invariants();
    }

    pub(crate) fn append(&mut self, count: u64) {
        // As the shell does. Now and then something is on its way already.
        if self.log.shortage().is_some() && self.rng.chance(80) {
            self.refusals += 1;
            return;
        }
        let due = due_ms(self.head);
        append_due(
            &mut self.log,
            &mut self.disk,
            (self.head, self.epoch, due),
            count,
        );
        for sequence in self.head..self.head + count {
            self.promises.due.insert((sequence, self.epoch, due));
        }
        if self.poisoned == 0 {
            self.head += count;
        }
    }

    pub(crate) fn finish_ops(&mut self, count: usize) {
        for _ in 0..count {
            let Some((token, result)) = self.disk.finish_one() else {
                return;
            };
            let mut events = Vec::new();
            self.log
                .complete(&mut self.disk, token, result, &mut events);
            self.take(events);
        }
    }

    fn accept(&mut self) {
        if let Some(token) = self.disk.accept_one() {
            let mut events = Vec::new();
            self.log.accept(token, &mut events);
            self.take(events);
        }
    }

    fn finish_messages(&mut self) {
        if self.written == 0 {
            return;
        }
        let floor = self.rng.below(self.written);
        let straggler = self.rng.below(floor + 1);
        for sequence in 0..floor {
            if sequence != straggler {
                self.promises.finished.insert(sequence);
            }
        }
    }

    fn checkpoint(&mut self) {
        if self.head == 0 {
            // Of a log without messages nothing is kept.
            return;
        }
        let is_full = std::mem::take(&mut self.wants_full);
        let is_durable = self.rng.chance(30);
        let mut changes = Vec::new();
        for _ in 0..self.rng.below(4) {
            let key = vec![u8::try_from(self.rng.below(6)).unwrap()];
            let len = self.rng.index(30);
            let value = vec![u8::try_from(self.rng.below(250)).unwrap(); len];
            if value.is_empty() {
                self.entries.remove(&key);
            } else {
                self.entries.insert(key.clone(), value.clone());
            }
            changes.push((key, value));
        }
        let all = || self.entries.clone().into_iter().collect();
        let given: Vec<_> = if is_full { all() } else { changes };
        let state = self.promises.states.len();
        self.promises.states.push(self.entries.clone());
        self.promises.checkpoint_head = self.head;
        let ticket = state as u64;
        self.tickets.insert(ticket, (state, is_durable || is_full));
        self.log
            .checkpoint(&mut self.disk, &given, is_full, is_durable, ticket);
        if self.rng.chance(70) {
            let finished = &self.promises.finished;
            self.log
                .reclaim(|first, end| (first..end).any(|it| !finished.contains(&it)));
        }
    }

    fn read(&mut self) {
        if self.written > 0 {
            let from = self.rng.below(self.written);
            let count = if from.is_multiple_of(2) { 1 } else { u32::MAX };
            let planned = self.log.read(&mut self.disk, from, count);
            let plans = self.plans.entry(from).or_default();
            plans.push(planned.map_or(u64::MAX, |planned| planned.next));
            self.asked += 1;
        }
    }

    pub(crate) fn take(&mut self, events: Vec<LogEvent>) {
        for event in events {
            match event {
                LogEvent::Written { end } => {
                    assert!(self.poisoned == 0 && end > self.written && end <= self.head);
                    self.written = end;
                }
                LogEvent::Committed { end } => {
                    assert!(self.poisoned == 0 && end > self.committed && end <= self.head);
                    assert!(self.sync == SyncPolicy::Interval || end <= self.written);
                    let fresh = (self.committed..end).map(|it| (it, self.epoch));
                    self.promises.kill.extend(fresh.clone());
                    if self.sync == SyncPolicy::Always {
                        self.promises.power.extend(fresh);
                    }
                    self.committed = end;
                }
                LogEvent::Checkpointed { ticket } => {
                    let earlier = self.tickets.split_off(&(ticket + 1));
                    let (first, _) = self.tickets.first_key_value().unwrap();
                    assert_eq!(*first, ticket, "tickets are answered in order");
                    let (state, is_durable) = self.tickets[&ticket];
                    self.tickets = earlier;
                    self.promises.confirmed = state;
                    if is_durable {
                        self.promises.confirmed_durable = state;
                    }
                }
                LogEvent::FullCheckpointWanted => self.wants_full = true,
                LogEvent::Poisoned { .. } => self.poisoned += 1,
                LogEvent::Fetched {
                    from,
                    first,
                    bytes,
                    spans,
                    next,
                } => {
                    self.answered += 1;
                    assert!(first == from && next <= self.written);
                    let furthest = self.plans[&from].iter().max();
                    assert!(furthest.is_some_and(|&planned| next <= planned));
                    for (sequence, &(start, end)) in (first..).zip(&spans) {
                        let epoch = self.epoch_of(sequence);
                        assert_eq!(bytes[start as usize..end as usize], frame(sequence, epoch));
                    }
                }
                LogEvent::Unreadable { from, next, .. } => {
                    self.answered += 1;
                    assert!(next > from);
                    if self.disk.failed.is_empty() {
                        let lost = |it: &u64| !self.promises.finished.contains(it);
                        let kept: Vec<_> = (from..next).filter(lost).collect();
                        let is_known =
                            |it: &u64| *it >= self.start || self.promises.known.contains_key(it);
                        assert!(
                            !kept.iter().any(is_known),
                            "{kept:?} of {from}..{next} are gone"
                        );
                    }
                }
            }
        }
        if self.poisoned == 0 && !self.log.is_sync_due() {
            let fresh = (self.start..self.written).map(|it| (it, self.epoch));
            let known = self.promises.known.clone();
            self.promises.power.extend(known.into_iter().chain(fresh));
        }
    }

    fn epoch_of(&self, sequence: u64) -> u32 {
        let earlier = self
            .promises
            .known
            .get(&sequence)
            .filter(|_| sequence < self.start);
        earlier.copied().unwrap_or(self.epoch)
    }

    /// Gives the disk room for everything.
    pub(crate) fn make_room(&mut self) {
        self.disk.capacity = None;
        for _ in 0..4 {
            let events = settle(&mut self.log, &mut self.disk);
            self.take(events);
            self.log.sync(&mut self.disk);
        }
        assert!(self.poisoned > 0 || !self.log.is_waiting());
    }

    /// Lets everything finish.
    pub(crate) fn settle(&mut self) {
        let events = settle(&mut self.log, &mut self.disk);
        self.take(events);
        if self.poisoned == 0 {
            assert_eq!(self.written, self.head);
            assert_eq!(self.answered, self.asked, "every read is answered");
            assert!(self.tickets.is_empty(), "every checkpoint is answered");
        }
    }

    /// Goes down, recovers, checks that every promise was kept; the next run.
    pub(crate) fn crash(self, crash: Crash, seed: u64) -> Self {
        let Self {
            log,
            disk,
            dir,
            sync,
            epoch,
            start,
            promises,
            ..
        } = self;
        drop(log);
        let wreck = disk.crash(crash, &dir);
        let had_directory = dir.exists();
        let (log, recovered) = TopicLog::recover(&dir, log_config(sync)).unwrap();
        let disk = SimDisk::after(&wreck, &dir, seed, !recovered.warnings.is_empty());
        // After a power failure, only what was committed under `Always` tells of its epoch.
        let may_stay = crash == Crash::Power || !had_directory;
        assert!(recovered.epoch > epoch || may_stay, "epochs grow");
        let mut world = Self::start(log, disk, (&dir, sync, seed, recovered.epoch), promises);
        world.start = recovered.head;
        world.head = recovered.head;
        world.written = recovered.head;
        world.committed = recovered.head;
        world.check_messages(&recovered, (start, epoch), crash);
        world.check_deferred(&recovered);
        world.check_entries(&recovered, crash);
        world
    }

    fn check_messages(&mut self, recovered: &Recovered, before: (u64, u32), crash: Crash) {
        let (start, epoch) = before;
        let Recovered { first, head, .. } = *recovered;
        assert!(recovered.epochs.is_sorted(), "{recovered:?}");
        let newest = recovered.epochs.last().map_or(0, |&(_, epoch)| epoch);
        assert!(recovered.epoch > newest, "{recovered:?}");
        let found = read_all(&mut self.log, &mut self.disk, first, head);
        let mut readable = BTreeMap::new();
        for (sequence, bytes) in found {
            let at = recovered
                .epochs
                .partition_point(|&(start, _)| start <= sequence);
            let told = recovered.epochs[at - 1].1;
            let expected = match self.promises.known.get(&sequence) {
                Some(&known) if sequence < start => known,
                _ => epoch,
            };
            // A power failure can take all that a run has written, and bring back the messages of
            // the run before that it had cut; none of either was promised.
            let may_differ = crash == Crash::Power && told < expected;
            assert!(told == expected || may_differ, "epoch of {sequence}");
            assert_eq!(bytes, frame(sequence, told), "message {sequence}");
            readable.insert(sequence, told);
        }
        let promised = match crash {
            Crash::Kill => &self.promises.kill,
            Crash::Power => &self.promises.power,
        };
        for (sequence, epoch) in promised {
            let is_kept = readable.get(sequence) == Some(epoch);
            let is_finished = self.promises.finished.contains(sequence);
            assert!(
                is_kept || is_finished,
                "message {sequence} is lost; {recovered:?}"
            );
        }
        let is_there = |it: &u64, epoch: &mut u32| readable.get(it) == Some(epoch);
        self.promises.kill = readable.clone();
        self.promises.power.retain(is_there);
        if crash == Crash::Power {
            self.promises.power.extend(&readable);
        }
        self.promises.finished.retain(|it| *it < head);
        self.promises.known = readable;
    }

    fn check_deferred(&mut self, recovered: &Recovered) {
        let promises = &mut self.promises;
        assert!(recovered.deferred.is_sorted());
        let deferred: BTreeMap<u64, u64> = recovered.deferred.iter().copied().collect();
        for (sequence, due) in &deferred {
            let epoch = promises.known[sequence];
            assert!(promises.due.contains(&(*sequence, epoch, *due)));
        }
        promises.checkpoint_head = promises.checkpoint_head.min(recovered.head);
        for (&sequence, &epoch) in promises.known.range(promises.checkpoint_head..) {
            let told = deferred.get(&sequence).copied().unwrap_or(0);
            let is_true = promises.due.contains(&(sequence, epoch, told));
            assert!(is_true, "message {sequence} would come at {told}");
        }
    }

    fn check_entries(&mut self, recovered: &Recovered, crash: Crash) {
        let promises = &mut self.promises;
        let entries: Entries = recovered.checkpoint.iter().cloned().collect();
        let oldest = match crash {
            Crash::Kill => promises.confirmed,
            Crash::Power => promises.confirmed_durable,
        };
        let matching = promises.states.iter().rposition(|state| *state == entries);
        let state = matching.filter(|state| *state >= oldest);
        let state = state.unwrap_or_else(|| panic!("no checkpoint from {oldest} on: {entries:?}"));
        promises.states.truncate(state + 1);
        promises.confirmed = state;
        promises.confirmed_durable = match crash {
            Crash::Kill => promises.confirmed_durable.min(state),
            Crash::Power => state,
        };
        self.entries = entries;
    }
}
