//! What a run found, and how it is told: a table for people, JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::layer::Settled;
use crate::ledger::Verdict;
use crate::process::{Usage, count};

/// Above this share of the time a load thread may be what limits the run.
const BUSY_SHARE: f64 = 0.9;

/// Nanoseconds up to an hour, to three places.
///
/// # Panics
/// Never: the bounds are in order.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are in order")
}

/// One run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Run {
    /// Acknowledged publishes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) published: Option<Flow>,
    /// Finished messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) consumed: Option<Flow>,
    /// Messages requeued by policy.
    pub(crate) requeued: u64,
    /// Deliveries with attempts above 1.
    pub(crate) redelivered: u64,
    /// Answers that the broker refused as too late.
    pub(crate) answers_refused: u64,
    /// Deferred messages that came before they were due.
    pub(crate) early: u64,
    /// Messages that should have been consumed and were not.
    pub(crate) missing: u64,
    /// Messages that the channels still owe, when that was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) owed: Option<u64>,
    /// From the intended sending, or when a deferred message was due, to the receive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_us: Option<Percentiles>,
    /// From the intended sending to the actual one: the generator's own part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lateness_us: Option<Percentiles>,
    /// The books.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Verdict>,
    /// TLS and compression of its connections, as they were agreed on with the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<Settled>,
    /// What the broker used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) broker: Option<BrokerUse>,
    /// What the generator used.
    pub(crate) generator: GeneratorUse,
    /// What makes the numbers doubtful.
    pub(crate) warnings: Vec<String>,
}

/// Messages over time.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Flow {
    /// How many.
    pub(crate) messages: u64,
    /// From the start of the run to the last one.
    pub(crate) seconds: f64,
    /// Messages per second.
    pub(crate) rate: f64,
    /// MiB of bodies per second.
    pub(crate) mib_per_s: f64,
}

/// A distribution in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) p99_99: f64,
    pub(crate) max: f64,
}

/// What the broker used in a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct BrokerUse {
    /// Processor seconds.
    pub(crate) cpu_s: f64,
    /// The same per million messages (published, or consumed if nothing was published).
    pub(crate) cpu_s_per_million: f64,
    /// Memory before and after, and the most ever.
    pub(crate) rss_before_mib: f64,
    /// After the last publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rss_published_mib: Option<f64>,
    /// By how much memory grew until then, per message published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes_per_message: Option<f64>,
    /// After.
    pub(crate) rss_after_mib: f64,
    /// Ever.
    pub(crate) peak_mib: f64,
}

/// What the generator used in a run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct GeneratorUse {
    /// Processor seconds of the load threads.
    pub(crate) cpu_s: f64,
    /// Share of its time that the busiest load thread used a processor.
    pub(crate) busiest: f64,
}

/// All runs of a scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The subcommand.
    pub(crate) scenario: &'static str,
    /// The runs.
    pub(crate) runs: Vec<Run>,
    /// Medians over them.
    pub(crate) summary: Vec<Line>,
    /// Whether nothing failed.
    pub(crate) ok: bool,
}

/// A number over all runs.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// What, with its unit.
    pub(crate) name: &'static str,
    /// The middle.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
    /// Interquartile range over the median.
    pub(crate) relative_iqr: f64,
}

impl Flow {
    /// Messages and bytes in a time.
    pub(crate) fn new(messages: u64, body_bytes: u64, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        Self {
            messages,
            seconds,
            rate: per_second(count(messages)),
            mib_per_s: per_second(count(body_bytes) / f64::from(1 << 20)),
        }
    }
}

impl Percentiles {
    /// Of a histogram in nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| count(histogram.value_at_quantile(quantile)) / 1000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: count(histogram.max()) / 1000.0,
        }
    }
}

impl BrokerUse {
    /// Between two readings.
    pub(crate) fn between(before: Usage, after: Usage, messages: u64) -> Self {
        let mib = |kib: u64| count(kib) / 1024.0;
        let cpu_s = after.cpu_s - before.cpu_s;
        let millions = count(messages) / 1e6;
        Self {
            cpu_s,
            cpu_s_per_million: if messages > 0 { cpu_s / millions } else { 0.0 },
            rss_before_mib: mib(before.rss_kib),
            rss_published_mib: None,
            bytes_per_message: None,
            rss_after_mib: mib(after.rss_kib),
            peak_mib: mib(after.peak_kib),
        }
    }

