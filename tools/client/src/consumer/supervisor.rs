//! The one task that knows all connections of a consumer: it makes them, makes them again, looks for
//! new ones, and carries out what [`Flow`] decides.
//!
//! Owner of the addresses, the tasks of connections and look-ups, and the flow. Everybody else tells it
//! through [`Command`]s.

mod addresses;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::Url;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::connection::Ended;
use super::flow::{Action, ConnectionId, Flow};
use super::lookup::Lookup;
use super::port::{Outcome, Port};
use super::shared::Shared;
use crate::config::go_duration;
use crate::{ConnectError, StopError};
use addresses::{Addresses, Keep};

/// Between look-ups that lost connections ask for: a server that accepts and closes is not hammered.
const RECHECK_GAP: Duration = Duration::from_secs(1);

/// What the supervisor is told.
pub(super) enum Command {
    /// Connect to this nsqd; with a reply only this once, else until it works.
    Connect(String, Option<oneshot::Sender<Result<(), ConnectError>>>),
    /// Close the connection to this nsqd and forget it.
    Disconnect(String),
    /// Ask these as well from now on; replies after the first round.
    Discover(Lookup, Vec<Url>, oneshot::Sender<()>),
    /// A connection has subscribed.
    Opened {
        id: ConnectionId,
        port: Arc<Port>,
        ready_max: u32,
    },
    /// A connection will deliver nothing more.
    Drained,
    /// A message was answered.
    Answered(Outcome),
    MaxInFlight(u32),
    Stop {
        give_back: bool,
    },
}

/// What a task of the supervisor's comes back with.
enum Done {
    Connection(ConnectionId, Arc<str>, Ended),
    LookedUp(Vec<String>),
}

/// How the stop went, once it is over.
pub(super) type Stopped = Option<Result<(), StopError>>;

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    commands: UnboundedReceiver<Command>,
    stopped: watch::Sender<Stopped>,
    tasks: JoinSet<Done>,
    flow: Flow,
    addresses: Addresses,
    discovery: Discovery,
    next_id: u64,
    stopping: bool,
    /// Messages that were unanswered when their connections took too long to close.
    abandoned: u64,
}

/// The look-ups.
#[derive(Default)]
struct Discovery {
    lookup: Option<Lookup>,
    urls: Vec<Url>,
    /// When the next round is due; `None` while there is nobody to ask, and during a round.
    next_at: Option<Instant>,
    last_at: Option<Instant>,
    rounds: u64,
    running: Option<AbortHandle>,
    /// A connection was lost during a round.
    recheck: bool,
    /// Told at the end of the round.
    waiting: Vec<oneshot::Sender<()>>,
}

