//! What writes around the page cache are kept in until the device has them.
//!
//! A direct write is safe from the death of the process only once the device has answered, and
//! whoever published would wait for that. So its bytes are copied into a file that is mapped
//! shared, a *stage*: what is in there stays in the kernel when the process dies. Then the write
//! counts (`OK` is sent), the device gets the bytes from there, and the place is free again. What a
//! killed process leaves in its stages the next one writes to where it belongs, before it reads
//! any log: [`redo`].
//!
//! A stage is `<data-path>/stage/<shard>`: [`SLOTS`] slots, each a head of [`HEAD_BYTES`] and room
//! for [`DATA_BYTES`] of a file. All numbers are little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `RQS1` |
//! | 4 | 4 | CRC-32C of the head from offset 16 to the end of the path |
//! | 8 | 8 | commit: length of the data << 32, CRC-32C of the data; 0: the slot is free |
//! | 16 | 8 | order: writes of one stage are done again in this order |
//! | 24 | 8 | inode of the file |
//! | 32 | 8 | when the file was made, in ns since 1970, as the file system tells it; 0 if it does not |
//! | 40 | 8 | where the data belongs in the file |
//! | 48 | 2 | length of the path |
//! | 50 | | path of the file, relative to the data path if it lies below it |
//!
//! Why doing them again is safe: within the life of a segment file each of its bytes is written
//! once, so that writing them again changes nothing. Name, inode and age of the file tell one life
//! from the next. Both checksums tell what a power failure left of a stage from what was in it.
//! A stage is removed before anything new is appended.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::storage;

/// Of the head of a slot: a page, so that the data is aligned.
pub(crate) const HEAD_BYTES: usize = 4096;
/// A block of messages (256 KiB) and the table that goes before it. A multiple of the page size.
pub(crate) const DATA_BYTES: usize = 272 * 1024;
/// Of head and data.
pub(crate) const SLOT_BYTES: usize = HEAD_BYTES + DATA_BYTES;
/// 6.5 MiB on their way: several times what keeps a device busy.
pub(crate) const SLOTS: usize = 24;

const MAGIC: [u8; 4] = *b"RQS1";
const HEAD_CRC: Range<usize> = 4..8;
/// Where the commit word stands in the head.
pub(crate) const COMMIT: Range<usize> = 8..16;
const ORDER: Range<usize> = 16..24;
const INODE: Range<usize> = 24..32;
const MADE: Range<usize> = 32..40;
const OFFSET: Range<usize> = 40..48;
const PATH_LEN: Range<usize> = 48..50;
const PATH: usize = 50;

/// The stages of a data path.
#[must_use]
pub(crate) fn stages_dir(data_path: &Path) -> PathBuf {
    data_path.join("stage")
}

/// A file, and which life of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    path: PathBuf,
    inode: u64,
    made_ns: u64,
}

impl Identity {
    /// Of an open file.
    ///
    /// # Errors
    /// `/proc` is not there, or the path is longer than a head has room for.
    pub(crate) fn of(file: &OwnedFd, data_path: &Path) -> io::Result<Self> {
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let target = fs::read_link(&link)?;
        let path = target.strip_prefix(data_path).unwrap_or(&target).to_owned();
        if PATH + path.as_os_str().len() > HEAD_BYTES {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        Ok(Self::told_by(path, &fs::metadata(&link)?))
    }

    fn told_by(path: PathBuf, metadata: &fs::Metadata) -> Self {
        let made = metadata.created().ok();
        let made = made.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Self {
            path,
            inode: metadata.ino(),
            made_ns: made.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(0)),
        }
    }
}

/// What the head of a slot says.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    order: u64,
    file: Identity,
    offset: u64,
    len: usize,
    data_crc: u32,
}

