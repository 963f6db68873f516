//! In the steady state a message costs no allocation: blocks, tables and queues are per thousands.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nsq_core::{
    CheckpointScope, ConnToken, ConsumerKey, ConsumerOptions, Effect, LatencyConfig, Locality,
    MessageId, NodeId, Now, Shard, ShardLimits, TopicKey,
};
use nsq_proto::{ChannelName, TopicName};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "a global allocator is unsafe to implement")]
// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const BODY: [u8; 200] = [b'x'; 200];
const PER_TURN: usize = 1_000;
const TURNS: usize = 300;
const FRAME: usize = 34 + BODY.len();

struct Bench {
    shard: Shard,
    now: Now,
    topic: TopicKey,
    consumer: ConsumerKey,
    ids: Vec<MessageId>,
}

impl Bench {
    fn new(topic: &str, latency: Option<LatencyConfig>) -> Self {
        let now = Now(1_700_000_000_000_000_000);
        let mut shard = Shard::new(
            ShardLimits {
                node: NodeId(1),
                mem_queue_size: 10_000,
                msg_timeout_max: Duration::from_secs(900),
                requeue_delay_max: Duration::from_secs(3_600),
                channel_consumers_max: 0,
                cache_bytes_max: 64 << 20,
                unwritten_bytes_max: 64 << 20,
                requeue_on_disconnect: false,
                seed: 1,
                latency,
            },
            now,
        );
        let topic = shard.create_topic(now, &TopicName::parse(topic.as_bytes()).unwrap());
        shard.create_channel(now, topic, &ChannelName::parse(b"ch").unwrap());
        let options = ConsumerOptions {
            msg_timeout: Duration::from_secs(60),
            sample_rate: 0,
            locality: Locality::Global,
        };
        let consumer = shard
            .subscribe(topic, "ch", ConnToken(1), &options)
            .unwrap();
        shard.ready(consumer, 2_500);
        Self {
            shard,
            now,
            topic,
            consumer,
            ids: Vec::with_capacity(4 * PER_TURN),
        }
    }

    /// One turn: publish, write, deliver, and finish what the turn before delivered. Every tenth
    /// message is requeued once.
    fn turn(&mut self, requeue: bool) -> usize {
        let Self {
            shard,
            now,
            topic,
            consumer,
            ids,
        } = self;
        *now = now.after(Duration::from_micros(100));
        shard.advance(*now);
        for (number, id) in ids.drain(..).enumerate() {
            if requeue && number % 10 == 0 {
                shard.requeue(*now, *consumer, &id, Duration::ZERO).unwrap();
            } else {
                shard.finish(*now, *consumer, &id).unwrap();
            }
        }
        let bodies = (0..PER_TURN).map(|_| &BODY[..]);
        let published = shard.publish(*now, *topic, Duration::ZERO, bodies).unwrap();
        let mut appended = 0;
        shard.take_batches(|_, batch| appended += batch.ends.0.len() + batch.ends.1.len());
        assert_eq!(appended, if published.logged { PER_TURN } else { 0 });
        shard.on_written(*topic, published.end);
        shard.reveal(*topic, published.end);
        shard.dispatch(*now);
        for effect in shard.drain_effects() {
            if let Effect::Deliver { frames, .. } = effect {
                let frames = frames.chunks(FRAME);
                ids.extend(frames.map(|frame| MessageId(frame[18..34].try_into().unwrap())));
            }
        }
        ids.len()
    }

    fn allocations_per_message(&mut self, requeue: bool) -> f64 {
        for _ in 0..TURNS {
            self.turn(requeue);
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let mut delivered = 0;
        for turn in 0..TURNS {
            delivered += self.turn(requeue);
            if turn % 100 == 0 {
                self.shard
                    .checkpoint(self.topic, CheckpointScope::Changed, |_, _| {});
            }
        }
        assert!(delivered >= TURNS * PER_TURN, "everything goes through");
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let share = allocations as f64 / delivered as f64;
        share
    }
}

/// One test, because the counter is one for the process.
#[test]
fn the_steady_state_allocates_nothing_per_message() {
    let latency = LatencyConfig {
        percentiles: vec![0.99],
        window: Duration::from_secs(600),
    };
    for (topic, requeue, latency) in [
        ("t", false, None),
        ("t", true, None),
        ("t", true, Some(latency)),
        ("t#ephemeral", false, None),
    ] {
        let share = Bench::new(topic, latency).allocations_per_message(requeue);
        assert!(
            share < 0.01,
            "{topic} {requeue}: {share} allocations per message"
        );
    }
}
