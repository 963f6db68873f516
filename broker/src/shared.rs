//! What every thread of the broker may look at: settings, the way to each other, and the few
//! things that change while it runs. Nothing here is touched per message.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use nsq_cli::Logger;
use nsq_core::{LatencyConfig, Locality, NodeId, ShardLimits};
use nsq_log::LogConfig;
use nsq_proto::{IdentifyLimits, IdentifyReply, IdentifyRequest, Limits, TopicName};

use crate::catalogue::FILE_NAME;
use crate::clock::Clock;
use crate::config::{Compression, RuntimeChange, RuntimeConfig, SegmentIo};
use crate::conn;
use crate::control::{ControlMessage, ControlSender};
use crate::gateway::BrokerInfo;
use crate::mailbox::Mailbox;
use crate::shard::message::{ShardId, ShardMessage, StorageJob};

/// What the flags settled, as the shards need it.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `--data-path`.
    pub(crate) data_path: PathBuf,
    /// `--node-id`.
    pub(crate) node: NodeId,
    /// Byte limits of the decoder.
    pub(crate) limits: Limits,
    /// Ranges of IDENTIFY.
    pub(crate) identify: IdentifyLimits,
    /// Heartbeats of a client that asks for none.
    pub(crate) heartbeat_interval: Duration,
    /// `--max-req-timeout`.
    pub(crate) max_req_timeout: Duration,
    /// `--mem-queue-size`.
    pub(crate) mem_queue_size: u64,
    /// `--max-channel-consumers`; 0 = unlimited.
    pub(crate) channel_consumers_max: u32,
    /// `--requeue-on-disconnect`.
    pub(crate) requeue_on_disconnect: bool,
    /// How logs are laid out and when they commit.
    pub(crate) log: LogConfig,
    /// `--sync-timeout`.
    pub(crate) sync_timeout: Duration,
    /// Bytes of message caches per shard.
    pub(crate) cache_bytes_max: usize,
    /// How large parts of segment files are written.
    pub(crate) segment_io: SegmentIo,
    /// How long an idle shard spins before it parks.
    pub(crate) spin: Duration,
    /// Some authorization server is configured.
    pub(crate) auth_required: bool,
    /// TLS is required of the TCP protocol.
    pub(crate) tls_required: bool,
    /// TLS is required of HTTP as well: the port of HTTPS, 0 where there is none.
    pub(crate) https_only: Option<u16>,
    /// What compression clients may negotiate.
    pub(crate) compression: Compression,
    /// Version as IDENTIFY and `/info` show it.
    pub(crate) version: String,
    /// `--topology-region`.
    pub(crate) topology_region: String,
    /// `--topology-zone`.
    pub(crate) topology_zone: String,
    /// Close consumers are preferred.
    pub(crate) topology_aware: bool,
    /// `--e2e-processing-latency-*`; `None` without percentiles.
    pub(crate) latency: Option<LatencyConfig>,
}

