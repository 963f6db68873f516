//! The log on a disk without room, and in a process without descriptors: what waits, what is
//! refused, and that nothing is lost.

use std::path::Path;

use nsq_log::{LogEvent, SyncPolicy, TopicLog};

use crate::common::fs_disk::FsDisk;
use crate::common::sim_disk::{Crash, SimDisk};
use crate::common::{append, assert_all_there, config, frontiers, settle};
use crate::world::World;

fn is_poisoned(events: &[LogEvent]) -> bool {
    let mut events = events.iter();
    events.any(|event| matches!(event, LogEvent::Poisoned { .. }))
}

/// Appends until the log says that the disk is full.
fn fill(log: &mut TopicLog, disk: &mut SimDisk, first: u64) -> (u64, Vec<LogEvent>) {
    let mut head = first;
    let mut events = Vec::new();
    while log.shortage().is_none() {
        append(log, disk, head, 1, 5);
        head += 5;
        events.extend(settle(log, disk));
        assert!(head < first + 5000, "the disk runs full");
    }
    (head, events)
}

#[test]
fn what_finds_no_room_waits_for_it() {
    let root = tempfile::tempdir().unwrap();
    let dir: &Path = &root.path().join("t");
    let mut log = TopicLog::create(dir.to_owned(), config(SyncPolicy::Interval));
    let mut disk = SimDisk::new(1);
    disk.capacity = Some(48_000);
    let (mut head, mut events) = fill(&mut log, &mut disk, 0);
    assert!(disk.used() > 40_000, "smaller files were tried");
    assert!(!log.is_stuck() && frontiers(&events).1 == head);
    while !log.is_stuck() {
        append(&mut log, &mut disk, head, 1, 5);
        head += 5;
        events.extend(settle(&mut log, &mut disk));
    }
    log.sync(&mut disk);
    events.extend(settle(&mut log, &mut disk));
    assert!(
        log.shortage()
            .is_some_and(|it| it.reason.contains("create"))
    );
    let committed = frontiers(&events).1;
    assert!(committed < head);
    assert_all_there(&mut log, &mut disk, 0..committed, 1);

    disk.capacity = None;
    log.sync(&mut disk);
    events.extend(settle(&mut log, &mut disk));
    assert!(log.shortage().is_none() && !log.is_waiting() && !log.is_stuck());
    assert!(!is_poisoned(&events));
    assert_eq!(frontiers(&events).1, head);
    append(&mut log, &mut disk, head, 1, 5);
    settle(&mut log, &mut disk);
    disk.crash(Crash::Kill, dir);
    let (mut log, recovered) = TopicLog::recover(dir, config(SyncPolicy::Interval)).unwrap();
    assert_eq!(recovered.head, head + 5);
    assert_all_there(&mut log, &mut FsDisk::default(), 0..head + 5, 1);
}

#[test]
fn consumers_make_room_again() {
    let mut log = TopicLog::create("/t".into(), config(SyncPolicy::Interval));
    let mut disk = SimDisk::new(2);
    let mut head = 0;
    for round in 0..20 {
        disk.capacity = Some(80_000);
        let (filled, mut events) = fill(&mut log, &mut disk, head);
        assert!(filled > head, "round {round}");
        head = filled;
        // The last bytes are gone too: the journal has to wait.
        disk.capacity = Some(disk.used());
        log.checkpoint(
            &mut disk,
            &[(b"k".to_vec(), vec![1; 50])],
            true,
            false,
            round,
        );
        log.reclaim(|_, _| false);
        events.extend(settle(&mut log, &mut disk));
        disk.capacity = Some(80_000);
        for _ in 0..3 {
            log.sync(&mut disk);
            events.extend(settle(&mut log, &mut disk));
        }
        assert!(!is_poisoned(&events), "{events:?}");
        assert!(log.shortage().is_none(), "round {round}");
        assert!(disk.used() < 60_000, "round {round}: {}", disk.used());
    }
}

#[test]
fn a_shortage_of_descriptors_delays_the_making_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FsDisk::default();
    disk.makes_to_fail = 2;
    let mut log = TopicLog::create(dir.path().join("t"), config(SyncPolicy::Interval));
    append(&mut log, &mut disk, 0, 1, 5);
    let mut events = settle(&mut log, &mut disk);
    assert!(log.is_waiting() && log.shortage().is_none());
    for _ in 0..2 {
        log.sync(&mut disk);
        events.extend(settle(&mut log, &mut disk));
    }
    disk.makes_to_fail = 2;
    log.checkpoint(&mut disk, &[], true, true, 1);
    for _ in 0..3 {
        events.extend(settle(&mut log, &mut disk));
        log.sync(&mut disk);
    }
    assert!(!log.is_waiting() && !is_poisoned(&events), "{events:?}");
    assert_eq!(frontiers(&events).1, 5);
    let is_answer = |event: &LogEvent| matches!(event, LogEvent::Checkpointed { ticket: 1 });
    assert!(events.iter().any(is_answer), "{events:?}");
}

#[test]
fn a_disk_that_runs_full_at_random_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("topic");
    let (mut refusals, mut poisoned) = (0, 0);
    for seed in 900..920 {
        for sync in [SyncPolicy::Interval, SyncPolicy::Always] {
            let mut world = World::new(&dir, sync, seed);
            world.is_disk_tight = true;
            for _ in 0..400 {
                world.step();
            }
            if seed % 2 == 0 {
                world.make_room();
                world.settle();
            }
            refusals += world.refusals;
            // A batch that is larger than the file made for it has to find room when it is written.
            poisoned += world.poisoned;
            world.crash(Crash::Kill, seed).settle();
        }
    }
    assert!(refusals > 100 && poisoned < 4, "{refusals} {poisoned}");
}
