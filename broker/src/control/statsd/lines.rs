//! The lines of one push, in the reference's names and order (spec nsqd.md §6.2).

use std::collections::HashMap;

use nsq_core::LatencyStats;

use crate::config::Statsd;
use crate::gateway::{BrokerStats, ChannelEntry, TopicEntry};
use crate::http::Memory;

/// The counters as they were pushed last, by name; those of topics that are gone are gone too.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counters(HashMap<String, u64>);

/// Gathers the lines.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    settings: &'a Statsd,
    last: &'a Counters,
    now: Counters,
    /// Each with its newline.
    lines: Vec<String>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(settings: &'a Statsd, last: &'a Counters) -> Self {
        Self {
            settings,
            last,
            now: Counters::default(),
            lines: Vec::new(),
        }
    }

    /// The lines, and the counters that the next push is compared with.
    pub(super) fn finish(self) -> (Vec<String>, Counters) {
        (self.lines, self.now)
    }

    /// All topics, by name, with their channels, by name.
    pub(super) fn broker(&mut self, stats: &BrokerStats) {
        let exclude = self.settings.exclude_ephemeral;
        for topic in &stats.topics {
            if exclude && topic.stats.name.is_ephemeral() {
                continue;
            }
            self.topic(topic);
            for channel in &topic.channels {
                if !(exclude && channel.stats.name.is_ephemeral()) {
                    self.channel(topic, channel);
                }
            }
        }
    }

    fn topic(&mut self, topic: &TopicEntry) {
        let stats = &topic.stats;
        let prefix = format!("topic.{}.", stats.name);
        self.count(&prefix, "message_count", stats.message_count);
        self.count(&prefix, "message_bytes", stats.message_bytes);
        self.gauge(&prefix, "depth", stats.depth);
        self.gauge(&prefix, "backend_depth", stats.backend_depth);
        self.latency(&prefix, &stats.latency);
    }

    fn channel(&mut self, topic: &TopicEntry, channel: &ChannelEntry) {
        let stats = &channel.stats;
        let prefix = format!("topic.{}.channel.{}.", topic.stats.name, stats.name);
        self.count(&prefix, "message_count", stats.message_count);
        self.gauge(&prefix, "depth", stats.depth);
        self.gauge(&prefix, "backend_depth", stats.backend_depth);
        self.gauge(&prefix, "in_flight_count", stats.in_flight_count);
        self.gauge(&prefix, "deferred_count", stats.deferred_count);
        self.count(&prefix, "requeue_count", stats.requeue_count);
        self.count(&prefix, "timeout_count", stats.timeout_count);
        self.gauge(&prefix, "clients", stats.consumers.len() as u64);
        self.latency(&prefix, &stats.latency);
    }

    /// Nanoseconds, in the order of the configuration.
    fn latency(&mut self, prefix: &str, latency: &LatencyStats) {
        for percentile in latency.percentiles.iter().flatten() {
            let name = format!("e2e_processing_latency_{}", percent(percentile.quantile));
            self.gauge(prefix, &name, percentile.nanos);
        }
    }

    /// The process.
    pub(super) fn memory(&mut self, memory: &Memory) {
        let prefix = "mem.";
        self.gauge(prefix, "heap_objects", memory.heap_objects);
        self.gauge(prefix, "heap_idle_bytes", memory.heap_idle_bytes);
        self.gauge(prefix, "heap_in_use_bytes", memory.heap_in_use_bytes);
        self.gauge(prefix, "heap_released_bytes", memory.heap_released_bytes);
        self.gauge(prefix, "gc_pause_usec_100", memory.gc_pause_usec_100);
        self.gauge(prefix, "gc_pause_usec_99", memory.gc_pause_usec_99);
        self.gauge(prefix, "gc_pause_usec_95", memory.gc_pause_usec_95);
        self.gauge(prefix, "next_gc_bytes", memory.next_gc_bytes);
        self.count(prefix, "gc_runs", memory.gc_total_runs);
    }

    fn gauge(&mut self, prefix: &str, name: &str, value: u64) {
        let start = &self.settings.prefix;
        self.lines
            .push(format!("{start}{prefix}{name}:{value}|g\n"));
    }

    /// What was added since the last push. A counter that has fallen has begun anew (K18).
    fn count(&mut self, prefix: &str, name: &str, value: u64) {
        let name = format!("{prefix}{name}");
        let last = self.last.0.get(&name).copied().unwrap_or(0);
        let added = value.checked_sub(last).unwrap_or(value);
        let start = &self.settings.prefix;
        self.lines.push(format!("{start}{name}:{added}|c\n"));
        self.now.0.insert(name, value);
    }
}

