//! What the queue costs: publishing, dispatching runs, finishing, timers, ids.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::time::Duration;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use nsq_core::{
    ConnToken, ConsumerKey, ConsumerOptions, Deadline, Effect, Epoch, Locality, MessageId, NodeId,
    Now, Sequence, Shard, ShardLimits, TopicKey,
};
use nsq_proto::{ChannelName, TopicName};

const BODY: [u8; 200] = [b'x'; 200];
const FRAME: usize = 34 + BODY.len();
/// Messages of one turn.
const RUN: usize = 200;

fn main() {
    divan::main();
}

/// A shard with a topic, a channel and a consumer.
struct World {
    shard: Shard,
    now: Now,
    topic: TopicKey,
    consumer: ConsumerKey,
}

impl World {
    fn new() -> Self {
        let now = Now(1_700_000_000_000_000_000);
        let limits = ShardLimits {
            node: NodeId(1),
            mem_queue_size: 10_000,
            msg_timeout_max: Duration::from_secs(900),
            requeue_delay_max: Duration::from_secs(3_600),
            channel_consumers_max: 0,
            cache_bytes_max: 64 << 20,
            unwritten_bytes_max: 64 << 20,
            requeue_on_disconnect: false,
            seed: 1,
            latency: None,
        };
        let mut shard = Shard::new(limits, now);
        let topic = shard.create_topic(now, &TopicName::parse(b"orders").unwrap());
        shard.create_channel(now, topic, &ChannelName::parse(b"billing").unwrap());
        let options = ConsumerOptions {
            msg_timeout: Duration::from_secs(60),
            sample_rate: 0,
            locality: Locality::Global,
        };
        let consumer = shard
            .subscribe(topic, "billing", ConnToken(1), &options)
            .unwrap();
        shard.ready(consumer, 2_500);
        Self {
            shard,
            now,
            topic,
            consumer,
        }
    }

    /// Publishes a run and lets the log have it.
    fn publish(&mut self) {
        let bodies = (0..RUN).map(|_| &BODY[..]);
        let published = self
            .shard
            .publish(self.now, self.topic, Duration::ZERO, bodies)
            .unwrap();
        self.shard.take_batches(|_, batch| drop(batch.frames));
        self.shard.on_written(self.topic, published.end);
        self.shard.reveal(self.topic, published.end);
    }

    /// Hands a run out and lists what was delivered.
    fn dispatch(&mut self, ids: &mut Vec<MessageId>) {
        self.shard.dispatch(self.now);
        for effect in self.shard.drain_effects() {
            if let Effect::Deliver { frames, .. } = effect {
                let frames = frames.chunks(FRAME);
                ids.extend(frames.map(|frame| MessageId(frame[18..34].try_into().unwrap())));
            }
        }
    }

    fn finish(&mut self, ids: &mut Vec<MessageId>) {
        for id in ids.drain(..) {
            self.shard.finish(self.now, self.consumer, &id).unwrap();
        }
    }

    fn finish_all(&mut self, ids: &mut Vec<MessageId>) {
        let count = ids.len();
        let settled = self
            .shard
            .finish_all(self.now, self.consumer, ids.drain(..));
        assert_eq!(settled, (count, None));
    }

    /// The ids of a run that was handed out.
    fn hand_out(&mut self) -> Vec<MessageId> {
        let mut ids = Vec::new();
        self.advance();
        self.publish();
        self.dispatch(&mut ids);
        ids
    }

    fn advance(&mut self) {
        self.now = self.now.after(Duration::from_micros(100));
        self.shard.advance(self.now);
    }
}

/// The whole life of a run of 200 messages.
#[divan::bench]
fn publish_dispatch_finish(bencher: Bencher<'_, '_>) {
    let mut world = World::new();
    let mut ids = Vec::new();
    bencher.counter(ItemsCount::new(RUN)).bench_local(|| {
        world.advance();
        world.publish();
        world.dispatch(&mut ids);
        world.finish(&mut ids);
    });
}

/// Frames appended to the block, chunks lent to the log.
#[divan::bench]
fn publish(bencher: Bencher<'_, '_>) {
    let mut world = World::new();
    bencher.counter(ItemsCount::new(RUN)).bench_local(|| {
        world.advance();
        world.publish();
    });
}

/// A run of fresh messages to one ready consumer.
#[divan::bench]
fn dispatch(bencher: Bencher<'_, '_>) {
    let world = std::cell::RefCell::new((World::new(), Vec::new()));
    bencher
        .counter(ItemsCount::new(RUN))
        .with_inputs(|| {
            let (world, ids) = &mut *world.borrow_mut();
            world.finish(ids);
            world.advance();
            world.publish();
        })
        .bench_local_values(|()| {
            let (world, ids) = &mut *world.borrow_mut();
            world.dispatch(ids);
        });
}

#[divan::bench]
fn finish(bencher: Bencher<'_, '_>) {
    let world = std::cell::RefCell::new(World::new());
    bencher
        .counter(ItemsCount::new(RUN))
        .with_inputs(|| world.borrow_mut().hand_out())
        .bench_local_values(|mut ids| world.borrow_mut().finish(&mut ids));
}

/// As they come: those of a receive buffer in one call.
#[divan::bench]
fn finish_together(bencher: Bencher<'_, '_>) {
    let world = std::cell::RefCell::new(World::new());
    bencher
        .counter(ItemsCount::new(RUN))
        .with_inputs(|| world.borrow_mut().hand_out())
        .bench_local_values(|mut ids| world.borrow_mut().finish_all(&mut ids));
}

/// As a heartbeat that is moved on with every command.
#[divan::bench]
fn wheel_insert_and_cancel(bencher: Bencher<'_, '_>) {
    let mut world = World::new();
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        let at = world.now.after(Duration::from_secs(30));
        let timer = world.shard.schedule(at, Deadline::Heartbeat(ConnToken(1)));
        world.shard.cancel(black_box(timer));
    });
}

/// A thousand timers spread over a second, fired by a clock that moves in steps of a millisecond.
#[divan::bench]
fn wheel_insert_and_expire(bencher: Bencher<'_, '_>) {
    const TIMERS: u64 = 1_000;
    let mut world = World::new();
    bencher.counter(ItemsCount::new(TIMERS)).bench_local(|| {
        for number in 1..=TIMERS {
            let at = world.now.after(Duration::from_millis(number));
            world.shard.schedule(at, Deadline::Heartbeat(ConnToken(1)));
        }
        let mut fired = 0;
        while fired < TIMERS {
            world.now = world.now.after(Duration::from_millis(1));
            world.shard.advance(world.now);
            let effects = world.shard.drain_effects();
            fired += effects.filter(|e| matches!(e, Effect::Due(_))).count() as u64;
        }
    });
}

#[divan::bench]
fn id_encode() -> MessageId {
    MessageId::encode(
        black_box(NodeId(7)),
        Epoch(3),
        black_box(Sequence(123_456_789)),
    )
}

#[divan::bench]
fn id_decode(bencher: Bencher<'_, '_>) {
    let id = MessageId::encode(NodeId(7), Epoch(3), Sequence(123_456_789));
    bencher.bench_local(|| black_box(&id).decode());
}
