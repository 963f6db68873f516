//! What a log asks of a disk.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

/// An open file. Shared by the log and the operations in flight on it; closed with the last of them.
pub type File = Rc<OwnedFd>;

/// Chosen by the log, handed back with the outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// One operation. Operations submitted together may complete in any order, except that a `Sync`
/// covers only writes whose completion was reported before it was submitted.
#[derive(Debug)]
pub enum Op {
    /// Write `head` and then `body` at `offset`, all of it (short writes are the disk's business).
    Write {
        /// Target.
        file: File,
        /// Byte offset.
        offset: u64,
        /// First part.
        head: Bytes,
        /// Second part, may be empty.
        body: Bytes,
        /// Somebody waits until it is done: it is not to be held back to be done with others.
        is_urgent: bool,
    },
    /// fdatasync.
    Sync {
        /// Target.
        file: File,
    },
    /// Read up to `len` bytes at `offset`; fewer only at the end of the file.
    Read {
        /// Source.
        file: File,
        /// Byte offset.
        offset: u64,
        /// Bytes wanted.
        len: u32,
    },
    /// Open for reading and writing. Runs off the shard's thread, like all that follow.
    Open {
        /// Which file.
        path: PathBuf,
    },
    /// Create (the parent directory too, if missing) with `len` bytes preallocated that read as
    /// zeros, fsync the directory (and the one above it, if the parent was made), and open for
    /// reading and writing. Fails if it exists. A failed one leaves no file.
    Create {
        /// Which file.
        path: PathBuf,
        /// Preallocated length in bytes.
        len: u64,
        /// The zeros had better be written, not only promised: a sync of what replaces them has
        /// nothing to note in the file system then. Costs the disk the length once more.
        is_written: bool,
    },
    /// Rename, fsync the directory, and open the file under its new name for reading and writing.
    /// Asked for again after a failure, it goes on where it stopped.
    Recycle {
        /// Old name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
    },
    /// Write `contents` aside (as `path` with `.tmp` appended, which recovery cleans up), fsync,
    /// rename over `path`, fsync the directory, and open for reading and writing. Atomic.
    Replace {
        /// Which file.
        path: PathBuf,
        /// What it is to hold.
        contents: Bytes,
    },
    /// Remove a file; not an error if it is not there.
    Remove {
        /// Which file.
        path: PathBuf,
    },
    /// Remove a directory with everything in it; not an error if it is not there.
    RemoveAll {
        /// Which directory.
        path: PathBuf,
    },
}

/// What a successful operation gave.
#[derive(Debug)]
pub enum OpOutput {
    /// `Write`, `Sync`, `Remove`, `RemoveAll`.
    Done,
    /// `Read`.
    Data(Bytes),
    /// `Open`, `Create`, `Recycle`, `Replace`.
    File(File),
}

/// Carries operations out. `submit` never blocks and never calls back: the outcome comes later
/// (possibly within the same turn) through [`crate::TopicLog::complete`].
pub trait Disk {
    /// Takes one operation.
    fn submit(&mut self, token: Token, op: Op);
}

impl OpOutput {
    pub(crate) fn into_file(self) -> io::Result<File> {
        match self {
            Self::File(file) => Ok(file),
            Self::Done | Self::Data(_) => Err(io::Error::other("the disk gave no file")),
        }
    }

    pub(crate) fn into_data(self) -> io::Result<Bytes> {
        match self {
            Self::Data(data) => Ok(data),
            Self::Done | Self::File(_) => Err(io::Error::other("the disk gave no data")),
        }
    }
}

/// The outcome of an operation.
pub type OpResult = io::Result<OpOutput>;
