//! Where imported files go: `imported-<UTC time>` in the data path. Nothing is ever deleted.

use std::fs;
use std::path::{Path, PathBuf};

use super::ImportError;
use crate::storage;

/// See the module documentation. The folder is made with the first file.
#[derive(Debug)]
pub(super) struct Aside {
    folder: PathBuf,
    is_made: bool,
}

impl Aside {
    /// `unix_seconds`: the time in the name.
    pub(super) fn new(data_path: &Path, unix_seconds: i64) -> Self {
        let time = chrono::DateTime::from_timestamp(unix_seconds, 0).unwrap_or_default();
        let name = format!("imported-{}", time.format("%Y%m%dT%H%M%SZ"));
        let names = (0..).map(|again: u32| match again {
            0 => name.clone(),
            again => format!("{name}-{again}"),
        });
        let mut folders = names.map(|name| data_path.join(name));
        Self {
            folder: folders
                .find(|folder| !folder.exists())
                .expect("some name is free"),
            is_made: false,
        }
    }

    /// The folder, if anything was moved there.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.is_made.then_some(self.folder.as_path())
    }

    /// Moves a file or directory there.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn take(&mut self, path: &Path) -> Result<(), ImportError> {
        if !self.is_made {
            fs::create_dir(&self.folder)
                .map_err(|source| ImportError::at("create", &self.folder, source))?;
            self.is_made = true;
        }
        let name = path.file_name().expect("a file that was listed has a name");
        fs::rename(path, self.folder.join(name))
            .map_err(|source| ImportError::at("set aside", path, source))
    }

    /// Makes the moves durable.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn sync(&self) -> Result<(), ImportError> {
        if !self.is_made {
            return Ok(());
        }
        let synced = storage::sync_parent(&self.folder.join("file"))
            .and_then(|()| storage::sync_parent(&self.folder));
        synced.map_err(|source| ImportError::at("sync", &self.folder, source))
    }
}
