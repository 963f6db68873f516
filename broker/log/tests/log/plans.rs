//! Reads that know where they end before they are answered.

use std::collections::BTreeMap;

use nsq_log::{LogConfig, LogEvent, Planned, SyncPolicy, TopicLog};

use crate::common::sim_disk::SimDisk;
use crate::common::{Rng, answers, append, config, frame, settle};

/// Messages per batch, and in all.
const BATCH: u64 = 7;
const HEAD: u64 = 300 * BATCH;

fn filled(seed: u64) -> (TopicLog, SimDisk) {
    let config = LogConfig {
        segment_bytes_max: 64 * 1024,
        read_bytes: 12 * 1024,
        ..config(SyncPolicy::Interval)
    };
    let mut log = TopicLog::create("/t".into(), config);
    let mut disk = SimDisk::new(seed);
    for batch in 0..HEAD / BATCH {
        append(&mut log, &mut disk, batch * BATCH, 1, BATCH);
    }
    settle(&mut log, &mut disk);
    (log, disk)
}

/// Asks for everything at once, each piece from where the plan before ended.
fn ask_ahead(log: &mut TopicLog, disk: &mut SimDisk) -> BTreeMap<u64, Planned> {
    let mut plans = BTreeMap::new();
    let mut next = 0;
    while next < HEAD {
        let planned = log.read(disk, next, u32::MAX);
        let planned = planned.expect("the log knows what it has just written");
        assert!(planned.next > next && planned.next <= HEAD);
        plans.insert(next, planned);
        next = planned.next;
    }
    plans
}

#[test]
fn a_plan_says_where_the_answer_ends_and_nothing_is_read_twice() {
    let (mut log, mut disk) = filled(1);
    let mut plans = ask_ahead(&mut log, &mut disk);
    let mut read = 0;
    for event in settle(&mut log, &mut disk) {
        let LogEvent::Fetched {
            from,
            first,
            bytes,
            spans,
            next,
        } = event
        else {
            panic!("{event:?}");
        };
        let planned = plans.remove(&from).expect("each is answered once");
        assert_eq!((first, next), (from, planned.next));
        assert_eq!(next, first + spans.len() as u64);
        assert!(bytes.len().abs_diff(planned.bytes) < 8, "padding");
        read += bytes.len();
    }
    assert!(plans.is_empty(), "{plans:?}");
    assert!(read <= disk.used(), "{read} of {}", disk.used());
}

#[test]
fn what_is_scattered_or_not_written_yet_is_not_planned() {
    let (mut log, mut disk) = filled(1);
    assert_eq!(log.read(&mut disk, 0, 16), None);
    assert_eq!(log.read(&mut disk, HEAD, u32::MAX), None);
    assert_eq!(answers(settle(&mut log, &mut disk)).len(), 1);
    append(&mut log, &mut disk, HEAD, 1, BATCH);
    assert_eq!(answers(settle(&mut log, &mut disk)).len(), 1);
}

/// What is known of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Unknown,
    Lost,
    Read,
}

#[test]
fn what_a_plan_promised_and_damage_took_is_asked_for_again() {
    for seed in 0..200 {
        let (mut log, mut disk) = filled(seed);
        let mut rng = Rng(seed);
        let flips = rng.below(12);
        for _ in 0..flips {
            let at = rng.index(disk.used());
            disk.flip(at, 1 << rng.below(8));
        }
        let plans = ask_ahead(&mut log, &mut disk);
        let mut fates = vec![Fate::Unknown; usize::try_from(HEAD).unwrap()];
        let mut asked: Vec<u64> = plans.keys().copied().collect();
        while !asked.is_empty() {
            for event in settle(&mut log, &mut disk) {
                let from = note(&event, &mut fates, &plans);
                let at = asked.iter().position(|&open| open == from);
                asked.swap_remove(at.expect("each is answered once"));
            }
            assert_eq!(asked, [], "all are answered");
            let missing = fates.iter().position(|fate| *fate == Fate::Unknown);
            asked.extend(missing.map(|at| at as u64));
            for &from in &asked {
                log.read(&mut disk, from, u32::MAX);
            }
        }
        let lost = fates.iter().filter(|fate| **fate == Fate::Lost).count();
        assert!(lost as u64 <= flips * BATCH, "{lost} lost, seed {seed}");
    }
}

/// Marks what an answer speaks of; its request.
fn note(event: &LogEvent, fates: &mut [Fate], plans: &BTreeMap<u64, Planned>) -> u64 {
    let (from, given, next) = match event {
        LogEvent::Fetched {
            from,
            first,
            bytes,
            spans,
            next,
        } => {
            for (sequence, &(start, end)) in (*first..).zip(spans) {
                assert_eq!(bytes[start as usize..end as usize], frame(sequence, 1));
            }
            let planned = plans.get(from).map_or(HEAD, |planned| planned.next);
            assert!(*next <= planned, "{event:?}");
            (*from, first + spans.len() as u64, *next)
        }
        LogEvent::Unreadable { from, next, .. } => (*from, *from, *next),
        other => panic!("{other:?}"),
    };
    let index = |sequence| usize::try_from(sequence).unwrap();
    fates[index(from)..index(given)].fill(Fate::Read);
    for fate in &mut fates[index(given)..index(next)] {
        *fate = (*fate).max(Fate::Lost);
    }
    from
}
