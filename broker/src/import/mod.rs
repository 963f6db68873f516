//! Taking over the messages that the Go nsqd left in its disk queues.
//!
//! Run once by the main thread, after `nsqd.dat` is read and before the shards start. The Go nsqd
//! keeps a queue per topic, of messages that no channel was given yet, and a queue of copies per
//! channel; here a message is stored once and channels are positions. So the channels' queues are
//! merged ([`merge`]) into messages that some channels owe, and the topic's follow for all of them.
//!
//! A topic is imported as a whole or not at all, through names in `topics/`:
//!
//! 1. `<topic>.log.importing` is made: a copy of the topic's log, if there is one, and the messages.
//!    A crash leaves the queues as they are; the next start begins anew.
//! 2. It is synced and renamed to `<topic>.log.imported`: from here on it counts.
//! 3. The queues' files, and the log that was copied, are moved to [`aside`]'s folder.
//! 4. It is renamed to `<topic>.log`. A start that finds step 2 done does the rest.
//!
//! Memory is bounded by a record per queue, what [`merge`] remembers, and what the broker itself
//! keeps of each message that is not owed in order.

mod aside;
mod disk;
mod diskqueue;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod merge;
#[cfg(test)]
mod tests;
mod topic;
#[cfg(any(test, fuzzing))]
mod world;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use nsq_cli::Logger;
use nsq_core::Now;
use nsq_proto::TopicName;

use self::aside::Aside;
use self::diskqueue::Queue;
use self::topic::Imported;
use crate::boot::{log_dir, logs_dir};
use crate::catalogue::{Catalogue, FILE_NAME};
use crate::clock::unix_seconds;
use crate::shared::Settings;
use crate::storage;

/// Appended to the name of a log's directory while it is made, and while it is put in place.
const UNFINISHED: &str = ".importing";
const FINISHED: &str = ".imported";

/// Why the queues could not be imported; they are as they were.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The file system refused something.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A topic's log could not be read or written.
    #[error("TOPIC({topic}): {reason}")]
    Log {
        /// Which topic.
        topic: TopicName,
        /// Why.
        reason: String,
    },
}

impl ImportError {
    fn at(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io {
            operation,
            path,
            source,
        }
    }
}

/// Imports everything there is for the topics and channels of the catalogue, and sets the files
/// aside. Those of other names are set aside too: a topic of that name that is made later has
/// nothing to do with them (K33).
///
/// # Errors
/// See [`ImportError`]. What was imported before stays so.
pub(crate) fn run(
    settings: &Settings,
    catalogue: &Catalogue,
    now: Now,
    logger: &Logger,
) -> Result<(), ImportError> {
    let mut import = Import {
        settings,
        now,
        logger,
        aside: Aside::new(&settings.data_path, unix_seconds(now)),
    };
    let mut topics: BTreeMap<String, Vec<Queue>> = BTreeMap::new();
    for queue in diskqueue::find(&settings.data_path)? {
        let topic = queue.topic().to_owned();
        topics.entry(topic).or_default().push(queue);
    }
    import.resume(&mut topics)?;
    for (name, entry) in catalogue.topics() {
        if name.is_ephemeral() {
            continue;
        }
        if let Some(mut queues) = topics.remove(name.as_str()) {
            let known = |queue: &Queue| {
                let channel = queue.channel();
                channel.is_none_or(|channel| entry.channels.keys().any(|c| c.as_str() == channel))
            };
            let unknown = queues.extract_if(.., |queue| !known(queue));
            import.set_aside_unknown(unknown.collect())?;
            import.import_topic(name, entry.clone(), &queues)?;
        }
    }
    import.set_aside_unknown(topics.into_values().flatten().collect())?;
    import.aside.sync()?;
    if let Some(folder) = import.aside.folder() {
        logger.info(format_args!(
            "the disk queues of the Go nsqd were taken over; their files are in {}",
            folder.display()
        ));
    }
    Ok(())
}

/// An import on its way.
struct Import<'a> {
    settings: &'a Settings,
    now: Now,
    logger: &'a Logger,
    aside: Aside,
}

impl Import<'_> {
    /// Ends what a crash has interrupted.
    fn resume(&mut self, topics: &mut BTreeMap<String, Vec<Queue>>) -> Result<(), ImportError> {
        let logs = logs_dir(&self.settings.data_path);
        let failed = |source| ImportError::at("list", &logs, source);
        let entries = match fs::read_dir(&logs) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let file_name = path.file_name().unwrap_or_default().to_string_lossy();
            if file_name.strip_suffix(UNFINISHED).is_some() {
                fs::remove_dir_all(&path).map_err(|e| ImportError::at("remove", &path, e))?;
            }
            let topic = file_name
                .strip_suffix(FINISHED)
                .and_then(|name| name.strip_suffix(crate::boot::LOG_DIR_SUFFIX))
                .and_then(|name| TopicName::parse(name.as_bytes()).ok());
            if let Some(name) = topic {
                let queues = topics.remove(name.as_str()).unwrap_or_default();
                self.logger.info(format_args!(
                    "TOPIC({name}): its disk queues were imported before; this is being finished"
                ));
                self.put_in_place(&name, &queues)?;
            }
        }
        Ok(())
    }

    fn set_aside_unknown(&mut self, queues: Vec<Queue>) -> Result<(), ImportError> {
        for queue in queues {
            self.logger.warn(format_args!(
                "DISKQUEUE({}) belongs to no topic or channel of {FILE_NAME}: it is set aside, not \
                 imported",
                queue.name
            ));
            queue.files().try_for_each(|file| self.aside.take(file))?;
        }
        Ok(())
    }

    fn import_topic(
        &mut self,
        name: &TopicName,
        entry: crate::catalogue::TopicEntry,
        queues: &[Queue],
    ) -> Result<(), ImportError> {
        let log = log_dir(&self.settings.data_path, name);
        let unfinished = with_suffix(&log, UNFINISHED);
        let topic = topic::Source {
            name,
            entry,
            queues,
            log: &log,
        };
        match topic::import(topic, &unfinished, self.settings, self.now, self.logger)? {
            Imported::Nothing => {
                discard(&unfinished)?;
                let mut files = queues.iter().flat_map(Queue::files);
                files.try_for_each(|file| self.aside.take(file))
            }
            Imported::Refused => discard(&unfinished),
            Imported::Written => {
                let finished = with_suffix(&log, FINISHED);
                let named = fs::rename(&unfinished, &finished)
                    .and_then(|()| storage::sync_parent(&finished));
                named.map_err(|source| ImportError::at("rename", &unfinished, source))?;
                self.put_in_place(name, queues)
            }
        }
    }

    /// Steps 3 and 4 of the module documentation.
    fn put_in_place(&mut self, name: &TopicName, queues: &[Queue]) -> Result<(), ImportError> {
        let log = log_dir(&self.settings.data_path, name);
        let mut files = queues.iter().flat_map(Queue::files);
        files.try_for_each(|file| self.aside.take(file))?;
        if log.exists() {
            self.aside.take(&log)?;
        }
        self.aside.sync()?;
        let placed =
            fs::rename(with_suffix(&log, FINISHED), &log).and_then(|()| storage::sync_parent(&log));
        placed.map_err(|source| ImportError::at("rename", &log, source))
    }
}

/// Removes a log that was begun, if it was.
fn discard(unfinished: &Path) -> Result<(), ImportError> {
    match fs::remove_dir_all(unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(ImportError::at("remove", unfinished, error))
        }
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
