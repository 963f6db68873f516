//! How long requests take: the status lines of `nsq_to_http` and `nsq_to_nsq`.

use std::time::Duration;

use crate::command::note;

/// Fewer values than this say little about a 99th percentile.
const VALUES_MIN: usize = 100;

/// The last `every` durations. Owner: the task that settles messages.
#[derive(Debug)]
pub(crate) struct Timing {
    prefix: String,
    /// Window and period of the lines; 0 = off.
    every: usize,
    window: Vec<Duration>,
    /// Where the next value goes.
    position: usize,
}

impl Timing {
    /// Lines that begin with the prefix, one for `every` values; none for 0.
    pub(crate) fn new(every: usize, prefix: String) -> Self {
        if (1..VALUES_MIN).contains(&every) {
            note(format_args!(
                "Warning: use more than 100 status values for accurate percentiles (configured with {every})"
            ));
        }
        Self {
            prefix,
            every,
            window: Vec::new(),
            position: 0,
        }
    }

    /// Takes in a value; the first one after a full window gives the line to print.
    pub(crate) fn record(&mut self, value: Duration) -> Option<String> {
        if self.every == 0 {
            return None;
        }
        let wraps = self.position == self.every;
        if wraps {
            self.position = 0;
        }
        match self.window.get_mut(self.position) {
            Some(slot) => *slot = value,
            None => self.window.push(value),
        }
        self.position += 1;
        wraps.then(|| self.line())
    }

    fn line(&self) -> String {
        let mut sorted = self.window.clone();
        sorted.sort_unstable();
        let count = sorted.len();
        let total: f64 = sorted.iter().map(|value| millis(*value)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a window is small")]
        let average = total / count as f64;
        format!(
            "{} finished {count} - 99th: {:.2}ms - 95th: {:.2}ms - avg: {average:.2}ms",
            self.prefix,
            millis(percentile(&sorted, 99)),
            millis(percentile(&sorted, 95)),
        )
    }
}

fn millis(value: Duration) -> f64 {
    value.as_secs_f64() * 1000.0
}

/// The entry at `ceil(percent * count + 1/2)`, at most the last: the choice of the reference.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let index = (2 * percent * sorted.len() + 100).div_ceil(200);
    sorted[index.min(sorted.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_with_the_first_value_of_each_further_window() {
        let mut timing = Timing::new(4, "[aggregate]:".into());
        let lines: Vec<Option<String>> = (1..=9)
            .map(|n| timing.record(Duration::from_millis(n)))
            .collect();
        assert!(lines[..4].iter().all(Option::is_none));
        let first = "[aggregate]: finished 4 - 99th: 5.00ms - 95th: 5.00ms - avg: 3.50ms";
        assert_eq!(lines[4].as_deref(), Some(first));
        assert!(lines[5..8].iter().all(Option::is_none));
        assert!(lines[8].is_some());
    }

    #[test]
    fn percentiles_are_the_references() {
        let sorted: Vec<Duration> = (0..250).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 95), Duration::from_millis(238));
        assert_eq!(percentile(&sorted, 99), Duration::from_millis(248));
        assert_eq!(percentile(&sorted[..1], 99), Duration::ZERO);
    }

    #[test]
    fn zero_is_off() {
        let mut timing = Timing::new(0, String::new());
        assert!((0..500).all(|_| timing.record(Duration::ZERO).is_none()));
    }
}
