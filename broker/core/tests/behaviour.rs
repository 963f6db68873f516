//! Behaviour that a script cannot show: refusals, shares, bounds, dead keys.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::script::check;
use common::{World, limits};
use nsq_core::{
    AckError, CheckpointScope, ConnToken, ConsumerKey, ConsumerOptions, Deadline, LatencyConfig,
    Locality, MessageId, Percentile, PublishError, Sequence, ShardLimits,
};

#[test]
fn no_new_consumers_beyond_the_limit() {
    let limits = ShardLimits {
        channel_consumers_max: 1,
        ..limits()
    };
    let mut world = World::new(limits);
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(1),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let first = world.subscribe(("t", "ch"), 1, &options);
    let key = world.shard.topic("t").unwrap();
    let refused = world
        .shard
        .subscribe(key, "ch", ConnToken(2), &options)
        .unwrap_err();
    assert_eq!(refused.to_string(), "consumers for t:ch exceeds limit of 1");
    world.shard.unsubscribe(first);
    assert!(
        world
            .shard
            .subscribe(key, "ch", ConnToken(2), &options)
            .is_ok()
    );
}

#[test]
fn sampling_delivers_the_share_asked_for() {
    let mut world = World::new(ShardLimits {
        cache_bytes_max: 1_000,
        ..limits()
    });
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 30,
        locality: Locality::Global,
    };
    let consumer = world.subscribe(("t", "ch"), 1, &options);
    world.shard.ready(consumer, 20_000);
    for number in 0..100 {
        let bodies: Vec<String> = (0..100).map(|at| format!("{number}.{at}")).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        world.publish("t", Duration::ZERO, &bodies);
        world.turn();
    }
    let delivered = world.take_inbox(1).len();
    assert!(
        delivered.abs_diff(3_000) < 200,
        "{delivered} of 10,000 at 30 %"
    );
    let key = world.shard.topic("t").unwrap();
    let stats = world.shard.topic_stats(key).unwrap();
    assert_eq!(
        (stats.channels[0].depth, stats.channels[0].message_count),
        (0, 10_000)
    );
}

#[test]
fn publishes_are_refused_when_the_log_has_failed_or_the_shard_stops() {
    let mut world = World::new(limits());
    world.publish("t", Duration::ZERO, &["a"]);
    let key = world.topic("t");
    let publish = |world: &mut World| {
        world
            .shard
            .publish(world.now, key, Duration::ZERO, [&b"b"[..]].into_iter())
    };
    world.shard.on_poisoned(key, "disk full".to_owned());
    assert_eq!(
        publish(&mut world),
        Err(PublishError::Log("disk full".to_owned()))
    );
    world.shard.check_invariants();
    world.shard.drain();
    assert_eq!(publish(&mut world), Err(PublishError::Exiting));
    world.shard.delete_topic(key);
    assert_eq!(publish(&mut world), Err(PublishError::Exiting));
}

#[test]
fn publishers_wait_while_too_much_is_unwritten() {
    let mut world = World::new(ShardLimits {
        unwritten_bytes_max: 100,
        ..limits()
    });
    world.writes_reported = false;
    world.publish("t", Duration::ZERO, &["a", "b"]);
    world.turn();
    assert!(!world.shard.is_congested());
    world.publish("t", Duration::ZERO, &["c"]);
    assert!(world.shard.is_congested());
    world.turn();
    assert!(world.shard.is_congested());
    world.report_written();
    assert!(!world.shard.is_congested());
}

#[test]
fn attempts_stop_at_the_largest_number() {
    let mut world = World::new(limits());
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let consumer = world.subscribe(("t", "ch"), 1, &options);
    world.shard.ready(consumer, 1);
    world.publish("t", Duration::ZERO, &["a"]);
    for round in 1..=65_600u32 {
        world.shard.dispatch(world.now);
        world.take_effects();
        let delivery = world.take_inbox(1).remove(0);
        assert_eq!(u32::from(delivery.attempts), round.min(65_535));
        world
            .shard
            .requeue(world.now, consumer, &delivery.id, Duration::ZERO)
            .unwrap();
    }
}

