//! The log on real files.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use nsq_log::{LogConfig, LogEvent, SyncPolicy, TopicLog};

use crate::common::fs_disk::FsDisk;
use crate::common::{append, assert_all_there, config, settle};

fn checkpoint(log: &mut TopicLog, disk: &mut FsDisk, is_full: bool, value: &[u8]) {
    log.checkpoint(disk, &[(b"key".to_vec(), value.to_vec())], is_full, true, 1);
    settle(log, disk);
}

fn recover(path: &Path) -> (TopicLog, nsq_log::Recovered) {
    TopicLog::recover(path, config(SyncPolicy::Always)).unwrap()
}

#[test]
fn everything_is_there_after_every_restart() {
    let dir = tempfile::tempdir().unwrap();
    // Names are paths, never formats.
    let path = dir.path().join("100%d %s");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Always));
    let mut head = 0;
    let mut ends = Vec::new();
    for run in 1..=5_u32 {
        for _ in 0..40 {
            append(&mut log, &mut disk, head, run, 9);
            head += 9;
        }
        settle(&mut log, &mut disk);
        if run % 2 == 0 {
            checkpoint(&mut log, &mut disk, run == 2, &run.to_le_bytes());
        }
        ends.push(head);
        let recovered;
        (log, recovered) = recover(&path);
        assert_eq!(
            (recovered.first, recovered.head, recovered.epoch),
            (0, head, run + 1)
        );
        assert_eq!(recovered.epochs.len(), run as usize);
        assert!(recovered.damaged.is_empty() && recovered.warnings.is_empty());
        let saved = recovered.checkpoint.first().map(|(_, value)| value[0]);
        assert_eq!(
            saved,
            (run > 1).then_some(u8::try_from(run / 2 * 2).unwrap())
        );
        for (run, end) in (1..).zip(&ends) {
            assert_all_there(&mut log, &mut disk, end - 360..*end, run);
        }
    }
}

#[test]
fn a_restart_after_a_clean_stop_scans_and_owes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Interval));
    append(&mut log, &mut disk, 0, 1, 50);
    settle(&mut log, &mut disk);
    while log.is_sync_due() {
        log.sync(&mut disk);
        settle(&mut log, &mut disk);
    }
    checkpoint(&mut log, &mut disk, true, b"v");
    // What lies before the hint is not looked at by recovery: damage there is found by reading.
    let segment = path.join(format!("{:020}.log", 0));
    let file = OpenOptions::new().write(true).open(segment).unwrap();
    file.write_all_at(b"garbage", 0).unwrap();
    let (log, recovered) = recover(&path);
    assert_eq!((recovered.head, recovered.damaged.len()), (50, 0));
    assert!(!log.is_sync_due() && !log.has_open_files());
}

#[test]
fn after_a_restart_always_writes_nothing_before_the_epoch_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    for (sync, expected) in [
        (
            SyncPolicy::Always,
            &["open", "write", "sync", "open", "write", "sync"][..],
        ),
        (SyncPolicy::Interval, &["open", "write"][..]),
    ] {
        let path = dir.path().join(format!("{sync:?}"));
        let mut disk = FsDisk::default();
        let mut log = TopicLog::create(path.clone(), config(sync));
        append(&mut log, &mut disk, 0, 1, 1);
        settle(&mut log, &mut disk);
        let (mut log, recovered) = TopicLog::recover(&path, config(sync)).unwrap();
        disk.done.clear();
        append(&mut log, &mut disk, 1, recovered.epoch, 1);
        settle(&mut log, &mut disk);
        // The journal first, if it is to come first, and then the segment.
        assert_eq!(disk.done, expected);
    }
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Always));
    append(&mut log, &mut disk, 0, 1, 3);
    settle(&mut log, &mut disk);
    fs::write(path.join("checkpoint.log.tmp"), "half").unwrap();
    let prepared = path.join(format!("{:020}.log", 7));
    fs::write(&prepared, vec![0; 4096]).unwrap();
    fs::write(path.join("notes.txt"), "not ours").unwrap();
    let (_, recovered) = recover(&path);
    assert_eq!(recovered.head, 3);
    assert!(!prepared.exists() && !path.join("checkpoint.log.tmp").exists());
    assert!(path.join("notes.txt").exists());
}

#[test]
fn a_newer_format_is_refused_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Always));
    append(&mut log, &mut disk, 0, 1, 1);
    settle(&mut log, &mut disk);
    let segment = path.join(format!("{:020}.log", 0));
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 2;
    let header_len = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
    let crc = crc_fast::crc32_iscsi(&bytes[8..header_len + 8]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    fs::write(&segment, bytes).unwrap();
    let error = TopicLog::recover(&path, config(SyncPolicy::Always)).unwrap_err();
    assert!(error.to_string().contains("newer version"), "{error}");
    assert!(segment.exists());
}

#[test]
fn smaller_limits_do_not_make_larger_messages_unreadable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Always));
    append(&mut log, &mut disk, 0, 1, 600);
    settle(&mut log, &mut disk);
    let small = LogConfig {
        segment_bytes_max: 1024,
        segment_bytes_min: 512,
        read_bytes: 128,
        ..config(SyncPolicy::Always)
    };
    let (mut log, recovered) = TopicLog::recover(&path, small).unwrap();
    assert_eq!(recovered.head, 600);
    assert_all_there(&mut log, &mut disk, 0..600, 1);
    append(&mut log, &mut disk, 600, 2, 30);
    settle(&mut log, &mut disk);
    assert_all_there(&mut log, &mut disk, 600..630, 2);
}

/// A log of 60,000 messages in several large segments, opened again.
fn large_log(path: &Path, disk: &mut FsDisk, read_bytes: u32) -> TopicLog {
    let large = LogConfig {
        segment_bytes_max: 4 << 20,
        segment_bytes_min: 1 << 20,
        read_bytes,
        ..config(SyncPolicy::Interval)
    };
    let mut log = TopicLog::create(path.to_owned(), large.clone());
    for batch in 0..200 {
        append(&mut log, disk, batch * 300, 1, 300);
        settle(&mut log, disk);
    }
    checkpoint(&mut log, disk, true, b"v");
    TopicLog::recover(path, large).unwrap().0
}

#[test]
fn a_large_log_is_read_through_also_where_the_index_is_too_sparse() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FsDisk::default();
    let mut log = large_log(&dir.path().join("t"), &mut disk, 128 << 10);
    assert_eq!(log.read(&mut disk, 0, u32::MAX), None);
    settle(&mut log, &mut disk);
    assert_all_there(&mut log, &mut disk, 31_234..60_000, 1);
    assert_all_there(&mut log, &mut disk, 0..60_000, 1);
}

#[test]
fn after_a_restart_sealed_segments_are_read_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = large_log(&path, &mut disk, 512 << 10);
    let names = fs::read_dir(&path).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.strip_suffix(".log")?.parse::<u64>().ok()
    });
    let last = names.max().unwrap();
    assert!(last > 30_000, "{last}");
    let (mut ends, mut next) = (Vec::new(), 0);
    while let Some(planned) = log.read(&mut disk, next, u32::MAX) {
        next = planned.next;
        ends.push(next);
    }
    assert!(next >= last, "{next} of {last}");
    let fetched = settle(&mut log, &mut disk).into_iter().map(|event| {
        let LogEvent::Fetched { next, .. } = event else {
            panic!("{event:?}");
        };
        next
    });
    let fetched: Vec<u64> = fetched.collect();
    assert_eq!(fetched[..ends.len()], ends);
}
