//! `/stats` as text: the layout that people and scripts read off a terminal, to the byte.
//!
//! Every block begins with an empty line. Columns are as wide as the reference makes them and give
//! way to longer values.

use std::fmt::{self, Write};
use std::time::Duration;

use chrono::{Local, SecondsFormat, TimeZone};
use nsq_cli::{TOOLCHAIN, format_duration};
use nsq_core::LatencyStats;

use super::stats::{Memory, Report};
use crate::gateway::{ChannelEntry, ClientStats, TopicEntry};

/// Renders the page, with times in the local time zone.
pub(super) fn render(report: &Report<'_>) -> String {
    render_in(report, &Local)
}

fn render_in<Z: TimeZone>(report: &Report<'_>, zone: &Z) -> String {
    let mut page = String::new();
    write_page(&mut page, report, zone).expect("writing to a string cannot fail");
    page
}

fn write_page<Z: TimeZone>(page: &mut String, report: &Report<'_>, zone: &Z) -> fmt::Result {
    let info = report.info;
    writeln!(page, "nsqd v{} (built w/{TOOLCHAIN})", info.version)?;
    writeln!(page, "start_time {}", rfc3339(info.start_time, zone))?;
    let start = Duration::from_secs(u64::try_from(info.start_time).unwrap_or(0));
    let uptime = Duration::from_nanos(report.now.0).saturating_sub(start);
    writeln!(page, "uptime {}", go_duration(uptime))?;
    writeln!(page, "\nHealth: {}", report.health)?;
    if let Some(memory) = &report.memory {
        write_memory(page, memory)?;
    }
    if report.stats.topics.is_empty() {
        page.push_str("\nTopics: None\n");
    } else {
        page.push_str("\nTopics:");
        for topic in &report.stats.topics {
            write_topic(page, topic, report.now_seconds())?;
        }
    }
    if report.stats.producers.is_empty() {
        page.push_str("\nProducers: None\n");
    } else {
        page.push_str("\nProducers:\n");
        for producer in &report.stats.producers {
            page.push_str("   ");
            write_client(page, producer, report.now_seconds())?;
        }
    }
    Ok(())
}

fn write_memory(page: &mut String, memory: &Memory) -> fmt::Result {
    page.push_str("\nMemory:\n");
    for (name, value) in [
        ("heap_objects", memory.heap_objects),
        ("heap_idle_bytes", memory.heap_idle_bytes),
        ("heap_in_use_bytes", memory.heap_in_use_bytes),
        ("heap_released_bytes", memory.heap_released_bytes),
        ("gc_pause_usec_100", memory.gc_pause_usec_100),
        ("gc_pause_usec_99", memory.gc_pause_usec_99),
        ("gc_pause_usec_95", memory.gc_pause_usec_95),
        ("next_gc_bytes", memory.next_gc_bytes),
        ("gc_total_runs", memory.gc_total_runs),
    ] {
        writeln!(page, "   {name:<25}\t{value}")?;
    }
    Ok(())
}

/// The line of a topic, after an empty one or the heading, and those of its channels.
fn write_topic(page: &mut String, entry: &TopicEntry, now: i64) -> fmt::Result {
    let stats = &entry.stats;
    let prefix = if stats.paused { "*P " } else { "   " };
    writeln!(
        page,
        "\n{prefix}[{:<15}] depth: {:<5} be-depth: {:<5} msgs: {:<8} e2e%: {}",
        stats.name.as_str(),
        stats.depth,
        stats.backend_depth,
        stats.message_count,
        latency(&stats.latency),
    )?;
    entry
        .channels
        .iter()
        .try_for_each(|channel| write_channel(page, channel, now))
}

fn write_channel(page: &mut String, entry: &ChannelEntry, now: i64) -> fmt::Result {
    let stats = &entry.stats;
    let prefix = if stats.paused { "   *P " } else { "      " };
    writeln!(
        page,
        "{prefix}[{:<25}] depth: {:<5} be-depth: {:<5} inflt: {:<4} def: {:<4} re-q: {:<5} \
         timeout: {:<5} msgs: {:<8} e2e%: {}",
        stats.name.as_str(),
        stats.depth,
        stats.backend_depth,
        stats.in_flight_count,
        stats.deferred_count,
        stats.requeue_count,
        stats.timeout_count,
        stats.message_count,
        latency(&stats.latency),
    )?;
    for client in &entry.clients {
        page.push_str("        ");
        write_client(page, client, now)?;
    }
    Ok(())
}

/// The figures in the order in which they were asked for; empty where nothing is measured.
fn latency(stats: &LatencyStats) -> String {
    let figures = stats.percentiles.iter().flatten();
    let shown: Vec<String> = figures.map(|figure| short_duration(figure.nanos)).collect();
    shown.join(", ")
}

#[expect(
    clippy::cast_precision_loss,
    reason = "one digit behind the point is shown"
)]
fn short_duration(nanos: u64) -> String {
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us")];
    let nanos = nanos as f64;
    let unit = units.into_iter().find(|(unit, _)| nanos > *unit);
    let (unit, name) = unit.unwrap_or((1.0, "ns"));
    format!("{:.1}{name}", nanos / unit)
}

