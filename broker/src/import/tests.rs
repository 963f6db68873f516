use std::collections::BTreeMap;
use std::fs;

use bytes::Bytes;
use nsq_cli::{Level, Logger};
use nsq_core::{Now, Sequence, Shard};
use nsq_log::{LogEvent, TopicLog};
use nsq_proto::{ChannelName, MESSAGE_HEADER_LEN, TopicName};

use super::disk::BlockingDisk;
use super::diskqueue::{self, Record};
use super::*;
use crate::boot::restored;
use crate::catalogue::{TopicChange, TopicEntry};

const NOW: Now = Now(1_800_000_000_000_000_000);

/// A data path with the queues of a Go nsqd.
struct World {
    dir: tempfile::TempDir,
    catalogue: Catalogue,
    settings: Settings,
    logger: Logger,
}

fn record(number: u16) -> Record {
    Record {
        timestamp: 1_700_000_000_000_000_000 + u64::from(number),
        attempts: 0,
        id: *format!("{number:016x}").as_bytes().first_chunk().unwrap(),
        body: format!("body {number}\0\n\u{1}").into_bytes(),
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let len = u32::try_from(26 + record.body.len()).unwrap();
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend(record.timestamp.to_be_bytes());
    bytes.extend(record.attempts.to_be_bytes());
    bytes.extend(record.id);
    bytes.extend(&record.body);
    bytes
}

fn records(numbers: impl IntoIterator<Item = u16>) -> Vec<Record> {
    numbers.into_iter().map(record).collect()
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name.as_bytes()).unwrap()
}

fn entry(channels: &[&str]) -> TopicEntry {
    let names = channels
        .iter()
        .map(|name| ChannelName::parse(name.as_bytes()).unwrap());
    TopicEntry {
        channels: names.map(|name| (name, false)).collect(),
        ..TopicEntry::default()
    }
}

