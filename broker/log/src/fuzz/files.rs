//! Directories that are not what a log has left there.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use tempfile::TempDir;

use super::bytes::repair_batches;
use super::log::{World, frame};
use crate::checkpoint::FILE_NAME;

/// Most that one input is taken for.
const FILE_BYTES_MAX: usize = 16 * 1024;
const FILES_MAX: usize = 8;
/// Bytes of one step of a damage: file, what, where (2), how much (2).
const STEP_LEN: usize = 6;

/// A file's name and contents.
type Named = (String, Vec<u8>);

/// A log as a killed process leaves it: several segments, deferred messages, a journal of three
/// records, a part that was freed, a second epoch, and messages behind the last checkpoint.
static WRITTEN: LazyLock<(Vec<Named>, u64)> = LazyLock::new(|| {
    let root = tempfile::tempdir().expect("a directory for temporary files");
    let mut world = World::create(root.path(), 0x0123_4567_89AB_CDEF);
    let mut head = 0;
    let mut write = |world: &mut World, epoch, batches: u64| {
        for batch in 0..batches {
            let count = 1 + batch % 4;
            world.append(head, epoch, if batch % 5 == 4 { 9_000 } else { 0 }, count);
            head += count;
        }
        head
    };
    write(&mut world, 1, 30);
    world.checkpoint(&[(b"a".to_vec(), b"one".to_vec())], true);
    world.free_below(20);
    write(&mut world, 1, 10);
    world.checkpoint(&[(b"b".to_vec(), b"two".to_vec())], false);
    world.settle();
    write(&mut world, 2, 20);
    drop(world);
    (files(root.path()), head)
});

fn files(dir: &Path) -> Vec<Named> {
    let entries = fs::read_dir(dir).expect("it was just written");
    let mut files: Vec<Named> = entries
        .map(|entry| {
            let path = entry.expect("it was just written").path();
            let name = path
                .file_name()
                .expect("a file")
                .to_string_lossy()
                .into_owned();
            (name, fs::read(&path).expect("it was just written"))
        })
        .collect();
    files.sort();
    files
}

fn directory(files: &[Named]) -> TempDir {
    let root = tempfile::tempdir().expect("a directory for temporary files");
    for (name, bytes) in files {
        fs::write(root.path().join(name), bytes).expect("a new file can be written");
    }
    root
}

/// Steps of damage to the log above.
pub(super) fn damage(input: &[u8]) {
    let (written, head) = &*WRITTEN;
    let mut damaged = written.clone();
    for step in input.chunks_exact(STEP_LEN).take(32) {
        let at = usize::from(step[0]) % damaged.len();
        let (from, len) = (number(&step[2..]), number(&step[4..]));
        spoil(&mut damaged[at].1, step[1], from, len);
    }
    let root = directory(&damaged);
    let (mut world, recovered) = World::recover(root.path()).expect("damage is no error");
    assert!(recovered.head <= *head);
    for (sequence, bytes) in world.read_all(&recovered, recovered.head) {
        assert_eq!(bytes, frame(sequence), "message {sequence}");
    }
    drop(world);
    if input.len() < STEP_LEN {
        assert_eq!((recovered.head, &recovered.damaged), (*head, &Vec::new()));
        assert!(recovered.warnings.is_empty(), "{recovered:?}");
    }
    stays(root.path());
}

