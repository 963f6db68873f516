//! One topic: from its queues to a log.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use nsq_cli::Logger;
use nsq_core::{Now, Sequence};
use nsq_proto::TopicName;

use super::ImportError;
use super::diskqueue::{Queue, Reader, Record};
use super::merge::{Merge, Recent};
use super::writer::Writer;
use crate::catalogue::TopicEntry;
use crate::shared::Settings;
use crate::storage;

/// Messages that are assigned to a channel at a time.
const ASSIGN_MAX: usize = 1024;

/// What is imported.
pub(super) struct Source<'a> {
    pub(super) name: &'a TopicName,
    pub(super) entry: TopicEntry,
    pub(super) queues: &'a [Queue],
    /// Where the topic's log is, if it has one.
    pub(super) log: &'a Path,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Imported {
    /// The queues owe nothing, or nothing of it is whole.
    Nothing,
    /// They stay where they are; the operator was told why.
    Refused,
    /// The directory holds the log with their messages, synced.
    Written,
}

/// What was taken from one queue.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    messages: u64,
    /// Of bodies.
    bytes: u64,
}

impl Count {
    fn add(&mut self, record: &Record) {
        self.messages += 1;
        self.bytes += record.body.len() as u64;
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes } = self;
        write!(
            f,
            "{messages} messages ({bytes} bytes) from the disk queue of the Go nsqd"
        )
    }
}

/// A channel while its queue is read.
struct Channel<'a> {
    name: &'a str,
    /// To be assigned.
    owed: Vec<(Sequence, u16)>,
    count: Count,
}

impl Channel<'_> {
    fn owe(&mut self, sequence: Sequence, record: &Record, writer: &mut Writer) {
        self.owed.push((sequence, record.attempts));
        self.count.add(record);
        if self.owed.len() == ASSIGN_MAX {
            self.assign(writer);
        }
    }

    fn assign(&mut self, writer: &mut Writer) {
        writer.assign(self.name, &self.owed);
        self.owed.clear();
    }
}

/// Writes a log with the messages of the queues, after those of the log that there is, into `dir`.
///
/// # Errors
/// See [`ImportError`].
pub(super) fn import(
    source: Source<'_>,
    dir: &Path,
    settings: &Settings,
    now: Now,
    logger: &Logger,
) -> Result<Imported, ImportError> {
    let Source {
        name,
        entry,
        queues,
        log,
    } = source;
    let (mut own, mut channels, mut readers) = (Vec::new(), Vec::new(), Vec::new());
    for queue in queues {
        let reader = queue.open(settings.limits.message_bytes_max, logger)?;
        match queue.channel() {
            _ if reader.is_empty() => {}
            None => own.push(reader),
            Some(name) => {
                readers.push(reader);
                channels.push(Channel {
                    name,
                    owed: Vec::with_capacity(ASSIGN_MAX),
                    count: Count::default(),
                });
            }
        }
    }
    if own.is_empty() && readers.is_empty() {
        return Ok(Imported::Nothing);
    }
    copy_log(log, dir)?;
    let mut writer = Writer::open(dir, name, entry, settings, now)?;
    if !readers.is_empty() {
        if !writer.is_assignable() {
            logger.error(format_args!(
                "TOPIC({name}): its disk queues of the Go nsqd are left as they are: the topic is \
                 paused with messages of its own; unpause it and start again"
            ));
            return Ok(Imported::Refused);
        }
        import_channels(&mut channels, Merge::new(readers)?, &mut writer)?;
        writer.end_assignment();
    }
    let count = import_own(own, &mut writer)?;
    // A log to which nothing was appended may have no directory.
    if count.messages == 0 && channels.iter().all(|channel| channel.count.messages == 0) {
        return Ok(Imported::Nothing);
    }
    writer.finish()?;
    report(name, count, &channels, logger);
    Ok(Imported::Written)
}

/// The messages that only some channels owe.
fn import_channels(
    channels: &mut [Channel<'_>],
    mut merge: Merge,
    writer: &mut Writer,
) -> Result<(), ImportError> {
    let mut recent = Recent::default();
    while let Some((at, record)) = merge.next()? {
        let sequence = match recent.find(at, &record) {
            Some(sequence) => sequence,
            None => {
                let sequence = writer.append(&record)?;
                recent.insert(at, &record, sequence);
                sequence
            }
        };
        channels[at].owe(sequence, &record, writer);
    }
    for channel in channels {
        channel.assign(writer);
    }
    Ok(())
}

/// The messages that no channel was given yet.
fn import_own(queues: Vec<Reader>, writer: &mut Writer) -> Result<Count, ImportError> {
    let mut count = Count::default();
    for mut queue in queues {
        while let Some(record) = queue.next()? {
            writer.append(&record)?;
            count.add(&record);
        }
    }
    Ok(count)
}

fn report(name: &TopicName, own: Count, channels: &[Channel<'_>], logger: &Logger) {
    if own.messages > 0 {
        logger.info(format_args!("TOPIC({name}): imported {own}"));
    }
    for Channel {
        name: channel,
        count,
        ..
    } in channels
    {
        logger.info(format_args!(
            "TOPIC({name}): CHANNEL({channel}): imported {count}"
        ));
    }
}

/// Copies the files of a log, if there are any. It is not linked, for both would be written to.
fn copy_log(log: &Path, dir: &Path) -> Result<(), ImportError> {
    let failed = |source| ImportError::at("copy", log, source);
    let entries = match fs::read_dir(log) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    fs::create_dir(dir).map_err(failed)?;
    for entry in entries {
        let from = entry.map_err(failed)?.path();
        let to = dir.join(from.file_name().unwrap_or_default());
        let copied = fs::copy(&from, &to).and_then(|_| fs::File::open(&to)?.sync_all());
        copied.map_err(failed)?;
    }
    storage::sync_parent(&dir.join("file")).map_err(failed)
}
