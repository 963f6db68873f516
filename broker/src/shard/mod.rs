//! A shard: everything that one core of the broker owns, and the turn in which it moves.
//!
//! [`Shard`] holds the queue semantics (`nsq_core`), the logs of its topics, its sockets, and what
//! is on its way to other shards. It is reached only through [`cell::ShardCell`], whose closures
//! are not async, so that no borrow can live across an await. Nothing acts on an arriving packet
//! alone: input is applied to the core as it comes, and once a turn [`Shard::take_in`] appends to the
//! logs and [`Shard::finish_turn`] hands out messages and flushes.
//!
//! What the ring is to do is queued in `ring_ops` and submitted by the [`driver`] after either.
//!
//! Hot path (`session`, `publish`, `flush`): no allocation, formatting or await per message. A publish
//! command shares its topic's name, which is one atomic count per command, not per message.

mod authorize;
pub(crate) mod cell;
mod change;
mod congestion;
mod disk;
pub(crate) mod driver;
mod effects;
mod flush;
mod handshakes;
mod http_socket;
mod layers;
pub(crate) mod logs;
pub(crate) mod message;
mod movement;
mod publish;
mod receive;
mod session;
mod socket;
mod spin;
pub(crate) mod stats;
mod stop;
mod timers;
mod verbose;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use futures_channel::oneshot;
use nsq_core::{Effect, Now, Shard as Core, TopicKey};
use nsq_log::{LogEvent, Token};
use nsq_proto::TopicName;
use rustc_hash::FxHashMap;
use rustls::ServerConfig;
use slotmap::{SecondaryMap, SlotMap};

use crate::clock::Clock;
use crate::gateway::StatsFilter;
use crate::shared::Shared;
use change::Change;
use logs::TopicState;
use message::{PublishOutcome, ShardId, ShardMessage};
use publish::Outgoing;
use socket::{RingOp, Socket};

pub(crate) use socket::SocketKey;

slotmap::new_key_type! {
    /// An operation of a log that the ring is carrying out.
    pub(crate) struct DiskOpKey;
}

