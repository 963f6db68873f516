//! The way to a shard from its own tasks: closures that cannot hold on to it, and the requests of
//! the HTTP door.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use nsq_proto::TopicName;

use super::Shard;
use super::message::ShardMessage;
use super::stats::StatsPart;
use crate::gateway::{
    AdminError, AdminRequest, Broker, BrokerInfo, BrokerStats, ProfileError, PublishFailure,
    StatsFilter,
};
use crate::profile;
use crate::shared::Shared;

/// One owner, many short visits: a visit is a closure and cannot await, so that no borrow of the
/// shard outlives a turn of a task.
#[derive(Clone)]
pub(crate) struct ShardCell(Rc<RefCell<Shard>>);

impl fmt::Debug for ShardCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShardCell")
    }
}

impl ShardCell {
    pub(crate) fn new(shard: Shard) -> Self {
        Self(Rc::new(RefCell::new(shard)))
    }

    /// Visits the shard.
    ///
    /// # Panics
    /// When called from within another visit.
    pub(crate) fn with<T>(&self, visit: impl FnOnce(&mut Shard) -> T) -> T {
        visit(&mut self.0.borrow_mut())
    }
}

/// A request of a local task that waits for an answer.
#[derive(Debug)]
pub(super) enum Request {
    Publish(oneshot::Sender<Result<(), String>>),
    Admin(oneshot::Sender<Result<(), AdminError>>),
    Profile(oneshot::Sender<Result<Bytes, ProfileError>>),
    Stats {
        missing: usize,
        gathered: StatsPart,
        sender: oneshot::Sender<BrokerStats>,
    },
}

impl Shard {
    fn add_request(&mut self, request: Request) -> u64 {
        self.next_request += 1;
        self.requests.insert(self.next_request, request);
        self.touched = true;
        self.next_request
    }

    fn request_publish(
        &mut self,
        topic: &TopicName,
        delay: Duration,
        bodies: &[Bytes],
    ) -> oneshot::Receiver<Result<(), String>> {
        let (sender, receiver) = oneshot::channel();
        let request = self.add_request(Request::Publish(sender));
        self.publish_from_task(request, topic, delay, bodies);
        receiver
    }

    pub(super) fn on_task_published(&mut self, request: u64, result: Result<(), String>) {
        if let Some(Request::Publish(sender)) = self.requests.remove(&request) {
            // A task that is gone needs no answer.
            drop(sender.send(result));
        }
    }

    fn request_admin(&mut self, admin: AdminRequest) -> oneshot::Receiver<Result<(), AdminError>> {
        let (sender, receiver) = oneshot::channel();
        let request = self.add_request(Request::Admin(sender));
        let owner = self.owner_of(admin.topic().as_str());
        self.send(
            owner,
            ShardMessage::Admin {
                origin: self.id,
                request,
                admin,
            },
        );
        receiver
    }

    pub(super) fn on_admin_done(&mut self, request: u64, result: Result<(), AdminError>) {
        if let Some(Request::Admin(sender)) = self.requests.remove(&request) {
            // As above.
            drop(sender.send(result));
        }
    }

    fn request_stats(&mut self, filter: &StatsFilter) -> oneshot::Receiver<BrokerStats> {
        let (sender, receiver) = oneshot::channel();
        let shards = self.outboxes.len();
        let gathered = StatsPart::default();
        let request = self.add_request(Request::Stats {
            missing: shards,
            gathered,
            sender,
        });
        for shard in 0..shards {
            let filter = filter.clone();
            self.send(
                shard,
                ShardMessage::Stats {
                    origin: self.id,
                    request,
                    filter,
                },
            );
        }
        receiver
    }

    fn request_profile(
        &mut self,
        span: Duration,
    ) -> oneshot::Receiver<Result<Bytes, ProfileError>> {
        let (sender, receiver) = oneshot::channel();
        let request = self.add_request(Request::Profile(sender));
        let (shard, shared) = (self.id, Arc::clone(&self.shared));
        let started = profile::start(span, move |result| {
            let done = ShardMessage::ProfileDone { request, result };
            shared.mailboxes.deliver(shard, done);
        });
        if let Err(error) = started {
            self.on_profile_done(request, Err(error));
        }
        receiver
    }

