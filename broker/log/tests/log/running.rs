//! The log on a disk that works: frontiers, segments, reads, checkpoints, files.

use std::path::Path;

use nsq_log::{LogConfig, LogEvent, SyncPolicy, TopicLog};

use crate::common::fs_disk::FsDisk;
use crate::common::sim_disk::{Crash, SimDisk};
use crate::common::{
    TestDisk, answers, append, append_due, assert_all_there, config, frontiers, read_all, settle,
};

fn new_log(sync: SyncPolicy) -> (TopicLog, SimDisk) {
    (TopicLog::create("/t".into(), config(sync)), SimDisk::new(1))
}

fn segment_count(disk: &SimDisk) -> usize {
    disk.paths()
        .filter(|path| !path.ends_with("checkpoint.log"))
        .count()
}

#[test]
fn interval_commits_what_is_written() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    append(&mut log, &mut disk, 0, 1, 3);
    append(&mut log, &mut disk, 3, 1, 2);
    let events = settle(&mut log, &mut disk);
    assert_eq!(frontiers(&events), (5, 5));
    assert!(log.is_sync_due());
    log.sync(&mut disk);
    assert!(settle(&mut log, &mut disk).is_empty());
    assert!(!log.is_sync_due());
}

#[test]
fn interval_commits_what_is_accepted_without_a_gap_and_reads_what_is_written() {
    for sync in [SyncPolicy::Interval, SyncPolicy::Always] {
        let (mut log, mut disk) = new_log(sync);
        append(&mut log, &mut disk, 0, 1, 3);
        let (made, result) = disk.finish_kind("create");
        let mut events = Vec::new();
        log.complete(&mut disk, made, result, &mut events);
        append(&mut log, &mut disk, 3, 1, 2);
        // The newest first.
        let accepted = [disk.accept_one().unwrap(), disk.accept_one().unwrap()];
        log.accept(accepted[0], &mut events);
        assert_eq!(frontiers(&events), (0, 0), "the first is still missing");
        log.accept(accepted[1], &mut events);
        let committed = if sync == SyncPolicy::Interval { 5 } else { 0 };
        assert_eq!(frontiers(&events), (0, committed));
        log.read(&mut disk, 0, 1);
        assert_eq!(disk.pending_kinds(), ["write", "write"]);
        events.extend(settle(&mut log, &mut disk));
        assert_eq!(frontiers(&events), (5, 5));
        assert_eq!(answers(events).len(), 1);
    }
}

#[test]
fn interval_syncs_by_itself_after_so_many_messages() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    append(&mut log, &mut disk, 0, 1, 63);
    settle(&mut log, &mut disk);
    assert!(log.is_sync_due());
    append(&mut log, &mut disk, 63, 1, 1);
    settle(&mut log, &mut disk);
    assert!(!log.is_sync_due());
}

#[test]
fn always_commits_what_is_synced_and_groups() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(dir.path().join("t"), config(SyncPolicy::Always));
    for batch in 0..10 {
        append(&mut log, &mut disk, batch, 1, 1);
    }
    let events = settle(&mut log, &mut disk);
    assert_eq!(frontiers(&events), (10, 10));
    assert!(
        disk.syncs <= 3,
        "{} syncs for ten batches in one turn",
        disk.syncs
    );
    assert!(!log.is_sync_due());
}

#[test]
fn a_sync_waits_for_those_whom_the_last_one_let_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FsDisk::default();
    let config = LogConfig {
        gather: true,
        ..config(SyncPolicy::Always)
    };
    let mut log = TopicLog::create(dir.path().join("t"), config);
    append(&mut log, &mut disk, 0, 1, 4);
    assert_eq!(
        frontiers(&settle(&mut log, &mut disk)),
        (4, 4),
        "the first waits for nobody"
    );
    append(&mut log, &mut disk, 4, 1, 3);
    assert_eq!(frontiers(&settle(&mut log, &mut disk)), (7, 0));
    assert!(log.is_gathering());
    append(&mut log, &mut disk, 7, 1, 1);
    assert_eq!(
        frontiers(&settle(&mut log, &mut disk)),
        (8, 8),
        "all four are back"
    );
    assert!(!log.is_gathering());
    append(&mut log, &mut disk, 8, 1, 1);
    settle(&mut log, &mut disk);
    assert!(log.is_gathering());
    log.sync(&mut disk);
    assert_eq!(
        frontiers(&settle(&mut log, &mut disk)),
        (0, 9),
        "time is up"
    );
    append(&mut log, &mut disk, 9, 1, 1);
    assert_eq!(
        frontiers(&settle(&mut log, &mut disk)),
        (10, 10),
        "one alone never waits"
    );
}

