//! The disk queues of the Go nsqd (spec nsqd.md §3.6): which there are, and the records in them.
//!
//! | file | what |
//! |---|---|
//! | `<name>.diskqueue.<number>.dat` | records: length (4), timestamp ns (8), attempts (2), id (16), body; big-endian |
//! | `<name>.diskqueue.meta.dat` | `depth\nread file,read offset\nwrite file,write offset\n` |
//! | the same with `.bad` or `.tmp` appended | set aside or left over by the Go nsqd: not read |
//!
//! `<name>` is a topic or `<topic>:<channel>`. The records from the read position to the end of the
//! last file are owed. The write position is not looked at: after a kill it lags behind what was
//! written, and after a clean stop it is the end of the last file.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use nsq_cli::Logger;

use super::ImportError;

const INFIX: &str = ".diskqueue.";
const META: &str = "meta.dat";
/// Bytes of a record's timestamp, attempts and id.
const HEADER_LEN: usize = 26;
const READ_BYTES: usize = 32 * 1024;

/// The files of one queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// `<topic>` or `<topic>:<channel>`.
    pub(super) name: String,
    /// Data files by number.
    data: BTreeMap<u64, PathBuf>,
    meta: Option<PathBuf>,
    /// What is not read.
    others: Vec<PathBuf>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// When it was published, Unix ns.
    pub(super) timestamp: u64,
    /// Deliveries so far.
    pub(super) attempts: u16,
    pub(super) id: [u8; 16],
    pub(super) body: Vec<u8>,
}

/// The queues in a data path, by name.
///
/// # Errors
/// The directory cannot be listed.
pub(super) fn find(data_path: &Path) -> Result<Vec<Queue>, ImportError> {
    let failed = |source| ImportError::at("list", data_path, source);
    let mut queues: BTreeMap<String, Queue> = BTreeMap::new();
    for entry in fs::read_dir(data_path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let file_name = path.file_name().and_then(|name| name.to_str());
        // Names may hold the infix themselves, what follows it may not.
        let Some((name, kind)) = file_name.and_then(|name| name.rsplit_once(INFIX)) else {
            continue;
        };
        let queue = queues.entry(name.to_owned()).or_default();
        name.clone_into(&mut queue.name);
        let number = kind.strip_suffix(".dat").and_then(|kind| kind.parse().ok());
        match number {
            Some(number) => drop(queue.data.insert(number, path)),
            None if kind == META => queue.meta = Some(path),
            None => queue.others.push(path),
        }
    }
    Ok(queues.into_values().collect())
}

impl Queue {
    /// The topic.
    pub(super) fn topic(&self) -> &str {
        self.name
            .split_once(':')
            .map_or(&self.name, |(topic, _)| topic)
    }

    /// The channel; `None` for the queue of the topic itself.
    pub(super) fn channel(&self) -> Option<&str> {
        self.name.split_once(':').map(|(_, channel)| channel)
    }

    /// Every file.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = self.data.values().chain(&self.meta).chain(&self.others);
        files.map(PathBuf::as_path)
    }

    /// Reads what is owed. Bodies above `body_bytes_max` count as damage, as for the Go nsqd.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn open(&self, body_bytes_max: u64, logger: &Logger) -> Result<Reader, ImportError> {
        let (first, offset) = self.position(logger)?;
        let mut files = VecDeque::new();
        for (&number, path) in self.data.range(first..) {
            let failed = |source| ImportError::at("read", path, source);
            let len = fs::metadata(path).map_err(failed)?.len();
            let start = if number == first { offset } else { 0 };
            if start > len {
                logger.error(format_args!(
                    "DISKQUEUE({}) reading at {start} of {} - EOF",
                    self.name,
                    path.display()
                ));
            } else if start < len {
                files.push_back((path.clone(), start));
            }
        }
        Ok(Reader {
            name: self.name.clone(),
            body_bytes_max,
            files,
            open: None,
            logger: logger.clone(),
        })
    }

    /// File and offset of the first record that is owed. Without a usable metadata file that is the
    /// very first: a queue that was killed before its first sync has none (K12).
    fn position(&self, logger: &Logger) -> Result<(u64, u64), ImportError> {
        let Some(path) = &self.meta else {
            if !self.data.is_empty() {
                logger.warn(format_args!(
                    "DISKQUEUE({}): no {META}: all of its files are read",
                    self.name
                ));
            }
            return Ok((0, 0));
        };
        let bytes = fs::read(path).map_err(|source| ImportError::at("read", path, source))?;
        let position = parse_meta(&String::from_utf8_lossy(&bytes));
        if position.is_none() {
            logger.error(format_args!(
                "DISKQUEUE({}): {} is damaged: all of its files are read",
                self.name,
                path.display()
            ));
        }
        Ok(position.unwrap_or_default())
    }
}