/// Bytes gathered and not yet written, per shard, above which publishers wait.
const UNWRITTEN_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Settings {
    /// The bounds of one shard's core.
    pub(crate) fn core_limits(&self, shard: ShardId) -> ShardLimits {
        ShardLimits {
            node: self.node,
            mem_queue_size: self.mem_queue_size,
            msg_timeout_max: self.identify.max_msg_timeout,
            requeue_delay_max: self.max_req_timeout,
            channel_consumers_max: self.channel_consumers_max,
            requeue_on_disconnect: self.requeue_on_disconnect,
            cache_bytes_max: self.cache_bytes_max,
            unwritten_bytes_max: UNWRITTEN_BYTES_MAX,
            seed: shard as u64 + 1,
            latency: self.latency.clone(),
        }
    }

    /// How close a client of that region and zone is. An empty name is no place: nobody is close to it (K30).
    pub(crate) fn locality(&self, region: &str, zone: &str) -> Locality {
        let is_same = |ours: &str, theirs: &str| !ours.is_empty() && ours == theirs;
        if !self.topology_aware {
            Locality::Global
        } else if is_same(&self.topology_zone, zone) {
            Locality::Zone
        } else if is_same(&self.topology_region, region) {
            Locality::Region
        } else {
            Locality::Global
        }
    }

    /// The JSON that answers a negotiating IDENTIFY.
    pub(crate) fn identify_reply(
        &self,
        request: &IdentifyRequest,
        upgrades: &conn::Upgrades,
    ) -> String {
        let (snappy, deflate) = match upgrades.compression {
            Some(conn::Compression::Snappy) => (true, None),
            Some(conn::Compression::Deflate(level)) => (false, Some(level)),
            None => (false, None),
        };
        let level_max = self.identify.max_deflate_level;
        IdentifyReply {
            max_rdy_count: self.limits.ready_count_max,
            version: &self.version,
            max_msg_timeout: millis(self.identify.max_msg_timeout),
            msg_timeout: millis(request.msg_timeout),
            tls_v1: upgrades.tls.is_some(),
            deflate: deflate.is_some(),
            deflate_level: deflate.unwrap_or_else(|| level_max.min(6)),
            max_deflate_level: level_max,
            snappy,
            sample_rate: request.sample_rate,
            auth_required: self.auth_required,
            output_buffer_size: request.output_buffer_size,
            output_buffer_timeout: millis(request.output_buffer_timeout),
            topology_region: &self.topology_region,
            topology_zone: &self.topology_zone,
        }
        .to_json()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What can fail. A topic may be called as the others are shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The file system of the data path has too little room.
    Disk,
    /// `nsqd.dat` could not be written.
    Catalogue,
    /// The log of a topic (K27: each for itself, and for good).
    Log(TopicName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => f.write_str("disk"),
            Self::Catalogue => f.write_str(FILE_NAME),
            Self::Log(topic) => write!(f, "TOPIC({topic})"),
        }
    }
}

/// What failed, and why.
#[derive(Default)]
pub(crate) struct Health(Mutex<BTreeMap<Subject, String>>);

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Health")
    }
}

impl Health {
    /// Something failed.
    #[cold]
    pub(crate) fn fail(&self, what: Subject, reason: &str) {
        self.lock().insert(what, reason.to_owned());
    }

    /// It works again.
    pub(crate) fn recover(&self, what: &Subject) {
        self.lock().remove(what);
    }

