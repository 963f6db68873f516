//! `/stats`: the numbers of the whole broker, as JSON or as text.
//!
//! [`answer`] gathers a [`Report`], which both forms are views of; it lives as long as one request.
//! The work is linear in what is listed.

use std::borrow::Cow;

use nsq_core::Now;

use super::query::Query;
use super::response::{self, ApiError, Response};
use super::{stats_json, stats_text};
use crate::clock::unix_seconds;
use crate::gateway::{Broker, BrokerInfo, BrokerStats, StatsFilter};

/// What one request shows.
#[derive(Debug)]
pub(super) struct Report<'a> {
    pub(super) info: &'a BrokerInfo,
    /// `OK`, or `NOK - ` and why.
    pub(super) health: Cow<'static, str>,
    pub(super) stats: BrokerStats,
    /// Clients were wanted; without them their lists are absent rather than empty.
    pub(super) has_clients: bool,
    /// `None` where it was not wanted.
    pub(super) memory: Option<Memory>,
    pub(super) now: Now,
}

impl Report<'_> {
    /// Unix seconds.
    pub(super) fn now_seconds(&self) -> i64 {
        unix_seconds(self.now)
    }
}

/// The reference's view of its heap. Only what has a like here is not 0.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Memory {
    pub(crate) heap_objects: u64,
    pub(crate) heap_idle_bytes: u64,
    /// Resident memory of the process, without what it maps from files.
    pub(crate) heap_in_use_bytes: u64,
    pub(crate) heap_released_bytes: u64,
    pub(crate) gc_pause_usec_100: u64,
    pub(crate) gc_pause_usec_99: u64,
    pub(crate) gc_pause_usec_95: u64,
    pub(crate) next_gc_bytes: u64,
    pub(crate) gc_total_runs: u64,
}

/// `GET /stats`.
pub(super) async fn answer<B: Broker>(
    broker: &B,
    query: &str,
    now: Now,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_bytes()).map_err(|_| ApiError::INVALID_REQUEST)?;
    let text = |name| {
        query
            .get(name)
            .map(|value| String::from_utf8_lossy(&value).into_owned())
    };
    let filter = StatsFilter {
        topic: text("topic").unwrap_or_default(),
        channel: text("channel").unwrap_or_default(),
        include_clients: query.is_on("include_clients"),
    };
    let has_clients = filter.include_clients;
    let topic = filter.topic.clone();
    let mut stats = broker.stats(filter).await;
    if !topic.is_empty() {
        keep_publishes_to(&mut stats, &topic);
    }
    let report = Report {
        info: broker.info(),
        health: health(broker),
        stats,
        has_clients,
        memory: query.is_on("include_mem").then(memory),
        now,
    };
    Ok(if query.get("format").as_deref() == Some(b"json") {
        response::json(stats_json::render(&report))
    } else {
        response::text(stats_text::render(&report))
    })
}

/// `OK`, or `NOK - ` and why.
pub(super) fn health<B: Broker>(broker: &B) -> Cow<'static, str> {
    broker.health().map_or(Cow::Borrowed("OK"), |reason| {
        Cow::Owned(format!("NOK - {reason}"))
    })
}

/// With a topic filter all connections are still listed, but only with what they published to it.
fn keep_publishes_to(stats: &mut BrokerStats, topic: &str) {
    let consumers = stats
        .topics
        .iter_mut()
        .flat_map(|entry| &mut entry.channels);
    let consumers = consumers.flat_map(|channel| &mut channel.clients);
    for client in consumers.chain(&mut stats.producers) {
        client
            .pub_counts
            .retain(|(published, _)| published == topic);
    }
}

/// Reads the kernel's account of this process.
pub(crate) fn memory() -> Memory {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let page_bytes = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten();
    let page_bytes = page_bytes
        .and_then(|bytes| u64::try_from(bytes).ok())
        .unwrap_or(4096);
    let heap_in_use_bytes = anonymous_pages(&pages) * page_bytes;
    Memory {
        heap_in_use_bytes,
        ..Memory::default()
    }
}

/// `statm` is `size resident shared …`, in pages.
fn anonymous_pages(statm: &str) -> u64 {
    let mut fields = statm
        .split(' ')
        .skip(1)
        .map(|field| field.parse().unwrap_or(0_u64));
    let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernel() {
        assert_eq!(anonymous_pages("2345 600 250 13 0 400 0\n"), 350);
        assert_eq!(anonymous_pages(""), 0);
        assert!(memory().heap_in_use_bytes > 0);
    }
}
