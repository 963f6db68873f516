//! `/stats`: the numbers of the whole broker, as JSON or as text.
//!
//! [`answer`] gathers a [`Report`], which both forms are views of; it lives as long as one request.
//! The work is linear in what is listed.

use std::borrow::Cow;

use nsq_core::Now;

use super::parse_query;
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

/// The memory of the process under the reference's keys, as the kernel accounts for it.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Memory {
    /// 0: the allocator does not count its objects.
    pub(crate) heap_objects: u64,
    /// Reserved for data (heap, stacks, buffers) with no memory behind it.
    pub(crate) heap_idle_bytes: u64,
    /// Memory that is in use for data, resident or swapped out; without what is mapped from files.
    pub(crate) heap_in_use_bytes: u64,
    /// Of the idle bytes, those that no memory is behind: all of them.
    pub(crate) heap_released_bytes: u64,
    /// 0, as all that follow: nothing is collected here, so nothing pauses for it.
    pub(crate) gc_pause_usec_100: u64,
    /// 0.
    pub(crate) gc_pause_usec_99: u64,
    /// 0.
    pub(crate) gc_pause_usec_95: u64,
    /// 0.
    pub(crate) next_gc_bytes: u64,
    /// 0.
    pub(crate) gc_total_runs: u64,
}

/// `GET /stats`.
pub(super) async fn answer<B: Broker>(
    broker: &B,
    query: &str,
    now: Now,
) -> Result<Response, ApiError> {
    let query = parse_query(broker, query)?;
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
    Memory::of(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

impl Memory {
    /// From `/proc/<pid>/status`.
    fn of(status: &str) -> Self {
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|rest| rest.strip_prefix(':')?.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let in_use: u64 = kib("RssAnon") + kib("VmSwap");
        let idle: u64 = u64::saturating_sub(kib("VmData"), in_use);
        Self {
            heap_idle_bytes: idle * 1024,
            heap_in_use_bytes: in_use * 1024,
            heap_released_bytes: idle * 1024,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernel() {
        let status = "Name:\tnsqd\nVmData:\t  900 kB\nRssAnon:\t     300 kB\nVmSwap:\t  20 kB\n";
        let memory = Memory::of(status);
        assert_eq!(memory.heap_in_use_bytes, 320 * 1024);
        assert_eq!(memory.heap_idle_bytes, 580 * 1024);
        assert_eq!(memory.heap_released_bytes, memory.heap_idle_bytes);
        assert_eq!(Memory::of("").heap_idle_bytes, 0);
    }

    #[test]
    fn what_is_allocated_is_seen() {
        let before = memory();
        assert!(before.heap_in_use_bytes > 0 && before.heap_idle_bytes > 0);
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        let with = memory().heap_in_use_bytes;
        drop(touched);
        // Other tests run beside this one.
        assert!(with >= before.heap_in_use_bytes + (32 << 20), "{with}");
    }
}
