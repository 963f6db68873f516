//! The storage thread: file operations that touch names and so may block for milliseconds.
//!
//! One thread for the whole process, so that operations run in the order in which they were
//! asked for: a directory is removed before a new one of the same name is made. The ring threads
//! never wait for it; outcomes come back through the shards' mailboxes.
//!
//! Filling files with zeros takes longer, and concerns no name: a second thread does it, started when
//! there is something to fill.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Scope};

use nix::fcntl::{FallocateFlags, fallocate};
use nsq_core::TopicKey;
use nsq_log::Token;

use crate::shard::message::{ShardId, ShardMessage, StorageJob, StorageOp};
use crate::shared::Mailboxes;

/// Files of the broker are for its user only, as the reference's.
const FILE_MODE: u32 = 0o600;
/// Bytes that the making of a segment leaves free, at most.
const RESERVE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Zeros that are written at a time.
static ZEROS: [u8; 256 * 1024] = [0; 256 * 1024];

/// A job that is done.
struct Outcome {
    shard: ShardId,
    topic: TopicKey,
    token: Token,
    result: io::Result<Option<OwnedFd>>,
}

impl Outcome {
    fn deliver(self, mailboxes: &Mailboxes) {
        let Self {
            shard,
            topic,
            token,
            result,
        } = self;
        let message = ShardMessage::Stored {
            topic,
            token,
            result,
        };
        mailboxes.deliver(shard, message);
    }
}

/// Carries out jobs until every sender of jobs is gone.
pub(crate) fn run(jobs: &Receiver<StorageJob>, mailboxes: &Mailboxes) {
    thread::scope(|scope| {
        let mut filling = None;
        for job in jobs {
            let is_to_fill = matches!(
                job.op,
                StorageOp::Create {
                    is_written: true,
                    ..
                }
            );
            let outcome = Outcome {
                shard: job.shard,
                topic: job.topic,
                token: job.token,
                result: carry_out(job.op),
            };
            if is_to_fill && filling.is_none() {
                // Without threads to be had, files are used as they are.
                filling = start_filling(scope, mailboxes).ok();
            }
            match &filling {
                Some(filling) if is_to_fill => {
                    filling.send(outcome).expect("it ends with its sender");
                }
                _ => outcome.deliver(mailboxes),
            }
        }
    });
}

/// Starts the thread that fills new files before they are handed out.
fn start_filling<'scope>(
    scope: &'scope Scope<'scope, '_>,
    mailboxes: &'scope Mailboxes,
) -> io::Result<Sender<Outcome>> {
    let (sender, made) = channel::<Outcome>();
    let thread = thread::Builder::new().name("filling".to_owned());
    thread.spawn_scoped(scope, move || {
        for outcome in made {
            if let Ok(Some(file)) = &outcome.result {
                // A file that is not filled serves as well, if less evenly.
                drop(fill_with_zeros(file));
            }
            outcome.deliver(mailboxes);
        }
    })?;
    Ok(sender)
}

/// Writes zeros over a new file, which has its length, up to its end, and to the device.
///
/// What is only preallocated the file system has to note as written when it is synced after a write: with
/// ext4 that is a commit of its journal. fdatasync after 16 KiB took 230 µs so, and 155 in a file that was
/// filled before.
fn fill_with_zeros(file: &OwnedFd) -> io::Result<()> {
    let file = File::from(file.try_clone()?);
    let len = file.metadata()?.len();
    let mut at = 0;
    while at < len {
        let step = ZEROS
            .len()
            .min(usize::try_from(len - at).unwrap_or(usize::MAX));
        file.write_all_at(&ZEROS[..step], at)?;
        at += step as u64;
    }
    file.sync_data()
}

/// Carries out one operation; the file of those that open one.
pub(crate) fn carry_out(op: StorageOp) -> io::Result<Option<OwnedFd>> {
    match op {
        StorageOp::Open { path } => open(&path).map(Some),
        StorageOp::Create { path, len, .. } => create(&path, len).map(Some),
        StorageOp::Recycle { from, to } => {
            match fs::rename(&from, &to) {
                // Renamed by an attempt that failed later.
                Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => {}
                other => other?,
            }
            sync_parent(&to)?;
            open(&to).map(Some)
        }
        StorageOp::Replace { path, contents } => {
            replace(&path, &contents)?;
            open(&path).map(Some)
        }
        StorageOp::Remove { path } => missing_is_fine(fs::remove_file(path)).map(|()| None),
        StorageOp::RemoveAll { path } => missing_is_fine(fs::remove_dir_all(path)).map(|()| None),
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(path)?.into())
}

fn create(path: &Path, len: u64) -> io::Result<OwnedFd> {
    make_parent(path)?;
    if !has_room(path, len) {
        return Err(nix::errno::Errno::ENOSPC.into());
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    let made = fill(&file, path, len);
    if made.is_err() {
        missing_is_fine(fs::remove_file(path))?;
    }
    made.map(|()| file.into())
}

/// Whether a segment of that size leaves some space: the journals and `nsqd.dat` need it to free
/// what consumers are done with.
fn has_room(path: &Path, len: u64) -> bool {
    let parent = path.parent().unwrap_or(path);
    let Ok(disk) = nix::sys::statvfs::statvfs(parent) else {
        return true;
    };
    let reserve = RESERVE_BYTES_MAX.min(disk.blocks() * disk.fragment_size() / 64);
    disk.blocks_available() * disk.fragment_size() >= len + reserve
}

/// Gives a new file its length and makes its name durable.
fn fill(file: &File, path: &Path, len: u64) -> io::Result<()> {
    let preallocated = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    if preallocated > 0 {
        match fallocate(file, FallocateFlags::empty(), 0, preallocated) {
            // Not every file system can; a sparse file serves as well, if less evenly.
            Err(nix::errno::Errno::EOPNOTSUPP) => file.set_len(len)?,
            other => other?,
        }
    }
    sync_parent(path)
}

/// Writes `contents` to `path` so that after a crash either the old or the new file is there.
///
/// # Errors
/// Of any step; the old file is untouched then.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    make_parent(path)?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = PathBuf::from(aside);
    let replaced = replace_by(&aside, path, contents);
    if replaced.is_err() {
        missing_is_fine(fs::remove_file(&aside))?;
    }
    replaced
}

fn replace_by(aside: &Path, path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(aside)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(aside, path)?;
    sync_parent(path)
}

/// The parent directory, made durable itself if it was missing.
fn make_parent(path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    if parent.as_os_str().is_empty() || parent.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(parent)?;
    sync_parent(parent)
}

/// Makes the names in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_preallocates_and_refuses_what_exists() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/segment");
        create(&path, 8192).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
        assert_eq!(
            create(&path, 1).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
    }

    #[test]
    fn what_is_filled_is_written_up_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        let len = 2 * ZEROS.len() as u64 + 4096;
        let file = create(&path, len).unwrap();
        fill_with_zeros(&file).unwrap();
        assert!(fs::read(&path).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(fs::metadata(&path).unwrap().len(), len);
        // What is only preallocated counts as a hole where the file system tells.
        let hole = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekHole).unwrap();
        assert_eq!(u64::try_from(hole).unwrap(), len);
    }

    #[test]
    fn replace_leaves_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        carry_out(StorageOp::Remove {
            path: dir.path().join("x"),
        })
        .unwrap();
        carry_out(StorageOp::RemoveAll {
            path: dir.path().join("y"),
        })
        .unwrap();
    }
}