#[test]
fn a_straggler_is_found_after_the_window_has_moved_on() {
    let mut world = World::new(ShardLimits {
        cache_bytes_max: 10_000,
        ..limits()
    });
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let consumer = world.subscribe(("t", "ch"), 1, &options);
    world.shard.ready(consumer, 1_001);
    world.checked = false;
    let mut straggler = None;
    for round in 0..200 {
        let bodies: Vec<String> = (0..1_000).map(|at| format!("{round}.{at}")).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        world.publish("t", Duration::ZERO, &bodies);
        world.turn();
        for delivery in world.take_inbox(1) {
            if delivery.body == "0.7" {
                straggler = Some(delivery.id);
            } else {
                world
                    .shard
                    .finish(world.now, consumer, &delivery.id)
                    .unwrap();
            }
        }
    }
    world.shard.check_invariants();
    world.checkpoint(CheckpointScope::Changed);
    world.reclaim(1_000);
    world
        .shard
        .requeue(world.now, consumer, &straggler.unwrap(), Duration::ZERO)
        .unwrap();
    world.turn();
    let again = world.take_inbox(1);
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].body.as_str(), again[0].attempts), ("0.7", 2));
    assert!(world.fetches > 0, "it was read back");
    world.checkpoint(CheckpointScope::Changed);
    world.restart();
    let consumer = world.subscribe(("t", "ch"), 2, &options);
    world.shard.ready(consumer, 10);
    world.turn();
    let after = world.take_inbox(2);
    assert_eq!(after.len(), 1);
    assert_eq!((after[0].body.as_str(), after[0].attempts), ("0.7", 3));
}

/// Gives FINs together, as often as it takes; how many are settled and what is wrong with the next.
fn finish_all(
    world: &mut World,
    consumer: ConsumerKey,
    ids: &[MessageId],
) -> (usize, Option<AckError>) {
    let mut settled = 0;
    loop {
        let rest = ids[settled..].iter().copied();
        let (count, failure) = world.shard.finish_all(world.now, consumer, rest);
        settled += count;
        if count == 0 || failure.is_some() {
            return (settled, failure);
        }
    }
}

#[test]
fn fins_given_together_are_settled_up_to_the_wrong_one() {
    let mut world = World::new(limits());
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let consumer = world.subscribe(("t", "ch"), 1, &options);
    let other = world.subscribe(("t", "ch"), 2, &options);
    world.shard.ready(consumer, 5);
    world.publish("t", Duration::ZERO, &["a", "b", "c", "d", "e"]);
    world.turn();
    let ids: Vec<MessageId> = world.take_inbox(1).iter().map(|d| d.id).collect();
    assert_eq!(
        finish_all(&mut world, other, &ids),
        (0, Some(AckError::NotOwner))
    );
    let twice = [ids[0], ids[2], ids[0], ids[1]];
    assert_eq!(
        finish_all(&mut world, consumer, &twice),
        (2, Some(AckError::NotInFlight))
    );
    let stats = world.shard.consumer_stats(consumer).unwrap();
    assert_eq!((stats.in_flight_count, stats.finish_count), (3, 2));
    assert_eq!(finish_all(&mut world, consumer, &ids[3..]), (2, None));
    world.turn();
    let key = world.shard.topic("t").unwrap();
    let channel = &world.shard.topic_stats(key).unwrap().channels[0];
    assert_eq!((channel.in_flight_count, channel.depth), (1, 0));
}

#[test]
fn fins_of_messages_that_an_ephemeral_topic_has_kept_aside_are_settled_together() {
    let mut world = World::new(limits());
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let consumer = world.subscribe(("t#ephemeral", "ch"), 1, &options);
    world.shard.ready(consumer, 1_010);
    world.checked = false;
    let mut kept = Vec::new();
    for round in 0..200 {
        let bodies: Vec<String> = (0..1_000).map(|at| format!("{round}.{at}")).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        world.publish("t#ephemeral", Duration::ZERO, &bodies);
        world.turn();
        let mut ids: Vec<MessageId> = world.take_inbox(1).iter().map(|d| d.id).collect();
        if round == 0 {
            kept = ids.drain(..10).collect();
        }
        assert_eq!(finish_all(&mut world, consumer, &ids), (ids.len(), None));
    }
    let key = world.shard.topic("t#ephemeral").unwrap();
    let in_flight = |world: &World| {
        let stats = world.shard.topic_stats(key).unwrap();
        stats.channels[0].in_flight_count
    };
    assert_eq!(in_flight(&world), 10);
    assert_eq!(finish_all(&mut world, consumer, &kept), (10, None));
    assert_eq!(in_flight(&world), 0);
    world.turn();
    world.shard.check_invariants();
}

