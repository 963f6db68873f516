//! Fuzz target: the journal beside `nsqd.dat`; `nsq-fuzz` says how it is run.
//!
//! What the files say is the same however often it is read, and when it was stored; and damage costs
//! the changes behind it and none before, so that what is read is what was true once.

use std::fs;
use std::path::{Path, PathBuf};

use nsq_proto::{ChannelName, TopicName};
use tempfile::TempDir;

use super::journal::{self, FILE_NAME as JOURNAL_NAME};
use super::{Catalogue, FILE_NAME, Keeper, TopicChange, TopicEntry};
use crate::config::SyncMode;

const VERSION: &str = "1.3.0";
/// As they stand in the file: they must be legal.
const TOPICS: [&str; 4] = ["a", "b.c", "long-topic_name", "e#ephemeral"];
const CHANNELS: [&str; 3] = ["c", "d", "e#ephemeral"];
/// Most of one input.
const CHANGES_MAX: usize = 8;
const LINES_MAX: usize = 256;
/// Bytes of one step of a damage: where (2), what (1), how much (1).
const STEP_LEN: usize = 4;

/// What is done (1): with 0 a number of changes (1), the changes (2 each), and steps of damage; else
/// lines, of which those get the right checksum whose number has this bit.
pub(crate) fn run(input: &[u8]) {
    match input.split_first() {
        None => {}
        Some((0, script)) => damage(script),
        Some((bits, lines)) => any_lines(*bits, lines),
    }
}

/// A data path with an `nsqd.dat`, to which changes are appended.
struct World {
    dir: TempDir,
    keeper: Keeper,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for temporary files");
        let mut keeper = Keeper::new(Catalogue::default(), dir.path(), VERSION);
        keeper.apply(change(&[0, 0xff]));
        keeper.store().expect("a new file can be written");
        Self { dir, keeper }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join(JOURNAL_NAME)
    }
}

/// The change that two bytes stand for: the topic, and whether it goes, its flags and channels.
fn change(&[topic, state]: &[u8; 2]) -> TopicChange {
    let topic = TOPICS[usize::from(topic) % TOPICS.len()];
    let has = |bit: u8| state >> bit & 1 == 1;
    let mut entry = TopicEntry {
        paused: has(1),
        sync: has(2).then_some(SyncMode::Always),
        ..TopicEntry::default()
    };
    for (name, bit) in CHANNELS.iter().zip([3, 5, 7]) {
        if has(bit) {
            let name = ChannelName::parse(name.as_bytes()).expect("a legal name");
            entry.channels.insert(name, has(bit - 1));
        }
    }
    TopicChange {
        topic: TopicName::parse(topic.as_bytes()).expect("a legal name"),
        entry: has(0).then_some(entry),
    }
}

fn load(dir: &Path) -> (Catalogue, Vec<String>) {
    Catalogue::load(dir).expect("a journal is no reason not to start")
}

/// Loads what is there, twice, and once more after it was stored.
fn load_and_store(dir: &Path) -> Catalogue {
    let (found, _) = load(dir);
    assert_eq!(load(dir).0, found, "reading changes nothing");
    let mut keeper = Keeper::new(found.clone(), dir, VERSION);
    keeper.store().expect("a file can be written");
    // The old journal is still there, and is seen not to belong to the new file.
    assert_eq!(load(dir).0, found);
    keeper.apply(change(&[1, 1]));
    assert!(keeper.append(), "a new file can be extended");
    let (extended, warnings) = load(dir);
    assert_eq!(warnings, Vec::<String>::new());
    let mut expected = found.clone();
    expected.apply(change(&[1, 1]));
    assert_eq!(extended, expected);
    found
}

