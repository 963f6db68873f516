//! A message and its answer.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nsq_proto::Delivery;

use super::port::{Outcome, Port};

/// The 16 characters by which an nsqd knows a message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId([u8; 16]);

impl MessageId {
    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A delivered message. It may be kept, moved to another task, and answered later and in any order;
/// answers leave in batches.
///
/// A message that is dropped without an answer has failed: it is requeued as by
/// `requeue(None)`. An answer after the connection was lost goes nowhere: the nsqd delivers the
/// message again.
#[derive(Debug)]
pub struct Message {
    id: MessageId,
    timestamp_ns: u64,
    attempts: u16,
    body: Bytes,
    /// Where the answer goes; taken by it.
    port: Option<Arc<Port>>,
}

impl Message {
    pub(super) fn new(delivery: Delivery, port: Arc<Port>) -> Self {
        Self {
            id: MessageId(delivery.id),
            timestamp_ns: delivery.timestamp_ns,
            attempts: delivery.attempts,
            body: delivery.body,
            port: Some(port),
        }
    }

    /// Whether an answer would still reach the nsqd.
    pub(super) fn is_answerable(&self) -> bool {
        !self.port().outbox.is_closed()
    }

    fn port(&self) -> &Port {
        self.port
            .as_deref()
            .expect("only answers take it, and they consume the message")
    }

    fn answer_requeue(&mut self, delay: Option<Duration>, outcome: Outcome) {
        if let Some(port) = self.port.take() {
            let delay = delay.unwrap_or_else(|| port.automatic_delay(self.attempts));
            port.requeue(self.id, delay, outcome);
        }
    }

    /// The id.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// When it was published, in nanoseconds since 1970.
    #[must_use]
    pub const fn timestamp_ns(&self) -> u64 {
        self.timestamp_ns
    }

    /// When it was published.
    #[must_use]
    pub fn timestamp(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.timestamp_ns)
    }

    /// How many times it has been delivered, this one included.
    #[must_use]
    pub const fn attempts(&self) -> u16 {
        self.attempts
    }

    /// The body. It is a slice of the buffer it was received in (64 KiB or more): whoever keeps
    /// bodies for long after the answer should copy them.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// `host:port` of the nsqd that delivered it, as it was given or discovered.
    #[must_use]
    pub fn nsqd_address(&self) -> &str {
        &self.port().address
    }

    /// FIN: it is done.
    pub fn finish(mut self) {
        if let Some(port) = self.port.take() {
            port.finish(self.id);
        }
    }

    /// REQ: it has failed and is to come again after `delay`; `None` is `default_requeue_delay` times
    /// the attempts, at most `max_requeue_delay`. The consumer backs off.
    pub fn requeue(mut self, delay: Option<Duration>) {
        self.answer_requeue(delay, Outcome::Failure);
    }

    /// REQ without the back-off: for messages that come too early rather than fail.
    pub fn requeue_without_backoff(mut self, delay: Option<Duration>) {
        self.answer_requeue(delay, Outcome::Neither);
    }

    /// TOUCH: restarts its timeout at the nsqd.
    pub fn touch(&self) {
        self.port().touch(self.id);
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.answer_requeue(None, Outcome::Failure);
    }
}
