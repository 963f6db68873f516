//! The lock that keeps two brokers off one data path.
//!
//! It is `flock` on the directory itself, as the reference takes it, so that the two also exclude
//! each other. The kernel drops it with the process, whatever ends it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::errno_text;

/// The lock; held until dropped.
#[derive(Debug)]
#[must_use = "the data path is unlocked when this is dropped"]
pub struct Lock {
    _flock: Flock<File>,
}

/// Why the data path could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Missing, not a directory, or not readable.
    #[error("open {}: {}", path.display(), errno_text(source))]
    Open {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Most likely another broker holds it.
    #[error(
        "cannot flock directory {} - {} (possibly in use by another instance of nsqd)",
        path.display(),
        errno_text(source)
    )]
    Busy {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

/// Locks the directory `path`, without waiting.
///
/// # Errors
/// See [`LockError`]; the texts are the reference's.
pub fn lock_data_path(path: &Path) -> Result<Lock, LockError> {
    let directory = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(path)
        .map_err(|source| LockError::Open {
            path: path.to_owned(),
            source,
        })?;
    let flock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        LockError::Busy {
            path: path.to_owned(),
            source: errno.into(),
        }
    })?;
    Ok(Lock { _flock: flock })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_lock_is_refused_until_the_first_is_dropped() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path();
        let first = lock_data_path(path).expect("free");
        let error = lock_data_path(path).expect_err("held");
        assert_eq!(
            error.to_string(),
            format!(
                "cannot flock directory {} - resource temporarily unavailable \
                 (possibly in use by another instance of nsqd)",
                path.display()
            )
        );
        drop(first);
        drop(lock_data_path(path).expect("free again"));
    }

    #[test]
    fn missing_directory_and_plain_file_are_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let missing = directory.path().join("100%");
        let error = lock_data_path(&missing).expect_err("missing");
        let text = format!("open {}: no such file or directory", missing.display());
        assert_eq!(error.to_string(), text);

        let file = directory.path().join("file");
        std::fs::write(&file, "").expect("write");
        let error = lock_data_path(&file).expect_err("not a directory");
        assert_eq!(
            error.to_string(),
            format!("open {}: not a directory", file.display())
        );
    }
}
