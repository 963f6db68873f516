//! Why a log cannot be opened, and which failures pass by themselves or when room is made.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}: {source}", path.display())]
pub struct LogError {
    /// What was tried.
    pub operation: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl LogError {
    /// A closure for `map_err`, so that call sites name the operation and the file once.
    pub(crate) fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            operation,
            path,
            source,
        }
    }
}

/// Whether an open failed for want of descriptors or memory: the file is fine, try again later.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .map(Errno::from_raw)
        .is_some_and(|errno| {
            matches!(
                errno,
                Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EAGAIN | Errno::EINTR
            )
        })
}

/// Whether the disk, or the user's part of it, is full.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    error
        .raw_os_error()
        .map(Errno::from_raw)
        .is_some_and(|errno| matches!(errno, Errno::ENOSPC | Errno::EDQUOT))
}
