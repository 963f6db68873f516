//! What the tests of the log share: known contents, a driver, two disks.

pub(crate) mod fs_disk;
pub(crate) mod sim_disk;

use bytes::{Bytes, BytesMut};
use nsq_log::{Batch, Disk, LogConfig, LogEvent, OpResult, SyncPolicy, Token, TopicLog};

/// A small generator (splitmix64), so that a seed says everything.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// The frame of a message: told by its sequence and epoch alone.
pub(crate) fn frame(sequence: u64, epoch: u32) -> Vec<u8> {
    let mut rng = Rng(sequence << 20 | u64::from(epoch));
    let len = match rng.below(20) {
        0 => 600 + rng.below(900),
        1 => 0,
        _ => rng.below(200),
    };
    let mut bytes = format!("{sequence}/{epoch}:").into_bytes();
    bytes.extend((0..len).map(|_| rng.next().to_le_bytes()[0]));
    bytes
}

/// When messages of a batch that starts here are due; 0 = at once.
pub(crate) fn due_ms(first: u64) -> u64 {
    if first.is_multiple_of(5) {
        1_000_000 + first
    } else {
        0
    }
}

/// A disk whose operations can be let finish one by one.
pub(crate) trait TestDisk: Disk {
    /// Carries out one of the operations submitted, if there is any.
    fn finish_one(&mut self) -> Option<(Token, OpResult)>;
}

pub(crate) fn config(sync: SyncPolicy) -> LogConfig {
    LogConfig {
        sync,
        gather: false,
        sync_every: 64,
        segment_bytes_max: 16 * 1024,
        segment_bytes_min: 2 * 1024,
        read_bytes: 4 * 1024,
    }
}

/// Appends `count` messages.
pub(crate) fn append(log: &mut TopicLog, disk: &mut dyn Disk, first: u64, epoch: u32, count: u64) {
    append_due(log, disk, (first, epoch, due_ms(first)), count);
}

pub(crate) fn append_due(
    log: &mut TopicLog,
    disk: &mut dyn Disk,
    (first, epoch, due_ms): (u64, u32, u64),
    count: u64,
) {
    let mut frames = BytesMut::new();
    let mut ends = Vec::new();
    for sequence in first..first + count {
        frames.extend_from_slice(&frame(sequence, epoch));
        ends.push(u32::try_from(frames.len()).unwrap());
    }
    // Two slices, as a ring buffer gives them.
    let ends = ends.split_at(ends.len() / 3);
    log.append(
        disk,
        &Batch {
            first,
            epoch,
            due_ms,
            frames: frames.freeze(),
            ends,
        },
    );
}

/// Lets operations finish until none is in flight; the events, in order.
pub(crate) fn settle<D: TestDisk>(log: &mut TopicLog, disk: &mut D) -> Vec<LogEvent> {
    let mut events = Vec::new();
    while let Some((token, result)) = disk.finish_one() {
        log.complete(disk, token, result, &mut events);
        log.check_invariants();
    }
    assert_eq!(log.pending(), 0);
    events
}

/// The frontiers that the events tell, `(written, committed)`.
pub(crate) fn frontiers(events: &[LogEvent]) -> (u64, u64) {
    let mut reached = (0, 0);
    for event in events {
        match event {
            LogEvent::Written { end } => {
                assert!(*end > reached.0, "written moves on");
                reached.0 = *end;
            }
            LogEvent::Committed { end } => {
                assert!(*end > reached.1, "committed moves on");
                reached.1 = *end;
            }
            _ => {}
        }
    }
    reached
}

/// One answer to a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) frames: Vec<(u64, Vec<u8>)>,
    pub(crate) next: u64,
}

pub(crate) fn answers(events: Vec<LogEvent>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for event in events {
        match event {
            LogEvent::Fetched {
                from,
                first,
                bytes,
                spans,
                next,
            } => {
                assert!(first <= from && next >= first + spans.len() as u64 && !spans.is_empty());
                let frames = cut(&bytes, &spans, first);
                answers.push(Answer { frames, next });
            }
            LogEvent::Unreadable { from, next, .. } => {
                assert!(next > from);
                answers.push(Answer {
                    frames: Vec::new(),
                    next,
                });
            }
            _ => {}
        }
    }
    answers
}

fn cut(bytes: &Bytes, spans: &[(u32, u32)], first: u64) -> Vec<(u64, Vec<u8>)> {
    let range = |&(start, end): &(u32, u32)| bytes[start as usize..end as usize].to_vec();
    (first..).zip(spans.iter().map(range)).collect()
}

/// Reads everything in `[from, head)` the way a consumer does: what is there, by sequence.
pub(crate) fn read_all<D: TestDisk>(
    log: &mut TopicLog,
    disk: &mut D,
    from: u64,
    head: u64,
) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut next = from;
    while next < head {
        log.read(disk, next, u32::MAX);
        let mut answers = answers(settle(log, disk));
        assert_eq!(answers.len(), 1, "every read is answered once");
        let answer = answers.remove(0);
        assert!(answer.next > next, "a read moves on");
        found.extend(
            answer
                .frames
                .into_iter()
                .filter(|(sequence, _)| *sequence >= next),
        );
        next = answer.next;
    }
    found
}

/// Asserts that `[from, end)` is all there, under this epoch.
pub(crate) fn assert_all_there<D: TestDisk>(
    log: &mut TopicLog,
    disk: &mut D,
    range: std::ops::Range<u64>,
    epoch: u32,
) {
    let found = read_all(log, disk, range.start, range.end);
    let sequences: Vec<u64> = found.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, range.collect::<Vec<_>>());
    for (sequence, bytes) in found {
        assert_eq!(bytes, frame(sequence, epoch), "message {sequence}");
    }
}