fn number(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn spoil(file: &mut Vec<u8>, what: u8, from: usize, len: usize) {
    if file.is_empty() {
        return;
    }
    let from = from % file.len();
    let end = (from + len % 2048).min(file.len());
    let last = file.len() - (end - from);
    match what {
        0 => file.truncate(from),
        1 => file[from..end].fill(0),
        2 => file[from..end].fill(0xA5),
        // A stale or misplaced part.
        3 => file.copy_within(from..end, (from / 2) & !7),
        4 => file.copy_within(from..end, last),
        5 => file.clear(),
        flip => file[from] ^= flip,
    }
}

/// Nothing, and each kind of damage to each file.
pub(super) fn damage_seeds() -> Vec<Vec<u8>> {
    let count = u8::try_from(WRITTEN.0.len()).expect("a handful");
    let mut seeds = vec![Vec::new()];
    for file in 0..count {
        for what in [0, 1, 2, 3, 4, 5, 0x80] {
            seeds.push(vec![file, what, 200, 1, 90, 0]);
        }
    }
    seeds
}

/// Whether to repair batches (1), then files: the name (1: 255 the journal, else a segment's, in steps
/// of 10), the length (2), the bytes.
pub(super) fn recovery(input: &[u8]) {
    let Some((&control, mut rest)) = input.split_first() else {
        return;
    };
    let mut files: Vec<Named> = Vec::new();
    while let Some((&[name, l0, l1], after)) = rest.split_first_chunk() {
        let len = number(&[l0, l1]).min(after.len());
        let (bytes, after) = after.split_at(len.min(FILE_BYTES_MAX));
        rest = after;
        let mut bytes = bytes.to_vec();
        let name = match name {
            255 => FILE_NAME.to_owned(),
            254 => "checkpoint.log.tmp".to_owned(),
            name => format!("{:020}.log", u64::from(name)),
        };
        // A journal is either one that was written or none: what it says is believed.
        if control & 1 == 1 && name != FILE_NAME {
            repair_batches(&mut bytes);
        }
        files.push((name, bytes));
        if files.len() == FILES_MAX {
            break;
        }
    }
    stays(directory(&files).path());
}

/// What one recovery finds, the next one finds as well, and what was appended between them; no more.
fn stays(dir: &Path) {
    const ADDED: u64 = 3;
    let Ok((mut world, recovered)) = World::recover(dir) else {
        return;
    };
    let found = world.read_all(&recovered, recovered.head);
    world.append(recovered.head, recovered.epoch, 0, ADDED);
    drop(world);
    let (mut world, again) = World::recover(dir).expect("as before");
    assert_eq!(
        again.head,
        recovered.head + ADDED,
        "{recovered:?}, then {again:?}"
    );
    assert_eq!(again.first.min(recovered.head), recovered.first);
    assert!(again.epoch > recovered.epoch);
    assert_eq!(again.checkpoint, recovered.checkpoint);
    let mut expected = found;
    let added = recovered.head..again.head;
    expected.extend(added.map(|sequence| (sequence, frame(sequence).into())));
    let found = world.read_all(&again, again.head);
    let only = |these: &[(u64, Bytes)], those: &[(u64, Bytes)]| -> Vec<u64> {
        let missing = these.iter().filter(|message| !those.contains(message));
        missing.map(|&(sequence, _)| sequence).collect()
    };
    let (lost, new) = (only(&expected, &found), only(&found, &expected));
    let is_same = lost.is_empty() && new.is_empty();
    assert!(
        is_same,
        "lost {lost:?}, new {new:?}: {recovered:?}, then {again:?}"
    );
}

/// The written log as it is, and parts of it; a damaged segment and the one after it, with an empty file
/// between them that hides how far the first one went.
pub(super) fn recovery_seeds() -> Vec<Vec<u8>> {
    let packed = |(name, bytes): &Named| {
        let name = match name.as_str() {
            FILE_NAME => 255,
            name => name[..20].parse::<u8>().expect("a low sequence"),
        };
        let used = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        let len = u16::try_from(used).expect("a few kilobytes").to_le_bytes();
        [&[name], &len[..], &bytes[..used]].concat()
    };
    let files: Vec<Vec<u8>> = WRITTEN.0.iter().map(packed).collect();
    let last = files.len().saturating_sub(2);
    let mut seeds = Vec::new();
    for control in [0_u8, 1] {
        let with_control = |files: &[Vec<u8>]| [&[control], &files.concat()[..]].concat();
        seeds.push(with_control(&files));
        seeds.push(with_control(&files[..1]));
        seeds.push(with_control(&files[last..]));
    }
    let (mut damaged, after) = (files[0].clone(), &files[1]);
    damaged[300..400].fill(0);
    let between = [damaged[0] + 1, 0, 0];
    seeds.push([&[0], &damaged[..], &between, after].concat());
    seeds
}