/// One connection; what it published is shown in place of what it consumed.
fn write_client(page: &mut String, stats: &ClientStats, now: i64) -> fmt::Result {
    let port = stats
        .remote_address
        .rsplit_once(':')
        .map_or("", |(_, port)| port);
    let name = format!("{}:{port} {}", stats.hostname, stats.user_agent);
    write!(page, "[V2 {name:<21}] ")?;
    if stats.pub_counts.is_empty() {
        write!(
            page,
            "state: {} inflt: {:<4} rdy: {:<4} fin: {:<8} re-q: {:<8} msgs: {:<8}",
            stats.state,
            stats.in_flight_count,
            stats.ready_count,
            stats.finish_count,
            stats.requeue_count,
            stats.message_count,
        )?;
    } else {
        let published: u64 = stats.pub_counts.iter().map(|(_, count)| count).sum();
        write!(page, "msgs: {published:<8} topics: ")?;
        for (index, (topic, count)) in stats.pub_counts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(page, "{comma}{topic}={count}")?;
        }
    }
    let connected = u64::try_from(now.saturating_sub(stats.connect_ts)).unwrap_or(0);
    writeln!(
        page,
        " connected: {}",
        go_duration(Duration::from_secs(connected))
    )
}

fn go_duration(duration: Duration) -> String {
    format_duration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}

fn rfc3339<Z: TimeZone>(unix_seconds: i64, zone: &Z) -> String {
    zone.timestamp_opt(unix_seconds, 0)
        .single()
        .map_or_else(String::new, |time| {
            time.to_rfc3339_opts(SecondsFormat::Secs, true)
        })
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, Utc};

    use super::super::tests::fixture;
    use super::*;

    #[test]
    fn page_of_a_busy_broker() {
        let expected = format!(
            "nsqd v1.3.0 (built w/{TOOLCHAIN})
start_time 2026-11-21T03:29:39Z
uptime 5m6.778252331s

Health: OK

Memory:
   heap_objects             \t0
   heap_idle_bytes          \t0
   heap_in_use_bytes        \t1589248
   heap_released_bytes      \t0
   gc_pause_usec_100        \t0
   gc_pause_usec_99         \t0
   gc_pause_usec_95         \t0
   next_gc_bytes            \t0
   gc_total_runs            \t0

Topics:
   [t2             ] depth: 5     be-depth: 0     msgs: 5        e2e%: 

*P [tc             ] depth: 0     be-depth: 0     msgs: 3        e2e%: 
      [ch                       ] depth: 1     be-depth: 0     inflt: 2    def: 0    re-q: 0     timeout: 0     msgs: 3        e2e%: 
        [V2 host.example.com:51898 ua/1.0] state: 3 inflt: 2    rdy: 2    fin: 0        re-q: 0        msgs: 2        connected: 1s
   *P [ch2                      ] depth: 3     be-depth: 0     inflt: 0    def: 0    re-q: 0     timeout: 0     msgs: 3        e2e%: 
        [V2 127.0.0.1:51910      ] state: 3 inflt: 0    rdy: 0    fin: 0        re-q: 0        msgs: 0        connected: 1s

Producers:
   [V2 phost:51914 puA      ] msgs: 4        topics: other=1,tc=3 connected: 1s
"
        );
        assert_eq!(render_in(&fixture::report(fixture::busy()), &Utc), expected);
    }

    #[test]
    fn page_of_an_idle_broker() {
        let mut report = fixture::report(crate::gateway::BrokerStats::default());
        report.memory = None;
        report.health = "NOK - no space left".into();
        let expected = format!(
            "nsqd v1.3.0 (built w/{TOOLCHAIN})
start_time 2026-11-21T04:29:39+01:00
uptime 5m6.778252331s

Health: NOK - no space left

Topics: None

Producers: None
"
        );
        let zone = FixedOffset::east_opt(3600).unwrap();
        assert_eq!(render_in(&report, &zone), expected);
    }

    #[test]
    fn latencies_read_as_the_reference_writes_them() {
        let shown = [0, 1_000, 1_001, 4_717_686, 1_000_000_000, 93_000_000_000];
        assert_eq!(
            shown.map(short_duration),
            ["0.0ns", "1000.0ns", "1.0us", "4.7ms", "1000.0ms", "93.0s"]
        );
        let percentile = |quantile, nanos| nsq_core::Percentile { quantile, nanos };
        let stats = LatencyStats {
            count: 9,
            percentiles: Some(vec![percentile(1.0, 2_500_000), percentile(0.5, 0)]),
        };
        assert_eq!(latency(&stats), "2.5ms, 0.0ns");
        assert_eq!(latency(&LatencyStats::default()), "");
    }

    #[test]
    fn unix_socket_clients_have_no_port() {
        let client = ClientStats {
            hostname: "h".to_owned(),
            remote_address: "@".to_owned(),
            connect_ts: 5,
            ..ClientStats::default()
        };
        let mut line = String::new();
        write_client(&mut line, &client, 3).unwrap();
        assert!(
            line.starts_with("[V2 h:                   ] state: 0 "),
            "{line}"
        );
        assert!(line.ends_with(" connected: 0s\n"), "{line}");
    }
}
