//! The companion of `nsqd.dat`: what changed since that was written, one line per change.
//!
//! `nsqd.dat` holds everything, so writing it costs as much as there is, and three commits of the
//! file system. A line costs its own length and one flush, because the file is written over in
//! place: it is made once, full of zeros.
//!
//! | line | what |
//! |---|---|
//! | 1 | `checksum ringq-1 <checksum of nsqd.dat> <its length> <number>`: what the lines extend |
//! | others | `checksum <topic as in nsqd.dat>`, or with `{"name":…,"gone":true}` |
//!
//! Checksums are CRC-32C in 8 hex digits; those of the lines begin with the first line, whose
//! number is random, so that what an earlier use of the file has left behind is not read. The first
//! line that does not fit its checksum is the end. A journal that extends another `nsqd.dat` is not
//! read at all.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::storage;

/// Name of the file within the data path.
pub(super) const FILE_NAME: &str = "nsqd.dat.journal";
/// Some thousand changes, after which `nsqd.dat` is written.
const FILE_BYTES: usize = 1024 * 1024;
const FILE_MODE: u32 = 0o600;
const MAGIC: &str = "ringq-1";

/// The file, written by one owner.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Option<File>,
    /// Of the file that the next lines extend, and how far they are.
    use_of: Option<Use>,
}

#[derive(Debug)]
struct Use {
    head: String,
    /// Where the next line goes.
    at: u64,
}

impl Journal {
    pub(super) fn new(data_path: &Path) -> Self {
        Self {
            path: data_path.join(FILE_NAME),
            file: None,
            use_of: None,
        }
    }

    /// From now on lines extend this `nsqd.dat`, which is on disk. What the file holds counts no
    /// more.
    ///
    /// # Errors
    /// Of the file system. Nothing is appended until it is tried again.
    pub(super) fn begin(&mut self, extended: &[u8]) -> io::Result<()> {
        self.use_of = None;
        if let Some(file) = &self.file {
            // Not synced: the checksum of `nsqd.dat` tells as well.
            file.write_all_at(&[0; 8], 0)?;
        }
        let head = head(extended, RandomState::new().hash_one(0));
        self.use_of = Some(Use { head, at: 0 });
        Ok(())
    }

    /// Appends a line per value. *Durability:* they are on disk when this returns.
    /// `false`: there is no room, or nothing that they could extend; nothing was written.
    ///
    /// # Errors
    /// Of the file system; nothing more is appended until [`Self::begin`].
    pub(super) fn append(&mut self, values: &[Vec<u8>]) -> io::Result<bool> {
        let Some(Use { head, at }) = self.use_of.take() else {
            return Ok(false);
        };
        let mut lines = Vec::new();
        if at == 0 {
            push_line(&mut lines, &[head.as_bytes()]);
        }
        for value in values {
            push_line(&mut lines, &[head.as_bytes(), value]);
        }
        let end = at + lines.len() as u64;
        if end > FILE_BYTES as u64 {
            return Ok(false);
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => make(&self.path)?,
        };
        file.write_all_at(&lines, at)?;
        file.sync_data()?;
        self.file = Some(file);
        self.use_of = Some(Use { head, at: end });
        Ok(true)
    }

    /// Removes the file: `nsqd.dat` holds everything. The next line makes it anew.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.file = None;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A file of zeros: what overwrites them needs no commit of the file system.
fn make(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(path)?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    storage::sync_parent(path)?;
    Ok(file)
}

/// What the first line holds.
pub(super) fn head(extended: &[u8], number: u64) -> String {
    let (sum, len) = (checksum(&[extended]), extended.len());
    format!("{MAGIC} {sum:08x} {len} {number:016x}")
}

/// The last part is what the line holds.
pub(super) fn push_line(lines: &mut Vec<u8>, parts: &[&[u8]]) {
    let value = parts.last().copied().unwrap_or_default();
    lines.extend_from_slice(format!("{:08x} ", checksum(parts)).as_bytes());
    lines.extend_from_slice(value);
    lines.push(b'\n');
}

fn checksum(parts: &[&[u8]]) -> u32 {
    crc_fast::crc32_iscsi(&parts.concat())
}

/// What a journal says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// What its lines hold, oldest first; often nothing.
    Values(Vec<Vec<u8>>),
    /// It extends another `nsqd.dat`.
    Foreign(PathBuf),
}

