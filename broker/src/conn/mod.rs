//! One client connection of the TCP protocol, as plain data.
//!
//! A [`Connection`] is owned by exactly one shard and is `Send`: moving it to another shard is
//! sending one value (its socket goes beside it). It holds bytes, settings and keys, never a pointer into a topic or channel.
//! What the bytes mean is decided in `shard::session`.
//!
//! Invariants:
//! * replies leave in command order: a reply that must wait (a publish that is not committed yet)
//!   holds back every reply after it, but neither heartbeats nor messages;
//! * `input` is bounded by the largest command body plus one receive buffer: above that the shard
//!   stops receiving and decoding;
//! * a connection in [`Phase::Lingering`] has sent everything it ever will;
//! * while `receive` is not [`Receive::Off`] the ring holds the socket: the connection cannot move.

mod authorization;
mod output;
mod replies;
mod transport;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::BytesMut;
use nsq_core::{ConsumerKey, Now, TimerKey, TopicKey};
use nsq_proto::{SessionState, TopicName};

pub(crate) use authorization::{Authorization, Granted};
pub(crate) use output::{Flush, Output};
pub(crate) use replies::{PublishVerb, Replies, Ticket, error_frame, response_frame};
pub(crate) use transport::{Compression, Decoded, LayerError, TlsLayer, Transport, Upgrades};

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The four bytes of protocol magic have not arrived.
    Magic,
    /// Commands are served.
    Serving,
    /// No further command is served; closed when everything asked before is answered and sent.
    /// `linger`: a fatal error is among it, so go on to [`Phase::Lingering`] first.
    Closing {
        /// See above.
        linger: bool,
    },
    /// A fatal error was sent and the sending side is shut: incoming bytes are thrown away for a
    /// bounded amount and time, so that the peer can read the reason (K2).
    Lingering,
}

/// Whether the ring receives for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receive {
    Off,
    On,
    /// Asked to stop; until it says so, bytes may still come.
    Stopping,
}

impl Receive {
    /// Receiving has ended by itself. A stop that was asked for just before is still answered.
    pub(crate) fn end(&mut self) {
        if *self == Self::On {
            *self = Self::Off;
        }
    }
}

/// Why no further command of this connection is looked at for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Nothing holds it.
    None,
    /// Until all earlier replies are out: the next command moves the connection to another shard.
    Replies,
    /// Until less is waiting: for the disk, for other shards' answers, or for the peer to read.
    Congestion,
    /// Until a change of the catalogue (a SUB that created its channel) is on disk.
    Change,
    /// Until the layers that an IDENTIFY was granted are in place.
    Upgrade,
    /// Until an authorization server has answered.
    Authorization,
    /// Until the ring has let go of the socket: the connection is on its way to another shard.
    Moving(usize),
}

/// What IDENTIFY settles (spec nsqd.md §2.6.1).
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) client_id: String,
    pub(crate) hostname: String,
    pub(crate) user_agent: String,
    /// `None`: no heartbeats and no deadlines.
    pub(crate) heartbeat_interval: Option<Duration>,
    pub(crate) msg_timeout: Duration,
    pub(crate) sample_rate: u8,
    pub(crate) topology_region: String,
    pub(crate) topology_zone: String,
}

/// The subscription of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Subscription {
    pub(crate) consumer: ConsumerKey,
    pub(crate) topic_key: TopicKey,
    /// What the core was last told about room in the output.
    pub(crate) writable: bool,
}

/// The topic that a connection published to last.
#[derive(Debug)]
struct LastTopic {
    name: TopicName,
    /// Its key, while it lives on this connection's shard.
    key: Option<TopicKey>,
    /// Messages not yet added to `Published::counts`.
    messages: u64,
}

/// Traffic of a producer, for its placement and for the stats.
#[derive(Debug, Default)]
pub(crate) struct Published {
    counts: HashMap<TopicName, u64>,
    last: Option<LastTopic>,
    /// Commands in a row that went to the same other shard.
    pub(crate) elsewhere: (usize, u32),
    /// Bytes sent to other shards and not answered yet.
    pub(crate) remote_bytes: usize,
}

