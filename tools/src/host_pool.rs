//! Which of several destinations the next message goes to, by what happened to those before.
//!
//! A destination that failed rests for 30 s, doubling up to 15 min while it goes on failing. With
//! [`Strategy::EpsilonGreedy`] faster destinations get more. Pure: time and chance are passed in.
//! Owner: the task that hands out messages.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const RETRY_DELAY_FIRST: Duration = Duration::from_secs(30);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(900);
/// Share of choices made without looking at speed, at first and at least, and how it shrinks.
const EXPLORATION_FIRST: f64 = 0.3;
const EXPLORATION_MIN: f64 = 0.01;
const EXPLORATION_DECAY: f64 = 0.9;
/// Speeds are remembered for five minutes in this many steps.
const BUCKETS: usize = 120;
const BUCKET_SPAN: Duration = Duration::from_millis(2500);
/// Anything faster counts as this fast, so that a weight is finite.
const MILLIS_MIN: f64 = 0.001;

/// How destinations are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The next one, whatever happened.
    RoundRobin,
    /// The next one that does not rest.
    HostPool,
    /// By measured speed.
    EpsilonGreedy,
}

impl Strategy {
    /// Reads the word of `--mode`.
    ///
    /// # Errors
    /// On any other word.
    pub(crate) fn parse(word: &str) -> Result<Self> {
        Ok(match word {
            "round-robin" => Self::RoundRobin,
            "hostpool" => Self::HostPool,
            "epsilon-greedy" => Self::EpsilonGreedy,
            _ => bail!("--mode is invalid"),
        })
    }
}

/// The destinations of one kind of message, by index.
#[derive(Debug)]
pub(crate) struct HostPool {
    strategy: Strategy,
    hosts: Vec<Host>,
    next: usize,
    exploration: f64,
    /// When the current step of all speeds began.
    bucket_began: Instant,
}

#[derive(Debug, Default, Clone)]
struct Host {
    /// Set while it rests: when it may be tried again, and how long it rests after a next failure.
    resting: Option<(Instant, Duration)>,
    /// Steps of measured speed, the current one at the front; empty unless speed counts.
    speeds: std::collections::VecDeque<Speed>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Speed {
    count: f64,
    millis: f64,
}

impl HostPool {
    /// A pool of `count` destinations, at least one.
    pub(crate) fn new(strategy: Strategy, count: usize, now: Instant) -> Self {
        // Round robin begins with the second destination, as in the reference.
        let next = match strategy {
            Strategy::RoundRobin => 1,
            Strategy::HostPool | Strategy::EpsilonGreedy => 0,
        };
        Self {
            strategy,
            hosts: vec![Host::default(); count],
            next,
            exploration: EXPLORATION_FIRST,
            bucket_began: now,
        }
    }

    /// The destination of the next message.
    pub(crate) fn choose(&mut self, now: Instant, random: &mut fastrand::Rng) -> usize {
        match self.strategy {
            Strategy::RoundRobin => {
                let chosen = self.next % self.hosts.len();
                self.next = chosen + 1;
                chosen
            }
            Strategy::HostPool => self.next_awake(now),
            Strategy::EpsilonGreedy => self.by_speed(now, random),
        }
    }

    /// What became of a message that was sent to a destination.
    pub(crate) fn record(&mut self, host: usize, now: Instant, outcome: Option<Duration>) {
        self.turn_buckets(now);
        let is_greedy = self.strategy == Strategy::EpsilonGreedy;
        let host = &mut self.hosts[host];
        let Some(took) = outcome else {
            if host.resting.is_none() {
                host.resting = Some((now + RETRY_DELAY_FIRST, RETRY_DELAY_FIRST));
            }
            return;
        };
        host.resting = None;
        if is_greedy {
            if host.speeds.is_empty() {
                host.speeds.push_front(Speed::default());
            }
            host.speeds[0].count += 1.0;
            host.speeds[0].millis += (took.as_secs_f64() * 1000.0).max(MILLIS_MIN);
        }
    }

    fn next_awake(&mut self, now: Instant) -> usize {
        let count = self.hosts.len();
        let found = (0..count)
            .map(|step| (self.next + step) % count)
            .find(|index| self.hosts[*index].may_be_tried(now));
        let Some(found) = found else {
            for host in &mut self.hosts {
                host.resting = None;
            }
            self.next = 0;
            return 0;
        };
        self.hosts[found].on_chosen(now);
        self.next = found + 1;
        found
    }

    fn by_speed(&mut self, now: Instant, random: &mut fastrand::Rng) -> usize {
        self.turn_buckets(now);
        if random.f64() < self.exploration {
            self.exploration = (self.exploration * EXPLORATION_DECAY).max(EXPLORATION_MIN);
            return self.next_awake(now);
        }
        let weight = |host: &Host| match host.average_millis() {
            Some(millis) if host.may_be_tried(now) => 1.0 / millis,
            _ => 0.0,
        };
        let weights: Vec<f64> = self.hosts.iter().map(weight).collect();
        let Some(chosen) = weighted_choice(&weights, random.f64()) else {
            return self.next_awake(now);
        };
        self.hosts[chosen].on_chosen(now);
        chosen
    }

    /// Begins new steps of the speeds as time passes.
    fn turn_buckets(&mut self, now: Instant) {
        let mut passed = 0;
        while passed < BUCKETS && now.duration_since(self.bucket_began) >= BUCKET_SPAN {
            self.bucket_began += BUCKET_SPAN;
            passed += 1;
        }
        if passed == BUCKETS {
            self.bucket_began = now;
        }
        for host in &mut self.hosts {
            // A destination without any measurement has nothing to age.
            for _ in 0..passed.min(BUCKETS * usize::from(!host.speeds.is_empty())) {
                host.speeds.push_front(Speed::default());
            }
            host.speeds.truncate(BUCKETS);
        }
    }
}

impl Host {
    fn may_be_tried(&self, now: Instant) -> bool {
        self.resting.is_none_or(|(until, _)| until < now)
    }

