//! Scripts as data: one command per line, checked as they run.
//!
//! ```text
//! topic T | chan T C | pub T BODY… | dpub T DELAY BODY…
//! sub CONN T C [timeout=D] [sample=N] [near=zone|region] | rdy CONN N | cls CONN | unsub CONN | full CONN | room CONN
//! fin CONN BODY… | req CONN BODY DELAY | touch CONN BODY       each with an optional `! ERROR`
//! hold T | release T | pause T [C] | resume T [C] | empty T [C] | delete T [C] | damage T FROM TO
//! advance D | checkpoint | checkpoint-all | reclaim N | restart | hold-writes | write | hide | reveal T END
//! expect CONN [BODY[:ATTEMPTS]…] [attempts=N]     what came since the last `expect`, in any order
//! stats T [C] KEY=N… | gone CONN | log LINE | nolog | catalogue N | names NAME… | fetches N | absent T [C]
//! ```
//! `//` begins a comment. Connections are `c1`, `c2`, …; durations `250ms`, `3s`, `2h`. Bodies are unique in a script.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use nsq_core::{
    AckError, CheckpointScope, ConnToken, ConsumerKey, ConsumerOptions, Locality, MessageId,
    Sequence, ShardLimits,
};

use super::{World, limits};

pub(crate) fn duration(text: &str) -> Duration {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .expect("a duration has a unit");
    let number: u64 = text[..split].parse().unwrap();
    match &text[split..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "h" => Duration::from_secs(number * 3_600),
        other => panic!("no such unit: {other}"),
    }
}

fn conn(text: &str) -> u64 {
    text.strip_prefix('c')
        .and_then(|number| number.parse().ok())
        .expect("a connection is c<number>")
}

struct Runner {
    world: World,
    consumers: BTreeMap<u64, ConsumerKey>,
    ids: BTreeMap<String, MessageId>,
    received: BTreeMap<u64, Vec<(String, u16)>>,
}

/// Runs a script with the default limits.
pub(crate) fn check(script: &str) {
    check_with(limits(), script);
}

pub(crate) fn check_with(limits: ShardLimits, script: &str) {
    let mut runner = Runner {
        world: World::new(limits),
        consumers: BTreeMap::new(),
        ids: BTreeMap::new(),
        received: BTreeMap::new(),
    };
    for (number, line) in script.lines().enumerate() {
        // `#` belongs to names.
        let line = line.split("//").next().unwrap_or_default();
        if line.trim().is_empty() {
            continue;
        }
        let context = format!("line {}: {}", number + 1, line.trim());
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runner.run(line.trim())));
        if let Err(panic) = outcome {
            panic!("{context}: {}", message(&*panic));
        }
    }
}

/// What a panic said (it was also printed where it happened).
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
}

