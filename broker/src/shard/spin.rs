//! Whether to spin before parking: only where it was seen to get more work done.
//!
//! A wake-up costs more than most turns, so a shard that looks again instead of parking answers a
//! client that waits for each answer several times as fast. Where the load comes at its own pace,
//! spinning gets nothing more done; it takes a core from whoever else has work, the clients on
//! the same machine first. The two cannot be told apart by looking at the gaps, so it is tried:
//! while gaps are short, a trial runs windows with and without spinning in turn and compares the
//! work that was done in them.

use std::time::Duration;

use nsq_core::Now;

/// Length of one window of a trial.
const WINDOW: Duration = Duration::from_millis(4);
/// Windows of a trial, half of them spinning.
const WINDOWS: u8 = 4;
/// Spinning goes on while it does at least so much more work than parking, in percent.
const GAIN_PERCENT: u64 = 130;
/// How long the outcome holds when spinning has paid off.
const PAYS: Duration = Duration::from_secs(1);
/// How long it holds when it has not, at first and at most; doubled each time.
const USELESS_MIN: Duration = Duration::from_millis(250);
const USELESS_MAX: Duration = Duration::from_secs(4);
/// Spinning is tried while the average gap is below so many times the longest spin: a gap that ends in a
/// wake-up is longer than the same gap spun through.
const TRIED_BELOW: u64 = 4;
/// A gap counts as no longer than this.
const GAP_MAX_NS: u64 = 1_000_000_000;

/// What is known about spinning at the moment.
#[derive(Debug, Clone, Copy)]
enum Belief {
    /// It helps, or not, until a certain time.
    Known { pays: bool, until: Now },
    /// Being tried: this window, since when, and the work done before it.
    Trial { window: u8, since: Now, work: u64 },
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Spin {
    /// The longest wait that is spun through; zero: never spins.
    limit_ns: u64,
    /// Moving average of the idle gaps.
    gap_ns: u64,
    idle_since: Option<Now>,
    belief: Belief,
    /// Work done in the trial's windows without and with spinning.
    done: [u64; 2],
    /// How long the next disappointment is remembered.
    useless: Duration,
}

impl Spin {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit_ns: u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX),
            gap_ns: GAP_MAX_NS,
            idle_since: None,
            belief: Belief::Known {
                pays: false,
                until: Now(0),
            },
            done: [0; 2],
            useless: USELESS_MIN,
        }
    }

    /// Something happened at `now`; `work` counts what was ever done.
    pub(super) fn on_event(&mut self, now: Now, work: u64) {
        if let Some(since) = self.idle_since.take() {
            let gap = now.0.saturating_sub(since.0).min(GAP_MAX_NS);
            self.gap_ns = (self.gap_ns * 7 + gap) / 8;
            if gap == GAP_MAX_NS {
                // Another load may begin here.
                self.useless = USELESS_MIN;
                self.belief = Belief::Known {
                    pays: false,
                    until: now,
                };
            }
        }
        self.judge(now, work);
    }

    /// Nothing happened; whether to look again at once rather than to park.
    pub(super) fn on_idle(&mut self, now: Now, work: u64) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        if !self.is_close() || now.0.saturating_sub(since.0) >= self.limit_ns {
            return false;
        }
        self.judge(now, work);
        match self.belief {
            Belief::Known { pays, .. } => pays,
            Belief::Trial { window, .. } => is_spinning(window),
        }
    }

    /// Gaps are so short that spinning may pay.
    fn is_close(&self) -> bool {
        self.gap_ns < self.limit_ns.saturating_mul(TRIED_BELOW)
    }

    /// Begins, continues or ends a trial.
    fn judge(&mut self, now: Now, work: u64) {
        match self.belief {
            Belief::Known { until, .. } if now < until || !self.is_close() => {}
            Belief::Known { .. } => {
                self.done = [0; 2];
                self.belief = Belief::Trial {
                    window: 0,
                    since: now,
                    work,
                };
            }
            Belief::Trial { since, .. } if now < since.after(WINDOW) => {}
            Belief::Trial {
                window,
                since,
                work: before,
            } => {
                // Windows end with the first event after their time: compare rates, not sums.
                let elapsed_us = now.0.saturating_sub(since.0) / 1000;
                let rate = (work - before).saturating_mul(1_000_000) / elapsed_us.max(1);
                self.done[usize::from(is_spinning(window))] += rate;
                self.belief = if window + 1 < WINDOWS {
                    Belief::Trial {
                        window: window + 1,
                        since: now,
                        work,
                    }
                } else {
                    self.conclude(now)
                };
            }
        }
    }

    fn conclude(&mut self, now: Now) -> Belief {
        let [parking, spinning] = self.done;
        let pays = spinning.saturating_mul(100) > parking.saturating_mul(GAIN_PERCENT);
        let holds = if pays {
            self.useless = USELESS_MIN;
            PAYS
        } else {
            let holds = self.useless;
            self.useless = (holds * 2).min(USELESS_MAX);
            holds
        };
        Belief::Known {
            pays,
            until: now.after(holds),
        }
    }
}

