//! Damage: bits that flip, tails that tear, content that is stale.

use std::fs;
use std::path::{Path, PathBuf};

use nsq_log::{LogConfig, Recovered, SyncPolicy, TopicLog};

use crate::common::fs_disk::FsDisk;
use crate::common::{Rng, append, append_due, config, frame, read_all, settle};

const BATCH: u64 = 5;

struct Written {
    _root: tempfile::TempDir,
    path: PathBuf,
    head: u64,
}

/// A log of small batches; with a checkpoint after half of them, if wanted.
fn write_log(batches: u64, with_checkpoint: bool) -> Written {
    write_log_with(batches, with_checkpoint, config(SyncPolicy::Interval))
}

/// The same, in one segment.
fn write_segment(batches: u64) -> Written {
    write_log_with(batches, false, one_segment())
}

fn one_segment() -> LogConfig {
    LogConfig {
        segment_bytes_min: 64 << 10,
        ..config(SyncPolicy::Interval)
    }
}

fn write_log_with(batches: u64, with_checkpoint: bool, config: LogConfig) -> Written {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config);
    for batch in 0..batches {
        append_due(&mut log, &mut disk, (batch * BATCH, 1, 0), BATCH);
        settle(&mut log, &mut disk);
        if with_checkpoint && batch == batches / 2 {
            log.checkpoint(&mut disk, &[], true, true, 1);
            settle(&mut log, &mut disk);
        }
    }
    Written {
        _root: root,
        path,
        head: batches * BATCH,
    }
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| fs::read(path).unwrap().starts_with(b"RQB1");
    let entries = fs::read_dir(path).unwrap();
    let mut found: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(is_segment)
        .collect();
    found.sort();
    found
}

/// Recovers a copy of the log and reads it: the sequences that are missing.
fn missing(path: &Path, head: u64) -> (Vec<u64>, Recovered) {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(path).unwrap() {
        let from = entry.unwrap().path();
        fs::copy(&from, copy.path().join(from.file_name().unwrap())).unwrap();
    }
    let config = config(SyncPolicy::Interval);
    let (mut log, recovered) = TopicLog::recover(copy.path(), config).unwrap();
    let mut disk = FsDisk::default();
    let found = read_all(&mut log, &mut disk, 0, recovered.head);
    for (sequence, bytes) in &found {
        assert_eq!(*bytes, frame(*sequence, 1));
    }
    let is_found = |sequence: &u64| found.iter().any(|(found, _)| found == sequence);
    (
        (0..head).filter(|sequence| !is_found(sequence)).collect(),
        recovered,
    )
}

/// Offset of the batch that starts at each of the log's batches' first sequences, and its file.
fn batch_offsets(segment: &[u8]) -> Vec<(usize, usize, u64)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + 64 <= segment.len() && segment[at..at + 4] == *b"RQB1" {
        let number = |from: usize| {
            u32::from_le_bytes(segment[at + from..at + from + 4].try_into().unwrap()) as usize
        };
        let head_len = usize::from(segment[at + 10]) + number(28) * 8;
        found.push((at, head_len, number(16) as u64));
        at = (at + number(12)).next_multiple_of(8);
    }
    found
}

#[test]
fn a_flipped_bit_costs_the_record_or_the_batch_that_it_touches() {
    for with_checkpoint in [false, true] {
        let log = write_log(60, with_checkpoint);
        let mut rng = Rng(3);
        for segment in segments(&log.path) {
            let intact = fs::read(&segment).unwrap();
            for (offset, head_len, first) in batch_offsets(&intact) {
                let is_last = first + BATCH == log.head;
                // Somewhere in the header or table.
                let mut bytes = intact.clone();
                bytes[offset + rng.index(head_len)] ^= 1 << rng.below(8);
                fs::write(&segment, &bytes).unwrap();
                let (lost, recovered) = missing(&log.path, log.head);
                assert_eq!(lost, (first..first + BATCH).collect::<Vec<_>>());
                assert_eq!(recovered.head, if is_last { first } else { log.head });

                // Somewhere in the frame of the second record.
                let start = offset + head_len + frame(first, 1).len();
                let mut bytes = intact.clone();
                bytes[start + rng.index(frame(first + 1, 1).len())] ^= 1 << rng.below(8);
                fs::write(&segment, &bytes).unwrap();
                let (lost, recovered) = missing(&log.path, log.head);
                assert_eq!((lost, recovered.head), (vec![first + 1], log.head));
                if !with_checkpoint {
                    assert_eq!(recovered.damaged, [(first + 1, first + 2)]);
                }
            }
            fs::write(&segment, &intact).unwrap();
        }
        assert_eq!(missing(&log.path, log.head).0, []);
    }
}

