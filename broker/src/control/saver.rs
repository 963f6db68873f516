//! Saving `nsqd.dat`.
//!
//! One task owns the catalogue and its files. Changes that arrive while others are being written, on
//! a thread that may block, are gathered into the next write; a shard is told of its newest change
//! covered. They go to the journal, and a little later with all others to `nsqd.dat`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::CatalogueChange;
use crate::catalogue::{Catalogue, FILE_NAME, Keeper};
use crate::shard::message::ShardMessage;
use crate::shared::{Shared, Subject};

/// How long `nsqd.dat` may lack what its journal holds, once nothing else has it written.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// Something to be saved.
#[derive(Debug)]
enum Job {
    Change(CatalogueChange),
    /// Everything, changed or not, and no journal beside it.
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
        let settings = &shared.settings;
        let keeper = Keeper::new(catalogue, &settings.data_path, &settings.version);
        let task = Task {
            shared,
            jobs,
            keeper: Box::new(keeper),
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
    keeper: Box<Keeper>,
    /// Newest version of each shard that the catalogue holds and that the disk does not.
    unsaved: Vec<Option<u64>>,
    /// Who waits for the whole file.
    asked: Vec<oneshot::Sender<Result<(), String>>>,
}

impl Task {
    async fn run(mut self) {
        let mut store_at = None;
        loop {
            let job = match store_at {
                Some(at) => timeout_at(at, self.jobs.recv()).await,
                None => Ok(self.jobs.recv().await),
            };
            match job {
                Ok(Some(job)) => {
                    self.take(job);
                    while let Ok(job) = self.jobs.try_recv() {
                        self.take(job);
                    }
                    if self.asked.is_empty() {
                        self = self.save().await;
                    } else {
                        self = self.store(Keeper::store_alone).await;
                    }
                }
                Ok(None) => return,
                Err(_) => self = self.store(Keeper::store).await,
            }
            store_at = match store_at {
                _ if !self.keeper.is_behind() => None,
                Some(at) if at > Instant::now() => Some(at),
                _ => Some(Instant::now() + BEHIND_MAX),
            };
        }
    }

    fn take(&mut self, job: Job) {
        match job {
            Job::Change(CatalogueChange {
                shard,
                version,
                change,
            }) => {
                self.keeper.apply(change);
                self.unsaved[shard] = Some(version);
            }
            Job::All(sender) => self.asked.push(sender),
        }
    }

    /// Writes what has changed and tells everybody.
    async fn save(mut self) -> Self {
        let (keeper, is_saved) = blocking(self.keeper, Keeper::append).await;
        self.keeper = keeper;
        if !is_saved {
            return self.store(Keeper::store).await;
        }
        self.tell(&Ok(())).await;
        self
    }

    /// Writes the file and tells everybody.
    async fn store(mut self, how: fn(&mut Keeper) -> io::Result<()>) -> Self {
        let file = self.shared.settings.data_path.join(FILE_NAME);
        self.shared.logger.info(format_args!(
            "NSQ: persisting topic/channel metadata to {}",
            file.display()
        ));
        let (keeper, result) = blocking(self.keeper, how).await;
        self.keeper = keeper;
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
        self.tell(&result.map_err(|error| error.to_string())).await;
        self
    }

    async fn tell(&mut self, result: &Result<(), String>) {
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
    }
}

/// Works on the files on a thread that may block.
async fn blocking<T: Send + 'static>(
    mut keeper: Box<Keeper>,
    work: impl FnOnce(&mut Keeper) -> T + Send + 'static,
) -> (Box<Keeper>, T) {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut keeper);
        (keeper, result)
    });
    done.await.expect("a panic ends the process")
}