    pub(super) fn on_profile_done(&mut self, request: u64, result: Result<Bytes, ProfileError>) {
        if let Some(Request::Profile(sender)) = self.requests.remove(&request) {
            // As above.
            drop(sender.send(result));
        }
    }

    pub(super) fn on_stats_part(&mut self, request: u64, part: StatsPart) {
        let Some(Request::Stats {
            missing, gathered, ..
        }) = self.requests.get_mut(&request)
        else {
            return;
        };
        gathered.merge(part);
        *missing -= 1;
        if *missing == 0
            && let Some(Request::Stats {
                gathered, sender, ..
            }) = self.requests.remove(&request)
        {
            // As above.
            drop(sender.send(gathered.finish()));
        }
    }
}

/// The broker as the HTTP tasks of one shard see it.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    cell: ShardCell,
    shared: Arc<Shared>,
}

impl Gateway {
    pub(crate) fn new(cell: ShardCell, shared: Arc<Shared>) -> Self {
        Self { cell, shared }
    }
}

/// What a task is told when its shard ends before it answers.
const STOPPING: &str = "exiting";

impl Broker for Gateway {
    async fn room(&self, topic: &TopicName) {
        while let Some(room) = self.cell.with(|shard| shard.room_for(topic)) {
            if room.await.is_err() {
                // The shard has ended, and answers no publish either.
                return;
            }
        }
    }

    async fn publish(
        &self,
        topic: TopicName,
        delay: Duration,
        bodies: Vec<Bytes>,
    ) -> Result<(), PublishFailure> {
        self.room(&topic).await;
        let answer = self
            .cell
            .with(|shard| shard.request_publish(&topic, delay, &bodies));
        drop(bodies);
        match answer.await {
            Ok(result) => result.map_err(PublishFailure),
            Err(oneshot::Canceled) => Err(PublishFailure(STOPPING.to_owned())),
        }
    }

    async fn admin(&self, request: AdminRequest) -> Result<(), AdminError> {
        let answer = self.cell.with(|shard| shard.request_admin(request));
        answer
            .await
            .unwrap_or_else(|_| Err(AdminError::Internal(STOPPING.to_owned())))
    }

    async fn stats(&self, filter: StatsFilter) -> BrokerStats {
        let answer = self.cell.with(|shard| shard.request_stats(&filter));
        answer.await.unwrap_or_default()
    }

    async fn cpu_profile(&self, span: Duration) -> Result<Bytes, ProfileError> {
        let answer = self.cell.with(|shard| shard.request_profile(span));
        answer
            .await
            .unwrap_or_else(|_| Err(ProfileError::Failed(STOPPING.to_owned())))
    }

    fn free_memory(&self) {
        self.cell.with(|shard| {
            for to in 0..shard.outboxes.len() {
                shard.send(to, ShardMessage::FreeMemory);
            }
            shard.touched = true;
        });
    }

    fn is_stopping(&self) -> bool {
        self.cell.with(|shard| shard.stopping.is_some())
    }

    fn info(&self) -> &BrokerInfo {
        &self.shared.info
    }

    fn health(&self) -> Option<String> {
        self.shared.health.problem()
    }

    fn config_get(&self, key: &str) -> Option<(String, bool)> {
        self.shared.config_get(key)
    }

    fn config_put(&self, key: &str, body: &[u8]) -> Result<(String, bool), &'static str> {
        self.shared.config_put(key, body)
    }

    fn poll_handshake_step(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.cell.with(|shard| shard.poll_handshake_step(cx))
    }

    fn log_access(&self, line: fmt::Arguments<'_>) {
        self.shared.logger.info(line);
    }

    fn log_error(&self, line: fmt::Arguments<'_>) {
        self.shared.logger.error(line);
    }

    fn log_warning(&self, line: fmt::Arguments<'_>) {
        self.shared.logger.warn(line);
    }
}
