//! A broker that records what it is asked and answers as told.

use std::cell::{Cell, RefCell};
use std::fmt::Arguments;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use nsq_core::{ChannelStats, ConnToken, LatencyStats, Now, TopicStats};
use nsq_proto::{ChannelName, TopicName};

use crate::gateway::{
    AdminError, AdminRequest, Broker, BrokerInfo, BrokerStats, ChannelEntry, ClientStats,
    ProfileError, PublishFailure, StatsFilter, TopicEntry,
};
use crate::http::stats::{Memory, Report};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(super) topic: String,
    pub(super) delay: Duration,
    pub(super) bodies: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(super) info: BrokerInfo,
    pub(crate) published: RefCell<Vec<Publish>>,
    pub(crate) changes: RefCell<Vec<AdminRequest>>,
    pub(super) filters: RefCell<Vec<StatsFilter>>,
    pub(super) stats: RefCell<BrokerStats>,
    pub(super) access: RefCell<Vec<String>>,
    pub(super) errors: RefCell<Vec<String>>,
    pub(super) warnings: RefCell<Vec<String>>,
    pub(super) illness: RefCell<Option<String>>,
    pub(super) admin_error: RefCell<Option<AdminError>>,
    pub(super) profiled: RefCell<Vec<Duration>>,
    pub(super) is_profiling: Cell<bool>,
    pub(super) is_exiting: Cell<bool>,
    /// Publishes wait while it is set.
    pub(super) holds_publishes: Cell<bool>,
    /// There is no room for publishes while it is set.
    pub(super) is_congested: Cell<bool>,
    pub(super) is_stopping: Cell<bool>,
    /// How often it was to give memory back.
    pub(super) freed: Cell<u32>,
}

/// Clones share what they record.
#[derive(Debug, Clone)]
pub(crate) struct FakeBroker(pub(crate) Rc<State>);

impl FakeBroker {
    pub(crate) fn new() -> Self {
        Self(Rc::new(State {
            info: info(),
            published: RefCell::default(),
            changes: RefCell::default(),
            filters: RefCell::default(),
            stats: RefCell::default(),
            access: RefCell::default(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            illness: RefCell::default(),
            admin_error: RefCell::default(),
            profiled: RefCell::default(),
            is_profiling: Cell::new(false),
            is_exiting: Cell::new(false),
            holds_publishes: Cell::new(false),
            is_congested: Cell::new(false),
            is_stopping: Cell::new(false),
            freed: Cell::new(0),
        }))
    }

    /// The bodies of the only publish so far, and forgets it.
    pub(super) fn take_published(&self) -> Vec<String> {
        let mut published = self.0.published.take();
        assert_eq!(published.len(), 1, "{published:?}");
        published.remove(0).bodies
    }
}

/// Waits until it is not set.
async fn pass(barrier: &Cell<bool>) {
    std::future::poll_fn(|_| match barrier.get() {
        true => Poll::Pending,
        false => Poll::Ready(()),
    })
    .await;
}

impl Broker for FakeBroker {
    async fn room(&self, _: &TopicName) {
        pass(&self.0.is_congested).await;
    }

    async fn publish(
        &self,
        topic: TopicName,
        delay: Duration,
        bodies: Vec<Bytes>,
    ) -> Result<(), PublishFailure> {
        pass(&self.0.holds_publishes).await;
        if self.0.is_exiting.get() {
            return Err(PublishFailure("exiting".to_owned()));
        }
        let limits = self.info();
        let sizes = bodies.iter().map(|body| body.len() as u64);
        assert!(
            sizes
                .clone()
                .all(|size| (1..=limits.max_msg_size).contains(&size))
        );
        assert!(sizes.sum::<u64>() <= limits.max_body_size);
        let text = |body: &Bytes| String::from_utf8_lossy(body).into_owned();
        let bodies = bodies.iter().map(text).collect();
        let topic = topic.to_string();
        self.0.published.borrow_mut().push(Publish {
            topic,
            delay,
            bodies,
        });
        Ok(())
    }

    async fn admin(&self, request: AdminRequest) -> Result<(), AdminError> {
        self.0.changes.borrow_mut().push(request);
        self.0.admin_error.borrow().clone().map_or(Ok(()), Err)
    }

    async fn stats(&self, filter: StatsFilter) -> BrokerStats {
        self.0.filters.borrow_mut().push(filter);
        self.0.stats.borrow().clone()
    }

    async fn cpu_profile(&self, span: Duration) -> Result<Bytes, ProfileError> {
        self.0.profiled.borrow_mut().push(span);
        if self.0.is_profiling.get() {
            return Err(ProfileError::InUse);
        }
        Ok(Bytes::from_static(b"a profile"))
    }

    fn free_memory(&self) {
        self.0.freed.set(self.0.freed.get() + 1);
    }

    fn is_stopping(&self) -> bool {
        self.0.is_stopping.get()
    }

    fn info(&self) -> &BrokerInfo {
        &self.0.info
    }

    fn health(&self) -> Option<String> {
        self.0.illness.borrow().clone()
    }

