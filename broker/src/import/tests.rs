use std::collections::BTreeMap;
use std::fs;

use nsq_log::TopicLog;

use super::diskqueue::Record;
use super::world::{NOW, World, encode, entry, plain, record, records, topic};
use super::*;
use crate::catalogue::TopicChange;

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
fn a_torn_read_position_is_none() {
    let whole = "3\n0,57\n1,0\n";
    for end in 0..=whole.len() {
        let world = World::new(&["c"]);
        let bytes: Vec<u8> = records(0..3).iter().flat_map(encode).collect();
        world.file("t:c", 0, &bytes);
        let one = encode(&record(0)).len();
        let meta = whole.replace("57", &one.to_string());
        fs::write(world.path("t:c.diskqueue.meta.dat"), &meta[..end]).unwrap();
        world.import();
        let is_whole = end > "3\n0,57".len();
        assert_eq!(
            world.owed("c"),
            plain(&records(u16::from(is_whole)..3)),
            "{end}"
        );
    }
}

#[test]
fn queues_of_which_nothing_is_whole_are_set_aside() {
    let world = World::new(&["c"]);
    world.file("t:c", 0, &encode(&record(0))[..20]);
    world.file("t", 0, &[0xff; 30]);
    world.import();
    assert_eq!(world.owed("c"), plain(&[]));
    assert_eq!(world.aside().len(), 2);
    assert!(!log_dir(world.dir.path(), &topic("t")).exists());
    world.queue("t:c", &records(0..2));
    world.import();
    world.file("t:c", 0, &[0xff; 30]);
    world.import();
    assert_eq!(
        world.owed("c"),
        plain(&records(0..2)),
        "what there is stays"
    );
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
