//! A log on real files, known contents, and what every recovery has to keep.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use bytes::Bytes;

use crate::{
    Batch, Disk, LogConfig, LogError, LogEvent, Op, OpOutput, OpResult, Recovered, SyncPolicy,
    Token, TopicLog,
};

/// Files so small that a few kilobytes make several segments.
pub(super) fn config() -> LogConfig {
    LogConfig {
        sync: SyncPolicy::Interval,
        gather: false,
        sync_every: 64,
        segment_bytes_max: 2048,
        segment_bytes_min: 512,
        read_bytes: 1024,
    }
}

/// Carries operations out at once.
#[derive(Debug, Default)]
pub(super) struct PlainDisk(VecDeque<(Token, OpResult)>);

impl Disk for PlainDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.0.push_back((token, carry_out(op)));
    }
}

fn carry_out(op: Op) -> OpResult {
    let plain = |file: &crate::File| file.as_fd().try_clone_to_owned().map(File::from);
    match op {
        Op::Write {
            file,
            offset,
            head,
            body,
            ..
        } => {
            let bytes = [&head[..], &body[..]].concat();
            plain(&file)?.write_all_at(&bytes, offset)?;
            Ok(OpOutput::Done)
        }
        // Nothing here outlives the machine.
        Op::Sync { .. } => Ok(OpOutput::Done),
        Op::Read { file, offset, len } => {
            let mut bytes = vec![0; len as usize];
            let mut filled = 0;
            let file = plain(&file)?;
            loop {
                match file.read_at(&mut bytes[filled..], offset + filled as u64)? {
                    0 => break,
                    read => filled += read,
                }
            }
            bytes.truncate(filled);
            Ok(OpOutput::Data(Bytes::from(bytes)))
        }
        Op::Open { path } => opened(&path),
        Op::Create { path, len, .. } => {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
            File::create_new(&path)?.set_len(len)?;
            opened(&path)
        }
        Op::Recycle { from, to } => {
            fs::rename(from, &to)?;
            opened(&to)
        }
        Op::Replace { path, contents } => {
            fs::write(&path, &contents)?;
            opened(&path)
        }
        Op::Remove { path } => unless_absent(fs::remove_file(path)),
        Op::RemoveAll { path } => unless_absent(fs::remove_dir_all(path)),
    }
}

fn opened(path: &Path) -> OpResult {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(OpOutput::File(Rc::new(OwnedFd::from(file))))
}

fn unless_absent(result: io::Result<()>) -> OpResult {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(OpOutput::Done),
    }
}

/// A log and its disk.
#[derive(Debug)]
pub(super) struct World {
    pub(super) log: TopicLog,
    disk: PlainDisk,
}

impl World {
    pub(super) fn create(dir: &Path, tag: u64) -> Self {
        let mut log = TopicLog::create(dir.to_owned(), config());
        log.tag = tag;
        let disk = PlainDisk::default();
        Self { log, disk }
    }

    /// Recovers, and checks what recovery promises.
    pub(super) fn recover(dir: &Path) -> Result<(Self, Recovered), LogError> {
        let (log, recovered) = TopicLog::recover(dir, config())?;
        log.check_invariants();
        check(&recovered);
        let disk = PlainDisk::default();
        Ok((Self { log, disk }, recovered))
    }

    /// Appends messages of known contents.
    pub(super) fn append(&mut self, first: u64, epoch: u32, due_ms: u64, count: u64) {
        let (mut frames, mut ends) = (Vec::new(), Vec::new());
        for sequence in first..first + count {
            frames.extend_from_slice(&frame(sequence));
            ends.push(u32::try_from(frames.len()).expect("a few kilobytes"));
        }
        let batch = Batch {
            first,
            epoch,
            due_ms,
            frames: frames.into(),
            ends: (&ends, &[]),
        };
        self.log.append(&mut self.disk, &batch);
        self.settle();
    }

    pub(super) fn checkpoint(&mut self, entries: &[(Vec<u8>, Vec<u8>)], is_full: bool) {
        self.log
            .checkpoint(&mut self.disk, entries, is_full, true, 1);
        self.settle();
    }

    /// Frees everything below a sequence.
    pub(super) fn free_below(&mut self, floor: u64) {
        self.log.reclaim(|_, end| end > floor);
        self.log.sync(&mut self.disk);
        self.settle();
    }

    pub(super) fn settle(&mut self) -> Vec<LogEvent> {
        let mut events = Vec::new();
        while let Some((token, result)) = self.disk.0.pop_front() {
            self.log
                .complete(&mut self.disk, token, result, &mut events);
            self.log.check_invariants();
        }
        assert_eq!(self.log.pending(), 0);
        events
    }

    /// Everything that is there, by sequence.
    pub(super) fn read_all(&mut self, recovered: &Recovered, end: u64) -> Vec<(u64, Bytes)> {
        /// Every answer moves past a batch or a hole, and the files have not so many.
        const ANSWERS_MAX: usize = 100_000;
        let mut found = Vec::new();
        let mut next = recovered.first;
        for _ in 0..ANSWERS_MAX {
            if next >= end {
                return found;
            }
            self.log.read(&mut self.disk, next, u32::MAX);
            let events = self.settle();
            let mut answers = events.into_iter().filter_map(|event| answer(event, next));
            let (frames, after) = answers.next().expect("every read is answered");
            assert!(answers.next().is_none(), "every read is answered once");
            assert!(after > next, "a read moves on");
            found.extend(frames.into_iter().filter(|&(sequence, _)| sequence >= next));
            next = after;
        }
        panic!("reading does not end: at {next} of {end}");
    }
}

/// The frames of an answer, and where to go on.
fn answer(event: LogEvent, asked: u64) -> Option<(Vec<(u64, Bytes)>, u64)> {
    match event {
        LogEvent::Fetched {
            from,
            first,
            bytes,
            spans,
            next,
        } => {
            assert!(from == asked && first <= from);
            assert!(!spans.is_empty() && next >= first + spans.len() as u64);
            let slice = |(start, end): (u32, u32)| bytes.slice(start as usize..end as usize);
            let frames = (first..).zip(spans.into_iter().map(slice)).collect();
            Some((frames, next))
        }
        LogEvent::Unreadable { from, next, .. } => {
            assert_eq!(from, asked);
            Some((Vec::new(), next))
        }
        LogEvent::Poisoned { reason } => panic!("{reason}"),
        LogEvent::Written { .. }
        | LogEvent::Committed { .. }
        | LogEvent::Checkpointed { .. }
        | LogEvent::FullCheckpointWanted => None,
    }
}

/// The frame of a message, told by its sequence alone.
pub(super) fn frame(sequence: u64) -> Vec<u8> {
    let len = usize::try_from(sequence % 60 * 7 % 60).expect("below 60");
    format!("{sequence}:{}", "x".repeat(len)).into_bytes()
}

fn check(recovered: &Recovered) {
    let &Recovered {
        first, head, epoch, ..
    } = recovered;
    assert!(first <= head, "{recovered:?}");
    assert!(
        recovered.epochs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1),
        "{recovered:?}"
    );
    assert!(recovered.epochs.iter().all(|&(_, found)| found < epoch));
    assert!(recovered.deferred.is_sorted_by(|a, b| a.0 < b.0));
    assert!(
        recovered
            .deferred
            .iter()
            .all(|&(sequence, _)| sequence < head)
    );
    assert!(
        recovered
            .damaged
            .iter()
            .all(|&(start, end)| start < end && end <= head)
    );
    assert!(
        recovered.damaged.is_sorted_by(|a, b| a.1 <= b.0),
        "{recovered:?}"
    );
}
