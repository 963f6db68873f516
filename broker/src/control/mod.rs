//! The control thread: what is neither hot nor per message.
//!
//! One tokio runtime on one unpinned thread. [`run::Control`] is told everything by message, starts
//! and stops the shards, and hands the rest to one task per concern, none of which waits for
//! another: [`saver`] writes `nsqd.dat`, [`lookup`] registers with every nsqlookupd, [`auth`] asks
//! the authorization servers, [`statsd`] pushes numbers.
//!
//! Whoever needs an answer gets it as a [`ShardMessage`](crate::shard::message::ShardMessage).
//! Nothing here is ever waited for by a shard's thread.

mod auth;
mod certificates;
mod lookup;
mod outbound;
mod run;
mod saver;
mod statsd;

use nsq_cli::Signal;
use tokio::sync::mpsc::UnboundedSender;

pub(crate) use auth::{AuthRequest, AuthSettings};
pub(crate) use certificates::Certificates;
pub(crate) use lookup::{LookupIdentity, NameChange, NewTopic};
pub(crate) use outbound::OutboundSettings;
pub(crate) use run::Control;

use crate::catalogue::TopicChange;
use crate::config::Statsd;
use crate::shard::message::ShardId;

/// What the control thread is told.
#[derive(Debug)]
pub(crate) enum ControlMessage {
    /// A topic of a shard changed.
    Catalogue(CatalogueChange),
    /// A topic or channel came or went.
    Name(NameChange),
    /// A shard holds a new topic until its channels are known; answered by
    /// [`ChannelsFound`](crate::shard::message::ShardMessage::ChannelsFound).
    NewTopic(NewTopic),
    /// A connection is to be let in; answered by
    /// [`Authorized`](crate::shard::message::ShardMessage::Authorized).
    Authorize(Box<AuthRequest>),
    /// The nsqlookupds from now on.
    LookupPeers(Vec<String>),
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

/// A change for `nsqd.dat`, answered by
/// [`CatalogueSaved`](crate::shard::message::ShardMessage::CatalogueSaved).
#[derive(Debug)]
pub(crate) struct CatalogueChange {
    /// Whose topic.
    pub(crate) shard: ShardId,
    /// The shard's number for the change.
    pub(crate) version: u64,
    /// What the topic is now.
    pub(crate) change: TopicChange,
}

/// What the tasks of the control thread need of the configuration.
#[derive(Debug)]
pub(crate) struct ControlSettings {
    /// Of the TLS doors.
    pub(crate) certificates: Certificates,
    /// Who we are to nsqlookupd.
    pub(crate) lookup_identity: LookupIdentity,
    /// `--lookupd-tcp-address`.
    pub(crate) lookup_peers: Vec<String>,
    /// The authorization servers.
    pub(crate) auth: AuthSettings,
    /// `--statsd-*`; `None` = nothing is pushed.
    pub(crate) statsd: Option<Statsd>,
    /// How other services are asked.
    pub(crate) outbound: OutboundSettings,
}

/// The way to the control thread. Unbounded, for the thread never waits while it takes messages:
/// what gathers behind it is bounded where it comes from, by the names that exist and by the
/// connections that wait for an answer.
#[derive(Debug, Clone)]
pub(crate) struct ControlSender(pub(crate) UnboundedSender<ControlMessage>);

impl ControlSender {
    pub(crate) fn send(&self, message: ControlMessage) {
        // The control thread ends last; after it nobody waits for an answer.
        drop(self.0.send(message));
    }
}