impl World {
    /// With a topic `t` that has these channels.
    fn new(channels: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let args = [format!("--data-path={path}").into()];
        let config = crate::config::parse_args(args).unwrap();
        let config = config.validate().unwrap();
        let mut catalogue = Catalogue::default();
        catalogue.apply(TopicChange {
            topic: topic("t"),
            entry: Some(entry(channels)),
        });
        Self {
            dir,
            catalogue,
            settings: crate::settings::settings(&config, 0),
            logger: Logger::in_memory("", Level::Debug),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, queue: &str, number: u32, bytes: &[u8]) {
        let name = format!("{queue}.diskqueue.{number:06}.dat");
        fs::write(self.path(&name), bytes).unwrap();
    }

    fn meta(&self, queue: &str, read: (u64, u64)) {
        let text = format!("1\n{},{}\n9,9\n", read.0, read.1);
        fs::write(self.path(&format!("{queue}.diskqueue.meta.dat")), text).unwrap();
    }

    /// A queue of one file that was read to its beginning.
    fn queue(&self, queue: &str, records: &[Record]) {
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        self.file(queue, 0, &bytes);
        self.meta(queue, (0, 0));
    }

    fn import(&self) {
        run(&self.settings, &self.catalogue, NOW, &self.logger).unwrap();
        let left = diskqueue::find(self.dir.path()).unwrap();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// What a channel of `t` owes after a start: by sequence, attempts apart.
    fn owed(&self, channel: &str) -> Vec<(u64, Vec<u8>)> {
        let dir = log_dir(self.dir.path(), &topic("t"));
        let config = self.settings.log.clone();
        let (mut log, recovered) = TopicLog::recover(&dir, config).unwrap();
        assert!(recovered.warnings.is_empty(), "{:?}", recovered.warnings);
        let (first, head) = (recovered.first, recovered.head);
        let mut core = Shard::new(self.settings.core_limits(0), NOW);
        let key = core.restore_topic(NOW, &topic("t"), restored(recovered, entry(&[channel])));
        let frames = frames(&mut log, first, head);
        let owes = |sequence: &u64| core.owes(key, Sequence(*sequence), Sequence(*sequence + 1));
        let owed = (first..head).filter(owes).map(|sequence| {
            let frame = &frames[usize::try_from(sequence - first).unwrap()];
            let timestamp = u64::from_be_bytes(*frame[8..].first_chunk().unwrap());
            (timestamp, frame[MESSAGE_HEADER_LEN..].to_vec())
        });
        owed.collect()
    }

    /// The files that were set aside, over all imports.
    fn aside(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in fs::read_dir(self.dir.path()).unwrap() {
            let folder = folder.unwrap();
            if folder
                .file_name()
                .to_string_lossy()
                .starts_with("imported-")
            {
                let files = fs::read_dir(folder.path()).unwrap();
                names.extend(files.map(|f| f.unwrap().file_name().into_string().unwrap()));
            }
        }
        names.sort();
        names
    }
}

fn frames(log: &mut TopicLog, first: u64, head: u64) -> Vec<Bytes> {
    let (mut disk, mut events, mut frames) = (BlockingDisk::default(), Vec::new(), Vec::new());
    let mut from = first;
    while from < head {
        log.read(&mut disk, from, u32::MAX);
        while let Some((token, result)) = disk.0.pop_front() {
            log.complete(&mut disk, token, result, &mut events);
        }
        for event in events.drain(..) {
            let LogEvent::Fetched {
                bytes,
                spans,
                first,
                ..
            } = event
            else {
                continue;
            };
            let skip = usize::try_from(from - first).unwrap();
            let spans = spans.iter().skip(skip);
            frames.extend(spans.map(|&(s, e)| bytes.slice(s as usize..e as usize)));
        }
        let next = first + frames.len() as u64;
        assert!(next > from, "the log gives what it holds");
        from = next;
    }
    frames
}

fn plain(records: &[Record]) -> Vec<(u64, Vec<u8>)> {
    let plain = records.iter();
    plain.map(|r| (r.timestamp, r.body.clone())).collect()
}

#[test]
fn copies_become_one_message_and_each_channel_owes_its_own() {
    let world = World::new(&["ahead", "behind", "idle"]);
    world.queue("t:behind", &records(0..50));
    world.queue("t:ahead", &records(30..50));
    world.queue("t", &records(50..60));
    world.import();
    assert_eq!(world.owed("behind"), plain(&records(0..60)));
    assert_eq!(world.owed("ahead"), plain(&records(30..60)));
    assert_eq!(world.owed("idle"), plain(&records(50..60)));
    let dir = log_dir(world.dir.path(), &topic("t"));
    let (_, recovered) = TopicLog::recover(&dir, world.settings.log.clone()).unwrap();
    assert_eq!(recovered.head, 60, "every message is stored once");
    let log = world.logger.captured();
    assert!(
        log.contains("TOPIC(t): CHANNEL(behind): imported 50 messages"),
        "{log}"
    );
    assert!(log.contains("TOPIC(t): imported 10 messages"), "{log}");
}

#[test]
fn reading_begins_at_the_read_position_and_goes_on_over_all_files() {
    let world = World::new(&["c"]);
    let all = records(0..9);
    let bytes = |part: &[Record]| part.iter().flat_map(encode).collect::<Vec<u8>>();
    world.file("t:c", 3, &bytes(&all[..3]));
    world.file("t:c", 4, &bytes(&all[3..6]));
    world.file("t:c", 5, &bytes(&all[6..]));
    fs::write(world.path("t:c.diskqueue.000002.dat.bad"), b"old").unwrap();
    world.meta("t:c", (3, encode(&all[0]).len() as u64));
    world.import();
    assert_eq!(world.owed("c"), plain(&all[1..]));
    assert_eq!(world.aside().len(), 5, "nothing is deleted");
}

#[test]
fn a_queue_that_was_killed_before_its_first_sync_is_read_whole() {
    let world = World::new(&["c"]);
    let bytes: Vec<u8> = records(0..3).iter().flat_map(encode).collect();
    world.file("t:c", 0, &bytes);
    world.import();
    assert_eq!(world.owed("c"), plain(&records(0..3)));
}

#[test]
fn damage_costs_the_rest_of_its_file_and_is_reported() {
    let whole: Vec<u8> = records(0..3).iter().flat_map(encode).collect();
    let one = encode(&record(0)).len();
    let mut wrong_length = whole.clone();
    wrong_length[one] = 0xff;
    let mut zeros = whole[..one].to_vec();
    zeros.extend([0; 64]);
    let torn_in_length = whole[..one + 2].to_vec();
    let torn_in_body = whole[..2 * one - 1].to_vec();
    for (bytes, error) in [
        (wrong_length, "invalid message read size"),
        (zeros, "invalid message read size (0)"),
        (torn_in_length, "unexpected EOF"),
        (torn_in_body, "unexpected EOF"),
    ] {
        let world = World::new(&["c"]);
        world.file("t:c", 0, &bytes);
        world.file("t:c", 1, &encode(&record(7)));
        world.meta("t:c", (0, 0));
        world.import();
        assert_eq!(world.owed("c"), plain(&records([0, 7])));
        let log = world.logger.captured();
        let line = format!("ERROR: DISKQUEUE(t:c) reading at {one} of ");
        assert!(log.contains(&line) && log.contains(error), "{log}");
        assert_eq!(
            fs::read(world.set_aside("t:c.diskqueue.000000.dat")).unwrap(),
            bytes
        );
    }
}

impl World {
    fn set_aside(&self, name: &str) -> PathBuf {
        let folders = fs::read_dir(self.dir.path()).unwrap();
        let mut paths = folders.map(|folder| folder.unwrap().path().join(name));
        paths.find(|path| path.exists()).unwrap()
    }
}

#[test]
fn one_id_with_different_bytes_is_two_messages() {
    let world = World::new(&["a", "b"]);
    let other = Record {
        body: b"other".to_vec(),
        ..record(1)
    };
    world.queue("t:a", &[record(1)]);
    world.queue("t:b", std::slice::from_ref(&other));
    world.import();
    assert_eq!(world.owed("a"), plain(&[record(1)]));
    assert_eq!(world.owed("b"), plain(&[other]));
}

#[test]
fn a_topic_without_channels_keeps_its_messages_for_the_first_one() {
    let world = World::new(&[]);
    world.queue("t", &records(0..5));
    world.import();
    assert_eq!(world.owed("new"), plain(&records(0..5)));
}

#[test]
fn queues_of_unknown_names_are_set_aside_and_not_imported() {
    let world = World::new(&["c"]);
    world.queue("t:gone", &records(0..2));
    world.queue("elsewhere", &records(0..2));
    world.queue("t:c", &records(5..6));
    world.import();
    assert_eq!(world.owed("c"), plain(&records(5..6)));
    assert_eq!(world.aside().len(), 6);
    let log = world.logger.captured();
    assert!(
        log.contains("WARNING: DISKQUEUE(t:gone) belongs to no"),
        "{log}"
    );
    assert!(
        log.contains("WARNING: DISKQUEUE(elsewhere) belongs to no"),
        "{log}"
    );
}

#[test]
fn empty_queues_leave_no_log_and_no_trace_but_the_folder() {
    let world = World::new(&["c"]);
    world.meta("t", (4, 100));
    world.meta("t:c", (0, 0));
    world.import();
    assert!(!logs_dir(world.dir.path()).exists());
    assert_eq!(world.aside().len(), 2);
    world.import();
    let folders = fs::read_dir(world.dir.path()).unwrap().count();
    assert_eq!(folders, 1, "with nothing to import nothing is made");
}

#[test]
fn what_the_log_holds_already_stays_owed() {
    let world = World::new(&["a", "b"]);
    world.queue("t:a", &records(0..5));
    world.queue("t:b", &records(3..5));
    world.import();
    // The Go nsqd ran in between, and now queues hold other messages.
    world.queue("t:b", &records(10..12));
    world.queue("t", &records(20..21));
    world.import();
    assert_eq!(world.owed("a"), plain(&records((0..5).chain(20..21))));
    assert_eq!(
        world.owed("b"),
        plain(&records((3..5).chain(10..12).chain(20..21)))
    );
}

#[test]
fn a_paused_topic_with_messages_of_its_own_takes_no_channels_queue() {
    let mut world = World::new(&["a"]);
    let mut paused = entry(&["a"]);
    paused.paused = true;
    world.catalogue.apply(TopicChange {
        topic: topic("t"),
        entry: Some(paused),
    });
    world.queue("t", &records(0..5));
    world.import();
    world.queue("t:a", &records(7..8));
    run(&world.settings, &world.catalogue, NOW, &world.logger).unwrap();
    assert!(world.path("t:a.diskqueue.000000.dat").exists(), "it waits");
    let log = world.logger.captured();
    assert!(log.contains("ERROR: TOPIC(t): its disk queues"), "{log}");
    let logs: Vec<_> = fs::read_dir(logs_dir(world.dir.path())).unwrap().collect();
    assert_eq!(logs.len(), 1, "no half-made log is left");
}

#[test]
fn an_import_that_was_interrupted_is_done_once() {
    let world = World::new(&["c"]);
    let log = log_dir(world.dir.path(), &topic("t"));
    world.queue("t:c", &records(0..5));
    // Cut off while the log was made.
    fs::create_dir_all(with_suffix(&log, UNFINISHED)).unwrap();
    fs::write(
        with_suffix(&log, UNFINISHED).join("00000000000000000000.log"),
        b"part",
    )
    .unwrap();
    world.import();
    // Cut off before the queues were moved, or after some of them were.
    for files in [2, 1, 0] {
        fs::rename(&log, with_suffix(&log, FINISHED)).unwrap();
        world.queue("t:c", &records(0..5));
        if files < 2 {
            fs::remove_file(world.path("t:c.diskqueue.meta.dat")).unwrap();
        }
        if files < 1 {
            fs::remove_file(world.path("t:c.diskqueue.000000.dat")).unwrap();
        }
        world.import();
        assert_eq!(world.owed("c"), plain(&records(0..5)), "{files} files left");
    }
    // Cut off with the old log still there.
    fs::create_dir(with_suffix(&log, FINISHED)).unwrap();
    for file in fs::read_dir(&log).unwrap() {
        let file = file.unwrap();
        fs::copy(
            file.path(),
            with_suffix(&log, FINISHED).join(file.file_name()),
        )
        .unwrap();
    }
    world.import();
    assert_eq!(world.owed("c"), plain(&records(0..5)));
}

#[test]
fn a_log_that_cannot_be_made_leaves_everything_as_it_was() {
    let world = World::new(&["c"]);
    world.queue("t:c", &records(0..5));
    fs::write(world.path("topics"), b"in the way").unwrap();
    let error = run(&world.settings, &world.catalogue, NOW, &world.logger).unwrap_err();
    assert!(!error.to_string().is_empty());
    assert!(world.path("t:c.diskqueue.000000.dat").exists());
    fs::remove_file(world.path("topics")).unwrap();
    world.import();
    assert_eq!(world.owed("c"), plain(&records(0..5)));
}

/// Chance that is the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

#[test]
fn any_queues_reach_exactly_those_that_owe_them() {
    for seed in 0..30 {
        let mut chance = Chance(seed);
        let world = World::new(&["a", "b", "c"]);
        let mut queues: BTreeMap<&str, Vec<Record>> = BTreeMap::new();
        for number in 0..3000 {
            for channel in ["a", "b", "c"] {
                if chance.below(3) == 0 {
                    let mut copy = record(number);
                    copy.attempts = u16::from(chance.below(10) == 0) * 3;
                    queues.entry(channel).or_default().push(copy);
                }
            }
        }
        for (channel, records) in &mut queues {
            // What was in flight or came back is at the end.
            let late = usize::try_from(chance.below(100)).unwrap();
            records.rotate_left(late);
            world.queue(&format!("t:{channel}"), records);
        }
        world.import();
        for (channel, records) in &mut queues {
            let mut owed = world.owed(channel);
            owed.sort();
            let mut expected = plain(records);
            expected.sort();
            assert_eq!(owed, expected, "seed {seed}, channel {channel}");
        }
    }
}
