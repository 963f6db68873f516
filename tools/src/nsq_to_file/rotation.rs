//! The files of one topic: when to go on to the next one, how it is named, where a finished one goes.
//!
//! Invariants:
//! - A file is on disk in full before the next one is opened, and before it is moved.
//! - Nothing is ever overwritten: a name that is taken leads to the next revision.
//!
//! Owner: the topic's task. All calls block on the disk. Hot path: [`FileRotation::append`].

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Zoned;
use nsq_cli::{errno_text, format_duration};

use super::TopicLog;
use super::filename::{FileNames, with_revision};
use super::output::{Existing, OutputFile};

const DIR_MODE: u32 = 0o770;

/// Where files go and when they are full; the same for all topics.
#[derive(Debug, Clone)]
pub(super) struct FileOptions {
    /// Finished files.
    pub(super) output_dir: PathBuf,
    /// Files being written; equal to `output_dir` when they are not moved.
    pub(super) work_dir: PathBuf,
    /// 1 to 9; `None` = plain.
    pub(super) gzip_level: Option<u32>,
    /// Bytes; 0 = no limit.
    pub(super) rotate_size: u64,
    /// Zero = no limit.
    pub(super) rotate_interval: Duration,
}

impl FileOptions {
    fn moves(&self) -> bool {
        self.work_dir != self.output_dir
    }
}

/// What the clocks say: read once per batch and passed down.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// For file names.
    pub(super) wall: Zoned,
    /// For intervals.
    pub(super) monotonic: Instant,
}

impl Now {
    /// Reads the clocks.
    pub(super) fn read() -> Self {
        Self {
            wall: Zoned::now(),
            monotonic: Instant::now(),
        }
    }
}

/// A file could not be written as promised; the program must end. In the words of the reference.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {operation} {path}: {}", errno_text(.source))]
pub(super) struct FileError {
    /// What it was for.
    doing: String,
    /// The system call.
    operation: &'static str,
    path: String,
    source: io::Error,
}

/// Makes the error of an operation on a path.
fn failed<'a>(
    doing: &'a str,
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError {
        doing: doing.to_owned(),
        operation,
        path: path.display().to_string(),
        source,
    }
}

/// The files of one topic.
#[derive(Debug)]
pub(super) struct FileRotation {
    options: FileOptions,
    names: FileNames,
    log: TopicLog,
    open: Option<OpenFile>,
    /// The name that the revisions count for, with `<REV>` left in it.
    name: String,
    revision: u32,
}

#[derive(Debug)]
struct OpenFile {
    output: OutputFile,
    opened: Instant,
    /// Relative to both directories.
    relative: PathBuf,
}

impl FileRotation {
    /// Opens nothing yet.
    pub(super) fn new(options: FileOptions, names: FileNames, log: TopicLog) -> Self {
        Self {
            options,
            names,
            log,
            open: None,
            name: String::new(),
            revision: 0,
        }
    }

    /// Whether the next record belongs into another file than the open one, if any.
    pub(super) fn is_due(&mut self, now: &Now) -> bool {
        let Some(open) = &self.open else {
            return true;
        };
        let (log, options) = (&self.log, &self.options);
        let name = self.names.at(&now.wall);
        if name != self.name {
            log.info(format_args!("new filename {name}, rotating..."));
            return true;
        }
        let age = now.monotonic.duration_since(open.opened);
        if !options.rotate_interval.is_zero() && age > options.rotate_interval {
            let nanos = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
            let age = format_duration(nanos);
            log.info(format_args!("{age} since last open, rotating..."));
            return true;
        }
        self.is_oversize(&open.output)
    }

    fn is_oversize(&self, output: &OutputFile) -> bool {
        let limit = self.options.rotate_size;
        let is_oversize = limit > 0 && output.size() > limit;
        if is_oversize {
            let (path, size) = (output.path().display(), output.size());
            self.log.info(format_args!(
                "{path} currently {size} bytes (> {limit}), rotating..."
            ));
        }
        is_oversize
    }

