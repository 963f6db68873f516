//! Saving `nsqd.dat`.
//!
//! One task owns the catalogue. Changes that arrive while the file is being written, on a thread
//! that may block, are gathered into the next write; a shard is told of its newest change covered.

use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::CatalogueChange;
use crate::catalogue::{Catalogue, FILE_NAME};
use crate::shard::message::ShardMessage;
use crate::shared::{Shared, Subject};

/// Something to be saved.
#[derive(Debug)]
enum Job {
    Change(CatalogueChange),
    /// Everything, changed or not.
    All(oneshot::Sender<Result<(), String>>),
}

/// The way to the task.
#[derive(Debug)]
pub(super) struct Saver(UnboundedSender<Job>);

impl Saver {
    /// Starts the task; it ends with its last sender.
    pub(super) fn start(shared: Arc<Shared>, catalogue: Catalogue) -> Self {
        let (sender, jobs) = unbounded_channel();
        let unsaved = vec![None; shared.shard_count()];
        let task = Task {
            shared,
            jobs,
            catalogue: Box::new(catalogue),
            unsaved,
            asked: Vec::new(),
        };
        tokio::spawn(task.run());
        Self(sender)
    }

    /// A change is to be saved; the shard is told when it is.
    pub(super) fn save(&self, change: CatalogueChange) {
        // The task lives as long as this sender.
        drop(self.0.send(Job::Change(change)));
    }

    /// Writes the whole file, with all changes given before.
    ///
    /// # Errors
    /// Why it could not be written.
    pub(super) async fn save_all(&self) -> Result<(), String> {
        let (sender, answer) = oneshot::channel();
        // As above.
        drop(self.0.send(Job::All(sender)));
        answer
            .await
            .unwrap_or_else(|_| Err("the task that writes it is gone".to_owned()))
    }
}

struct Task {
    shared: Arc<Shared>,
    jobs: UnboundedReceiver<Job>,
    catalogue: Box<Catalogue>,
    /// Newest version of each shard that the catalogue holds and that the file does not.
    unsaved: Vec<Option<u64>>,
    /// Who waits for the whole file.
    asked: Vec<oneshot::Sender<Result<(), String>>>,
}

impl Task {
    async fn run(mut self) {
        while let Some(job) = self.jobs.recv().await {
            self.take(job);
            while let Ok(job) = self.jobs.try_recv() {
                self.take(job);
            }
            self = self.store().await;
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Change(CatalogueChange {
                shard,
                version,
                change,
            }) => {
                self.catalogue.apply(change);
                self.unsaved[shard] = Some(version);
            }
            Job::All(sender) => self.asked.push(sender),
        }
    }

    /// Writes the file and tells everybody.
    async fn store(mut self) -> Self {
        let shared = Arc::clone(&self.shared);
        let file = shared.settings.data_path.join(FILE_NAME);
        shared.logger.info(format_args!(
            "NSQ: persisting topic/channel metadata to {}",
            file.display()
        ));
        let catalogue = self.catalogue;
        let written = tokio::task::spawn_blocking(move || {
            let settings = &shared.settings;
            let result = catalogue.store(&settings.data_path, &settings.version);
            (catalogue, result)
        });
        let (catalogue, result) = written.await.expect("a panic ends the process");
        self.catalogue = catalogue;
        match &result {
            Ok(()) => self.shared.health.recover(&Subject::Catalogue),
            Err(error) => {
                self.shared
                    .logger
                    .error(format_args!("NSQ: failed to persist metadata - {error}"));
                let reason = error.to_string();
                self.shared.health.fail(Subject::Catalogue, &reason);
            }
        }
        let result = result.map_err(|error| error.to_string());
        for shard in 0..self.unsaved.len() {
            if let Some(version) = self.unsaved[shard].take() {
                let result = result.clone();
                let saved = ShardMessage::CatalogueSaved { version, result };
                self.shared.mailboxes.send(shard, saved).await;
            }
        }
        for sender in self.asked.drain(..) {
            // Nobody may wait any more.
            drop(sender.send(result.clone()));
        }
        self
    }
}
