//! What a connection was granted: plain data that moves with it.

use std::sync::Arc;

use super::Ticket;
use crate::grants::{Access, Grants, Secret};

/// How far a connection is with its authorization (spec nsqd.md §2.9).
#[derive(Debug, Default)]
pub(crate) enum Authorization {
    /// It has not asked.
    #[default]
    None,
    /// An AUTH waits for an authorization server.
    Asked {
        /// What it showed.
        secret: Secret,
        /// The reply that waits.
        ticket: Ticket,
    },
    /// An authorization server let it in.
    Granted(Granted),
}

/// See [`Authorization::Granted`].
#[derive(Debug)]
pub(crate) struct Granted {
    /// Shown again when the grants expire.
    pub(crate) secret: Secret,
    grants: Arc<Grants>,
    /// The topic that a publish was last allowed to under these grants; a producer's commands need
    /// no more than a comparison.
    publishes_to: String,
}

impl Granted {
    pub(crate) fn new(secret: Secret, grants: Arc<Grants>) -> Self {
        Self {
            secret,
            grants,
            publishes_to: String::new(),
        }
    }

    pub(crate) fn grants(&self) -> &Grants {
        &self.grants
    }

    /// Replaces what was granted.
    pub(crate) fn renew(&mut self, grants: Arc<Grants>) {
        self.grants = grants;
        self.publishes_to.clear();
    }

    /// Whether the grants, expired or not, cover it.
    pub(crate) fn allows(&mut self, topic: &str, access: Access<'_>) -> bool {
        let publishes = access == Access::Publish;
        if publishes && self.publishes_to == topic {
            return true;
        }
        let allowed = self.grants.allow(topic, access);
        if allowed && publishes {
            self.publishes_to.replace_range(.., topic);
        }
        allowed
    }
}