    /// A resting destination that is tried rests longer unless the try succeeds.
    fn on_chosen(&mut self, now: Instant) {
        if let Some((until, delay)) = &mut self.resting {
            *delay = (*delay * 2).min(RETRY_DELAY_MAX);
            *until = now + *delay;
        }
    }

    /// The average over the steps, recent ones counting more; a step without any stands for the
    /// one before it. `None` without a measurement.
    fn average_millis(&self) -> Option<f64> {
        let (mut sum, mut weights, mut last) = (0.0, 0.0, None);
        for (age, speed) in self.speeds.iter().enumerate().rev() {
            if speed.count > 0.0 {
                last = Some(speed.millis / speed.count);
            }
            if let Some(millis) = last {
                #[expect(clippy::cast_precision_loss, reason = "at most BUCKETS")]
                let weight = (BUCKETS - age) as f64;
                sum += millis * weight;
                weights += weight;
            }
        }
        (weights > 0.0).then(|| sum / weights)
    }
}

/// The index that a number in 0..1 falls on when each index has its share; `None` when all are 0.
fn weighted_choice(weights: &[f64], pick: f64) -> Option<usize> {
    let mut left = pick * weights.iter().sum::<f64>();
    let mut chosen = None;
    for (index, weight) in weights.iter().enumerate() {
        if *weight > 0.0 {
            chosen = Some(index);
            if left < *weight {
                break;
            }
            left -= weight;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(pool: &mut HostPool, now: Instant, count: usize) -> Vec<usize> {
        let mut random = fastrand::Rng::with_seed(7);
        (0..count).map(|_| pool.choose(now, &mut random)).collect()
    }

    #[test]
    fn round_robin_begins_with_the_second_and_minds_no_failure() {
        let now = Instant::now();
        let mut pool = HostPool::new(Strategy::RoundRobin, 3, now);
        pool.record(2, now, None);
        assert_eq!(choices(&mut pool, now, 5), [1, 2, 0, 1, 2]);
    }

    #[test]
    fn failed_hosts_rest_and_rest_longer() {
        let mut now = Instant::now();
        let mut pool = HostPool::new(Strategy::HostPool, 3, now);
        assert_eq!(choices(&mut pool, now, 3), [0, 1, 2]);
        pool.record(1, now, None);
        assert_eq!(choices(&mut pool, now, 4), [0, 2, 0, 2]);
        now += Duration::from_secs(31);
        assert_eq!(choices(&mut pool, now, 3), [0, 1, 2], "tried once");
        assert_eq!(choices(&mut pool, now, 3), [0, 2, 0], "but not again");
        now += Duration::from_secs(59);
        assert!(!choices(&mut pool, now, 3).contains(&1));
        now += Duration::from_secs(2);
        assert!(choices(&mut pool, now, 3).contains(&1));
        pool.record(1, now, Some(Duration::ZERO));
        assert_eq!(
            choices(&mut pool, now, 6)
                .iter()
                .filter(|i| **i == 1)
                .count(),
            2
        );
    }

    #[test]
    fn when_all_have_failed_all_are_tried_again() {
        let now = Instant::now();
        let mut pool = HostPool::new(Strategy::HostPool, 2, now);
        pool.record(0, now, None);
        pool.record(1, now, None);
        assert_eq!(choices(&mut pool, now, 3), [0, 0, 1]);
    }

    #[test]
    fn greedy_prefers_the_fast_but_tries_all() {
        let now = Instant::now();
        let mut pool = HostPool::new(Strategy::EpsilonGreedy, 2, now);
        pool.record(0, now, Some(Duration::from_millis(90)));
        pool.record(1, now, Some(Duration::from_millis(10)));
        let chosen = choices(&mut pool, now, 2000);
        let fast = chosen.iter().filter(|index| **index == 1).count();
        assert!((1650..1950).contains(&fast), "{fast}");
        pool.record(1, now, None);
        let chosen = choices(&mut pool, now, 200);
        assert!(chosen.iter().all(|index| *index == 0));
    }

    #[test]
    fn old_measurements_are_forgotten() {
        let now = Instant::now();
        let mut pool = HostPool::new(Strategy::EpsilonGreedy, 1, now);
        pool.record(0, now, Some(Duration::from_millis(90)));
        assert!((pool.hosts[0].average_millis().expect("measured") - 90.0).abs() < 1e-9);
        pool.turn_buckets(now + BUCKET_SPAN * 3);
        pool.record(0, now + BUCKET_SPAN * 3, Some(Duration::from_millis(10)));
        let average = pool.hosts[0].average_millis().expect("measured");
        assert!(average > 60.0 && average < 90.0, "{average}");
        pool.turn_buckets(now + Duration::from_secs(3600));
        assert_eq!(pool.hosts[0].average_millis(), None);
    }

    #[test]
    fn weights_are_shares() {
        assert_eq!(weighted_choice(&[0.0, 3.0, 1.0], 0.74), Some(1));
        assert_eq!(weighted_choice(&[0.0, 3.0, 1.0], 0.76), Some(2));
        assert_eq!(weighted_choice(&[0.0, 3.0, 0.0], 1.0), Some(1));
        assert_eq!(weighted_choice(&[0.0, 0.0], 0.5), None);
    }
}