    /// `None` while nothing has failed.
    #[must_use]
    pub(crate) fn problem(&self) -> Option<String> {
        self.lock()
            .iter()
            .next()
            .map(|(what, reason)| format!("{what}: {reason}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Subject, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    /// What the flags settled.
    pub(crate) settings: Settings,
    /// For the operators.
    pub(crate) logger: Logger,
    /// The same for all shards.
    pub(crate) clock: Clock,
    /// Whether everything works.
    pub(crate) health: Health,
    /// What `/info` tells.
    pub(crate) info: BrokerInfo,
    /// `/config`.
    pub(crate) runtime: RuntimeConfig,
    /// Some nsqlookupd is configured: new topics wait for its channels.
    pub(crate) lookup_peers: AtomicBool,
    /// What to log when the doors open.
    pub(crate) listening: Vec<(&'static str, String)>,
    /// Which shards have no room for publishes.
    pub(crate) congestion: Congestion,
    /// The shards' mailboxes, by shard; set once all shards have made theirs.
    pub(crate) mailboxes: Mailboxes,
    /// The storage thread.
    pub(crate) storage: Sender<StorageJob>,
    /// The control thread.
    pub(crate) control: ControlSender,
}

/// Whether publishers of each shard have to wait. A shard that has room again tells the others.
#[derive(Debug)]
pub(crate) struct Congestion(Box<[AtomicBool]>);

impl Congestion {
    pub(crate) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| AtomicBool::new(false)).collect())
    }

    /// Said by the shard itself, before it tells the others that it has room.
    pub(crate) fn set(&self, shard: ShardId, congested: bool) {
        self.0[shard].store(congested, Ordering::Release);
    }

    pub(crate) fn of(&self, shard: ShardId) -> bool {
        self.0[shard].load(Ordering::Acquire)
    }
}

/// How long a task waits before it tries a full mailbox again.
const FULL_MAILBOX_PAUSE: Duration = Duration::from_millis(1);

/// The shards' mailboxes. Each shard makes its own, on its own thread, before the first is used.
#[derive(Debug)]
pub(crate) struct Mailboxes(Vec<Slot>);

#[derive(Debug, Default)]
struct Slot {
    mailbox: OnceLock<Mailbox<ShardMessage>>,
    /// The shard's thread has ended: nobody drains the mailbox.
    closed: AtomicBool,
}

impl Slot {
    fn open(&self) -> Option<&Mailbox<ShardMessage>> {
        self.mailbox
            .get()
            .filter(|_| !self.closed.load(Ordering::Relaxed))
    }
}

impl Mailboxes {
    pub(crate) fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| Slot::default()).collect())
    }

    /// Makes a shard's mailbox known. Called once per shard, before the first message to it.
    pub(crate) fn open(&self, shard: ShardId, mailbox: Mailbox<ShardMessage>) {
        assert!(
            self.0[shard].mailbox.set(mailbox).is_ok(),
            "a shard opens its mailbox once"
        );
    }

    /// The shard's thread has ended: what is sent to it from now on is dropped.
    pub(crate) fn close(&self, shard: ShardId) {
        self.0[shard].closed.store(true, Ordering::Relaxed);
    }

    /// Puts a message into a shard's mailbox, waiting for room. Not for the shards themselves: a
    /// full mailbox drains within a turn of its shard, which never waits for other threads.
    pub(crate) fn deliver(&self, shard: ShardId, mut message: ShardMessage) {
        while let Some(mailbox) = self.0[shard].open() {
            match mailbox.try_send(message) {
                Ok(()) => return,
                Err(back) => message = back,
            }
            std::thread::yield_now();
        }
    }

    /// Puts a message into a shard's mailbox, waiting for room as a task.
    pub(crate) async fn send(&self, shard: ShardId, mut message: ShardMessage) {
        while let Some(mailbox) = self.0[shard].open() {
            match mailbox.try_send(message) {
                Ok(()) => return,
                Err(back) => message = back,
            }
            tokio::time::sleep(FULL_MAILBOX_PAUSE).await;
        }
    }

    /// The mailbox of a shard.
    pub(crate) fn of(&self, shard: ShardId) -> &Mailbox<ShardMessage> {
        self.0[shard]
            .mailbox
            .get()
            .expect("every shard opens its mailbox before any is told to serve")
    }
}

impl Shared {
    /// `GET /config/<key>`: the value and whether it is JSON.
    pub(crate) fn config_get(&self, key: &str) -> Option<(String, bool)> {
        self.runtime.get(key)
    }

    /// `PUT /config/<key>`.
    pub(crate) fn config_put(
        &self,
        key: &str,
        body: &[u8],
    ) -> Result<(String, bool), &'static str> {
        let change = self.runtime.put(key, body)?;
        match &change {
            RuntimeChange::LogLevel(level) => self.logger.set_level(*level),
            RuntimeChange::LookupdTcpAddresses(addresses) => {
                let addresses = addresses.clone().unwrap_or_default();
                self.lookup_peers
                    .store(!addresses.is_empty(), Ordering::Relaxed);
                self.control.send(ControlMessage::LookupPeers(addresses));
            }
        }
        Ok(change.to_body())
    }

    /// Whether some nsqlookupd is to be asked about new topics.
    pub(crate) fn has_lookup_peers(&self) -> bool {
        self.lookup_peers.load(Ordering::Relaxed)
    }

    /// How many shards there are.
    #[must_use]
    pub(crate) fn shard_count(&self) -> usize {
        self.mailboxes.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_may_be_called_as_anything_else_that_fails() {
        let log = |name: &str| Subject::Log(TopicName::parse(name.as_bytes()).unwrap());
        for (other, name) in [(Subject::Disk, "disk"), (Subject::Catalogue, FILE_NAME)] {
            let health = Health::default();
            health.fail(log(name), "torn");
            health.fail(other.clone(), "full");
            assert_eq!(health.problem(), Some(format!("{name}: full")));
            health.recover(&other);
            assert_eq!(health.problem(), Some(format!("TOPIC({name}): torn")));
            health.recover(&log(name));
            assert_eq!(health.problem(), None);
        }
    }
}