/// The percentage in the name of a figure: `99`, and `99_9` where the reference rounds to `100`, so that
/// no two are named alike (K18). `quantile` is in (0, 1]. Its digits are shifted as text: they are exact.
fn percent(quantile: f64) -> String {
    let text = quantile.to_string();
    let Some(digits) = text.strip_prefix("0.") else {
        return "100".to_owned();
    };
    let digits = format!("{digits:0<2}");
    let (whole, rest) = digits.split_at(2);
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    if rest.is_empty() {
        whole.to_owned()
    } else {
        format!("{whole}_{rest}")
    }
}

/// Datagrams of up to `size` bytes, in order. A line is never split; a longer one goes alone.
pub(super) fn pack(lines: &[String], size: usize) -> Vec<Vec<u8>> {
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        match datagrams.last_mut() {
            Some(last) if last.len() + line.len() <= size => {
                last.extend_from_slice(line.as_bytes())
            }
            _ => datagrams.push(line.clone().into_bytes()),
        }
    }
    datagrams
}

#[cfg(test)]
mod tests {
    use nsq_core::Percentile;
    use nsq_proto::{ChannelName, TopicName};

    use super::*;
    use crate::http::busy_stats;

    fn settings() -> Statsd {
        Statsd {
            address: "127.0.0.1:8125".to_owned(),
            prefix: "nsq.h_1.".to_owned(),
            interval: std::time::Duration::from_secs(60),
            mem_stats: true,
            udp_packet_size: 508,
            exclude_ephemeral: false,
        }
    }

    fn push(settings: &Statsd, stats: &BrokerStats, last: &Counters) -> (Vec<String>, Counters) {
        let mut lines = Lines::new(settings, last);
        lines.broker(stats);
        let (lines, counters) = lines.finish();
        let lines = lines.iter().map(|line| line.trim_end().to_owned());
        (lines.collect(), counters)
    }

    #[test]
    fn names_kinds_and_order_are_the_references() {
        let mut stats = busy_stats();
        stats
            .topics
            .retain(|topic| topic.stats.name.as_str() == "tc");
        stats.topics[0].channels.truncate(1);
        let channel = &mut stats.topics[0].channels[0].stats;
        (channel.requeue_count, channel.timeout_count) = (4, 5);
        (channel.deferred_count, channel.backend_depth) = (6, 7);
        let (lines, _) = push(&settings(), &stats, &Counters::default());
        let expected = [
            "topic.tc.message_count:3|c",
            "topic.tc.message_bytes:7|c",
            "topic.tc.depth:0|g",
            "topic.tc.backend_depth:0|g",
            "topic.tc.channel.ch.message_count:3|c",
            "topic.tc.channel.ch.depth:1|g",
            "topic.tc.channel.ch.backend_depth:7|g",
            "topic.tc.channel.ch.in_flight_count:2|g",
            "topic.tc.channel.ch.deferred_count:6|g",
            "topic.tc.channel.ch.requeue_count:4|c",
            "topic.tc.channel.ch.timeout_count:5|c",
            "topic.tc.channel.ch.clients:1|g",
        ];
        assert_eq!(lines, expected.map(|line| format!("nsq.h_1.{line}")));
    }

