//! The control thread's own loop: it starts and stops the shards and passes everything else on.

use std::sync::Arc;
use std::time::Duration;

use nsq_cli::Signal;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::auth::Authorizer;
use super::certificates::Certificates;
use super::lookup::{Lookup, NameChange};
use super::outbound::HttpClient;
use super::saver::Saver;
use super::statsd::Pusher;
use super::{ControlMessage, ControlSettings};
use crate::catalogue::Catalogue;
use crate::shard::message::{ShardId, ShardMessage};
use crate::shared::Shared;

/// How long the process waits at its end for the numbers that are being pushed.
const FAREWELL: Duration = Duration::from_secs(1);

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    saver: Saver,
    certificates: Certificates,
    authorizer: Arc<Authorizer>,
    lookup: Lookup,
    /// What is to push numbers, until the doors open.
    statsd: Option<Pusher>,
    /// The pushing task.
    pushing: Option<JoinHandle<()>>,
    /// Tells tasks that the broker stops.
    stop: watch::Sender<bool>,
    /// The nsqlookupds to begin with.
    lookup_peers: Vec<String>,
    /// Shards whose threads have not ended.
    running: usize,
    ready: usize,
    stopping: bool,
    failed: bool,
}

impl Control {
    /// Serves on a runtime of this thread until every shard has ended; `false` when something
    /// failed.
    ///
    /// # Errors
    /// The system's, when there can be no runtime.
    pub(crate) fn run(
        shared: Arc<Shared>,
        settings: ControlSettings,
        messages: UnboundedReceiver<ControlMessage>,
        catalogue: Catalogue,
    ) -> std::io::Result<bool> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .thread_name("control-blocking")
            .build()?;
        let served = runtime
            .block_on(async { Self::new(shared, settings, catalogue).serve(messages).await });
        // A name that is being looked up must not keep the process alive.
        runtime.shutdown_background();
        Ok(served)
    }

    fn new(shared: Arc<Shared>, settings: ControlSettings, catalogue: Catalogue) -> Self {
        let http = HttpClient::new(settings.outbound);
        let authorizer = Authorizer::new(Arc::clone(&shared), settings.auth, http.clone());
        let lookup = Lookup::new(Arc::clone(&shared), &settings.lookup_identity, http);
        let (stop, stopping) = watch::channel(false);
        let statsd = settings.statsd.map(|settings| Pusher {
            settings,
            shared: Arc::clone(&shared),
            stopping,
        });
        for change in names(&catalogue) {
            lookup.on_name(change);
        }
        Self {
            certificates: settings.certificates,
            saver: Saver::start(Arc::clone(&shared), catalogue),
            statsd,
            pushing: None,
            stop,
            authorizer: Arc::new(authorizer),
            lookup,
            lookup_peers: settings.lookup_peers,
            running: shared.shard_count(),
            shared,
            ready: 0,
            stopping: false,
            failed: false,
        }
    }

    async fn serve(mut self, mut messages: UnboundedReceiver<ControlMessage>) -> bool {
        while self.running > 0 {
            let Some(message) = messages.recv().await else {
                break;
            };
            self.on_message(message).await;
        }
        self.lookup.close();
        if let Some(pushing) = self.pushing.take() {
            // It has had its say, or is stuck.
            drop(timeout(FAREWELL, pushing).await);
        }
        if self.ready == self.shared.shard_count() {
            self.failed |= self.saver.save_all().await.is_err();
        }
        self.shared
            .logger
            .info(format_args!("NSQ: stopping subsystems"));
        !self.failed
    }

    async fn on_message(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Catalogue(change) => self.saver.save(change),
            ControlMessage::Name(change) => self.lookup.on_name(change),
            ControlMessage::NewTopic(new) => self.lookup.find_channels(new),
            ControlMessage::Authorize(request) => self.authorizer.ask(*request),
            ControlMessage::LookupPeers(addresses) => self.lookup.set_peers(addresses),
            ControlMessage::ShardReady => self.on_ready().await,
            ControlMessage::ShardEnded { shard, result } => self.on_ended(shard, result),
            ControlMessage::Signal(Signal::Stop) => self.stop(),
            ControlMessage::Signal(Signal::Hup) => {
                self.certificates.reload(&self.shared);
                if self.ready == self.shared.shard_count() {
                    self.certificates.send(&self.shared);
                }
            }
        }
    }

    /// When the last shard is ready the doors open.
    async fn on_ready(&mut self) {
        self.ready += 1;
        if self.stopping {
            // It may have had no mailbox yet when the others were told.
            self.tell_shards(|| ShardMessage::Stop);
            return;
        }
        if self.ready < self.shared.shard_count() {
            return;
        }
        if let Err(error) = self.saver.save_all().await {
            self.fail(&format!("failed to persist metadata - {error}"));
            return;
        }
        self.certificates.send(&self.shared);
        self.log_doors("listening on");
        self.pushing = self.statsd.take().map(|pusher| tokio::spawn(pusher.run()));
        self.lookup
            .set_peers(std::mem::take(&mut self.lookup_peers));
        self.tell_shards(|| ShardMessage::Serve);
    }

    fn on_ended(&mut self, shard: ShardId, result: Result<(), String>) {
        self.running -= 1;
        self.shared.mailboxes.close(shard);
        if let Err(reason) = result {
            self.fail(&format!("shard {shard} failed - {reason}"));
        } else if !self.stopping {
            self.fail(&format!("shard {shard} ended by itself"));
        }
    }

    /// Half a broker is worse than none.
    fn fail(&mut self, reason: &str) {
        self.failed = true;
        self.shared.logger.fatal(format_args!("{reason}"));
        self.stop();
    }

    fn stop(&mut self) {
        if !self.stopping {
            self.stopping = true;
            self.stop.send_replace(true);
            self.log_doors("closing");
            self.shared.logger.info(format_args!("NSQ: closing topics"));
            self.tell_shards(|| ShardMessage::Stop);
        }
    }

    fn log_doors(&self, what: &str) {
        for (name, address) in &self.shared.listening {
            let logger = &self.shared.logger;
            logger.info(format_args!("{name}: {what} {address}"));
        }
    }

    fn tell_shards(&self, message: impl Fn() -> ShardMessage) {
        for shard in 0..self.shared.shard_count() {
            self.shared.mailboxes.deliver(shard, message());
        }
    }
}

/// What is there from the start.
fn names(catalogue: &Catalogue) -> Vec<NameChange> {
    let mut names = Vec::new();
    for (topic, entry) in catalogue.topics() {
        let channels = entry.channels.keys().map(Some);
        names.extend(
            std::iter::once(None)
                .chain(channels)
                .map(|channel| NameChange {
                    topic: topic.clone(),
                    channel: channel.cloned(),
                    exists: true,
                }),
        );
    }
    names
}