#[test]
fn only_logs_whose_appends_wait_for_syncs_have_their_files_filled() {
    for (sync, filled) in [(SyncPolicy::Interval, 0), (SyncPolicy::Always, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = FsDisk::default();
        let mut log = TopicLog::create(dir.path().join("t"), config(sync));
        append(&mut log, &mut disk, 0, 1, 1);
        settle(&mut log, &mut disk);
        assert_eq!(disk.filled, filled, "{sync:?}");
    }
}

#[test]
fn the_policy_changes_while_messages_are_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(dir.path().join("t"), config(SyncPolicy::Interval));
    append(&mut log, &mut disk, 0, 1, 3);
    assert_eq!(frontiers(&settle(&mut log, &mut disk)), (3, 3));
    assert!(log.is_sync_due(), "nobody asked for a sync yet");
    log.set_sync_policy(&mut disk, SyncPolicy::Always);
    settle(&mut log, &mut disk);
    assert!(
        !log.is_sync_due(),
        "what was committed before is synced too"
    );
    let syncs = disk.syncs;
    append(&mut log, &mut disk, 3, 1, 2);
    assert_eq!(disk.syncs, syncs);
    let (written, events) = until_written(&mut log, &mut disk);
    assert_eq!((written, frontiers(&events).1), (5, 0), "only written");
    assert_eq!(disk.syncs, syncs + 1, "begun at once");
    assert_eq!(frontiers(&settle(&mut log, &mut disk)), (0, 5));
    assert_eq!(disk.syncs, syncs + 1, "committed by that sync");
    append(&mut log, &mut disk, 5, 1, 1);
    until_written(&mut log, &mut disk);
    log.set_sync_policy(&mut disk, SyncPolicy::Interval);
    let (token, result) = disk.finish_one().unwrap();
    let mut events = Vec::new();
    log.complete(&mut disk, token, result, &mut events);
    assert_eq!(frontiers(&events), (0, 6), "said with the next completion");
    settle(&mut log, &mut disk);
}

/// Lets operations finish until everything appended is written, and not one more.
fn until_written(log: &mut TopicLog, disk: &mut FsDisk) -> (u64, Vec<LogEvent>) {
    let mut events = Vec::new();
    loop {
        let (token, result) = disk.finish_one().expect("the write is under way");
        log.complete(disk, token, result, &mut events);
        let (written, _) = frontiers(&events);
        if written > 0 {
            return (written, events);
        }
    }
}

#[test]
fn always_after_a_restart_waits_for_the_epoch_also_when_chosen_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Interval));
    append(&mut log, &mut disk, 0, 1, 3);
    settle(&mut log, &mut disk);
    drop(log);
    let (mut log, recovered) = TopicLog::recover(&path, config(SyncPolicy::Interval)).unwrap();
    log.set_sync_policy(&mut disk, SyncPolicy::Always);
    settle(&mut log, &mut disk);
    let syncs = disk.syncs;
    append(&mut log, &mut disk, 3, recovered.epoch, 1);
    assert_eq!(frontiers(&settle(&mut log, &mut disk)), (4, 4));
    assert_eq!(disk.syncs, syncs + 2, "of the journal, then of the segment");
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_that_holds_it() {
    let (mut log, mut disk) = new_log(SyncPolicy::Always);
    append(&mut log, &mut disk, 0, 1, 2);
    append(&mut log, &mut disk, 2, 1, 400);
    append(&mut log, &mut disk, 402, 1, 2);
    assert_eq!(frontiers(&settle(&mut log, &mut disk)), (404, 404));
    assert_all_there(&mut log, &mut disk, 0..404, 1);
}

