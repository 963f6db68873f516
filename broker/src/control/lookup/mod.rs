//! Registration with nsqlookupd, and the channels that it knows (spec nsqd.md §5).
//!
//! [`Lookup`] belongs to the control thread's loop. Every peer has a task of its own, so that a
//! stuck one delays nobody; what changes reaches them through the [`registry`].

mod channels;
mod peer;
mod registry;
mod session;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use nsq_core::TopicKey;
use nsq_proto::TopicName;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

pub(crate) use registry::NameChange;

use super::outbound::HttpClient;
use crate::shard::message::{ShardId, ShardMessage};
use crate::shared::Shared;
use peer::{DialTcp, Peer, PeerState};
use registry::Registry;

/// Questions for the channels of new topics that are under way at once.
const QUESTIONS_MAX: usize = 64;

/// What IDENTIFY tells; the keys are sorted, as the reference's are.
#[derive(Debug, Serialize)]
pub(crate) struct LookupIdentity {
    pub(crate) broadcast_address: String,
    pub(crate) hostname: String,
    /// `--broadcast-http-port` or the bound one.
    pub(crate) http_port: u16,
    /// `--broadcast-tcp-port` or the bound one.
    pub(crate) tcp_port: u16,
    pub(crate) topology_region: String,
    pub(crate) topology_zone: String,
    pub(crate) version: String,
}

/// A topic that a shard holds until its channels are known.
#[derive(Debug)]
pub(crate) struct NewTopic {
    /// Whose.
    pub(crate) shard: ShardId,
    /// Its key there.
    pub(crate) topic: TopicKey,
    /// Its name.
    pub(crate) name: TopicName,
}

/// One peer, as the owner sees it.
#[derive(Debug)]
struct PeerHandle {
    address: String,
    state: watch::Receiver<PeerState>,
    task: AbortHandle,
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Lookup {
    shared: Arc<Shared>,
    identity: Arc<[u8]>,
    registry: Arc<Registry>,
    /// In the order in which they were given.
    peers: Vec<PeerHandle>,
    http: HttpClient,
    questions: Arc<Semaphore>,
}

impl Lookup {
    pub(super) fn new(shared: Arc<Shared>, identity: &LookupIdentity, http: HttpClient) -> Self {
        let identity = serde_json::to_vec(identity).expect("names and numbers are always JSON");
        Self {
            shared,
            identity: identity.into(),
            registry: Arc::new(Registry::new()),
            peers: Vec::new(),
            http,
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        }
    }

    /// Registers with these from now on, each once, and with no others.
    pub(super) fn set_peers(&mut self, addresses: Vec<String>) {
        let logger = &self.shared.logger;
        self.peers.retain(|peer| {
            let stays = addresses.contains(&peer.address);
            if !stays {
                logger.info(format_args!("LOOKUP({}): removing peer", peer.address));
                peer.task.abort();
            }
            stays
        });
        for address in addresses {
            if !self.peers.iter().any(|peer| peer.address == address) {
                self.add_peer(address);
            }
        }
    }

    fn add_peer(&mut self, address: String) {
        self.shared
            .logger
            .info(format_args!("LOOKUP({address}): adding peer"));
        let (sender, state) = watch::channel(PeerState::default());
        let peer = Peer {
            address: address.clone(),
            dialer: DialTcp,
            identity: Arc::clone(&self.identity),
            registry: Arc::clone(&self.registry),
            state: sender,
            logger: self.shared.logger.clone(),
        };
        self.peers.push(PeerHandle {
            address,
            state,
            task: tokio::spawn(peer.run()).abort_handle(),
        });
    }

    /// A topic or channel came or went.
    pub(super) fn on_name(&self, change: NameChange) {
        self.registry.apply(change);
    }

    /// Asks the peers for the channels of a new topic and tells its shard, whatever they answer.
    pub(super) fn find_channels(&self, new: NewTopic) {
        let question = channels::Question {
            topic: new.name,
            peers: self.peers.iter().map(|peer| peer.state.clone()).collect(),
            http: self.http.clone(),
            logger: self.shared.logger.clone(),
        };
        let questions = Arc::clone(&self.questions);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let channels = question.answer(&questions).await;
            let topic = new.topic;
            let found = ShardMessage::ChannelsFound { topic, channels };
            shared.mailboxes.send(new.shard, found).await;
        });
    }

    /// Ends the connections: an nsqlookupd forgets what it was told over them.
    pub(super) fn close(&mut self) {
        self.shared.logger.info(format_args!("LOOKUP: closing"));
        for peer in self.peers.drain(..) {
            peer.task.abort();
        }
    }
}
