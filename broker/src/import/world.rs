//! A data path as the Go nsqd leaves it, and what is to be found there after the import.

use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use nsq_cli::{Level, Logger};
use nsq_core::{Now, Sequence, Shard};
use nsq_log::{LogEvent, TopicLog};
use nsq_proto::{ChannelName, MESSAGE_HEADER_LEN, TopicName};

use super::disk::BlockingDisk;
use super::diskqueue::{self, Record};
use super::run;
use crate::boot::{log_dir, restored};
use crate::catalogue::{Catalogue, TopicChange, TopicEntry};
use crate::shared::Settings;

pub(super) const NOW: Now = Now(1_800_000_000_000_000_000);

/// A data path with the queues of a Go nsqd.
pub(super) struct World {
    pub(super) dir: tempfile::TempDir,
    pub(super) catalogue: Catalogue,
    pub(super) settings: Settings,
    pub(super) logger: Logger,
}

pub(super) fn record(number: u16) -> Record {
    Record {
        timestamp: 1_700_000_000_000_000_000 + u64::from(number),
        attempts: 0,
        id: *format!("{number:016x}")
            .as_bytes()
            .first_chunk()
            .expect("16 digits"),
        body: format!("body {number}\0\n\u{1}").into_bytes(),
    }
}

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let len = u32::try_from(26 + record.body.len()).expect("a short body");
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend(record.timestamp.to_be_bytes());
    bytes.extend(record.attempts.to_be_bytes());
    bytes.extend(record.id);
    bytes.extend(&record.body);
    bytes
}

pub(super) fn records(numbers: impl IntoIterator<Item = u16>) -> Vec<Record> {
    numbers.into_iter().map(record).collect()
}

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::parse(name.as_bytes()).expect("a legal name")
}

pub(super) fn entry(channels: &[&str]) -> TopicEntry {
    let names = channels
        .iter()
        .map(|name| ChannelName::parse(name.as_bytes()).expect("a legal name"));
    TopicEntry {
        channels: names.map(|name| (name, false)).collect(),
        ..TopicEntry::default()
    }
}

impl World {
    /// With a topic `t` that has these channels.
    pub(super) fn new(channels: &[&str]) -> Self {
        Self::with_flags(channels, &[])
    }

    /// The same, for an nsqd that is started with these flags.
    pub(super) fn with_flags(channels: &[&str], flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory for temporary files");
        let path = format!("--data-path={}", dir.path().display());
        let args = [path.as_str()].into_iter().chain(flags.iter().copied());
        let args = args.map(Into::into);
        let config = crate::config::parse_args(args).expect("good flags");
        let config = config.validate().expect("good flags");
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

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn file(&self, queue: &str, number: u32, bytes: &[u8]) {
        let name = format!("{queue}.diskqueue.{number:06}.dat");
        fs::write(self.path(&name), bytes).expect("a file can be written");
    }

    pub(super) fn meta(&self, queue: &str, read: (u64, u64)) {
        let text = format!("1\n{},{}\n9,9\n", read.0, read.1);
        fs::write(self.path(&format!("{queue}.diskqueue.meta.dat")), text)
            .expect("a file can be written");
    }

    /// A queue of one file that was read to its beginning.
    pub(super) fn queue(&self, queue: &str, records: &[Record]) {
        let bytes: Vec<u8> = records.iter().flat_map(encode).collect();
        self.file(queue, 0, &bytes);
        self.meta(queue, (0, 0));
    }

    pub(super) fn import(&self) {
        run(&self.settings, &self.catalogue, NOW, &self.logger).expect("bad queues are no error");
        let left = diskqueue::find(self.dir.path()).expect("it can be listed");
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// What a channel of `t` owes after a start: by sequence, attempts apart.
    pub(super) fn owed(&self, channel: &str) -> Vec<(u64, Vec<u8>)> {
        let dir = log_dir(self.dir.path(), &topic("t"));
        let config = self.settings.log.clone();
        let (mut log, recovered) = TopicLog::recover(&dir, config).expect("our own log");
        assert!(recovered.warnings.is_empty(), "{:?}", recovered.warnings);
        let (first, head) = (recovered.first, recovered.head);
        let mut core = Shard::new(self.settings.core_limits(0), NOW);
        let key = core.restore_topic(NOW, &topic("t"), restored(recovered, entry(&[channel])));
        let frames = frames(&mut log, first, head);
        let owes = |sequence: &u64| core.owes(key, Sequence(*sequence), Sequence(*sequence + 1));
        let owed = (first..head).filter(owes).map(|sequence| {
            let frame = &frames[usize::try_from(sequence - first).expect("a few messages")];
            let timestamp = u64::from_be_bytes(*frame[8..].first_chunk().expect("a whole header"));
            (timestamp, frame[MESSAGE_HEADER_LEN..].to_vec())
        });
        owed.collect()
    }

    /// The files that were set aside, over all imports.
    pub(super) fn aside(&self) -> Vec<String> {
        let mut names = Vec::new();
        for folder in fs::read_dir(self.dir.path()).expect("it can be listed") {
            let folder = folder.expect("it can be listed");
            if folder
                .file_name()
                .to_string_lossy()
                .starts_with("imported-")
            {
                let files = fs::read_dir(folder.path()).expect("it can be listed");
                names.extend(files.map(|f| {
                    f.expect("it can be listed")
                        .file_name()
                        .into_string()
                        .expect("ASCII")
                }));
            }
        }
        names.sort();
        names
    }

    pub(super) fn set_aside(&self, name: &str) -> PathBuf {
        let folders = fs::read_dir(self.dir.path()).expect("it can be listed");
        let mut paths = folders.map(|folder| folder.expect("it can be listed").path().join(name));
        paths.find(|path| path.exists()).expect("it was set aside")
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
            let skip = usize::try_from(from - first).expect("a few messages");
            let spans = spans.iter().skip(skip);
            frames.extend(spans.map(|&(s, e)| bytes.slice(s as usize..e as usize)));
        }
        let next = first + frames.len() as u64;
        assert!(next > from, "the log gives what it holds");
        from = next;
    }
    frames
}

pub(super) fn plain(records: &[Record]) -> Vec<(u64, Vec<u8>)> {
    let plain = records.iter();
    plain.map(|r| (r.timestamp, r.body.clone())).collect()
}
