//! The task of one topic: from its consumer into its files.
//!
//! Invariant: a message is finished only after a sync that covers it. Whatever cannot be written ends
//! the program; what is not finished then comes again.

use std::time::Duration;

use nsq_client::{Consumer, Message};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::{MissedTickBehavior, interval_at};

use super::TopicLog;
use super::options::Writing;
use super::rotation::{FileError, FileRotation, Now};
use crate::client::wait_for_stop;
use crate::terminal::Progress;

/// What the program asks of the tasks of its topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Sync and close the file.
    Reopen,
    /// Finish what is there and end.
    Stop,
}

/// One topic, being written.
#[derive(Debug)]
pub(super) struct TopicWriter {
    consumer: Consumer,
    files: FileRotation,
    log: TopicLog,
    writing: Writing,
    progress: Progress,
    /// Written and not yet synced, at most `max_in_flight`.
    unsynced: Vec<Message>,
}

impl TopicWriter {
    pub(super) fn new(
        consumer: Consumer,
        files: FileRotation,
        log: TopicLog,
        writing: Writing,
        progress: Progress,
    ) -> Self {
        Self {
            consumer,
            files,
            log,
            writing,
            progress,
            unsynced: Vec::new(),
        }
    }

    /// Writes until ordered to stop and nothing is left.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) -> Result<(), FileError> {
        let period: Duration = self.writing.sync_interval;
        let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        let mut stopping = false;
        loop {
            let room = self.room();
            tokio::select! {
                Some(order) = orders.recv() => block_in_place(|| match order {
                    Order::Reopen => self.sync().and_then(|()| self.files.close()),
                    Order::Stop => {
                        stopping = true;
                        self.consumer.begin_stop();
                        self.sync()
                    }
                })?,
                _ = ticks.tick() => block_in_place(|| self.on_tick())?,
                count = self.consumer.recv_many(&mut batch, room) => {
                    if count == 0 {
                        break;
                    }
                    // While stopping nothing more may come that fills a batch.
                    block_in_place(|| self.write(&mut batch, stopping))?;
                }
            }
        }
        block_in_place(|| self.sync().and_then(|()| self.files.close()))?;
        wait_for_stop(&[self.consumer]).await;
        Ok(())
    }

    /// Messages that may be taken before a sync, at least 1.
    fn room(&self) -> usize {
        let most = self.writing.max_in_flight as usize;
        most.saturating_sub(self.unsynced.len()).max(1)
    }

    fn write(&mut self, batch: &mut Vec<Message>, sync: bool) -> Result<(), FileError> {
        let now = Now::read();
        let mut sync = sync;
        for message in batch.drain(..) {
            if self.files.is_due(&now) {
                self.files.rotate(&now)?;
                sync = true;
            }
            self.files.append(message.body())?;
            self.unsynced.push(message);
        }
        let is_full = self.unsynced.len() >= self.writing.max_in_flight as usize;
        if sync || is_full || self.consumer.is_starved() {
            self.sync()
        } else {
            self.files.flush()
        }
    }

    fn on_tick(&mut self) -> Result<(), FileError> {
        let now = Now::read();
        let is_due = self.files.is_due(&now);
        if is_due && !self.writing.skip_empty_files {
            self.files.rotate(&now)?;
        }
        self.sync()?;
        if is_due && self.writing.skip_empty_files {
            self.files.close()?;
        }
        Ok(())
    }

    /// Puts everything on disk and finishes it.
    fn sync(&mut self) -> Result<(), FileError> {
        let count = self.unsynced.len();
        if count > 0 {
            self.log
                .info(format_args!("syncing {count} records to disk"));
            self.files.sync()?;
            self.unsynced.drain(..).for_each(Message::finish);
            self.progress.add(count);
        }
        Ok(())
    }
}