/// Parking comes first in a trial, spinning in every second window.
fn is_spinning(window: u8) -> bool {
    window % 2 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(50);

    /// Runs a load for a time: `gap_ns` says how long the next event is away, given whether the
    /// shard spins. Returns the share of idle time that was spun through, in percent.
    fn run(spin: &mut Spin, from: u64, seconds: u64, gap_ns: impl Fn(bool) -> u64) -> u64 {
        let (mut now, mut work) = (from, from);
        let (mut spun, mut total) = (0, 0);
        while now < from + seconds * 1_000_000_000 {
            let spins = spin.on_idle(Now(now), work);
            let gap = gap_ns(spins);
            now += gap;
            total += gap;
            spun += if spins { gap } else { 0 };
            work += 1;
            spin.on_event(Now(now), work);
        }
        spun * 100 / total
    }

    #[test]
    fn a_client_that_waits_for_each_answer_is_spun_for() {
        let mut spin = Spin::new(LIMIT);
        let share = run(&mut spin, 0, 4, |spins| if spins { 15_000 } else { 45_000 });
        assert!(share > 90, "{share}");
    }

    #[test]
    fn a_load_at_its_own_pace_is_not_spun_for() {
        let mut spin = Spin::new(LIMIT);
        let share = run(&mut spin, 0, 20, |_| 20_000);
        assert!(share < 2, "{share}");
    }

    #[test]
    fn a_small_gain_is_not_worth_a_core() {
        let mut spin = Spin::new(LIMIT);
        let share = run(&mut spin, 0, 20, |spins| if spins { 9_000 } else { 10_000 });
        assert!(share < 2, "{share}");
    }

    #[test]
    fn another_load_is_judged_anew() {
        let mut spin = Spin::new(LIMIT);
        run(&mut spin, 0, 20, |_| 20_000);
        assert!(!spin.on_idle(Now(20_000_000_000), 20_000_000_000));
        let later = 22_000_000_000;
        let share = run(
            &mut spin,
            later,
            10,
            |spins| {
                if spins { 15_000 } else { 45_000 }
            },
        );
        assert!(share > 80, "{share}");
        let share = run(&mut spin, later + 10_000_000_000, 20, |_| 20_000);
        assert!(share < 10, "{share}");
    }

    #[test]
    fn long_gaps_and_a_limit_of_zero_park_at_once() {
        let mut spin = Spin::new(LIMIT);
        assert_eq!(run(&mut spin, 0, 2, |_| 250_000), 0);
        let mut never = Spin::new(Duration::ZERO);
        assert_eq!(run(&mut never, 0, 2, |_| 1_000), 0);
    }

    #[test]
    fn one_wait_is_bounded_by_the_limit() {
        let mut spin = Spin::new(LIMIT);
        run(&mut spin, 0, 1, |spins| if spins { 15_000 } else { 45_000 });
        let Belief::Known { pays: true, until } = spin.belief else {
            panic!("it pays: {:?}", spin.belief);
        };
        let now = until.0 - 70_000;
        assert!(spin.on_idle(Now(now), now));
        assert!(!spin.on_idle(Now(now + 60_000), now));
    }
}
