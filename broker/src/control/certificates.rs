//! The certificates of the TLS doors: handed to the shards when they serve, read again on SIGHUP.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::config::Tls;
use crate::shard::message::ShardMessage;
use crate::shared::Shared;

/// Where the certificates come from.
#[derive(Debug)]
pub(crate) struct Certificates {
    /// The files.
    pub(crate) files: Tls,
    /// What was read, until the shards have it.
    pub(crate) unsent: Option<Arc<ServerConfig>>,
}

impl Certificates {
    /// Gives the shards what was read last, if they do not have it.
    pub(super) fn send(&mut self, shared: &Shared) {
        if let Some(config) = self.unsent.take() {
            for shard in 0..shared.shard_count() {
                let message = ShardMessage::Certificates(Arc::clone(&config));
                shared.mailboxes.deliver(shard, message);
            }
        }
    }

    /// Reads the files again, for the connections to come; those that cannot be used change nothing.
    pub(super) fn reload(&mut self, shared: &Shared) {
        let logger = &shared.logger;
        match crate::tls::server_config(&self.files) {
            Ok(None) => logger.info(format_args!("NSQ: SIGHUP ignored")),
            Ok(config) => {
                logger.info(format_args!("NSQ: SIGHUP, TLS certificates read again"));
                self.unsent = config;
            }
            Err(error) => logger.error(format_args!(
                "NSQ: SIGHUP, TLS certificates are kept as they are - {error}"
            )),
        }
    }
}