/// Consumes a backlog of 100 large messages from a log that plans; how many reads were open at a time.
fn consume_as_planned(cache_bytes_max: usize, shuffle: usize) -> usize {
    let mut world = World::new(ShardLimits {
        cache_bytes_max,
        ..limits()
    });
    (world.plans, world.read_len, world.shuffle) = (true, 10, shuffle);
    let bodies: Vec<String> = (0..100).map(|at| format!("{at:>65000}")).collect();
    let slices: Vec<&str> = bodies.iter().map(String::as_str).collect();
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    world.subscribe(("t", "ch"), 1, &options);
    world.publish("t", Duration::ZERO, &slices);
    world.turn();
    world.checkpoint(CheckpointScope::All);
    world.restart();
    world.logs.get_mut("t").unwrap().damage(17, 33);
    let consumer = world.subscribe(("t", "ch"), 2, &options);
    world.shard.ready(consumer, 3);
    let mut seen = Vec::new();
    loop {
        world.turn();
        let delivered = world.take_inbox(2);
        if delivered.is_empty() {
            break;
        }
        for delivery in delivered {
            let finished = world.shard.finish(world.now, consumer, &delivery.id);
            finished.unwrap();
            seen.push(delivery.body);
        }
    }
    let left = [&bodies[..17], &bodies[33..]].concat();
    assert_eq!(seen, left);
    world.most_open
}

#[test]
fn several_pieces_of_a_backlog_are_on_their_way_as_far_as_the_cache_has_room() {
    for shuffle in 0..4 {
        // The plan of a stretch that is damaged counts no bytes in this log.
        let with_room = consume_as_planned(16 << 20, shuffle);
        assert!(matches!(with_room, 4 | 5), "{with_room}");
        assert_eq!(consume_as_planned(4 << 20, shuffle), 2);
        assert_eq!(consume_as_planned(1, shuffle), 1);
    }
}

#[test]
fn many_deferrals_are_cheap_to_write_and_come_back() {
    let count = 20_000u64;
    let mut world = World::new(limits());
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    world.subscribe(("t", "ch"), 1, &options);
    for number in 0..count {
        let delay = Duration::from_millis(60_000 + number % 977);
        world.publish("t", delay, &[&number.to_string()]);
    }
    world.turn();
    world.checkpoint(CheckpointScope::All);
    let bytes: usize = world.logs["t"].checkpoint.values().map(Vec::len).sum();
    assert!(bytes < 8 * 20_000, "{bytes} bytes of checkpoint");
    world.restart();
    world.checked = false;
    let consumer = world.subscribe(("t", "ch"), 2, &options);
    world.shard.ready(consumer, 100_000);
    world.turn();
    assert_eq!(world.take_inbox(2), []);
    world.advance(Duration::from_secs(62));
    assert_eq!(world.take_inbox(2).len() as u64, count);
}

#[test]
fn deadlines_of_the_shell_share_the_wheel() {
    let mut world = World::new(limits());
    let at = world.now.after(Duration::from_millis(5));
    let first = world.shard.schedule(at, Deadline::Tick(1));
    world.shard.schedule(at, Deadline::Tick(2));
    world.shard.cancel(first);
    assert_eq!(world.shard.next_deadline(), Some(at));
    world.advance(Duration::from_millis(4));
    assert_eq!(world.fired, []);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.fired, [Deadline::Tick(2)]);
    world.shard.cancel(first);
    assert_eq!(world.shard.next_deadline(), None);
}

