//! What the log costs besides the disk: placing a batch with its checksums, and the checksum alone.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use nsq_log::{Batch, Disk, LogConfig, Op, OpOutput, OpResult, SyncPolicy, Token, TopicLog};

/// Bytes of a frame with a body of 200 bytes.
const FRAME: usize = 234;

fn main() {
    divan::main();
}

/// Does nothing, at once.
#[derive(Default)]
struct NoDisk(VecDeque<(Token, OpResult)>);

impl Disk for NoDisk {
    fn submit(&mut self, token: Token, op: Op) {
        let output = match op {
            Op::Open { .. } | Op::Create { .. } | Op::Recycle { .. } | Op::Replace { .. } => {
                let file = std::fs::File::open("/dev/null").unwrap();
                OpOutput::File(Rc::new(file.into()))
            }
            Op::Read { .. } => OpOutput::Data(Bytes::new()),
            Op::Write { .. } | Op::Sync { .. } | Op::Remove { .. } | Op::RemoveAll { .. } => {
                OpOutput::Done
            }
        };
        self.0.push_back((token, Ok(output)));
    }
}

/// One batch from its frames to `Written`; segments are rolled and recycled on the way.
#[divan::bench(args = [1, 20, 200, 1000])]
fn append(bencher: Bencher<'_, '_>, count: usize) {
    let config = LogConfig {
        sync: SyncPolicy::Interval,
        gather: false,
        sync_every: 2_500,
        segment_bytes_max: 64 << 20,
        segment_bytes_min: 1 << 20,
        read_bytes: 1 << 20,
    };
    let mut log = TopicLog::create("none".into(), config);
    let mut disk = NoDisk::default();
    let frames = Bytes::from(vec![b'x'; FRAME * count]);
    let ends: Vec<u32> = (1..=count)
        .map(|end| u32::try_from(end * FRAME).unwrap())
        .collect();
    let mut first = 0;
    let mut events = Vec::new();
    bencher.counter(ItemsCount::new(count)).bench_local(|| {
        let batch = Batch {
            first,
            epoch: 1,
            due_ms: 0,
            frames: frames.clone(),
            ends: (&ends, &[]),
        };
        log.append(&mut disk, &batch);
        first += count as u64;
        while let Some((token, result)) = disk.0.pop_front() {
            log.complete(&mut disk, token, result, &mut events);
        }
        events.clear();
        log.reclaim(|_, _| false);
    });
}

/// As one record of the log has it, by the library that the log uses.
#[divan::bench(args = [FRAME, 4 << 10])]
fn checksum(bencher: Bencher<'_, '_>, len: usize) {
    let bytes = vec![b'x'; len];
    bencher
        .counter(BytesCount::new(len))
        .bench_local(|| crc_fast::crc32_iscsi(black_box(&bytes)));
}