    /// Closes the open file, if any, and opens the one for that time.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn rotate(&mut self, now: &Now) -> Result<(), FileError> {
        self.close()?;
        let name = self.names.at(&now.wall);
        if name == self.name {
            self.revision += 1;
        } else {
            self.name = name.to_owned();
            self.revision = 0;
        }
        loop {
            let relative = PathBuf::from(with_revision(&self.name, self.revision));
            if let Some(output) = self.try_open(&relative)? {
                self.open = Some(OpenFile {
                    output,
                    opened: now.monotonic,
                    relative,
                });
                return Ok(());
            }
            self.revision += 1;
        }
    }

    /// `None` when the name is taken.
    fn try_open(&self, relative: &Path) -> Result<Option<OutputFile>, FileError> {
        let path = self.options.work_dir.join(relative);
        make_parent(&path)?;
        if self.options.moves() {
            let target = self.options.output_dir.join(relative);
            make_parent(&target)?;
            let shown = target.display();
            let doing = format!("unable to stat output file {shown}");
            let exists = target.try_exists();
            if exists.map_err(failed(&doing, "stat", &target))? {
                self.log
                    .warn(format_args!("output file already exists: {shown}"));
                return Ok(None);
            }
        }
        let is_exclusive =
            self.options.gzip_level.is_some() || !self.options.rotate_interval.is_zero();
        let existing = if is_exclusive {
            Existing::Refuse
        } else {
            Existing::Append
        };
        let shown = path.display();
        let doing = format!("unable to open {shown}");
        let mut output = match OutputFile::open(&path, existing, self.options.gzip_level) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.log
                    .warn(format_args!("working file already exists: {shown}"));
                return Ok(None);
            }
            opened => opened.map_err(failed(&doing, "open", &path))?,
        };
        self.log.info(format_args!("opening {shown}"));
        if self.is_oversize(&output) {
            return Ok(None);
        }
        let torn = output.end_torn_record();
        if torn.map_err(failed(&doing, "read", &path))? {
            self.log.warn(format_args!(
                "{shown} ends in the middle of a record, going on behind it"
            ));
        }
        sync_parent(&path)?;
        Ok(Some(output))
    }

    /// Appends a record to the open file.
    ///
    /// # Errors
    /// [`FileError`].
    ///
    /// # Panics
    /// When none is open: [`Self::is_due`] says so.
    pub(super) fn append(&mut self, body: &[u8]) -> Result<(), FileError> {
        let open = self.open.as_mut().expect("a rotation was due and made");
        let result = open.output.append(body);
        result.map_err(failed(
            "writing message to disk",
            "write",
            open.output.path(),
        ))
    }

    /// Lets others see what was appended.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn flush(&mut self) -> Result<(), FileError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let result = open.output.flush();
        result.map_err(failed(
            "writing message to disk",
            "write",
            open.output.path(),
        ))
    }

    /// Puts what was appended on the disk.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn sync(&mut self) -> Result<(), FileError> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let result = open.output.sync();
        result.map_err(failed(
            "failed syncing messages",
            "sync",
            open.output.path(),
        ))
    }

    /// Closes the open file, if any, and moves it to where finished files go.
    ///
    /// # Errors
    /// [`FileError`].
    pub(super) fn close(&mut self) -> Result<(), FileError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let path = open.output.path().to_owned();
        let result = open.output.close();
        result.map_err(failed("failed to fsync output file", "sync", &path))?;
        if self.options.moves() {
            self.move_finished(&path, &open.relative)?;
        }
        Ok(())
    }

    fn move_finished(&self, source: &Path, relative: &Path) -> Result<(), FileError> {
        let mut target = self.options.output_dir.join(relative);
        let mut revision = self.revision;
        let from = source.display();
        let to = target.display();
        self.log
            .info(format_args!("moving finished file {from} to {to}"));
        loop {
            let to = target.display();
            let doing = format!("unable to move file from {from} to {to}");
            match fs::hard_link(source, &target) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.log
                        .warn(format_args!("destination file already exists: {to}"));
                    revision += 1;
                    let name = with_revision(&self.name, revision);
                    target = self.options.output_dir.join(name);
                    make_parent(&target)?;
                }
                Err(source) => {
                    return Err(FileError {
                        doing,
                        operation: "link",
                        path: format!("{from} {to}"),
                        source,
                    });
                }
            }
        }
        sync_parent(&target)?;
        let doing = format!("unable to remove {from}");
        fs::remove_file(source).map_err(failed(&doing, "remove", source))?;
        if revision != self.revision {
            let to = target.display();
            self.log.info(format_args!(
                "renamed finished file {from} to {to} to avoid overwrite"
            ));
        }
        Ok(())
    }
}

fn make_parent(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(path);
    let made = DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(parent);
    made.map_err(failed("unable to create dir", "mkdir", parent))
}

/// Makes the entry of a new file survive the machine's death; its bytes alone would not do.
fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let synced = File::open(parent).and_then(|folder| folder.sync_all());
    synced.map_err(failed("failed to fsync directory", "sync", parent))
}

#[cfg(test)]
mod tests;