#[test]
fn ids_of_a_topic_created_again_are_new() {
    let mut world = World::new(limits());
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let mut ids = Vec::new();
    for conn in 1..=2 {
        let consumer = world.subscribe(("t", "ch"), conn, &options);
        world.shard.ready(consumer, 1);
        world.publish("t", Duration::ZERO, &["a"]);
        world.turn();
        ids.push(world.take_inbox(conn)[0].id);
        world.shard.delete_topic(world.shard.topic("t").unwrap());
        world.turn();
    }
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn calls_with_dead_keys_do_nothing() {
    let mut world = World::new(limits());
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let consumer = world.subscribe(("t", "ch"), 1, &options);
    world.shard.ready(consumer, 1);
    world.publish("t", Duration::ZERO, &["a"]);
    world.turn();
    let id = world.take_inbox(1)[0].id;
    let key = world.shard.topic("t").unwrap();
    world.shard.delete_topic(key);
    let (now, shard) = (world.now, &mut world.shard);
    assert_eq!(shard.finish(now, consumer, &id), Err(AckError::NotInFlight));
    shard.ready(consumer, 5);
    shard.close(consumer);
    shard.set_writable(consumer, true);
    shard.unsubscribe(consumer);
    assert_eq!(shard.consumer_stats(consumer), None);
    shard.delete_topic(key);
    shard.empty_topic(key);
    shard.pause_topic(key, true);
    assert!(!shard.create_channel(now, key, &common::channel_name("x")));
    shard.on_written(key, Sequence(1));
    let zero = Sequence(0);
    shard.on_fetch_planned(key, zero, Sequence(1), 1);
    shard.on_fetched(key, zero, zero, Bytes::new(), Vec::new(), Sequence(1));
    shard.on_fetch_failed(key, Sequence(0), Sequence(1));
    shard.on_poisoned(key, String::new());
    shard.checkpoint(key, CheckpointScope::All, |_, _| panic!("nothing to write"));
    assert!(!shard.owes(key, Sequence(0), Sequence(9)));
    assert!(!shard.is_checkpoint_due(key));
    assert_eq!(shard.topic_stats(key), None);
    world.turn();
}

#[test]
fn owed_messages_that_the_log_does_not_hold_are_told() {
    let mut world = World::new(limits());
    world.publish("t", Duration::ZERO, &["a"; 10]);
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    world.subscribe(("t", "ch"), 1, &options);
    world.turn();
    world.checkpoint(CheckpointScope::All);
    world.restart();
    world.take_effects();
    let is_told = |line: &String| line == "CHANNEL(ch): messages 0..5 are gone from the log";
    assert!(!world.lines.iter().any(is_told), "{:?}", world.lines);
    world
        .logs
        .get_mut("t")
        .unwrap()
        .reclaim(5, |start, _| start.0 > 0);
    world.restart();
    world.take_effects();
    assert!(world.lines.iter().any(is_told), "{:?}", world.lines);
}

#[test]
fn a_held_topic_takes_messages_and_hands_them_to_every_channel_it_has_when_released() {
    check(
        "topic t
         hold t
         pub t a
         sub c1 t early
         rdy c1 9
         pub t b
         expect c1
         chan t late
         stats t depth=2
         empty t
         pub t c d
         release t
         expect c1 c d
         stats t depth=0
         stats t late depth=2
         chan t after
         stats t after depth=0",
    );
}

#[test]
fn every_name_that_comes_or_goes_is_told() {
    check(
        "sub c1 t#ephemeral e#ephemeral
         names t#ephemeral t#ephemeral:e#ephemeral
         unsub c1
         names
         chan t a
         sub c2 t b#ephemeral
         sub c3 t c
         names t t:a t:b#ephemeral t:c
         unsub c2
         delete t a
         names t t:c
         checkpoint
         restart
         names t t:c
         delete t
         names",
    );
}

/// A broker that measures the median and the maximum over ten seconds.
fn measuring() -> ShardLimits {
    ShardLimits {
        latency: Some(LatencyConfig {
            percentiles: vec![1.0, 0.5],
            window: Duration::from_secs(10),
        }),
        ..limits()
    }
}

/// Whether a figure is this many milliseconds, to within its promised error.
fn is_about(figure: Percentile, millis: u64) -> bool {
    let exact = millis * 1_000_000;
    figure.nanos.abs_diff(exact) <= exact / 100
}

#[test]
fn dropped_caches_are_read_back_and_filled_again() {
    let mut world = World::new(limits());
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    let consumer = world.subscribe(("t", "ch"), 1, &options);
    world.publish("t", Duration::ZERO, &["a"]);
    world.turn();
    world.shard.drop_caches();
    world.publish("t", Duration::ZERO, &["b"]);
    // Not written yet, so it has to stay.
    world.shard.drop_caches();
    world.shard.check_invariants();
    world.shard.ready(consumer, 1);
    world.turn();
    world.turn();
    assert_eq!(world.fetches, 1, "a was dropped");
    world.shard.ready(consumer, 9);
    world.turn();
    let bodies = |world: &mut World| -> Vec<String> {
        let inbox = world.take_inbox(1);
        inbox.into_iter().map(|delivery| delivery.body).collect()
    };
    assert_eq!(bodies(&mut world), ["a", "b"]);
    world.publish("t", Duration::ZERO, &["c"]);
    world.turn();
    assert_eq!(bodies(&mut world), ["c"]);
    assert_eq!(world.fetches, 1, "nothing else was");
}

#[test]
fn latency_runs_from_publish_to_fin_also_over_redelivery_touch_and_reading_back() {
    // So small a cache that everything written is read back for its delivery.
    let mut world = World::new(ShardLimits {
        cache_bytes_max: 1,
        ..measuring()
    });
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(1),
        sample_rate: 0,
        locality: Locality::Global,
    };
    world.publish("t", Duration::ZERO, &["a", "b"]);
    world.turn();
    world.advance(Duration::from_millis(100));
    world.publish("t", Duration::ZERO, &["c", "d"]);
    world.turn();
    let consumer = world.subscribe(("t", "ch"), 1, &options);
    world.shard.ready(consumer, 10);
    world.turn();
    world.turn();
    let key = world.shard.topic("t").unwrap();
    let none = world.shard.topic_stats(key).unwrap().latency;
    assert_eq!(none.count, 0);
    assert!(none.percentiles.unwrap().iter().all(|p| p.nanos == 0));

    let delivered = world.take_inbox(1);
    let id = |body: &str| delivered.iter().find(|d| d.body == body).unwrap().id;
    world.advance(Duration::from_millis(100));
    // 200 ms after its publish.
    world.shard.finish(world.now, consumer, &id("a")).unwrap();
    // 100 ms after; b and d stay, c is requeued, d is touched.
    let requeue = world
        .shard
        .requeue(world.now, consumer, &id("c"), Duration::ZERO);
    requeue.unwrap();
    world.shard.touch(world.now, consumer, &id("d")).unwrap();
    world.turn();
    world.turn();
    world.advance(Duration::from_millis(300));
    // 400 ms after, both.
    world.shard.finish(world.now, consumer, &id("c")).unwrap();
    world.shard.finish(world.now, consumer, &id("d")).unwrap();
    world.shard.check_invariants();

    let stats = world.shard.topic_stats(key).unwrap();
    let figures = stats.latency.percentiles.clone().unwrap();
    assert_eq!(stats.latency.count, 3);
    assert_eq!((figures[0].quantile, figures[1].quantile), (1.0, 0.5));
    assert!(
        figures.iter().all(|figure| is_about(*figure, 400)),
        "{figures:?}"
    );
    assert_eq!(stats.channels[0].latency, stats.latency);
}