    fn config_get(&self, key: &str) -> Option<(String, bool)> {
        match key {
            "log_level" => Some(("2".to_owned(), true)),
            "data_path" => Some(("/data".to_owned(), false)),
            _ => None,
        }
    }

    fn config_put(&self, key: &str, body: &[u8]) -> Result<(String, bool), &'static str> {
        match (key, body) {
            ("log_level", b"info") => Ok(("2".to_owned(), true)),
            ("log_level", _) => Err("INVALID_VALUE"),
            _ => Err("INVALID_OPTION"),
        }
    }

    fn poll_handshake_step(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn log_access(&self, line: Arguments<'_>) {
        self.0.access.borrow_mut().push(line.to_string());
    }

    fn log_error(&self, line: Arguments<'_>) {
        self.0.errors.borrow_mut().push(line.to_string());
    }

    fn log_warning(&self, line: Arguments<'_>) {
        self.0.warnings.borrow_mut().push(line.to_string());
    }
}

/// Limits are small, so that tests can reach them.
fn info() -> BrokerInfo {
    BrokerInfo {
        clock: crate::clock::Clock::start(),
        version: "1.3.0".to_owned(),
        broadcast_address: "vm".to_owned(),
        hostname: "vm".to_owned(),
        http_port: 24151,
        tcp_port: 24150,
        start_time: 1_795_231_779,
        max_heartbeat_interval: Duration::from_secs(60),
        max_output_buffer_size: 65536,
        max_output_buffer_timeout: Duration::from_secs(30),
        max_deflate_level: 6,
        topology_zone: String::new(),
        topology_region: String::new(),
        max_msg_size: 10,
        max_body_size: 40,
        max_req_timeout: Duration::from_secs(3600),
    }
}

static INFO: LazyLock<BrokerInfo> = LazyLock::new(info);

/// A report at a fixed time, with clients and memory.
pub(in crate::http) fn report(stats: BrokerStats) -> Report<'static> {
    Report {
        info: &INFO,
        health: "OK".into(),
        stats,
        has_clients: true,
        memory: Some(Memory {
            heap_in_use_bytes: 1_589_248,
            ..Memory::default()
        }),
        now: Now((1_795_231_779 + 306) * 1_000_000_000 + 778_252_331),
    }
}

/// Two topics, one of them paused, with two channels, two consumers and a producer.
pub(crate) fn busy() -> BrokerStats {
    let consumer = ClientStats {
        client_id: "cid".to_owned(),
        hostname: "host.example.com".to_owned(),
        remote_address: "127.0.0.1:51898".to_owned(),
        state: 3,
        ready_count: 2,
        in_flight_count: 2,
        message_count: 2,
        connect_ts: 1_795_232_084,
        user_agent: "ua/1.0".to_owned(),
        ..ClientStats::default()
    };
    let anonymous = ClientStats {
        client_id: "127.0.0.1".to_owned(),
        hostname: "127.0.0.1".to_owned(),
        remote_address: "127.0.0.1:51910".to_owned(),
        state: 3,
        connect_ts: 1_795_232_084,
        ..ClientStats::default()
    };
    let producer = ClientStats {
        client_id: "pid".to_owned(),
        hostname: "phost".to_owned(),
        remote_address: "127.0.0.1:51914".to_owned(),
        connect_ts: 1_795_232_084,
        user_agent: "puA".to_owned(),
        pub_counts: vec![("other".to_owned(), 1), ("tc".to_owned(), 3)],
        ..ClientStats::default()
    };
    BrokerStats {
        topics: vec![
            topic("t2", [5, 5, 9], false, Vec::new()),
            topic(
                "tc",
                [0, 3, 7],
                true,
                vec![
                    channel("ch", [1, 2, 2], false, consumer),
                    channel("ch2", [3, 0, 0], true, anonymous),
                ],
            ),
        ],
        producers: vec![producer],
    }
}

fn topic(
    name: &str,
    [depth, message_count, message_bytes]: [u64; 3],
    paused: bool,
    channels: Vec<ChannelEntry>,
) -> TopicEntry {
    let stats = TopicStats {
        name: TopicName::parse(name.as_bytes()).expect("a legal name"),
        depth,
        backend_depth: 0,
        message_count,
        message_bytes,
        paused,
        channels: Vec::new(),
        latency: LatencyStats::default(),
    };
    TopicEntry {
        stats,
        sync: None,
        channels,
    }
}

fn channel(
    name: &str,
    [depth, in_flight_count, global_msg_count]: [u64; 3],
    paused: bool,
    client: ClientStats,
) -> ChannelEntry {
    let stats = ChannelStats {
        name: ChannelName::parse(name.as_bytes()).expect("a legal name"),
        depth,
        backend_depth: 0,
        in_flight_count,
        deferred_count: 0,
        message_count: 3,
        zone_local_msg_count: 0,
        region_local_msg_count: 0,
        global_msg_count,
        finish_count: 0,
        requeue_count: 0,
        timeout_count: 0,
        paused,
        consumers: vec![ConnToken(1)],
        latency: LatencyStats::default(),
    };
    ChannelEntry {
        stats,
        clients: vec![client],
    }
}
