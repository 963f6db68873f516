//! What both doors share: the directory, the clock, the log, and who we are to our peers.

use std::time::Duration;

use nsq_cli::Logger;
use serde::Serialize;
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::Config;
use crate::directory::Directory;
use crate::json;
use crate::registry::{Now, Visibility};

/// How long a peer may take for what it has begun: the magic, the rest of a command, taking an
/// answer, sending a request. nsqd gives itself one second for each.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// See the module documentation. One per process.
#[derive(Debug)]
pub(crate) struct Service {
    /// For the operators.
    pub(crate) logger: Logger,
    /// The one clock.
    pub(crate) clock: Clock,
    /// Who has which topics.
    pub(crate) directory: Directory,
    /// The answer to IDENTIFY.
    pub(crate) identity: String,
    inactive_timeout: i64,
    tombstone_lifetime: i64,
    /// Becomes true once.
    stopping: watch::Receiver<bool>,
}

/// The answer to IDENTIFY; keys in alphabetical order.
#[derive(Serialize)]
struct Identity<'a> {
    broadcast_address: &'a str,
    hostname: &'a str,
    http_port: u16,
    tcp_port: u16,
    version: &'a str,
}

/// The bound ports of the two doors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) tcp: u16,
    pub(crate) http: u16,
}

impl Service {
    pub(crate) fn new(
        config: &Config,
        logger: Logger,
        ports: Ports,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let identity = Identity {
            broadcast_address: &config.broadcast_address,
            hostname: &config.hostname,
            http_port: ports.http,
            tcp_port: ports.tcp,
            version: nsq_cli::VERSION,
        };
        Self {
            logger,
            clock: Clock::start(),
            directory: Directory::new(),
            identity: json::to_string(&identity),
            inactive_timeout: config.inactive_timeout,
            tombstone_lifetime: config.tombstone_lifetime,
            stopping,
        }
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// What is shown to those who ask now.
    pub(crate) fn visibility(&self) -> Visibility {
        Visibility {
            now: self.now(),
            inactive_timeout: self.inactive_timeout,
            tombstone_lifetime: self.tombstone_lifetime,
        }
    }

    /// Resolves when the process is to stop.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as the process; without it there is nothing to wait for either.
        let mut stopping = self.stopping.clone();
        stopping.wait_for(|is_stopping| *is_stopping).await.ok();
    }
}