#[test]
fn damage_to_a_whole_stretch_costs_that_stretch() {
    for with_checkpoint in [false, true] {
        let log = write_log(200, with_checkpoint);
        let segment = &segments(&log.path)[3];
        let mut bytes = fs::read(segment).unwrap();
        let batches = batch_offsets(&bytes);
        let (from, to) = (batches[2], batches[6]);
        bytes[from.0 + 1..to.0 - 1].fill(0xA5);
        fs::write(segment, bytes).unwrap();
        let (lost, recovered) = missing(&log.path, log.head);
        assert_eq!(lost, (from.2..to.2).collect::<Vec<_>>());
        assert_eq!(recovered.head, log.head);
    }
}

#[test]
fn a_segment_that_is_gone_is_a_hole() {
    for with_checkpoint in [false, true] {
        let log = write_log(200, with_checkpoint);
        let segments = segments(&log.path);
        let batches = batch_offsets(&fs::read(&segments[2]).unwrap());
        fs::remove_file(&segments[2]).unwrap();
        let (lost, recovered) = missing(&log.path, log.head);
        let end = batches.last().unwrap().2 + BATCH;
        assert_eq!(lost, (batches[0].2..end).collect::<Vec<_>>());
        assert_eq!((recovered.head, recovered.damaged), (log.head, vec![]));
    }
}

#[test]
fn a_tail_torn_anywhere_is_cut_and_overwritten() {
    let log = write_log(12, false);
    let segment = segments(&log.path).pop().unwrap();
    let intact = fs::read(&segment).unwrap();
    let (offset, head_len, first) = *batch_offsets(&intact).last().unwrap();
    let frames: usize = (first..first + BATCH).map(|it| frame(it, 1).len()).sum();
    for keep in (0..head_len + frames).step_by(3) {
        let mut bytes = intact.clone();
        bytes[offset + keep..].fill(0);
        fs::write(&segment, &bytes).unwrap();
        let root = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&log.path).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, root.path().join(from.file_name().unwrap())).unwrap();
        }
        let config = config(SyncPolicy::Interval);
        let (mut log, recovered) = TopicLog::recover(root.path(), config.clone()).unwrap();
        assert!(recovered.head >= first && recovered.head <= first + BATCH);
        let is_whole = |end: usize| keep >= head_len + end;
        let mut end = 0;
        let whole = (first..first + BATCH).take_while(|it| {
            end += frame(*it, 1).len();
            is_whole(end)
        });
        let whole = whole.count() as u64;
        let mut disk = FsDisk::default();
        let found = read_all(&mut log, &mut disk, first, recovered.head);
        assert_eq!(found.len() as u64, whole);
        append(&mut log, &mut disk, recovered.head, 2, 3);
        settle(&mut log, &mut disk);
        let (mut log, again) = TopicLog::recover(root.path(), config).unwrap();
        assert_eq!(again.head, recovered.head + 3);
        let found = read_all(&mut log, &mut disk, recovered.head, again.head);
        let expected: Vec<_> = (recovered.head..again.head)
            .map(|it| (it, frame(it, 2)))
            .collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn a_stale_batch_that_fits_the_sequence_is_told_by_its_epoch() {
    let log = write_segment(12);
    let segment = segments(&log.path).pop().unwrap();
    let intact = fs::read(&segment).unwrap();
    let batches = batch_offsets(&intact);
    let (offset, _, first) = batches[batches.len() - 2];
    let (last_offset, ..) = batches[batches.len() - 1];
    // The batch before the last never reached the disk, the last one did.
    let mut bytes = intact;
    bytes[offset..last_offset].fill(0);
    fs::write(&segment, &bytes).unwrap();
    let config = one_segment();
    let (mut log_after, recovered) = TopicLog::recover(&log.path, config.clone()).unwrap();
    assert_eq!(recovered.head, first);
    // Another takes its place, exactly as long: the last one follows it as if it belonged there.
    let mut disk = FsDisk::default();
    let frames: Vec<u8> = (first..first + BATCH).flat_map(|it| frame(it, 1)).collect();
    let ends: Vec<u32> = (first..first + BATCH)
        .scan(0, |end, it| {
            *end += u32::try_from(frame(it, 1).len()).unwrap();
            Some(*end)
        })
        .collect();
    let batch = nsq_log::Batch {
        first,
        epoch: recovered.epoch,
        due_ms: 0,
        frames: frames.into(),
        ends: (&ends, &[]),
    };
    log_after.append(&mut disk, &batch);
    settle(&mut log_after, &mut disk);
    let written = fs::read(&segment).unwrap();
    assert_eq!(
        batch_offsets(&written).last().unwrap().2,
        first + BATCH,
        "the trap is set"
    );
    let (_, again) = TopicLog::recover(&log.path, config).unwrap();
    assert_eq!(again.head, first + BATCH);
    assert_eq!(again.epochs.last(), Some(&(first, 2)));
}