#[test]
fn reading_answers_a_run_that_starts_with_what_was_asked_for() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    for batch in 0..100 {
        append(&mut log, &mut disk, batch * 7, 1, 7);
    }
    settle(&mut log, &mut disk);
    for from in [0, 1, 6, 7, 100, 350, 699] {
        log.read(&mut disk, from, u32::MAX);
        let answers = answers(settle(&mut log, &mut disk));
        assert_eq!(answers[0].frames[0].0, from);
        assert_eq!(answers[0].next, from + answers[0].frames.len() as u64);
    }
    assert_all_there(&mut log, &mut disk, 0..700, 1);
}

#[test]
fn several_reads_at_once_are_all_answered() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    for batch in 0..50 {
        append(&mut log, &mut disk, batch * 7, 1, 7);
    }
    settle(&mut log, &mut disk);
    log.release_files();
    for from in (0..350).step_by(10) {
        log.read(&mut disk, from, u32::MAX);
    }
    let mut firsts: Vec<_> = answers(settle(&mut log, &mut disk))
        .iter()
        .map(|answer| answer.frames[0].0)
        .collect();
    firsts.sort_unstable();
    assert_eq!(firsts, (0..350).step_by(10).collect::<Vec<_>>());
}

#[test]
fn a_read_ahead_of_the_written_frontier_waits_for_it() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    append(&mut log, &mut disk, 0, 1, 2);
    log.read(&mut disk, 1, u32::MAX);
    log.read(&mut disk, 2, u32::MAX);
    let first = answers(settle(&mut log, &mut disk));
    assert_eq!(first.len(), 1);
    append(&mut log, &mut disk, 2, 1, 1);
    let second = answers(settle(&mut log, &mut disk));
    assert_eq!(second[0].frames[0].0, 2);
}

#[test]
fn a_log_without_messages_has_nothing_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Always));
    log.checkpoint(&mut disk, &[(b"k".to_vec(), b"v".to_vec())], false, true, 5);
    let events = settle(&mut log, &mut disk);
    assert!(matches!(events[..], [LogEvent::Checkpointed { ticket: 5 }]));
    log.sync(&mut disk);
    log.reclaim(|_, _| false);
    assert_eq!(log.pending(), 0);
    assert!(!log.has_open_files() && !path.exists() && log.disk_bytes() == 0);
    log.delete(&mut disk);
    assert_eq!(log.pending(), 0);
    let (log, recovered) = TopicLog::recover(&path, config(SyncPolicy::Always)).unwrap();
    assert_eq!((recovered.head, recovered.epoch), (0, 1));
    assert!(!path.exists() && !log.has_open_files());
}

#[test]
fn released_files_are_opened_again_on_need() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(dir.path().join("t"), config(SyncPolicy::Interval));
    append(&mut log, &mut disk, 0, 1, 1);
    settle(&mut log, &mut disk);
    log.release_files();
    assert!(
        log.has_open_files(),
        "unsynced messages keep their file open"
    );
    log.sync(&mut disk);
    log.checkpoint(&mut disk, &[], true, true, 1);
    settle(&mut log, &mut disk);
    log.release_files();
    assert!(!log.has_open_files());
    append(&mut log, &mut disk, 1, 1, 1);
    log.checkpoint(&mut disk, &[], false, false, 2);
    settle(&mut log, &mut disk);
    assert!(disk.opens >= 2, "{} opens", disk.opens);
    assert_all_there(&mut log, &mut disk, 0..2, 1);
}

#[test]
fn a_shortage_of_descriptors_delays_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(dir.path().join("t"), config(SyncPolicy::Interval));
    append(&mut log, &mut disk, 0, 1, 5);
    log.sync(&mut disk);
    settle(&mut log, &mut disk);
    log.sync(&mut disk);
    settle(&mut log, &mut disk);
    log.release_files();
    assert!(!log.has_open_files());
    disk.opens_to_fail = 2;
    log.read(&mut disk, 0, u32::MAX);
    append(&mut log, &mut disk, 5, 1, 5);
    let mut events = settle(&mut log, &mut disk);
    for _ in 0..3 {
        log.sync(&mut disk);
        events.extend(settle(&mut log, &mut disk));
    }
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, LogEvent::Poisoned { .. }))
    );
    assert_eq!(frontiers(&events).0, 10);
    assert_eq!(answers(events).len(), 1);
}

