//! The catalogue with its files: changes go to the journal, now and then everything to `nsqd.dat`.
//!
//! Owned by the task that saves; blocking, so it works on a thread that may.

use std::io;
use std::path::{Path, PathBuf};

use super::journal::Journal;
use super::{Catalogue, FILE_NAME, TopicChange};
use crate::storage;

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(super) catalogue: Catalogue,
    file: PathBuf,
    version: String,
    journal: Journal,
    /// Lines of changes that are on disk nowhere.
    unsaved: Vec<Vec<u8>>,
    /// The journal holds what `nsqd.dat` does not.
    is_behind: bool,
}

impl Keeper {
    /// Nothing goes to the journal before [`Self::store`].
    pub(crate) fn new(catalogue: Catalogue, data_path: &Path, version: &str) -> Self {
        Self {
            catalogue,
            file: data_path.join(FILE_NAME),
            version: version.to_owned(),
            journal: Journal::new(data_path),
            unsaved: Vec::new(),
            is_behind: false,
        }
    }

    /// Takes over a change.
    pub(crate) fn apply(&mut self, change: TopicChange) {
        self.unsaved.extend(self.catalogue.apply(change));
    }

    /// `nsqd.dat` lacks changes that are on disk.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Brings the changes to the disk; `false` where that takes [`Self::store`].
    pub(crate) fn append(&mut self) -> bool {
        // A journal that fails is replaced by the whole file, whose failure is reported.
        let is_appended = self.journal.append(&self.unsaved).unwrap_or(false);
        if is_appended {
            self.is_behind = true;
            self.unsaved.clear();
        }
        is_appended
    }

    /// Writes `nsqd.dat`, with everything: after a crash the old one, which the journal extends, or
    /// the new one is there.
    ///
    /// # Errors
    /// Of the file system. Nothing is lost, and only this can save it.
    pub(crate) fn store(&mut self) -> io::Result<()> {
        let contents = self.catalogue.encode(&self.version);
        storage::replace(&self.file, &contents)?;
        self.unsaved.clear();
        self.is_behind = false;
        // Without a beginning, changes are stored the long way.
        drop(self.journal.begin(&contents));
        Ok(())
    }

    /// The same, and leaves no journal: this is what the Go nsqd finds.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn store_alone(&mut self) -> io::Result<()> {
        self.store()?;
        self.journal.remove()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nsq_proto::TopicName;

    use super::*;
    use crate::catalogue::TopicEntry;

    fn change(name: &str, entry: Option<TopicEntry>) -> TopicChange {
        let topic = TopicName::parse(name.as_bytes()).unwrap();
        TopicChange { topic, entry }
    }

    fn names(dir: &Path) -> Vec<String> {
        let (catalogue, warnings) = Catalogue::load(dir).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        catalogue
            .topics()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    #[test]
    fn every_state_is_read_back_and_a_stored_one_needs_no_journal() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(Catalogue::default(), dir.path(), "v");
        keeper.apply(change("first", Some(TopicEntry::default())));
        assert!(!keeper.append(), "there is no file to extend");
        keeper.store().unwrap();
        assert_eq!(names(dir.path()), ["first"]);
        keeper.apply(change("second", Some(TopicEntry::default())));
        keeper.apply(change("first", None));
        keeper.apply(change("e#ephemeral", Some(TopicEntry::default())));
        assert!(keeper.append() && keeper.is_behind());
        assert_eq!(names(dir.path()), ["second"]);
        keeper.store_alone().unwrap();
        assert_eq!(names(dir.path()), ["second"]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        keeper.apply(change("third", Some(TopicEntry::default())));
        assert!(keeper.append());
        assert_eq!(names(dir.path()), ["second", "third"]);
    }

    #[test]
    fn a_crash_between_the_file_and_its_journal_brings_nothing_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(Catalogue::default(), dir.path(), "v");
        keeper.store().unwrap();
        keeper.apply(change("short", Some(TopicEntry::default())));
        assert!(keeper.append());
        // The file is replaced by one without the topic, and the journal stays as it was.
        keeper.apply(change("short", None));
        keeper.apply(change("long", Some(TopicEntry::default())));
        let contents = keeper.catalogue.encode("v");
        storage::replace(&keeper.file, &contents).unwrap();
        let (catalogue, warnings) = Catalogue::load(dir.path()).unwrap();
        assert_eq!(catalogue.topics().count(), 1);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn more_changes_than_the_journal_holds_are_stored() {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(Catalogue::default(), dir.path(), "v");
        keeper.store().unwrap();
        let mut stores = 0;
        for number in 0..40_000 {
            keeper.apply(change(
                &format!("topic-{number}"),
                Some(TopicEntry::default()),
            ));
            if number % 1_000 == 0 && !keeper.append() {
                keeper.store().unwrap();
                stores += 1;
            }
        }
        assert!(stores > 0);
        let kept = keeper.append();
        assert!(kept || keeper.store().is_ok());
        assert_eq!(names(dir.path()).len(), 40_000);
    }
}