/// Writes a head, but for its commit word, which must be 0.
pub(crate) fn encode_head(head: &mut [u8], order: u64, file: &Identity, offset: u64) {
    let path = file.path.as_os_str().as_bytes();
    let end = PATH + path.len();
    let path_len = u16::try_from(path.len()).expect("checked by Identity::of");
    head[ORDER].copy_from_slice(&order.to_le_bytes());
    head[INODE].copy_from_slice(&file.inode.to_le_bytes());
    head[MADE].copy_from_slice(&file.made_ns.to_le_bytes());
    head[OFFSET].copy_from_slice(&offset.to_le_bytes());
    head[PATH_LEN].copy_from_slice(&path_len.to_le_bytes());
    head[PATH..end].copy_from_slice(path);
    let crc = crc_fast::crc32_iscsi(&head[ORDER.start..end]);
    head[HEAD_CRC].copy_from_slice(&crc.to_le_bytes());
    head[..MAGIC.len()].copy_from_slice(&MAGIC);
}

/// The commit word of a slot that holds `len` bytes, more than none, with this CRC-32C.
pub(crate) fn commit_word(len: usize, crc: u64) -> u64 {
    (len as u64) << 32 | crc
}

fn number(head: &[u8], at: Range<usize>) -> u64 {
    u64::from_le_bytes(head[at].try_into().expect("the field has eight bytes"))
}

/// The record of a head, `None` if the slot is free or the head is damaged.
fn parse_head(head: &[u8]) -> Option<Record> {
    let commit = number(head, COMMIT);
    let path_len = u16::from_le_bytes(head[PATH_LEN].try_into().expect("two bytes"));
    let path = head.get(PATH..PATH + usize::from(path_len))?;
    let crc = crc_fast::crc32_iscsi(&head[ORDER.start..PATH + path.len()]);
    let len = usize::try_from(commit >> 32).ok()?;
    let is_sound = head[..MAGIC.len()] == MAGIC
        && head[HEAD_CRC] == crc.to_le_bytes()
        && (1..=DATA_BYTES).contains(&len);
    is_sound.then(|| Record {
        order: number(head, ORDER),
        file: Identity {
            path: std::ffi::OsStr::from_bytes(path).into(),
            inode: number(head, INODE),
            made_ns: number(head, MADE),
        },
        offset: number(head, OFFSET),
        len,
        #[expect(clippy::cast_possible_truncation, reason = "the low half")]
        data_crc: commit as u32,
    })
}

/// What [`redo`] has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Redone {
    pub(crate) writes: usize,
    pub(crate) bytes: usize,
}

/// Does the writes again that the stages of a killed process hold, and removes the stages. To be
/// called before any log is read; what was written is with the kernel then, and not synced.
///
/// # Errors
/// A stage cannot be read or removed, or a file not be written. Nothing may be appended then.
pub(crate) fn redo(data_path: &Path) -> io::Result<Redone> {
    let dir = stages_dir(data_path);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Redone::default()),
        entries => entries?,
    };
    let mut redone = Redone::default();
    let mut stages = Vec::new();
    for entry in entries {
        let path = entry?.path();
        redo_stage(&File::open(&path)?, data_path, &mut redone)?;
        stages.push(path);
    }
    for path in stages {
        fs::remove_file(path)?;
    }
    fs::remove_dir(&dir)?;
    // Or a power failure could bring a stage back after its places in the log were used again.
    storage::sync_parent(&dir)?;
    Ok(redone)
}

fn redo_stage(stage: &File, data_path: &Path, redone: &mut Redone) -> io::Result<()> {
    let mut records = Vec::new();
    let mut head = vec![0; HEAD_BYTES];
    let whole_slots = stage.metadata()?.len() / SLOT_BYTES as u64;
    for slot in 0..whole_slots {
        stage.read_exact_at(&mut head, slot * SLOT_BYTES as u64)?;
        records.extend(parse_head(&head).map(|record| (slot, record)));
    }
    records.sort_by_key(|(_, record)| record.order);
    for (slot, record) in records {
        let mut data = vec![0; record.len];
        stage.read_exact_at(&mut data, slot * SLOT_BYTES as u64 + HEAD_BYTES as u64)?;
        if crc_fast::crc32_iscsi(&data) == record.data_crc && redo_write(&record, &data, data_path)?
        {
            redone.writes += 1;
            redone.bytes += data.len();
        }
    }
    Ok(())
}