impl Published {
    /// Whether nothing was ever published.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.last.is_none()
    }

    /// The name and, if it lives on this shard, the key of the topic published to last, if that is
    /// `topic`.
    pub(crate) fn last(&self, topic: &str) -> Option<(&TopicName, Option<TopicKey>)> {
        self.last
            .as_ref()
            .filter(|last| last.name.as_str() == topic)
            .map(|l| (&l.name, l.key))
    }

    /// Counts `messages` published to `topic`; `key` if it lives on this shard.
    pub(crate) fn count(&mut self, topic: &TopicName, key: Option<TopicKey>, messages: u64) {
        match &mut self.last {
            Some(last) if last.name == *topic => {
                last.messages += messages;
                last.key = key;
            }
            _ => {
                self.settle();
                self.last = Some(LastTopic {
                    name: topic.clone(),
                    key,
                    messages,
                });
            }
        }
    }

    /// Forgets every key: they are those of the shard that the connection leaves.
    pub(crate) fn forget_keys(&mut self) {
        self.settle();
        self.elsewhere = (0, 0);
    }

    fn settle(&mut self) {
        if let Some(last) = self.last.take() {
            *self.counts.entry(last.name).or_default() += last.messages;
        }
    }

    /// Messages per topic, by name.
    pub(crate) fn counts(&self) -> Vec<(String, u64)> {
        let mut counts: BTreeMap<&str, u64> = self
            .counts
            .iter()
            .map(|(name, count)| (name.as_str(), *count))
            .collect();
        if let Some(last) = &self.last {
            *counts.entry(last.name.as_str()).or_default() += last.messages;
        }
        counts
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect()
    }
}

/// Entries of the shard's wheel that belong to a connection.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    pub(crate) heartbeat: Option<TimerKey>,
    pub(crate) read: Option<TimerKey>,
    pub(crate) write: Option<TimerKey>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Connection {
    /// `ip:port`, or `@` for the client of a unix socket.
    pub(crate) remote: String,
    pub(crate) connected: Now,
    pub(crate) phase: Phase,
    /// It began with the magic of this protocol.
    pub(crate) is_greeted: bool,
    /// The fatal error that ends it, for the log.
    pub(crate) failure: Option<Box<str>>,
    pub(crate) session: SessionState,
    pub(crate) hold: Hold,
    /// TLS and compression, if there are any.
    pub(crate) transport: Transport,
    /// Received, decoded and not yet understood.
    pub(crate) input: BytesMut,
    /// Bytes that `input` must hold before it is worth looking again.
    pub(crate) needed: usize,
    pub(crate) receive: Receive,
    /// The peer has closed its sending side.
    pub(crate) eof: bool,
    /// Bytes thrown away while lingering.
    pub(crate) discarded: usize,
    /// Stands in the shard's list of connections to flush.
    pub(crate) flush_queued: bool,
    /// When the last complete command was taken, for the read deadline.
    pub(crate) last_command: Now,
    pub(crate) replies: Replies,
    pub(crate) output: Output,
    pub(crate) identity: Identity,
    pub(crate) authorization: Authorization,
    pub(crate) subscription: Option<Subscription>,
    pub(crate) published: Published,
    pub(crate) timers: Timers,
}

impl Connection {
    /// A connection that has just been accepted.
    pub(crate) fn new(remote: String, now: Now, identity: Identity) -> Self {
        Self {
            remote,
            connected: now,
            phase: Phase::Magic,
            is_greeted: false,
            failure: None,
            session: SessionState::Init,
            hold: Hold::None,
            transport: Transport::default(),
            input: BytesMut::new(),
            needed: 4,
            receive: Receive::Off,
            eof: false,
            discarded: 0,
            flush_queued: false,
            last_command: now,
            replies: Replies::default(),
            output: Output::default(),
            identity,
            authorization: Authorization::default(),
            subscription: None,
            published: Published::default(),
            timers: Timers::default(),
        }
    }

    /// Its commands are taken as they come.
    pub(crate) fn is_served(&self) -> bool {
        self.hold == Hold::None && self.phase == Phase::Serving
    }

    /// Whether the command loop may look at the input.
    pub(crate) fn may_decode(&self) -> bool {
        self.is_served() && self.input.len() >= self.needed && !self.input.is_empty()
    }

    /// No more will be asked: what is left is to send the answers.
    pub(crate) fn is_ending(&self) -> bool {
        self.eof || matches!(self.phase, Phase::Closing { .. })
    }

    /// Everything that was asked has been answered and sent.
    pub(crate) fn is_answered(&self) -> bool {
        self.replies.is_empty() && self.output.is_empty() && self.transport.is_flushed()
    }

    /// The connection was upgraded to TLS. Constant once commands are served again.
    pub(crate) fn is_tls(&self) -> bool {
        self.transport.tls().is_some()
    }

    /// The common name of the client's certificate, if it sent one.
    pub(crate) fn common_name(&self) -> Option<&str> {
        self.transport.tls()?.common_name.as_deref()
    }
}