impl Runner {
    fn run(&mut self, line: &str) {
        let (line, error) = match line.split_once(" ! ") {
            Some((line, error)) => (line, Some(error)),
            None => (line, None),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        let (verb, args) = words.split_first().unwrap();
        match *verb {
            "sub" | "rdy" | "cls" | "unsub" | "full" | "room" => self.connection(verb, args),
            "fin" | "req" | "touch" => self.acknowledge(verb, args, error),
            "expect" | "stats" | "gone" | "log" | "nolog" | "catalogue" | "names" | "fetches"
            | "absent" => {
                self.expect(verb, args, line);
                return;
            }
            _ => self.command(verb, args),
        }
        self.turn();
    }

    fn turn(&mut self) {
        self.world.turn();
        for (conn, deliveries) in std::mem::take(&mut self.world.inbox) {
            for delivery in deliveries {
                self.ids.insert(delivery.body.clone(), delivery.id);
                let received = self.received.entry(conn.0).or_default();
                received.push((delivery.body, delivery.attempts));
            }
        }
    }

    fn command(&mut self, verb: &str, args: &[&str]) {
        let world = &mut self.world;
        match (verb, args) {
            ("topic", [topic]) => drop(world.topic(topic)),
            ("chan", [topic, channel]) => {
                let key = world.topic(topic);
                world
                    .shard
                    .create_channel(world.now, key, &super::channel_name(channel));
            }
            ("pub", [topic, bodies @ ..]) => world.publish(topic, Duration::ZERO, bodies),
            ("dpub", [topic, delay, bodies @ ..]) => world.publish(topic, duration(delay), bodies),
            ("pause" | "resume", [topic]) => {
                let key = world.shard.topic(topic).unwrap();
                world.shard.pause_topic(key, verb == "pause");
            }
            ("pause" | "resume", [topic, channel]) => {
                let key = world.shard.topic(topic).unwrap();
                assert!(world.shard.pause_channel(key, channel, verb == "pause"));
            }
            ("empty", [topic]) => world.shard.empty_topic(world.shard.topic(topic).unwrap()),
            ("empty", [topic, channel]) => {
                let key = world.shard.topic(topic).unwrap();
                assert!(world.shard.empty_channel(key, channel));
            }
            ("delete", [topic]) => world.shard.delete_topic(world.shard.topic(topic).unwrap()),
            ("delete", [topic, channel]) => {
                let key = world.shard.topic(topic).unwrap();
                assert!(world.shard.delete_channel(key, channel));
            }
            ("hold", [topic]) => world.shard.hold_topic(world.shard.topic(topic).unwrap()),
            ("release", [topic]) => world.shard.release_topic(world.shard.topic(topic).unwrap()),
            ("damage", [topic, from, to]) => {
                let log = world.logs.get_mut(*topic).unwrap();
                log.damage(from.parse().unwrap(), to.parse().unwrap());
            }
            ("advance", [by]) => world.advance(duration(by)),
            ("checkpoint", []) => world.checkpoint(CheckpointScope::Changed),
            ("checkpoint-all", []) => world.checkpoint(CheckpointScope::All),
            ("reclaim", [group]) => world.reclaim(group.parse().unwrap()),
            ("hold-writes", []) => world.writes_reported = false,
            ("write", []) => world.writes_reported = true,
            ("hide", []) => world.reveals = false,
            ("reveal", [topic, end]) => {
                let key = world.shard.topic(topic).unwrap();
                world.shard.reveal(key, Sequence(end.parse().unwrap()));
            }
            ("restart", []) => {
                world.restart();
                self.consumers.clear();
                self.received.clear();
            }
            other => panic!("no such command: {other:?}"),
        }
    }

    fn connection(&mut self, verb: &str, args: &[&str]) {
        let number = conn(args[0]);
        if verb == "sub" {
            let mut options = ConsumerOptions {
                msg_timeout: Duration::from_secs(60),
                sample_rate: 0,
                locality: Locality::Global,
            };
            for option in &args[3..] {
                match option.split_once('=').unwrap() {
                    ("timeout", value) => options.msg_timeout = duration(value),
                    ("sample", value) => options.sample_rate = value.parse().unwrap(),
                    ("near", "zone") => options.locality = Locality::Zone,
                    ("near", "region") => options.locality = Locality::Region,
                    other => panic!("no such option: {other:?}"),
                }
            }
            let key = self.world.subscribe((args[1], args[2]), number, &options);
            self.consumers.insert(number, key);
            return;
        }
        let (key, shard) = (self.consumers[&number], &mut self.world.shard);
        match verb {
            "rdy" => shard.ready(key, args[1].parse().unwrap()),
            "cls" => shard.close(key),
            "full" => shard.set_writable(key, false),
            "room" => shard.set_writable(key, true),
            _ => shard.unsubscribe(key),
        }
    }

    fn acknowledge(&mut self, verb: &str, args: &[&str], error: Option<&str>) {
        let key = self.consumers[&conn(args[0])];
        let (now, shard) = (self.world.now, &mut self.world.shard);
        let check = |outcome: Result<(), AckError>| {
            let outcome = outcome.err().map(|error| error.to_string());
            assert_eq!(outcome.as_deref(), error);
        };
        match (verb, &args[1..]) {
            ("fin", bodies) => {
                for body in bodies {
                    check(shard.finish(now, key, &self.ids[*body]));
                }
            }
            ("req", [body, delay]) => {
                check(shard.requeue(now, key, &self.ids[*body], duration(delay)))
            }
            ("touch", [body]) => check(shard.touch(now, key, &self.ids[*body])),
            other => panic!("no such command: {other:?}"),
        }
    }

    fn expect(&mut self, verb: &str, args: &[&str], line: &str) {
        let world = &mut self.world;
        match (verb, args) {
            ("expect", [who, rest @ ..]) => {
                let all = rest.iter().find_map(|word| word.strip_prefix("attempts="));
                let all: u16 = all.map_or(1, |number| number.parse().unwrap());
                let bodies = rest.iter().filter(|word| !word.starts_with("attempts="));
                let one = |word: &&str| match word.split_once(':') {
                    Some((body, attempts)) => (body.to_owned(), attempts.parse().unwrap()),
                    None => ((*word).to_owned(), all),
                };
                let mut expected: Vec<(String, u16)> = bodies.map(one).collect();
                expected.sort();
                let mut received = self.received.remove(&conn(who)).unwrap_or_default();
                received.sort();
                assert_eq!(received, expected);
            }
            ("gone", [who]) => assert!(world.disconnected.contains(&ConnToken(conn(who)))),
            ("log", _) => {
                let wanted = line.strip_prefix("log ").unwrap();
                let at = world.lines.iter().position(|said| said == wanted);
                let at = at.unwrap_or_else(|| panic!("not said: {:?}", world.lines));
                world.lines.drain(..=at);
            }
            ("nolog", []) => assert_eq!(world.lines, Vec::<String>::new()),
            ("catalogue", [count]) => {
                assert_eq!(
                    std::mem::take(&mut world.catalogue_changes),
                    count.parse::<usize>().unwrap()
                );
            }
            ("names", _) => {
                let names: Vec<&str> = world.names.iter().map(String::as_str).collect();
                assert_eq!(names, args);
            }
            ("fetches", [count]) => {
                assert_eq!(
                    std::mem::take(&mut world.fetches),
                    count.parse::<usize>().unwrap()
                );
            }
            ("absent", [topic]) => assert_eq!(world.shard.topic(topic), None),
            ("absent", [topic, channel]) => {
                assert!(
                    !world
                        .shard
                        .has_channel(world.shard.topic(topic).unwrap(), channel)
                );
            }
            ("stats", [topic, rest @ ..]) => self.stats(topic, rest),
            other => panic!("no such check: {other:?}"),
        }
    }

    fn stats(&mut self, topic: &str, rest: &[&str]) {
        let key = self.world.shard.topic(topic).unwrap();
        let stats = self.world.shard.topic_stats(key).unwrap();
        let (pairs, channel): (Vec<&&str>, Vec<&&str>) = rest.iter().partition(|w| w.contains('='));
        for pair in pairs {
            let (name, wanted) = pair.split_once('=').unwrap();
            let value = match channel.first() {
                Some(channel) => {
                    let named = |c: &&nsq_core::ChannelStats| c.name.as_str() == **channel;
                    let c = stats.channels.iter().find(named).expect("a live channel");
                    match name {
                        "depth" => c.depth,
                        "backend_depth" => c.backend_depth,
                        "in_flight" => c.in_flight_count,
                        "deferred" => c.deferred_count,
                        "messages" => c.message_count,
                        "delivered" => {
                            c.zone_local_msg_count + c.region_local_msg_count + c.global_msg_count
                        }
                        "zone" => c.zone_local_msg_count,
                        "region" => c.region_local_msg_count,
                        "global" => c.global_msg_count,
                        "finished" => c.finish_count,
                        "requeued" => c.requeue_count,
                        "timeouts" => c.timeout_count,
                        "consumers" => c.consumers.len() as u64,
                        other => panic!("no such key: {other}"),
                    }
                }
                None => match name {
                    "depth" => stats.depth,
                    "backend_depth" => stats.backend_depth,
                    "messages" => stats.message_count,
                    "bytes" => stats.message_bytes,
                    "channels" => stats.channels.len() as u64,
                    other => panic!("no such key: {other}"),
                },
            };
            assert_eq!(value, wanted.parse::<u64>().unwrap(), "{name}");
        }
    }
}