/// False if the file is not there any more: nobody needed what was to come into it.
fn redo_write(record: &Record, data: &[u8], data_path: &Path) -> io::Result<bool> {
    let path = data_path.join(&record.file.path);
    let file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if Identity::told_by(record.file.path.clone(), &file.metadata()?) != record.file {
        return Ok(false);
    }
    file.write_all_at(data, record.offset)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stage with these slots: `(order, offset, data)`, all for one file.
    fn stage(data_path: &Path, file: &Identity, slots: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; slots.len() * SLOT_BYTES];
        for (slot, &(order, offset, data)) in bytes.chunks_mut(SLOT_BYTES).zip(slots) {
            encode_head(slot, order, file, offset);
            slot[HEAD_BYTES..HEAD_BYTES + data.len()].copy_from_slice(data);
            let crc = u64::from(crc_fast::crc32_iscsi(data));
            slot[COMMIT].copy_from_slice(&commit_word(data.len(), crc).to_le_bytes());
        }
        fs::create_dir_all(stages_dir(data_path)).unwrap();
        fs::write(stages_dir(data_path).join("0"), &bytes).unwrap();
        bytes
    }

    fn segment(data_path: &Path, contents: &[u8]) -> (PathBuf, Identity) {
        let path = data_path.join("segment");
        fs::write(&path, contents).unwrap();
        let file = OwnedFd::from(File::open(&path).unwrap());
        (path, Identity::of(&file, data_path).unwrap())
    }

    #[test]
    fn what_was_kept_is_written_in_order_and_the_stage_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = segment(dir.path(), b"..........");
        assert_eq!(file.path, Path::new("segment"));
        stage(dir.path(), &file, &[(2, 3, b"new"), (1, 2, b"older")]);
        let redone = redo(dir.path()).unwrap();
        assert_eq!((redone.writes, redone.bytes), (2, 8));
        assert_eq!(fs::read(path).unwrap(), b"..onewr...");
        assert!(!stages_dir(dir.path()).exists());
        assert_eq!(redo(dir.path()).unwrap(), Redone::default());
    }

    #[test]
    fn free_slots_damage_and_cut_stages_are_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = segment(dir.path(), b"....");
        let slots: [(u64, u64, &[u8]); 2] = [(1, 0, b"x"), (2, 3, b"y")];
        let bytes = stage(dir.path(), &file, &slots);
        // Each byte of head and data counts; the last slot stays.
        for at in [0, 5, 8, 12, 20, 30, 35, 41, 48, 51, HEAD_BYTES] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            fs::create_dir_all(stages_dir(dir.path())).unwrap();
            fs::write(stages_dir(dir.path()).join("0"), damaged).unwrap();
            assert_eq!(redo(dir.path()).unwrap().writes, 1, "byte {at}");
            assert_eq!(fs::read(&path).unwrap(), b"...y", "byte {at}");
        }
        let mut free = bytes.clone();
        free[COMMIT].fill(0);
        free.truncate(2 * SLOT_BYTES - 1);
        fs::create_dir_all(stages_dir(dir.path())).unwrap();
        fs::write(stages_dir(dir.path()).join("0"), free).unwrap();
        assert_eq!(redo(dir.path()).unwrap().writes, 0);
    }

    #[test]
    fn another_file_under_the_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = segment(dir.path(), b"....");
        let kept = dir.path().join("kept");
        fs::rename(&path, &kept).unwrap();
        let (path, _) = segment(dir.path(), b"----");
        stage(dir.path(), &file, &[(1, 0, b"x")]);
        assert_eq!(redo(dir.path()).unwrap().writes, 0);
        assert_eq!(fs::read(&path).unwrap(), b"----");
        assert_eq!(fs::read(&kept).unwrap(), b"....");
        fs::remove_file(&path).unwrap();
        stage(dir.path(), &file, &[(1, 0, b"x")]);
        assert_eq!(redo(dir.path()).unwrap().writes, 0);
        assert!(!path.exists());
    }
}