    /// Adds a reading from when everything was published.
    pub(crate) fn note_published(&mut self, then: Usage, messages: u64) {
        let mib = count(then.rss_kib) / 1024.0;
        let grown = (mib - self.rss_before_mib).max(0.0) * f64::from(1 << 20);
        self.rss_published_mib = Some(mib);
        self.bytes_per_message = (messages > 0).then(|| grown / count(messages));
    }
}

impl Run {
    /// Whether nothing was lost, refused or doubled.
    pub(crate) fn is_ok(&self) -> bool {
        self.missing == 0
            && self.early == 0
            && self.answers_refused == 0
            && self.verdict.is_none_or(|v| v.holds())
    }

    /// Adds what the generator's use says of the numbers.
    pub(crate) fn judge_generator(&mut self) {
        if self.generator.busiest > BUSY_SHARE {
            self.warnings.push(format!(
                "a load thread was busy {:.0} % of the time: the generator may be the limit",
                self.generator.busiest * 100.0
            ));
        }
    }

    fn numbers(&self) -> Vec<(&'static str, f64)> {
        let mut list = Vec::new();
        if let Some(flow) = self.published {
            list.extend([
                ("published msg/s", flow.rate),
                ("published MiB/s", flow.mib_per_s),
            ]);
        }
        if let Some(flow) = self.consumed {
            list.extend([
                ("consumed msg/s", flow.rate),
                ("consumed MiB/s", flow.mib_per_s),
            ]);
        }
        if let Some(latency) = self.latency_us {
            list.extend([
                ("latency p50 us", latency.p50),
                ("latency p90 us", latency.p90),
                ("latency p99 us", latency.p99),
                ("latency p99.9 us", latency.p99_9),
                ("latency p99.99 us", latency.p99_99),
                ("latency max us", latency.max),
            ]);
        }
        if let Some(lateness) = self.lateness_us {
            let tail = ("sent late p99.9 us", lateness.p99_9);
            list.extend([
                ("sent late p50 us", lateness.p50),
                ("sent late p99 us", lateness.p99),
                tail,
            ]);
        }
        if let Some(broker) = self.broker {
            list.extend([
                ("broker CPU s", broker.cpu_s),
                ("broker CPU s/million", broker.cpu_s_per_million),
                ("broker RSS MiB before", broker.rss_before_mib),
                ("broker RSS MiB after", broker.rss_after_mib),
                ("broker RSS MiB peak", broker.peak_mib),
            ]);
            if let Some(bytes) = broker.bytes_per_message {
                list.push(("broker RSS bytes/message", bytes));
            }
        }
        list.push(("generator CPU s", self.generator.cpu_s));
        list.push(("generator busiest thread", self.generator.busiest));
        list
    }
}

