//! How many messages each connection may have in flight: RDY, its redistribution, and back-off.
//!
//! A deterministic machine without I/O or clock: it is told what happened and when, and says through
//! [`Flow::take_actions`] what to send and log. The consumer's supervisor owns it and calls
//! [`Flow::on_time`] at [`Flow::deadline`].
//!
//! Invariants ([`Flow::check_invariants`]):
//! - the sum of all RDY is at most `max_in_flight` (at most 1 in back-off), but for connections that
//!   are closing;
//! - while a back-off waits every RDY is 0.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use crate::Config;

/// Names a connection of this consumer, in the order of their making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// After this a connection that could not get its share asks again.
const RETRY: Duration = Duration::from_secs(5);
/// After this a back-off without any connection to resume looks again.
const RESUME_RETRY: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Send RDY.
    Ready(ConnectionId, u32),
    /// Say that a back-off of this level begins.
    BackingOff(Duration, u32),
    /// Say that it is over and what each connection gets.
    ExitingBackoff(u32),
    /// Say that one message is asked for, from this connection.
    Resuming(ConnectionId),
    /// Say that there is no connection to ask, and how long until the next attempt.
    NothingToResume(Duration),
}

#[derive(Debug)]
struct Connection {
    /// Last sent.
    ready: u32,
    /// Greatest that the nsqd takes.
    ready_max: u32,
    /// When that was.
    ready_at: Instant,
    last_message_at: Instant,
    closing: bool,
    /// When to ask again for a share that was not to be had.
    retry_at: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Flow {
    max_in_flight: u32,
    low_rdy_idle_timeout: Duration,
    low_rdy_timeout: Duration,
    redistribute_interval: Duration,
    redistribute_at: Instant,
    backoff: Backoff,
    connections: BTreeMap<ConnectionId, Connection>,
    random: fastrand::Rng,
    actions: Vec<Action>,
}

impl Flow {
    pub(crate) fn new(config: &Config, random: fastrand::Rng, now: Instant) -> Self {
        Self {
            max_in_flight: config.max_in_flight,
            low_rdy_idle_timeout: config.low_rdy_idle_timeout,
            low_rdy_timeout: config.low_rdy_timeout,
            redistribute_interval: config.rdy_redistribute_interval,
            redistribute_at: now + config.rdy_redistribute_interval,
            backoff: Backoff::new(config),
            connections: BTreeMap::new(),
            random,
            actions: Vec::new(),
        }
    }

    /// A connection has subscribed.
    pub(crate) fn on_open(&mut self, id: ConnectionId, ready_max: u32, now: Instant) {
        let connection = Connection {
            ready: 0,
            ready_max,
            ready_at: now,
            last_message_at: now,
            closing: false,
            retry_at: None,
        };
        self.connections.insert(id, connection);
        self.share(now);
    }

    /// A connection is asked for nothing any more.
    pub(crate) fn on_closing(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.closing = true;
            connection.ready = 0;
            connection.retry_at = None;
        }
        self.share(now);
    }

    /// A connection is gone.
    pub(crate) fn on_close(&mut self, id: ConnectionId, now: Instant) {
        self.connections.remove(&id);
        self.share(now);
    }

    /// `max_in_flight` has changed.
    pub(crate) fn on_max_in_flight(&mut self, max_in_flight: u32, now: Instant) {
        self.max_in_flight = max_in_flight;
        self.share(now);
    }