    #[test]
    fn percentiles_follow_what_they_are_of() {
        let mut stats = busy_stats();
        stats
            .topics
            .retain(|topic| topic.stats.name.as_str() == "tc");
        stats.topics[0].channels.truncate(1);
        let latency = |nanos: [u64; 2]| LatencyStats {
            count: 3,
            percentiles: Some(vec![
                Percentile {
                    quantile: 0.999,
                    nanos: nanos[0],
                },
                Percentile {
                    quantile: 0.5,
                    nanos: nanos[1],
                },
            ]),
        };
        stats.topics[0].stats.latency = latency([4_000, 3_000]);
        stats.topics[0].channels[0].stats.latency = latency([2_000, 1_000]);
        let (lines, _) = push(&settings(), &stats, &Counters::default());
        let topic = [
            "nsq.h_1.topic.tc.e2e_processing_latency_99_9:4000|g",
            "nsq.h_1.topic.tc.e2e_processing_latency_50:3000|g",
        ];
        assert_eq!(lines[4..6], topic, "after the topic's other lines");
        let channel = [
            "nsq.h_1.topic.tc.channel.ch.e2e_processing_latency_99_9:2000|g",
            "nsq.h_1.topic.tc.channel.ch.e2e_processing_latency_50:1000|g",
        ];
        assert_eq!(lines[14..], channel, "after the channel's other lines");
    }

    #[test]
    fn percentages_are_the_references_where_it_does_not_round() {
        let names = [
            (1.0, "100"),
            (0.999, "99_9"),
            (0.99, "99"),
            (0.5, "50"),
            (0.07, "7"),
            (0.005, "0_5"),
            (0.29, "29"),
            (1e-7, "0_00001"),
        ];
        for (quantile, name) in names {
            assert_eq!(percent(quantile), name);
        }
    }

    #[test]
    fn memory_keeps_its_keys() {
        let settings = Statsd {
            prefix: String::new(),
            ..settings()
        };
        let last = Counters::default();
        let mut lines = Lines::new(&settings, &last);
        lines.memory(&Memory {
            heap_in_use_bytes: 12,
            ..Memory::default()
        });
        let (lines, _) = lines.finish();
        assert_eq!(lines.len(), 9);
        assert_eq!(lines[2], "mem.heap_in_use_bytes:12|g\n");
        assert_eq!(lines[8], "mem.gc_runs:0|c\n");
    }

    #[test]
    fn counters_are_what_was_added_and_begin_anew_with_a_new_topic() {
        let mut stats = busy_stats();
        let settings = settings();
        let count = |lines: &[String]| -> String {
            let name = "topic.t2.message_count";
            let line = lines.iter().find(|line| line.contains(name)).unwrap();
            line.rsplit_once(':').unwrap().1.to_owned()
        };
        let (lines, last) = push(&settings, &stats, &Counters::default());
        assert_eq!(count(&lines), "5|c");
        stats.topics[0].stats.message_count = 12;
        let (lines, last) = push(&settings, &stats, &last);
        assert_eq!(count(&lines), "7|c");
        stats.topics[0].stats.message_count = 3;
        let (lines, last) = push(&settings, &stats, &last);
        assert_eq!(count(&lines), "3|c", "deleted and made again");
        let (_, last) = push(&settings, &BrokerStats::default(), &last);
        assert_eq!(last, Counters::default(), "what is gone is forgotten");
    }

    #[test]
    fn ephemeral_names_can_be_left_out() {
        let mut stats = busy_stats();
        stats.topics[0].stats.name = TopicName::parse(b"t2#ephemeral").unwrap();
        let channel = &mut stats.topics[1].channels[0].stats;
        channel.name = ChannelName::parse(b"ch#ephemeral").unwrap();
        let mut settings = settings();
        let (lines, _) = push(&settings, &stats, &Counters::default());
        assert_eq!(lines.len(), 4 + 4 + 8 + 8);
        settings.exclude_ephemeral = true;
        let (lines, _) = push(&settings, &stats, &Counters::default());
        assert_eq!(lines.len(), 4 + 8);
        assert!(lines.iter().all(|line| !line.contains('#')));
    }

    #[test]
    fn datagrams_hold_whole_lines() {
        let lines = ["aaaa\n", "bbb\n", "c\n", "dddddddddddddd\n", "e\n"].map(str::to_owned);
        let packed = pack(&lines, 9);
        let expected: [&[u8]; 4] = [b"aaaa\nbbb\n", b"c\n", b"dddddddddddddd\n", b"e\n"];
        assert_eq!(packed, expected);
        assert!(pack(&[], 9).is_empty());
    }
}