impl Report {
    /// Sums up.
    pub(crate) fn new(scenario: &'static str, runs: Vec<Run>) -> Self {
        let all: Vec<Vec<(&'static str, f64)>> = runs.iter().map(Run::numbers).collect();
        let first = all.first().map_or(&[][..], Vec::as_slice);
        let column = |(row, (name, _)): (usize, &(&'static str, f64))| {
            Line::of(
                name,
                all.iter()
                    .filter_map(|numbers| Some(numbers.get(row)?.1))
                    .collect(),
            )
        };
        let summary = first.iter().enumerate().map(column).collect();
        let ok = runs.iter().all(Run::is_ok);
        Self {
            scenario,
            runs,
            summary,
            ok,
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}: {} run(s)\n", self.scenario, self.runs.len());
        let several = self.runs.len() > 1;
        for line in &self.summary {
            let mut row = format!("  {:<26}{:>16}", line.name, number(line.median));
            if several {
                let (min, max) = (number(line.min), number(line.max));
                let iqr = line.relative_iqr * 100.0;
                row += &format!("   {min:>14} .. {max:<14} IQR {iqr:.1} %");
            }
            text += &row;
            text.push('\n');
        }
        for (index, run) in self.runs.iter().enumerate() {
            text += &run.remarks(index + 1);
        }
        text
    }
}

impl Run {
    fn remarks(&self, number: usize) -> String {
        let mut text = String::new();
        let mut remark = |line: String| {
            writeln!(text, "  run {number}: {line}").expect("a string takes everything");
        };
        if let Some(flow) = self.published {
            remark(format!(
                "{} published in {:.3} s",
                flow.messages, flow.seconds
            ));
        }
        if let Some(flow) = self.consumed {
            remark(format!(
                "{} consumed in {:.3} s, {} requeued, {} delivered again",
                flow.messages, flow.seconds, self.requeued, self.redelivered
            ));
        }
        if let Some(layers) = &self.layers {
            remark(format!("through {layers}"));
        }
        if let Some(verdict) = self.verdict {
            remark(format!(
                "verified: {} lost, {} duplicated, {} foreign, {} out of order",
                verdict.lost, verdict.duplicated, verdict.foreign, verdict.reordered
            ));
        }
        if self.missing > 0 {
            remark(format!("FAILED: {} messages did not come", self.missing));
        }
        if self.early > 0 {
            remark(format!(
                "FAILED: {} messages came before they were due",
                self.early
            ));
        }
        if self.answers_refused > 0 {
            remark(format!(
                "FAILED: {} answers were refused as too late",
                self.answers_refused
            ));
        }
        for warning in &self.warnings {
            remark(format!("warning: {warning}"));
        }
        text
    }
}

impl Line {
    fn of(name: &'static str, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let median = quantile(&values, 2);
        let spread = quantile(&values, 3) - quantile(&values, 1);
        Self {
            name,
            median,
            min: values.first().copied().unwrap_or(0.0),
            max: values.last().copied().unwrap_or(0.0),
            relative_iqr: if median > 0.0 { spread / median } else { 0.0 },
        }
    }
}

/// A quartile of sorted values, between two of them if need be.
pub(crate) fn quantile(sorted: &[f64], quarter: usize) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let (low, rest) = (last * quarter / 4, last * quarter % 4);
    let share = [0.0, 0.25, 0.5, 0.75][rest];
    sorted[low] + share * (sorted[(low + 1).min(last)] - sorted[low])
}

/// Three significant places for small numbers, groups of three for large ones.
pub(crate) fn number(value: f64) -> String {
    if value < 1000.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).expect("digits are text"))
        .collect();
    groups.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles() {
        let line = Line::of("x", vec![4.0, 1.0, 2.0, 3.0, 5.0]);
        assert_eq!((line.median, line.min, line.max), (3.0, 1.0, 5.0));
        assert!((line.relative_iqr - 2.0 / 3.0).abs() < 1e-9);
        assert_eq!(Line::of("x", vec![1.0, 2.0]).median, 1.5);
        assert_eq!(Line::of("x", vec![]).median, 0.0);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(0.5), "0.50");
        assert_eq!(number(1234567.4), "1 234 567");
    }

    #[test]
    fn a_busy_generator_is_remarked_on() {
        let mut run = Run {
            generator: GeneratorUse {
                cpu_s: 1.0,
                busiest: 0.95,
            },
            ..Run::default()
        };
        run.judge_generator();
        assert_eq!(run.warnings.len(), 1);
        assert!(run.is_ok(), "a warning is no failure");
    }

    #[test]
    fn failures_fail_the_report() {
        let lost = Verdict {
            lost: 1,
            ..Verdict::default()
        };
        for run in [
            Run {
                missing: 1,
                ..Run::default()
            },
            Run {
                early: 1,
                ..Run::default()
            },
            Run {
                answers_refused: 1,
                ..Run::default()
            },
            Run {
                verdict: Some(lost),
                ..Run::default()
            },
        ] {
            assert!(!Report::new("x", vec![Run::default(), run]).ok);
        }
        assert!(Report::new("x", vec![Run::default()]).ok);
    }
}