/// Reads the journal of a data path, which may not be there, to this `nsqd.dat`.
///
/// # Errors
/// Of the file system.
pub(super) fn read(data_path: &Path, extended: &[u8]) -> io::Result<Found> {
    let path = data_path.join(FILE_NAME);
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let head = lines
        .next()
        .and_then(|line| value_of(line, &[]))
        .and_then(|head| std::str::from_utf8(head).ok());
    let Some(head) = head else {
        return Ok(Found::Values(Vec::new()));
    };
    let (sum, len) = (checksum(&[extended]), extended.len());
    if !head.starts_with(&format!("{MAGIC} {sum:08x} {len} ")) {
        return Ok(Found::Foreign(path));
    }
    let values = lines.map_while(|line| value_of(line, head.as_bytes()));
    Ok(Found::Values(values.map(<[u8]>::to_vec).collect()))
}

/// What a line holds, if it fits its checksum.
fn value_of<'a>(line: &'a [u8], head: &[u8]) -> Option<&'a [u8]> {
    let (sum, value) = line.split_at_checked(9)?;
    let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (checksum(&[head, value]) == sum).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    fn read_values(dir: &Path, extended: &[u8]) -> Vec<Vec<u8>> {
        match read(dir, extended).unwrap() {
            Found::Values(values) => values,
            Found::Foreign(path) => panic!("{} extends another file", path.display()),
        }
    }

    #[test]
    fn lines_are_read_back_after_any_number_of_appends() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path());
        assert!(!journal.append(&values(&["early"])).unwrap());
        journal.begin(b"all").unwrap();
        assert_eq!(read_values(dir.path(), b"all"), values(&[]));
        assert!(journal.append(&values(&["a", "b"])).unwrap());
        assert!(journal.append(&values(&["c"])).unwrap());
        assert_eq!(read_values(dir.path(), b"all"), values(&["a", "b", "c"]));
    }

    #[test]
    fn what_an_earlier_use_left_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path());
        journal.begin(b"all").unwrap();
        journal.append(&values(&["1", "2", "3"])).unwrap();
        journal.begin(b"all").unwrap();
        assert_eq!(read_values(dir.path(), b"all"), values(&[]));
        journal.append(&values(&["4"])).unwrap();
        assert_eq!(read_values(dir.path(), b"all"), values(&["4"]));
    }

    #[test]
    fn a_journal_of_another_file_is_foreign() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path());
        journal.begin(b"old").unwrap();
        journal.append(&values(&["1"])).unwrap();
        let found = read(dir.path(), b"new").unwrap();
        assert_eq!(found, Found::Foreign(dir.path().join(FILE_NAME)));
        journal.remove().unwrap();
        assert_eq!(read_values(dir.path(), b"new"), values(&[]));
    }

    #[test]
    fn a_torn_line_ends_it_wherever_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path());
        journal.begin(b"all").unwrap();
        journal.append(&values(&["first"])).unwrap();
        let first = journal.use_of.as_ref().unwrap().at;
        journal.append(&values(&["second"])).unwrap();
        let end = journal.use_of.as_ref().unwrap().at;
        let path = dir.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        for cut in first..end - 1 {
            let mut torn = whole.clone();
            torn[usize::try_from(cut).unwrap()..].fill(0);
            fs::write(&path, torn).unwrap();
            assert_eq!(read_values(dir.path(), b"all"), values(&["first"]), "{cut}");
        }
    }

    #[test]
    fn a_full_journal_takes_nothing_until_it_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path());
        journal.begin(b"all").unwrap();
        let large = vec![vec![b'x'; FILE_BYTES / 3]];
        assert!(journal.append(&large).unwrap());
        assert!(journal.append(&large).unwrap());
        assert!(!journal.append(&large).unwrap());
        assert!(!journal.append(&values(&["small"])).unwrap());
        assert_eq!(read_values(dir.path(), b"all").len(), 2);
        journal.begin(b"more").unwrap();
        assert!(journal.append(&large).unwrap());
        assert_eq!(read_values(dir.path(), b"more"), large);
    }
}
