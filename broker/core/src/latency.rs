//! End-to-end latency of a channel: the time from publish to FIN (spec nsqd.md §6.3).
//!
//! Each channel that has finished something owns two histograms of half a window each; the older
//! one is dropped when the newer one is full, so that a figure covers between half a window and a
//! whole one. A value is told to within 1 % or 1 µs, whichever is more. Memory is 14 KiB per such
//! channel, a little more when latencies exceed a second.
//!
//! Hot path: no allocation once grown, no formatting.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Now;

/// What is measured; without it nothing is.
#[derive(Debug, Clone, PartialEq)]
pub struct LatencyConfig {
    /// Quantiles wanted, each in (0, 1], in the order of output.
    pub percentiles: Vec<f64>,
    /// Samples older than this are left out.
    pub window: Duration,
}

/// The latency of a channel, or of all channels of a topic together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LatencyStats {
    /// Samples in the window.
    pub count: u64,
    /// `None` when nothing is measured, or there is no channel to measure it of.
    pub percentiles: Option<Vec<Percentile>>,
}

/// One figure of [`LatencyStats`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Percentile {
    /// In (0, 1].
    pub quantile: f64,
    /// Nanoseconds; 0 without samples.
    pub nanos: u64,
}

/// Below a microsecond nothing is told apart.
const NANOS_MIN: u64 = 1 << 10;
/// What a histogram has room for before it grows: about a second.
const NANOS_USUAL: u64 = 1 << 30;
/// Longer latencies count as this one: about two years.
const NANOS_MAX: u64 = 1 << 56;
/// Decimal digits that are right: the error is below 1 %.
const DIGITS: u8 = 2;

fn histogram() -> Histogram<u32> {
    let mut histogram = Histogram::new_with_bounds(NANOS_MIN, NANOS_USUAL, DIGITS)
        .expect("the bounds are an octave apart or more, and there are at most 5 digits");
    histogram.auto(true);
    histogram
}

/// The samples of one channel.
#[derive(Debug)]
pub(crate) struct Latencies {
    newer: Histogram<u32>,
    older: Histogram<u32>,
    /// When `newer` was begun.
    begun: Now,
}

impl Latencies {
    pub(crate) fn new(now: Now) -> Self {
        Self {
            newer: histogram(),
            older: histogram(),
            begun: now,
        }
    }

    /// Adds a sample.
    pub(crate) fn record(&mut self, config: &LatencyConfig, published: Now, now: Now) {
        let half = config.window / 2;
        if now >= self.begun.after(half) {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.reset();
            if now >= self.begun.after(half * 2) {
                self.older.reset();
            }
            self.begun = now;
        }
        let nanos = now.0.saturating_sub(published.0).min(NANOS_MAX);
        self.newer
            .record(nanos)
            .expect("it grows, and the value is within 64 bits");
    }

    /// Adds what is still within the window to `sum`.
    fn add_to(&self, sum: &mut Histogram<u32>, config: &LatencyConfig, now: Now) {
        let half = config.window / 2;
        let halves = [
            (&self.newer, self.begun.after(half * 2)),
            (&self.older, self.begun.after(half)),
        ];
        for (samples, ends) in halves {
            if now < ends {
                sum.add(samples).expect("the sum grows");
            }
        }
    }
}

/// The figures of some channels together.
pub(crate) fn merged<'a>(
    config: &LatencyConfig,
    channels: impl Iterator<Item = Option<&'a Latencies>>,
    now: Now,
) -> LatencyStats {
    let mut sum = histogram();
    let mut is_any = false;
    for channel in channels {
        is_any = true;
        if let Some(latencies) = channel {
            latencies.add_to(&mut sum, config, now);
        }
    }
    let percentiles = config.percentiles.iter().map(|&quantile| Percentile {
        quantile,
        nanos: sum.value_at_quantile(quantile),
    });
    LatencyStats {
        count: sum.len(),
        percentiles: is_any.then(|| percentiles.collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LatencyConfig {
        LatencyConfig {
            percentiles: vec![1.0, 0.99, 0.5],
            window: Duration::from_secs(10),
        }
    }

    fn seconds(seconds: u64) -> Now {
        Now(seconds * 1_000_000_000)
    }

    fn figures(latencies: &Latencies, now: Now) -> (u64, Vec<u64>) {
        let stats = merged(&config(), std::iter::once(Some(latencies)), now);
        let figures = stats.percentiles.unwrap_or_default();
        (stats.count, figures.iter().map(|p| p.nanos).collect())
    }

    #[test]
    fn figures_are_right_to_within_one_percent() {
        let now = seconds(1_000_000);
        let mut latencies = Latencies::new(now);
        for micros in 1..=10_000 {
            let published = Now(now.0 - micros * 1_000);
            latencies.record(&config(), published, now);
        }
        let (count, figures) = figures(&latencies, now);
        assert_eq!(count, 10_000);
        for (figure, exact) in figures.iter().zip([10_000_000, 9_900_000, 5_000_000_u64]) {
            let error = figure.abs_diff(exact);
            assert!(error <= exact / 100, "{figure} for {exact}");
        }
    }

    #[test]
    fn samples_leave_with_their_window() {
        let mut latencies = Latencies::new(seconds(100));
        let mut sample = |at: u64| latencies.record(&config(), seconds(at - 1), seconds(at));
        sample(100);
        sample(104);
        sample(106);
        assert_eq!(figures(&latencies, seconds(106)).0, 3);
        assert_eq!(figures(&latencies, seconds(111)).0, 1);
        assert_eq!(figures(&latencies, seconds(116)), (0, vec![0, 0, 0]));
        latencies.record(&config(), seconds(199), seconds(200));
        assert_eq!(figures(&latencies, seconds(200)).0, 1);
    }

    #[test]
    fn whatever_the_clock_says_it_is_a_sample() {
        let mut latencies = Latencies::new(Now(0));
        latencies.record(&config(), seconds(9), seconds(1));
        latencies.record(&config(), Now(0), Now(u64::MAX / 2));
        let (count, figures) = figures(&latencies, Now(u64::MAX / 2));
        assert_eq!(count, 1, "the first one is long gone");
        assert!(figures[0] >= NANOS_MAX, "{figures:?}");
    }

    #[test]
    fn without_a_channel_there_are_no_figures() {
        let stats = merged(&config(), std::iter::empty(), Now(0));
        assert_eq!(stats, LatencyStats::default());
    }
}