impl Drop for Supervisor {
    /// However it ends: nobody waits for messages for ever, and nothing keeps the ports, which keep
    /// what they share.
    fn drop(&mut self) {
        self.shared.queue.give_back();
        self.shared.queue.end();
        self.shared.with_ports(Vec::clear);
    }
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: UnboundedReceiver<Command>,
        stopped: watch::Sender<Stopped>,
    ) -> Self {
        let config = &shared.dialer.config;
        Self {
            flow: Flow::new(config, fastrand::Rng::new(), Instant::now()),
            shared,
            commands,
            stopped,
            tasks: JoinSet::new(),
            addresses: Addresses::default(),
            discovery: Discovery::default(),
            next_id: 0,
            stopping: false,
            abandoned: 0,
        }
    }

    /// Runs until a stop is over.
    pub(super) async fn run(mut self) {
        while !(self.stopping && self.tasks.is_empty()) {
            let deadline = self.deadline();
            tokio::select! {
                Some(command) = self.commands.recv() => self.on_command(command),
                Some(done) = self.tasks.join_next() => {
                    // What a task said it said before its end.
                    while let Ok(command) = self.commands.try_recv() {
                        self.on_command(command);
                    }
                    match done {
                        Ok(done) => self.on_done(done),
                        // A look-up that a stop has ended.
                        Err(error) if error.is_cancelled() => {}
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    }
                }
                () = sleep_until(deadline) => self.on_time(Instant::now()),
            }
            self.carry_out();
        }
        let result = match self.abandoned {
            0 => Ok(()),
            in_flight => Err(StopError::InFlight { in_flight }),
        };
        self.shared.queue.end();
        self.stopped.send_replace(Some(result));
    }

    fn deadline(&self) -> Instant {
        let others = [self.addresses.next_retry(), self.discovery.next_at];
        let others = others.into_iter().flatten().filter(|_| !self.stopping);
        others
            .chain([self.flow.deadline()])
            .min()
            .expect("the flow has one")
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Connect(address, reply) => self.on_connect(address, reply),
            Command::Disconnect(address) => {
                if let Some(port) = self.addresses.forget(&address) {
                    port.begin_close();
                    self.on_closing(&port);
                }
            }
            Command::Discover(lookup, urls, reply) => self.on_discover(lookup, urls, reply),
            Command::Opened {
                id,
                port,
                ready_max,
            } => self.on_opened(id, &port, ready_max),
            Command::Drained => self.end_queue_if_drained(),
            Command::Answered(Outcome::Success) => self.flow.on_success(now),
            Command::Answered(Outcome::Failure) => self.flow.on_failure(now),
            Command::Answered(Outcome::Neither) => self.flow.on_neither(now),
            Command::MaxInFlight(count) => {
                self.shared.max_in_flight.store(count, Ordering::Relaxed);
                self.flow.on_max_in_flight(count, now);
            }
            Command::Stop { give_back } => self.on_stop(give_back),
        }
    }

    fn on_connect(
        &mut self,
        address: String,
        reply: Option<oneshot::Sender<Result<(), ConnectError>>>,
    ) {
        let refusal = if self.stopping {
            Some(ConnectError::Stopped)
        } else if self.addresses.is_connected(&address) {
            Some(ConnectError::AlreadyConnected)
        } else {
            None
        };
        match (refusal, reply) {
            (None, reply) => self.connect(address.into(), Keep::Always, reply),
            (Some(error), Some(reply)) => drop(reply.send(Err(error))),
            (Some(_), None) => self.addresses.keep(&address),
        }
    }

    fn connect(
        &mut self,
        address: Arc<str>,
        keep: Keep,
        reply: Option<oneshot::Sender<Result<(), ConnectError>>>,
    ) {
        self.shared
            .log
            .info(format_args!("({address}) connecting to nsqd"));
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        let (cancel, cancelled) = oneshot::channel();
        self.addresses
            .on_connecting(Arc::clone(&address), keep, cancel, reply);
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let ended = super::connection::run(shared, id, Arc::clone(&address), cancelled).await;
            Done::Connection(id, address, ended)
        });
    }

    fn on_opened(&mut self, id: ConnectionId, port: &Arc<Port>, ready_max: u32) {
        let (address, now) = (&port.address, Instant::now());
        let max_in_flight = self.shared.max_in_flight.load(Ordering::Relaxed);
        if ready_max < max_in_flight {
            self.shared.log.warn(format_args!(
                "({address}) max RDY count {ready_max} < consumer max in flight {max_in_flight}, truncation possible"
            ));
        }
        let wanted = self.addresses.on_open(address, id, port);
        self.shared.with_ports(|ports| ports.push(Arc::clone(port)));
        self.flow.on_open(id, ready_max, now);
        // Asked to leave while it was being made.
        if self.stopping || !wanted {
            port.begin_close();
            self.flow.on_closing(id, now);
        }
    }

    fn on_closing(&mut self, port: &Port) {
        if let Some(id) = self.addresses.id_of(&port.address) {
            self.flow.on_closing(id, Instant::now());
        }
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Connection(id, address, Ended::NotOpened(error)) => {
                debug_assert!(self.addresses.id_of(&address) != Some(id));
                self.on_not_opened(&address, error);
            }
            Done::Connection(id, address, Ended::Closed { abandoned }) => {
                self.abandoned += abandoned;
                self.on_closed(id, &address);
            }
            Done::LookedUp(found) => self.on_looked_up(found),
        }
        self.end_queue_if_drained();
    }

    fn on_not_opened(&mut self, address: &Arc<str>, error: ConnectError) {
        let log = &self.shared.log;
        let (keep, reply) = self.addresses.on_not_opened(address);
        match reply {
            Some(reply) => {
                // The caller decides whether to try again.
                drop(reply.send(Err(error)));
                return;
            }
            None if error == ConnectError::Stopped => return,
            None => log.error(format_args!(
                "({address}) error connecting to nsqd - {error}"
            )),
        }
        if keep == Keep::Always {
            self.retry_later(address);
        }
    }

    fn on_closed(&mut self, id: ConnectionId, address: &Arc<str>) {
        self.flow.on_close(id, Instant::now());
        let keep = self.addresses.on_closed(address);
        let left = self.shared.with_ports(|ports| {
            ports.retain(|port| !port.outbox.is_closed());
            ports.len()
        });
        self.shared
            .log
            .warn(format_args!("there are {left} connections left alive"));
        if self.stopping {
            return;
        }
        if keep == Some(Keep::Always) {
            self.retry_later(address);
        }
        self.recheck();
    }

    fn retry_later(&mut self, address: &Arc<str>) {
        let interval = self.shared.dialer.config.lookupd_poll_interval;
        self.shared.log.info(format_args!(
            "({address}) re-connecting in {}",
            go_duration(interval)
        ));
        self.addresses
            .retry_at(Arc::clone(address), Instant::now() + interval);
    }

    fn on_discover(&mut self, lookup: Lookup, urls: Vec<Url>, reply: oneshot::Sender<()>) {
        if self.stopping {
            return;
        }
        let discovery = &mut self.discovery;
        discovery.lookup.get_or_insert(lookup);
        for url in urls {
            if !discovery.urls.contains(&url) {
                discovery.urls.push(url);
            }
        }
        discovery.waiting.push(reply);
        discovery.recheck = discovery.running.is_some();
        discovery.next_at = discovery.running.is_none().then(Instant::now);
    }

    /// A lost connection may come back elsewhere: looks soon.
    fn recheck(&mut self) {
        let discovery = &mut self.discovery;
        if discovery.running.is_some() {
            discovery.recheck = true;
        } else if let Some(next_at) = &mut discovery.next_at {
            let earliest = discovery.last_at.map(|last| last + RECHECK_GAP);
            let soon = earliest.unwrap_or_else(Instant::now).max(Instant::now());
            *next_at = soon.min(*next_at);
        }
    }

    fn look_up(&mut self, now: Instant) {
        let discovery = &mut self.discovery;
        if let Some(lookup) = &discovery.lookup {
            let round = lookup.clone().round(discovery.urls.clone());
            let task = self.tasks.spawn(async { Done::LookedUp(round.await) });
            discovery.running = Some(task);
            discovery.recheck = false;
            discovery.next_at = None;
            discovery.last_at = Some(now);
        }
    }

    fn on_looked_up(&mut self, found: Vec<String>) {
        let config = &self.shared.dialer.config;
        let discovery = &mut self.discovery;
        let mut interval = config.lookupd_poll_interval;
        if discovery.rounds == 0 {
            // So that consumers that were started together do not ask together for ever.
            interval += interval.mul_f64(config.lookupd_poll_jitter * fastrand::f64());
        }
        discovery.rounds += 1;
        discovery.running = None;
        discovery.next_at = Some(Instant::now() + interval);
        let recheck = discovery.recheck;
        for waiting in discovery.waiting.drain(..) {
            waiting.send(()).ok();
        }
        if self.stopping {
            return;
        }
        for address in found {
            if !self.addresses.is_connected(&address) {
                self.connect(address.into(), Keep::WhileOpen, None);
            }
        }
        if recheck {
            self.recheck();
        }
    }

    fn on_time(&mut self, now: Instant) {
        if self.flow.deadline() <= now {
            for (id, port) in self.addresses.open() {
                self.flow.note_message(id, port.last_message_at());
            }
            self.flow.on_time(now);
        }
        if self.stopping {
            return;
        }
        for address in self.addresses.due(now) {
            self.connect(address, Keep::Always, None);
        }
        if self.discovery.next_at.is_some_and(|at| at <= now) {
            self.look_up(now);
        }
    }

    fn on_stop(&mut self, give_back: bool) {
        if give_back {
            self.shared.queue.give_back();
        }
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.shared.log.info(format_args!("stopping..."));
        let now = Instant::now();
        self.addresses.cancel();
        if let Some(round) = self.discovery.running.take() {
            round.abort();
        }
        for (id, port) in self.addresses.open() {
            port.begin_close();
            self.flow.on_closing(id, now);
        }
        self.end_queue_if_drained();
    }

    /// Whoever waits for messages is told when none can come any more.
    fn end_queue_if_drained(&self) {
        let drained = self.stopping && !self.addresses.open().any(|(_, port)| port.may_deliver());
        if drained && !self.addresses.is_connecting() {
            self.shared.queue.end();
        }
    }

    /// Does and says what the flow has decided.
    fn carry_out(&mut self) {
        for action in self.flow.take_actions() {
            let log = &self.shared.log;
            match action {
                Action::Ready(id, count) => {
                    if let Some(port) = self.addresses.port(id) {
                        let address = &port.address;
                        log.debug(format_args!("({address}) sending RDY {count}"));
                        port.set_ready(count);
                    }
                }
                Action::BackingOff(duration, level) => log.warn(format_args!(
                    "backing off for {} (backoff level {level}), setting all to RDY 0",
                    go_duration(duration)
                )),
                Action::ExitingBackoff(count) => log.warn(format_args!(
                    "exiting backoff, returning all to RDY {count}"
                )),
                Action::Resuming(id) => {
                    if let Some(port) = self.addresses.port(id) {
                        let address = &port.address;
                        log.warn(format_args!(
                            "({address}) backoff timeout expired, sending RDY 1"
                        ));
                    }
                }
                Action::NothingToResume(duration) => {
                    log.warn(format_args!("no connection available to resume"));
                    log.warn(format_args!("backing off for {}", go_duration(duration)));
                }
            }
        }
        let backing_off = self.flow.is_backing_off();
        self.shared
            .backing_off
            .store(backing_off, Ordering::Relaxed);
    }
}
