//! The control thread: what is neither hot nor per message.
//!
//! It owns `nsqd.dat`, hears the signals, and starts and stops the shards. Changes of the
//! catalogue that arrive while the file is being written are gathered into the next write.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use nsq_cli::Signal;
use rustls::ServerConfig;

use crate::catalogue::{Catalogue, FILE_NAME, TopicChange};
use crate::config::Tls;
use crate::shard::message::{ShardId, ShardMessage};
use crate::shared::Shared;

/// What the control thread is told.
#[derive(Debug)]
pub(crate) enum ControlMessage {
    /// A topic of a shard changed.
    Catalogue {
        /// Whose.
        shard: ShardId,
        /// The shard's number for the change.
        version: u64,
        /// What it is now.
        change: TopicChange,
    },
    /// A shard has recovered its topics and waits to serve.
    ShardReady,
    /// A shard's thread has ended.
    ShardEnded {
        /// Which.
        shard: ShardId,
        /// Why, if not because it was told to.
        result: Result<(), String>,
    },
    /// The process got a signal.
    Signal(Signal),
}

/// Where the certificates come from.
#[derive(Debug)]
pub(crate) struct TlsSource {
    /// The files, read again on SIGHUP.
    pub(crate) files: Tls,
    /// What was read, until the shards have it.
    pub(crate) current: Option<Arc<ServerConfig>>,
}

/// The way to the control thread. Unbounded: whoever sends waits for the answer.
#[derive(Debug, Clone)]
pub(crate) struct ControlSender(pub(crate) Sender<ControlMessage>);

impl ControlSender {
    pub(crate) fn send(&self, message: ControlMessage) {
        // The control thread ends last; after it nobody waits for an answer.
        drop(self.0.send(message));
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Control {
    shared: Arc<Shared>,
    messages: Receiver<ControlMessage>,
    catalogue: Catalogue,
    tls: TlsSource,
    /// Newest version of each shard that the catalogue holds and that the file does not.
    unsaved: Vec<Option<u64>>,
    running: usize,
    ready: usize,
    stopping: bool,
    failed: bool,
}

impl Control {
    pub(crate) fn new(
        shared: Arc<Shared>,
        messages: Receiver<ControlMessage>,
        catalogue: Catalogue,
        tls: TlsSource,
    ) -> Self {
        let shards = shared.shard_count();
        Self {
            shared,
            messages,
            catalogue,
            tls,
            unsaved: vec![None; shards],
            running: shards,
            ready: 0,
            stopping: false,
            failed: false,
        }
    }

    /// Serves until every shard has ended; `false` when something failed.
    pub(crate) fn run(mut self) -> bool {
        while self.running > 0 {
            let Ok(message) = self.messages.recv() else {
                break;
            };
            self.on_message(message);
            while let Ok(message) = self.messages.try_recv() {
                self.on_message(message);
            }
            self.save();
        }
        if self.ready == self.unsaved.len() {
            self.log_persisting();
            self.failed |= self.store().is_err();
        }
        !self.failed
    }

    fn on_message(&mut self, message: ControlMessage) {
        match message {
            ControlMessage::Catalogue {
                shard,
                version,
                change,
            } => {
                self.catalogue.apply(change);
                self.unsaved[shard] = Some(version);
            }
            ControlMessage::ShardReady => self.on_ready(),
            ControlMessage::ShardEnded { shard, result } => self.on_ended(shard, result),
            ControlMessage::Signal(Signal::Stop) => self.stop(),
            ControlMessage::Signal(Signal::Hup) => self.reload_certificates(),
        }
    }

    /// When the last shard is ready the doors open.
    fn on_ready(&mut self) {
        self.ready += 1;
        if self.stopping {
            // It may have had no mailbox yet when the others were told.
            self.tell_shards(|| ShardMessage::Stop);
            return;
        }
        if self.ready < self.unsaved.len() {
            return;
        }
        self.log_persisting();
        if let Err(error) = self
            .catalogue
            .store(&self.data_path(), &self.shared.settings.version)
        {
            self.fail(&format!("failed to persist metadata - {error}"));
            return;
        }
        if let Some(config) = self.tls.current.take() {
            self.tell_shards(|| ShardMessage::Certificates(Arc::clone(&config)));
        }
        for line in &self.shared.listening {
            self.shared.logger.info(format_args!("{line}"));
        }
        self.tell_shards(|| ShardMessage::Serve);
    }

    fn on_ended(&mut self, shard: ShardId, result: Result<(), String>) {
        self.running -= 1;
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
            self.shared.logger.info(format_args!("NSQ: closing topics"));
            self.tell_shards(|| ShardMessage::Stop);
        }
    }

    /// For the connections to come; files that cannot be used change nothing.
    fn reload_certificates(&mut self) {
        let logger = &self.shared.logger;
        match crate::tls::server_config(&self.tls.files) {
            Ok(None) => logger.info(format_args!("NSQ: SIGHUP ignored")),
            Ok(Some(config)) => {
                logger.info(format_args!("NSQ: SIGHUP, TLS certificates read again"));
                if self.ready < self.unsaved.len() {
                    self.tls.current = Some(config);
                } else {
                    self.tell_shards(|| ShardMessage::Certificates(Arc::clone(&config)));
                }
            }
            Err(error) => logger.error(format_args!(
                "NSQ: SIGHUP, TLS certificates are kept as they are - {error}"
            )),
        }
    }

    fn tell_shards(&self, message: impl Fn() -> ShardMessage) {
        for shard in 0..self.shared.shard_count() {
            self.shared.mailboxes.deliver(shard, message());
        }
    }

    /// Writes the file if something changed, and tells the shards.
    fn save(&mut self) {
        if self.unsaved.iter().all(Option::is_none) {
            return;
        }
        let result = self.store();
        for shard in 0..self.unsaved.len() {
            if let Some(version) = self.unsaved[shard].take() {
                let result = result.clone();
                let saved = ShardMessage::CatalogueSaved { version, result };
                self.shared.mailboxes.deliver(shard, saved);
            }
        }
    }

    fn store(&self) -> Result<(), String> {
        let result = self
            .catalogue
            .store(&self.data_path(), &self.shared.settings.version);
        match &result {
            Ok(()) => self.shared.health.recover(FILE_NAME),
            Err(error) => {
                self.shared
                    .logger
                    .error(format_args!("NSQ: failed to persist metadata - {error}"));
                self.shared.health.fail(FILE_NAME, &error.to_string());
            }
        }
        result.map_err(|error| error.to_string())
    }

    fn log_persisting(&self) {
        let file = self.data_path().join(FILE_NAME);
        self.shared.logger.info(format_args!(
            "NSQ: persisting topic/channel metadata to {}",
            file.display()
        ));
    }

    fn data_path(&self) -> PathBuf {
        self.shared.settings.data_path.clone()
    }
}
