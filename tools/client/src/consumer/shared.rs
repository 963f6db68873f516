//! What the parts of a consumer share: its options, its counters, and the ways to its supervisor.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::port::Port;
use super::queue::Queue;
use super::supervisor::Command;
use super::{ConsumerStats, GiveUpHook};
use crate::link::Dialer;
use crate::log::InstanceLog;

pub(super) struct Shared {
    pub(super) topic: String,
    pub(super) channel: String,
    pub(super) dialer: Dialer,
    pub(super) log: InstanceLog,
    pub(super) on_give_up: Option<GiveUpHook>,
    pub(super) queue: Queue,
    pub(super) counters: Counters,
    /// Set by the supervisor while successes matter to it.
    pub(super) backing_off: AtomicBool,
    /// Set by the supervisor; bounds the queue.
    pub(super) max_in_flight: AtomicU32,
    /// Kept by the supervisor, for those who ask about all connections.
    pub(super) ports: Mutex<Vec<Arc<Port>>>,
    /// To the supervisor. What answers send is bounded by the messages in flight.
    pub(super) commands: UnboundedSender<Command>,
    /// Times of ports count from here.
    pub(super) started: Instant,
}

/// Since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) requeued: AtomicU64,
    pub(super) given_up: AtomicU64,
}

impl Shared {
    /// Tells the supervisor; when it is gone there is nobody left whom it could matter to.
    pub(super) fn tell(&self, command: Command) {
        drop(self.commands.send(command));
    }

    pub(super) fn with_ports<R>(&self, look: impl FnOnce(&mut Vec<Arc<Port>>) -> R) -> R {
        look(&mut self.ports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn stats(&self) -> ConsumerStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ConsumerStats {
            messages_received: load(&self.counters.received),
            messages_finished: load(&self.counters.finished),
            messages_requeued: load(&self.counters.requeued),
            messages_given_up: load(&self.counters.given_up),
            connections: self.with_ports(|ports| ports.len()),
        }
    }
}
