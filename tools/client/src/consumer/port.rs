//! One connection as messages see it: where their answers go.
//!
//! Hot path: no allocation or formatting per answer; one short lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nsq_proto::{encode_cls, encode_fin, encode_nop, encode_rdy, encode_req, encode_touch};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::message::MessageId;
use super::shared::Shared;
use super::supervisor::Command;
use crate::link::Outbox;

/// Above this many bytes of commands that the nsqd does not read, touches are left out: the write
/// timeout is about to end the connection.
const TOUCH_BYTES_MAX: usize = 1024 * 1024;

/// Part of the RDY that may be in flight before it is time to answer.
const STARVED_PERCENT: u64 = 85;

pub(super) struct Port {
    pub(super) address: Arc<str>,
    pub(super) outbox: Outbox<Flight>,
    pub(super) shared: Arc<Shared>,
    /// Told once when the connection is to close.
    pub(super) closing: Notify,
    ready: AtomicU32,
    /// Milliseconds since the consumer's start.
    last_message_ms: AtomicU64,
}

/// What is under way on a connection.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Received and not answered.
    pub(super) in_flight: u64,
    /// CLS was sent.
    pub(super) closing: bool,
    /// CLOSE_WAIT was received: the last answer ends the connection.
    pub(super) drained: bool,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// How a message was answered, as far as back-off cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure,
    Neither,
}

impl Port {
    pub(super) fn new(address: Arc<str>, shared: Arc<Shared>) -> Self {
        Self {
            address,
            outbox: Outbox::new(Flight::default()),
            last_message_ms: AtomicU64::new(milliseconds(shared.started.elapsed())),
            shared,
            closing: Notify::new(),
            ready: AtomicU32::new(0),
        }
    }

    /// Counts messages that have been received, before they are handed out.
    pub(super) fn on_received(&self, count: u64) {
        self.outbox.push(|entry| entry.side.in_flight += count);
        let counters = &self.shared.counters;
        counters.received.fetch_add(count, Ordering::Relaxed);
        let elapsed = milliseconds(self.shared.started.elapsed());
        self.last_message_ms.store(elapsed, Ordering::Relaxed);
    }

    pub(super) fn last_message_at(&self) -> Instant {
        let elapsed = self.last_message_ms.load(Ordering::Relaxed);
        self.shared.started + Duration::from_millis(elapsed)
    }

    /// FIN.
    pub(super) fn finish(&self, id: MessageId) {
        let sent = self.outbox.push(|entry| {
            encode_fin(entry.commands, id.as_bytes());
            *entry.finishing |= entry.side.answered();
        });
        if sent.is_some() {
            let counters = &self.shared.counters;
            counters.finished.fetch_add(1, Ordering::Relaxed);
            if self.shared.backing_off.load(Ordering::Relaxed) {
                self.shared.tell(Command::Answered(Outcome::Success));
            }
        }
    }

    /// REQ.
    pub(super) fn requeue(&self, id: MessageId, delay: Duration, outcome: Outcome) {
        let sent = self.outbox.push(|entry| {
            encode_req(entry.commands, id.as_bytes(), milliseconds(delay));
            *entry.finishing |= entry.side.answered();
        });
        if sent.is_some() {
            let counters = &self.shared.counters;
            counters.requeued.fetch_add(1, Ordering::Relaxed);
            self.shared.tell(Command::Answered(outcome));
        }
    }

    /// TOUCH.
    pub(super) fn touch(&self, id: MessageId) {
        self.outbox.push(|entry| {
            if entry.commands.len() < TOUCH_BYTES_MAX {
                encode_touch(entry.commands, id.as_bytes());
            }
        });
    }

    /// The delay that REQ gets when none is given.
    pub(super) fn automatic_delay(&self, attempts: u16) -> Duration {
        let config = &self.shared.dialer.config;
        config
            .default_requeue_delay
            .saturating_mul(attempts.into())
            .min(config.max_requeue_delay)
    }

    /// NOP.
    pub(super) fn answer_heartbeat(&self) {
        self.outbox.push(|entry| encode_nop(entry.commands));
    }

    /// RDY.
    pub(super) fn set_ready(&self, count: u32) {
        self.ready.store(count, Ordering::Relaxed);
        self.outbox.push(|entry| encode_rdy(entry.commands, count));
    }

    /// CLS, once; says whether it was this time.
    pub(super) fn begin_close(&self) -> bool {
        let first = self.outbox.push(|entry| {
            let first = !entry.side.closing;
            if first {
                encode_cls(entry.commands);
                entry.side.closing = true;
            }
            first
        });
        let first = first.unwrap_or(false);
        if first {
            self.closing.notify_one();
        }
        first
    }

    /// CLOSE_WAIT: no further message will come.
    pub(super) fn on_drained(&self) {
        self.outbox.push(|entry| {
            entry.side.drained = true;
            *entry.finishing |= entry.side.in_flight == 0;
        });
    }

    /// Whether messages may still come.
    pub(super) fn may_deliver(&self) -> bool {
        !self.outbox.is_closed() && !self.outbox.read(|flight| flight.drained)
    }

    pub(super) fn is_starved(&self) -> bool {
        let ready = u64::from(self.ready.load(Ordering::Relaxed));
        self.outbox.read(|flight| {
            let enough = ready * STARVED_PERCENT / 100;
            flight.in_flight > 0 && flight.in_flight >= enough && !flight.closing
        })
    }
}

impl Flight {
    /// Counts an answer; says whether it was the last thing to be said.
    const fn answered(&mut self) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.drained && self.in_flight == 0
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