#[test]
fn bodies_that_look_like_batches_are_never_taken_for_them() {
    // A batch of another log, as large as life, inside a message.
    let other = write_segment(3);
    let forged = fs::read(&segments(&other.path)[0]).unwrap();
    let (start, ..) = batch_offsets(&forged)[1];
    let (end, ..) = batch_offsets(&forged)[2];
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("t");
    let mut disk = FsDisk::default();
    let mut log = TopicLog::create(path.clone(), config(SyncPolicy::Interval));
    for padding in 0..8 {
        let frames = [vec![0; padding * 8], forged[start..end].to_vec()].concat();
        let ends = [u32::try_from(frames.len()).unwrap()];
        let first = padding as u64;
        let frames = frames.into();
        let batch = nsq_log::Batch {
            first,
            epoch: 1,
            due_ms: 0,
            frames,
            ends: (&ends, &[]),
        };
        log.append(&mut disk, &batch);
        settle(&mut log, &mut disk);
    }
    // Every other header is damaged, so that what lies behind it is searched.
    for segment in segments(&path) {
        let mut bytes = fs::read(&segment).unwrap();
        for (offset, _, first) in batch_offsets(&bytes.clone()) {
            if first % 2 == 1 {
                bytes[offset + 20] ^= 1;
            }
        }
        fs::write(&segment, bytes).unwrap();
    }
    let (mut log, recovered) = TopicLog::recover(&path, config(SyncPolicy::Interval)).unwrap();
    let found = read_all(&mut log, &mut disk, 0, recovered.head);
    assert_eq!(
        found.iter().map(|(it, _)| *it).collect::<Vec<_>>(),
        [0, 2, 4, 6]
    );
}

#[test]
fn a_journal_that_is_gone_is_told() {
    let log = write_log(200, true);
    let journal = log.path.join("checkpoint.log");
    fs::remove_file(&journal).unwrap();
    // As after a reclaim; a log that still has its first segment may never have had a journal.
    fs::remove_file(&segments(&log.path)[0]).unwrap();
    let (lost, recovered) = missing(&log.path, log.head);
    assert!(lost.iter().is_sorted() && recovered.head == log.head);
    assert!(
        recovered.warnings[0].contains("journal is gone"),
        "{recovered:?}"
    );
}

#[test]
fn a_directory_in_the_place_of_a_segment_is_ignored() {
    let log = write_log(200, true);
    let segment = &segments(&log.path)[2];
    fs::remove_file(segment).unwrap();
    fs::create_dir(segment).unwrap();
    let (_, recovered) = TopicLog::recover(&log.path, config(SyncPolicy::Interval)).unwrap();
    assert_eq!(recovered.head, log.head);
    assert!(
        recovered.warnings[0].contains("is not a file"),
        "{recovered:?}"
    );
}

#[test]
fn a_torn_journal_costs_its_last_record() {
    let log = write_log(20, true);
    let journal = log.path.join("checkpoint.log");
    let full = fs::read(&journal).unwrap();
    for keep in 0..full.len() {
        fs::write(&journal, &full[..keep]).unwrap();
        let (lost, recovered) = missing(&log.path, log.head);
        assert_eq!((lost, recovered.head), (vec![], log.head));
        assert!(recovered.epoch >= 2);
    }
}
