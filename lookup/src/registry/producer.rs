//! A producer: what one identified connection said of itself, and when it was last heard of.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde::Serialize;

use crate::json;

/// Unix time in nanoseconds, from a clock that does not go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub i64);

impl Now {
    /// Nanoseconds since an earlier time.
    #[must_use]
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Number of a producer in order of arrival; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProducerId(u64);

impl ProducerId {
    pub(super) const FIRST: Self = Self(1);

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What IDENTIFY said, and the peer's address. Serialized as lists show it, keys in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "named after the JSON keys")]
pub struct Announcement {
    pub remote_address: String,
    pub hostname: String,
    pub broadcast_address: String,
    pub tcp_port: i64,
    pub http_port: i64,
    pub version: String,
    pub topology_zone: String,
    pub topology_region: String,
}

/// See the module documentation. Shared by all who list it.
#[derive(Debug)]
pub struct Producer {
    id: ProducerId,
    announcement: Announcement,
    /// The announcement as JSON without the closing brace: it is written many times over.
    open_json: Box<str>,
    last_update: AtomicI64,
    /// Its connection has ended: hidden from everybody.
    is_retired: AtomicBool,
}

impl Producer {
    pub(super) fn new(id: ProducerId, announcement: Announcement, now: Now) -> Self {
        let mut open_json = json::to_string(&announcement);
        open_json.pop();
        Self {
            id,
            announcement,
            open_json: open_json.into_boxed_str(),
            last_update: AtomicI64::new(now.0),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> ProducerId {
        self.id
    }

    /// What it said.
    #[must_use]
    pub fn announcement(&self) -> &Announcement {
        &self.announcement
    }

    /// The JSON object of the announcement, left open for more keys: the caller adds `}`.
    #[must_use]
    pub fn open_json(&self) -> &str {
        &self.open_json
    }

    /// When it was last heard of.
    #[must_use]
    pub fn last_update(&self) -> Now {
        Now(self.last_update.load(Ordering::Relaxed))
    }

    /// PING: it was heard of now. Returns when it was before.
    pub fn touch(&self, now: Now) -> Now {
        Now(self.last_update.swap(now.0, Ordering::Relaxed))
    }

    pub(super) fn retire(&self) {
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// Whether its connection has ended, though the registry still has to forget it.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.is_retired.load(Ordering::Relaxed)
    }

    /// Whether it announced this address.
    #[must_use]
    pub fn is_at(&self, node: &NodeAddress<'_>) -> bool {
        let Announcement {
            broadcast_address,
            http_port,
            ..
        } = &self.announcement;
        *http_port == node.http_port
            && (broadcast_address == node.host || broadcast_address == node.unbracketed())
    }
}

/// A node as operators name it: `broadcast_address:http_port`, an IPv6 address with or without
/// brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddress<'a> {
    host: &'a str,
    http_port: i64,
}

impl<'a> NodeAddress<'a> {
    /// Reads it; `None` for what no producer can be at.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let http_port: i64 = port.parse().ok()?;
        // As text, like the reference: 04151 is another node than 4151.
        (http_port.to_string() == port).then_some(Self { host, http_port })
    }

    fn unbracketed(&self) -> &'a str {
        let inner = self
            .host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        inner.unwrap_or(self.host)
    }
}