/// The read position. A torn file may end in the middle of it, with another number than was written.
fn parse_meta(text: &str) -> Option<(u64, u64)> {
    let (line, _) = text.split_once('\n')?.1.split_once('\n')?;
    let (file, offset) = line.split_once(',')?;
    Some((file.parse().ok()?, offset.parse().ok()?))
}

/// The records of one queue, oldest first. Holds one file and one record at a time.
#[derive(Debug)]
pub(super) struct Reader {
    name: String,
    body_bytes_max: u64,
    /// Files that follow, and where to start in each.
    files: VecDeque<(PathBuf, u64)>,
    open: Option<Open>,
    logger: Logger,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: BufReader<File>,
    /// Offset of the next record.
    at: u64,
}

impl Reader {
    /// Whether there is nothing to be read.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none() && self.files.is_empty()
    }

    /// The next record. Damage is reported and ends its file, as for the Go nsqd.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(super) fn next(&mut self) -> Result<Option<Record>, ImportError> {
        loop {
            let Some(open) = self.open.as_mut() else {
                let Some((path, at)) = self.files.pop_front() else {
                    return Ok(None);
                };
                let file = open_at(&path, at);
                let file = file.map_err(|source| ImportError::at("open", &path, source))?;
                self.open = Some(Open { path, file, at });
                continue;
            };
            match read_record(&mut open.file, self.body_bytes_max) {
                Ok(Some(record)) => {
                    open.at += (4 + HEADER_LEN + record.body.len()) as u64;
                    return Ok(Some(record));
                }
                Ok(None) => self.open = None,
                Err(error) => {
                    self.logger.error(format_args!(
                        "DISKQUEUE({}) reading at {} of {} - {error}: the rest of this file is \
                         not imported",
                        self.name,
                        open.at,
                        open.path.display()
                    ));
                    self.open = None;
                }
            }
        }
    }
}

fn open_at(path: &Path, at: u64) -> io::Result<BufReader<File>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(at))?;
    Ok(BufReader::with_capacity(READ_BYTES, file))
}

/// `None` at the end of the file.
fn read_record(file: &mut impl BufRead, body_bytes_max: u64) -> io::Result<Option<Record>> {
    if file.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let len = i32::from_be_bytes(take(file)?);
    let body_len = usize::try_from(len)
        .ok()
        .and_then(|len| len.checked_sub(HEADER_LEN))
        .filter(|&len| len as u64 <= body_bytes_max);
    let body_len = body_len.ok_or_else(|| {
        io::Error::new(
            ErrorKind::InvalidData,
            format!("invalid message read size ({len})"),
        )
    })?;
    let timestamp = u64::from_be_bytes(take(file)?);
    let attempts = u16::from_be_bytes(take(file)?);
    let id = take(file)?;
    let mut body = vec![0; body_len];
    file.read_exact(&mut body).map_err(torn)?;
    Ok(Some(Record {
        timestamp,
        attempts,
        id,
        body,
    }))
}

fn take<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).map_err(torn)?;
    Ok(bytes)
}

/// The Go nsqd's words for it.
fn torn(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        io::Error::new(ErrorKind::UnexpectedEof, "unexpected EOF")
    } else {
        error
    }
}