/// Changes, then damage to where they are.
fn damage(script: &[u8]) {
    let Some((&count, rest)) = script.split_first() else {
        return;
    };
    let (changes, _) = rest.as_chunks::<2>();
    let changes = &changes[..changes.len().min(usize::from(count)).min(CHANGES_MAX)];
    let steps = rest[changes.len() * 2..].as_chunks::<STEP_LEN>().0;
    let mut world = World::new();
    // Where the journal ended, and what was true then.
    let mut history = vec![(0, load(world.dir.path()).0)];
    for two in changes {
        world.keeper.apply(change(two));
        assert!(world.keeper.append(), "it has room for more");
        let (found, warnings) = load(world.dir.path());
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(found, world.keeper.catalogue, "what is answered is found");
        history.push((lines_end(&world.journal()), found));
    }
    let Ok(written) = fs::read(world.journal()) else {
        return;
    };
    let mut damaged = written.clone();
    for step in steps {
        spoil(&mut damaged, *step, history.last().map_or(0, |last| last.0));
    }
    fs::write(world.journal(), &damaged).expect("it is there");
    let differs = written.iter().zip(&damaged).position(|(a, b)| a != b);
    let intact = differs.unwrap_or_else(|| written.len().min(damaged.len()));
    let found = load_and_store(world.dir.path());
    let safe = history.partition_point(|&(end, _)| end <= intact) - 1;
    assert!(
        history[safe..].iter().any(|(_, state)| *state == found),
        "intact up to {intact}: {found:?}, {history:?}"
    );
}

/// One past the last line; what follows are zeros.
fn lines_end(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap_or_default();
    let last = bytes.iter().rposition(|&byte| byte != 0);
    last.map_or(0, |last| last + 1)
}

fn spoil(bytes: &mut Vec<u8>, [w0, w1, what, len]: [u8; STEP_LEN], end: usize) {
    let from = usize::from(u16::from_le_bytes([w0, w1])) % (end + 1);
    let to = bytes.len().min(from + usize::from(len));
    let Some(part) = bytes.get_mut(from..to) else {
        return;
    };
    match what {
        0 => part.fill(0),
        1 => part.fill(b'\n'),
        2 => bytes.truncate(from),
        flip => part.iter_mut().take(1).for_each(|byte| *byte ^= flip),
    }
}

/// Anything that a file may hold.
fn any_lines(bits: u8, bytes: &[u8]) {
    let world = World::new();
    let extended = fs::read(world.dir.path().join(FILE_NAME)).expect("it was stored");
    let head = journal::head(&extended, 7);
    let mut journal = Vec::new();
    for (number, line) in bytes
        .split(|&byte| byte == b'\n')
        .take(LINES_MAX)
        .enumerate()
    {
        match number {
            _ if bits >> (number % 8) & 1 == 0 => journal.extend([line, b"\n"].concat()),
            0 => journal::push_line(&mut journal, &[head.as_bytes()]),
            _ => journal::push_line(&mut journal, &[head.as_bytes(), line]),
        }
    }
    fs::write(world.journal(), journal).expect("a new file can be written");
    let found = load_and_store(world.dir.path());
    let has_ephemeral = found.topics().any(|(topic, entry)| {
        topic.is_ephemeral() || entry.channels.keys().any(ChannelName::is_ephemeral)
    });
    assert!(!has_ephemeral);
}

/// Changes with and without damage, and lines as they are written, in wrong order, and of others.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let changes = [[0, 1], [1, 0xff], [0, 0], [2, 0x2b], [3, 1], [1, 0]].concat();
    let script = |steps: &[u8]| [&[0, 6], &changes[..], steps].concat();
    let mut seeds = vec![script(&[])];
    for what in [0, 1, 2, 0x20] {
        seeds.push(script(&[200, 0, what, 30]));
    }
    let mut lines = b"head".to_vec();
    for two in changes.as_chunks::<2>().0 {
        lines.push(b'\n');
        lines.extend(Catalogue::default().apply(change(two)).unwrap_or_default());
    }
    lines.extend(
        b"\n{\"name\":\"a b\"}\nnull\n{\"name\":\"a\",\"gone\":1}\n{\"NAME\":\"e#ephemeral\"}",
    );
    seeds.push([&[0xff], &lines[..]].concat());
    seeds.push([&[0xef], &lines[..]].concat());
    seeds.push([&[0x02], &lines[..]].concat());
    seeds
}