#[test]
fn freed_segments_leave_holes_and_their_files_are_used_again() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    let mut head = 0;
    while head < 1000 {
        append(&mut log, &mut disk, head, 1, 10);
        head += 10;
    }
    settle(&mut log, &mut disk);
    let bytes = log.disk_bytes();
    let count = segment_count(&disk);
    assert!(count > 8, "{count} segments");
    // One message in the middle is still owed.
    log.checkpoint(&mut disk, &[], true, false, 1);
    log.reclaim(|first, end| (first..end).contains(&500));
    settle(&mut log, &mut disk);
    assert!(log.disk_bytes() < bytes);
    assert!(
        segment_count(&disk) <= 6,
        "owed, current, prepared, and two in the pool"
    );
    let found = read_all(&mut log, &mut disk, 0, head);
    assert!(found.iter().any(|(sequence, _)| *sequence == 500));
    assert!(found.len() < 500);
    for _ in 0..100 {
        append(&mut log, &mut disk, head, 1, 10);
        head += 10;
        settle(&mut log, &mut disk);
    }
    assert!(
        segment_count(&disk) < count + 6,
        "recycled files do not add up"
    );
    assert_all_there(&mut log, &mut disk, 1000..2000, 1);
    let found = read_all(&mut log, &mut disk, 0, 1000);
    assert!(found.iter().any(|(sequence, _)| *sequence == 500));
}

#[test]
fn nothing_is_freed_before_the_checkpoint_is_written() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    for batch in 0..20 {
        append(&mut log, &mut disk, batch * 10, 1, 10);
    }
    settle(&mut log, &mut disk);
    log.checkpoint(&mut disk, &[], true, false, 1);
    log.reclaim(|_, end| end > 100);
    let mut events = Vec::new();
    log.sync(&mut disk);
    while disk.pending_kinds().contains(&"sync") {
        let (token, result) = disk.finish_kind("sync");
        log.complete(&mut disk, token, result, &mut events);
    }
    assert_eq!(disk.pending_kinds(), ["replace"]);
    let (token, result) = disk.finish_kind("replace");
    log.complete(&mut disk, token, result, &mut events);
    assert!(disk.pending_kinds().contains(&"remove"));
}

#[test]
fn freed_segments_stay_freed_when_a_crash_keeps_their_files() {
    for seed in 0..8 {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("t");
        let mut log = TopicLog::create(dir.clone(), config(SyncPolicy::Interval));
        let mut disk = SimDisk::new(seed);
        for batch in 0..20 {
            append(&mut log, &mut disk, batch * 10, 1, 10);
        }
        settle(&mut log, &mut disk);
        let mut events = Vec::new();
        for ticket in 0..2 {
            log.checkpoint(&mut disk, &[], true, false, ticket);
            log.reclaim(|_, end| end > 100);
            let (token, result) = disk.finish_kind("replace");
            log.complete(&mut disk, token, result, &mut events);
        }
        assert!(disk.pending_kinds().contains(&"remove"));
        disk.crash(Crash::Kill, &dir);
        let (_, recovered) = TopicLog::recover(&dir, config(SyncPolicy::Interval)).unwrap();
        assert!(recovered.first > 50, "{recovered:?}");
        assert_eq!(recovered.head, 200);
    }
}

#[test]
fn steady_consumption_runs_on_a_few_recycled_files() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    for round in 0..400 {
        append(&mut log, &mut disk, round * 10, 1, 10);
        log.checkpoint(&mut disk, &[], round % 50 == 0, false, round);
        log.reclaim(|_, _| false);
        settle(&mut log, &mut disk);
        assert!(segment_count(&disk) <= 5);
    }
}