    /// A connection has last delivered a message then. To be told before [`Flow::on_time`].
    pub(crate) fn note_message(&mut self, id: ConnectionId, at: Instant) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.last_message_at = at;
        }
    }

    /// A message was finished.
    pub(crate) fn on_success(&mut self, now: Instant) {
        if self.backoff.is_waiting() || !self.backoff.lower() {
            return;
        }
        if self.backoff.is_active() {
            self.back_off(now);
        } else {
            self.actions.push(Action::ExitingBackoff(self.fair_share()));
            self.share(now);
        }
    }

    /// A message was requeued because it failed.
    pub(crate) fn on_failure(&mut self, now: Instant) {
        if self.backoff.is_waiting() {
            return;
        }
        self.backoff.raise(&mut self.random);
        if self.backoff.is_active() {
            self.back_off(now);
        }
    }

    /// A message was requeued without having failed: no reason to begin a back-off, nor to end one.
    pub(crate) fn on_neither(&mut self, now: Instant) {
        if !self.backoff.is_waiting() && self.backoff.is_active() {
            self.back_off(now);
        }
    }

    /// Whether successes matter, which otherwise need not be told.
    pub(crate) const fn is_backing_off(&self) -> bool {
        self.backoff.is_active()
    }

    /// When [`Flow::on_time`] is to be called next.
    pub(crate) fn deadline(&self) -> Instant {
        let retries = self.connections.values().filter_map(|c| c.retry_at);
        retries
            .chain(self.backoff.resume_at())
            .chain([self.redistribute_at])
            .min()
            .expect("the redistribution is always due some time")
    }

    /// Does what is due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if self.backoff.resume_at().is_some_and(|at| at <= now) {
            self.resume(now);
        }
        if self
            .connections
            .values()
            .any(|c| c.retry_at.is_some_and(|at| at <= now))
        {
            for connection in self.connections.values_mut() {
                connection.retry_at = connection.retry_at.filter(|at| *at > now);
            }
            self.share(now);
        }
        if self.redistribute_at <= now {
            self.redistribute_at = now + self.redistribute_interval;
            self.redistribute(now);
        }
        self.check_invariants();
    }

    /// What is to be done, in order; each is handed out once.
    pub(crate) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Sets every RDY to 0 for the time of the level.
    fn back_off(&mut self, now: Instant) {
        let duration = self.backoff.wait(&mut self.random, now);
        self.actions
            .push(Action::BackingOff(duration, self.backoff.level()));
        for id in self.usable() {
            self.set_ready(id, 0, now);
        }
    }

    /// The time of a back-off is over: one message is let through, to see how it goes.
    fn resume(&mut self, now: Instant) {
        let usable = self.usable();
        if usable.is_empty() || self.max_in_flight == 0 {
            self.backoff.wait_for(RESUME_RETRY, now);
            self.actions.push(Action::NothingToResume(RESUME_RETRY));
            return;
        }
        self.backoff.resume();
        self.probe(&usable, now);
    }

    /// Asks one of these connections for one message.
    fn probe(&mut self, candidates: &[ConnectionId], now: Instant) {
        if let Some(id) = self.random.choice(candidates).copied() {
            self.actions.push(Action::Resuming(id));
            self.set_ready(id, 1, now);
        }
    }

    /// Gives every connection its share: first takes from those that have more, then gives. In
    /// back-off only sees to it that one message can come.
    fn share(&mut self, now: Instant) {
        if self.backoff.is_waiting() {
            return;
        }
        let usable = self.usable();
        if self.backoff.is_active() {
            match (self.max_in_flight, self.total()) {
                (0, _) => usable.iter().for_each(|id| self.set_ready(*id, 0, now)),
                (_, 0) => self.probe(&usable, now),
                _ => {}
            }
            return;
        }
        let share = self.fair_share();
        for lowering in [true, false] {
            for id in &usable {
                let connection = &self.connections[id];
                let target = share.min(connection.ready_max);
                if (target < connection.ready) == lowering {
                    self.ask_ready(*id, target, now);
                }
            }
        }
    }

    /// What each connection may have. At least 1, even where that is too much in all: some wait then.
    fn fair_share(&self) -> u32 {
        let count = u32::try_from(self.usable().len())
            .unwrap_or(u32::MAX)
            .max(1);
        (self.max_in_flight / count).max(1).min(self.max_in_flight)
    }

    /// Those that are not closing.
    fn usable(&self) -> Vec<ConnectionId> {
        let open = self.connections.iter().filter(|(_, c)| !c.closing);
        open.map(|(id, _)| *id).collect()
    }

    fn total(&self) -> u32 {
        self.connections.values().map(|c| c.ready).sum()
    }

    /// Sets RDY as far as the total allows; a connection that stays at 0 for it asks again later.
    fn ask_ready(&mut self, id: ConnectionId, count: u32, now: Instant) {
        let ready = self.connections[&id].ready;
        let possible = self.max_in_flight.saturating_sub(self.total() - ready);
        if possible == 0 && count > 0 && ready == 0 {
            let connection = self.connections.get_mut(&id).expect("just looked at");
            connection.retry_at = Some(now + RETRY);
            return;
        }
        self.set_ready(id, count.min(possible), now);
    }

    /// Sets RDY; sends it if that is news.
    fn set_ready(&mut self, id: ConnectionId, count: u32, now: Instant) {
        let connection = self
            .connections
            .get_mut(&id)
            .expect("ids come from the map");
        let count = count.min(connection.ready_max);
        connection.retry_at = None;
        if connection.ready != count {
            connection.ready = count;
            connection.ready_at = now;
            self.actions.push(Action::Ready(id, count));
        }
    }

    /// Moves RDY between connections where there is not enough for all of them: those that were
    /// silent, or had it for long, give it up, and random ones get it.
    fn redistribute(&mut self, now: Instant) {
        let usable = self.usable();
        let scarce = usable.len() > self.max_in_flight as usize
            || (self.backoff.is_active() && usable.len() > 1);
        if self.backoff.is_waiting() || !scarce {
            return;
        }
        let (mut holding, mut waiting): (Vec<_>, Vec<_>) = usable
            .into_iter()
            .partition(|id| self.connections[id].ready > 0);
        holding.retain(|id| {
            let connection = &self.connections[id];
            let silent = now - connection.last_message_at > self.low_rdy_idle_timeout;
            let long = now - connection.ready_at > self.low_rdy_timeout;
            silent || long
        });
        for id in &holding {
            self.set_ready(*id, 0, now);
        }
        let limit = if self.backoff.is_active() {
            self.max_in_flight.min(1)
        } else {
            self.max_in_flight
        };
        self.random.shuffle(&mut waiting);
        // Those that just gave it up get it back only if nobody else wants it.
        waiting.append(&mut holding);
        let available = limit.saturating_sub(self.total()) as usize;
        for id in waiting.into_iter().take(available) {
            self.set_ready(id, 1, now);
        }
    }

    /// See the module's documentation.
    fn check_invariants(&self) {
        let limit = match (self.backoff.is_waiting(), self.backoff.is_active()) {
            (true, _) => 0,
            (false, true) => self.max_in_flight.min(1),
            (false, false) => self.max_in_flight,
        };
        debug_assert!(self.total() <= limit, "{} > {limit}", self.total());
    }
}

#[cfg(test)]
mod tests;
