//! The level of a back-off and how long it takes. Part of [`Flow`](super::flow::Flow).

use std::time::Duration;

use tokio::time::Instant;

use crate::{BackoffStrategy, Config};

#[derive(Debug)]
pub(super) struct Backoff {
    strategy: BackoffStrategy,
    multiplier: Duration,
    duration_max: Duration,
    /// Failures in a row, as far as they were counted; 0 is no back-off.
    level: u32,
    /// While every RDY is 0; only with a level above 0.
    resume_at: Option<Instant>,
}

impl Backoff {
    pub(super) const fn new(config: &Config) -> Self {
        Self {
            strategy: config.backoff_strategy,
            multiplier: config.backoff_multiplier,
            duration_max: config.max_backoff_duration,
            level: 0,
            resume_at: None,
        }
    }

    pub(super) const fn level(&self) -> u32 {
        self.level
    }

    pub(super) const fn is_active(&self) -> bool {
        self.level > 0
    }

    /// Results that come in this time do not count: they are of before.
    pub(super) const fn is_waiting(&self) -> bool {
        self.resume_at.is_some()
    }

    pub(super) const fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// One level up, unless the next would take longer than the bound.
    pub(super) fn raise(&mut self, random: &mut fastrand::Rng) {
        if !self.duration_max.is_zero()
            && self.duration(self.level + 1, random) <= self.duration_max
        {
            self.level += 1;
        }
    }

    /// One level down; says whether there was one.
    pub(super) const fn lower(&mut self) -> bool {
        let active = self.level > 0;
        self.level = self.level.saturating_sub(1);
        active
    }

    /// Begins to wait for the time of the level, and says how long.
    pub(super) fn wait(&mut self, random: &mut fastrand::Rng, now: Instant) -> Duration {
        let duration = self.duration(self.level, random).min(self.duration_max);
        self.wait_for(duration, now);
        duration
    }

    pub(super) fn wait_for(&mut self, duration: Duration, now: Instant) {
        self.resume_at = Some(now + duration);
    }

    pub(super) const fn resume(&mut self) {
        self.resume_at = None;
    }

    fn duration(&self, level: u32, random: &mut fastrand::Rng) -> Duration {
        let full = self
            .multiplier
            .saturating_mul(1_u32.checked_shl(level).unwrap_or(u32::MAX));
        match self.strategy {
            BackoffStrategy::Exponential => full,
            BackoffStrategy::FullJitter => full.mul_f64(random.f64()),
        }
    }
}