/// What this shard owes another one.
#[derive(Debug, Default)]
struct Outbox {
    /// Publishes gathered in this turn.
    publishes: Outgoing,
    /// Outcomes of the other's publishes, gathered in this turn.
    outcomes: Vec<PublishOutcome>,
    /// Messages that its mailbox had no room for, oldest first.
    waiting: VecDeque<ShardMessage>,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Shard {
    id: ShardId,
    shared: Arc<Shared>,
    clock: Clock,
    now: Now,
    /// Certificates for connections that are yet to ask for TLS; `None` without any.
    tls: Option<Arc<ServerConfig>>,
    core: Core,
    sockets: SlotMap<SocketKey, Socket>,
    topics: SecondaryMap<TopicKey, TopicState>,
    /// Topics whose log may have open files, for closing those of the idle ones.
    open_logs: Vec<TopicKey>,
    disk_ops: SlotMap<DiskOpKey, (TopicKey, Token)>,
    /// Logs whose sync waits for company, and until when; the earliest first.
    gathering: VecDeque<(TopicKey, Now)>,
    ring_ops: Vec<RingOp>,
    /// Commands of clients and publishes of other shards that were ever taken.
    work: u64,
    flush_queue: flush::FlushQueue,
    /// Sockets that said they have room to send, and had none.
    misled: Vec<SocketKey>,
    /// Connections with more received than they may decode in one turn.
    undecoded: Vec<SocketKey>,
    /// Steps of TLS handshakes that connections of the TCP port may take in this turn.
    handshakes_left: usize,
    /// The same of HTTPS.
    https_handshakes: handshakes::Handshakes,
    /// Connections whose commands wait for [`crate::conn::Hold::Congestion`] to pass.
    congested: Vec<SocketKey>,
    /// Tasks whose publishes wait for room, here or on another shard.
    waiting_tasks: Vec<oneshot::Sender<()>>,
    /// What the other shards were last told.
    is_congested: bool,
    outboxes: Vec<Outbox>,
    changes: Vec<Change>,
    /// Number of the newest change sent to the catalogue, and of the newest one that is saved.
    catalogue_sent: u64,
    catalogue_saved: u64,
    /// Deleted topics whose logs are being removed.
    removals: Vec<TopicKey>,
    /// Topics that are on their way to the catalogue, oldest first.
    new_topics: VecDeque<TopicKey>,
    /// Topics that the catalogue could not take.
    unsaved_topics: Vec<TopicKey>,
    /// The disk has too little room left: publishes are refused.
    disk_full: bool,
    /// Requests of local tasks that wait for an answer.
    requests: FxHashMap<u64, cell::Request>,
    next_request: u64,
    /// HTTP connections that have no task yet.
    new_http: Vec<SocketKey>,
    /// Tasks to wake after the turn.
    wakers: Vec<Waker>,
    /// A local task changed something: do not park before another turn.
    touched: bool,
    /// Everything is logged; see `verbose`.
    is_verbose: bool,
    stopping: Option<stop::Stopping>,
    /// Scratch, empty between uses.
    log_events: Vec<LogEvent>,
    effects: Vec<Effect>,
}

impl Shard {
    pub(crate) fn new(id: ShardId, shared: Arc<Shared>) -> Self {
        let clock = shared.clock;
        let now = clock.now();
        let shards = shared.shard_count();
        Self {
            id,
            core: Core::new(shared.settings.core_limits(id), now),
            shared,
            clock,
            now,
            tls: None,
            sockets: SlotMap::with_key(),
            topics: SecondaryMap::new(),
            open_logs: Vec::new(),
            disk_ops: SlotMap::with_key(),
            gathering: VecDeque::new(),
            ring_ops: Vec::new(),
            work: 0,
            flush_queue: flush::FlushQueue::default(),
            misled: Vec::new(),
            undecoded: Vec::new(),
            handshakes_left: layers::HANDSHAKES_PER_TURN,
            https_handshakes: handshakes::Handshakes::new(),
            congested: Vec::new(),
            waiting_tasks: Vec::new(),
            is_congested: false,
            outboxes: (0..shards).map(|_| Outbox::default()).collect(),
            changes: Vec::new(),
            catalogue_sent: 0,
            catalogue_saved: 0,
            removals: Vec::new(),
            new_topics: VecDeque::new(),
            unsaved_topics: Vec::new(),
            disk_full: false,
            requests: FxHashMap::default(),
            next_request: 0,
            new_http: Vec::new(),
            wakers: Vec::new(),
            touched: false,
            is_verbose: false,
            stopping: None,
            log_events: Vec::new(),
            effects: Vec::new(),
        }
    }

    /// Reads the clock for a new turn.
    pub(crate) fn begin_turn(&mut self) -> Now {
        self.now = self.clock.now();
        self.touched = false;
        self.settle_verbosity();
        self.now
    }

    /// What comes from another shard may have been sent after this turn began. Were it taken as of
    /// the beginning, a deferral would end early.
    fn catch_up(&mut self, sent: Now) {
        self.now = self.now.max(sent);
    }

    /// Applies the rest of the input and appends what was published.
    pub(crate) fn take_in(&mut self) {
        self.resume_undecoded();
        self.resume_handshakes();
        self.core.advance(self.now);
        self.apply_effects();
        self.resume_congested();
        self.append_batches();
        self.end_gathering();
    }

    /// Hands out messages and sends. Comes after the writes that were made on the spot: an `OK`
    /// goes before the message that it is for.
    pub(crate) fn finish_turn(&mut self) {
        self.core.dispatch(self.now);
        self.apply_effects();
        self.flush_sockets();
        self.settle_congestion();
        self.send_outboxes();
        self.stop_step();
    }

    /// Which shard owns a topic: the same in every run with the same number of shards.
    fn owner_of(&self, topic: &str) -> ShardId {
        owner(topic, self.outboxes.len())
    }