#[test]
fn a_topic_shows_the_latency_of_its_channels_together_and_none_where_nothing_is_measured() {
    let options = ConsumerOptions {
        msg_timeout: Duration::from_secs(60),
        sample_rate: 0,
        locality: Locality::Global,
    };
    for limits in [measuring(), limits()] {
        let is_measuring = limits.latency.is_some();
        let mut world = World::new(limits);
        let key = world.topic("t");
        let empty = world.shard.topic_stats(key).unwrap().latency;
        assert_eq!(empty.percentiles, None, "no channel, no figures");
        let consumers = [1, 2].map(|conn| {
            let channel = ["", "fast", "slow"][conn];
            let key = world.subscribe(("t", channel), conn as u64, &options);
            world.shard.ready(key, 1);
            key
        });
        world.publish("t", Duration::ZERO, &["a"]);
        world.turn();
        for (conn, consumer) in (1..).zip(consumers) {
            world.advance(Duration::from_millis(100));
            let id = world.take_inbox(conn).remove(0).id;
            world.shard.finish(world.now, consumer, &id).unwrap();
        }
        let stats = world.shard.topic_stats(key).unwrap();
        if !is_measuring {
            assert_eq!((stats.latency.count, stats.latency.percentiles), (0, None));
            continue;
        }
        let slowest = |latency: &nsq_core::LatencyStats| {
            (latency.count, latency.percentiles.as_ref().unwrap()[0])
        };
        let (fast, slow) = (&stats.channels[0].latency, &stats.channels[1].latency);
        assert!(slowest(fast).0 == 1 && is_about(slowest(fast).1, 100));
        assert!(slowest(slow).0 == 1 && is_about(slowest(slow).1, 200));
        assert!(slowest(&stats.latency).0 == 2 && is_about(slowest(&stats.latency).1, 200));
    }
}