#[test]
fn tickets_come_in_order_and_a_grown_journal_asks_for_a_full_checkpoint() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    append(&mut log, &mut disk, 0, 1, 1);
    log.checkpoint(&mut disk, &[(b"k".to_vec(), vec![0; 100])], true, false, 0);
    let mut tickets = Vec::new();
    let mut wanted = Vec::new();
    for ticket in 1..=100 {
        let entry = (b"k".to_vec(), vec![1; 1000]);
        log.checkpoint(&mut disk, &[entry], ticket == 90, ticket % 7 == 0, ticket);
        if ticket % 3 != 0 {
            continue;
        }
        for event in settle(&mut log, &mut disk) {
            match event {
                LogEvent::Checkpointed { ticket } => tickets.push(ticket),
                LogEvent::FullCheckpointWanted => wanted.push(*tickets.last().unwrap()),
                _ => {}
            }
        }
    }
    assert_eq!(tickets, (0..100).collect::<Vec<_>>());
    assert!(
        wanted.iter().all(|ticket| (50..90).contains(ticket)),
        "{wanted:?}"
    );
    assert!(wanted.contains(&70));
}

#[test]
fn deleting_waits_for_what_is_in_flight_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Always));
    append(&mut log, &mut disk, 0, 1, 500);
    log.checkpoint(&mut disk, &[], true, true, 1);
    log.delete(&mut disk);
    assert!(log.pending() > 0);
    settle(&mut log, &mut disk);
    assert!(!path.exists());
    append(&mut log, &mut disk, 500, 1, 1);
    log.read(&mut disk, 0, u32::MAX);
    log.checkpoint(&mut disk, &[], true, true, 2);
    assert_eq!(log.pending(), 0);
}

#[test]
#[should_panic(expected = "appends are dense")]
fn a_gap_between_appends_is_a_bug() {
    let (mut log, mut disk) = new_log(SyncPolicy::Interval);
    append(&mut log, &mut disk, 1, 1, 1);
}

#[test]
fn due_times_are_found_by_the_scan() {
    let dir = tempfile::tempdir().unwrap();
    let path: &Path = &dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.to_owned(), config(SyncPolicy::Interval));
    append_due(&mut log, &mut disk, (0, 1, 77), 2);
    append_due(&mut log, &mut disk, (2, 1, 0), 2);
    append_due(&mut log, &mut disk, (4, 1, u64::MAX), 1);
    settle(&mut log, &mut disk);
    let (_, recovered) = TopicLog::recover(path, config(SyncPolicy::Interval)).unwrap();
    assert_eq!(recovered.deferred, [(0, 77), (1, 77), (4, u64::MAX)]);
    assert_eq!((recovered.head, recovered.epoch), (5, 2));
    // They are found again until the caller's checkpoint covers them.
    let (mut log, again) = TopicLog::recover(path, config(SyncPolicy::Interval)).unwrap();
    assert_eq!((again.deferred, again.epoch), (recovered.deferred, 3));
    log.checkpoint(&mut disk, &[], true, false, 1);
    settle(&mut log, &mut disk);
    let (_, covered) = TopicLog::recover(path, config(SyncPolicy::Interval)).unwrap();
    assert_eq!(covered.deferred, []);
}

#[test]
fn nothing_is_lost_by_a_disk_that_finishes_in_any_order() {
    for seed in 0..20 {
        let mut log = TopicLog::create("/t".into(), config(SyncPolicy::Always));
        let mut disk = SimDisk::new(seed);
        let mut head = 0;
        let mut events = Vec::new();
        for _ in 0..60 {
            let count = 1 + disk.rng.below(20);
            append(&mut log, &mut disk, head, 1, count);
            head += count;
            for _ in 0..disk.rng.below(4) {
                if let Some((token, result)) = disk.finish_one() {
                    log.complete(&mut disk, token, result, &mut events);
                }
            }
        }
        events.extend(settle(&mut log, &mut disk));
        assert_eq!(frontiers(&events), (head, head));
        assert_all_there(&mut log, &mut disk, 0..head, 1);
    }
}
