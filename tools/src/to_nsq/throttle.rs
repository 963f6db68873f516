//! A limit of messages per second.

use std::time::{Duration, Instant};

/// One message per interval; what was not used is saved, for at most a second. Pure: the time is
/// passed in.
#[derive(Debug)]
pub(super) struct Throttle {
    interval: Duration,
    /// When the next message is due; in the past while some are saved.
    due: Instant,
}

impl Throttle {
    /// That many messages per second; `None` for 0, which is no limit.
    pub(super) fn new(rate: u32, now: Instant) -> Option<Self> {
        (rate > 0).then(|| Self {
            interval: Duration::from_secs(1) / rate,
            due: now,
        })
    }

    /// Takes the right to send one message: how long to wait before it is used.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        let saved = Duration::from_secs(1).saturating_sub(self.interval);
        let earliest = now.checked_sub(saved).unwrap_or(now);
        self.due = self.due.max(earliest);
        let delay = self.due.saturating_duration_since(now);
        self.due += self.interval;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(200);

    #[test]
    fn messages_are_spread_over_the_second() {
        let now = Instant::now();
        let mut throttle = Throttle::new(5, now).expect("a limit");
        for number in 0..10 {
            assert_eq!(throttle.take(now), STEP * number);
        }
    }

    #[test]
    fn a_second_of_silence_is_saved_and_no_more() {
        let now = Instant::now();
        let mut throttle = Throttle::new(5, now).expect("a limit");
        let later = now + Duration::from_secs(60);
        let delays: Vec<Duration> = (0..7).map(|_| throttle.take(later)).collect();
        assert_eq!(delays[..5], [Duration::ZERO; 5]);
        assert_eq!(delays[5..], [STEP, STEP * 2]);
    }

    #[test]
    fn zero_is_no_limit() {
        assert!(Throttle::new(0, Instant::now()).is_none());
    }
}