    /// Finds or creates a topic of this shard.
    fn topic(&mut self, name: &TopicName) -> TopicKey {
        if let Some(key) = self.core.topic(name.as_str()) {
            return key;
        }
        let key = self.core.create_topic(self.now, name);
        self.open_log(key, name);
        self.announce_topic(key, name);
        key
    }

    /// Sends a message to a shard, this one included.
    fn send(&mut self, to: ShardId, message: ShardMessage) {
        let waiting = &mut self.outboxes[to].waiting;
        if !waiting.is_empty() {
            waiting.push_back(message);
        } else if let Err(back) = self.shared.mailboxes.of(to).try_send(message) {
            waiting.push_back(back);
        }
    }

    /// Takes a message from another thread.
    pub(crate) fn on_message(&mut self, message: ShardMessage) {
        match message {
            ShardMessage::Connection(socket, connection) => self.adopt(socket, connection),
            ShardMessage::Room => self.wake_waiting_tasks(),
            ShardMessage::FreeMemory => self.core.drop_caches(),
            ShardMessage::Publish(batch) => self.on_remote_publishes(*batch),
            ShardMessage::Published(outcomes) => self.on_published(outcomes),
            ShardMessage::Admin {
                origin,
                request,
                admin,
            } => self.on_admin(origin, request, &admin),
            ShardMessage::AdminDone { request, result } => self.on_admin_done(request, result),
            ShardMessage::Stats {
                origin,
                request,
                filter,
            } => {
                let part = Box::new(self.stats_part(&filter));
                self.send(origin, ShardMessage::StatsDone { request, part });
            }
            ShardMessage::StatsDone { request, part } => self.on_stats_part(request, *part),
            ShardMessage::Numbers(sender) => {
                let part = Box::new(self.stats_part(&StatsFilter::default()));
                // Who asked may have given up.
                drop(sender.send(part));
            }
            ShardMessage::ProfileDone { request, result } => self.on_profile_done(request, result),
            ShardMessage::CatalogueSaved { version, result } => {
                self.on_catalogue_saved(version, &result);
            }
            ShardMessage::ChannelsFound { topic, channels } => {
                self.on_channels_found(topic, &channels);
            }
            ShardMessage::Authorized { connection, grants } => {
                self.on_authorized(SocketKey::from_tag(connection), grants);
            }
            ShardMessage::Stored {
                topic,
                token,
                result,
            } => self.on_stored(topic, token, result),
            ShardMessage::Certificates(config) => self.tls = Some(config),
            ShardMessage::Serve => self.serve_clients(),
            ShardMessage::Stop => self.begin_stop(),
        }
    }

    fn send_outboxes(&mut self) {
        for to in 0..self.outboxes.len() {
            if let Some(batch) = self.outboxes[to].publishes.take(self.id, self.now) {
                self.send(to, ShardMessage::Publish(Box::new(batch)));
            }
            if !self.outboxes[to].outcomes.is_empty() {
                let outcomes = std::mem::take(&mut self.outboxes[to].outcomes);
                self.send(to, ShardMessage::Published(outcomes));
            }
            let outbox = &mut self.outboxes[to];
            while let Some(message) = outbox.waiting.pop_front() {
                if let Err(back) = self.shared.mailboxes.of(to).try_send(message) {
                    outbox.waiting.push_front(back);
                    break;
                }
            }
        }
    }

    /// A message waits for room in another shard's mailbox.
    fn has_outbox_backlog(&self) -> bool {
        self.outboxes
            .iter()
            .any(|outbox| !outbox.waiting.is_empty())
    }
}

/// FNV-1a over the name, spread over the shards; independent of the process and the machine.
pub(crate) fn owner(topic: &str, shards: usize) -> ShardId {
    let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mixed = hash ^ (hash >> 32);
    usize::try_from(mixed % shards as u64).expect("smaller than the number of shards")
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn topics_spread_over_shards_and_stay_where_they_are() {
        let mut counts = [0; 4];
        for i in 0..4000 {
            counts[owner(&format!("topic-{i}"), 4)] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
        assert_eq!(owner("orders", 4), owner("orders", 4));
        assert_eq!(owner("anything", 1), 0);
    }
}
