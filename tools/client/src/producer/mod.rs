//! A producer to one nsqd.

mod batch;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;

use crate::{Config, Log, PublishError, StartError};

pub use batch::Batch;

/// Publishes to one nsqd over one connection, which is made at the first publish, and made again at
/// the first publish after it was lost. Clones share it.
///
/// Publishes of one task leave in its order. Any number may wait for answers, up to 16 MiB of bodies;
/// further ones wait for room.
#[derive(Debug, Clone)]
pub struct Producer {
    _inner: (),
}

impl Producer {
    /// A producer to the nsqd at `address`, not connected yet. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError::Config`].
    pub fn new(_address: &str, _config: &Config, _log: Log) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// The address it was made with.
    #[must_use]
    pub fn address(&self) -> &str {
        unimplemented!()
    }

    /// Connects unless it is connected, and sends a NOP.
    ///
    /// # Errors
    /// Why it could not connect.
    pub async fn ping(&self) -> Result<(), PublishError> {
        unimplemented!()
    }

    /// PUB, and waits for the answer.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(&self, topic: &str, body: impl Into<Bytes>) -> Result<(), PublishError> {
        self.send(topic, body).await?.await
    }

    /// DPUB, and waits for the answer.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish_deferred(
        &self,
        topic: &str,
        delay: Duration,
        body: impl Into<Bytes>,
    ) -> Result<(), PublishError> {
        self.send_deferred(topic, delay, body).await?.await
    }

    /// MPUB: all of the batch or none, and waits for the answer.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish_batch(&self, topic: &str, batch: Batch) -> Result<(), PublishError> {
        self.send_batch(topic, batch).await?.await
    }

    /// PUB without waiting for the answer: resolves when there is room for it, to its receipt.
    /// Dropping the receipt does not take the message back.
    ///
    /// # Errors
    /// See [`PublishError`]: the message was not sent.
    pub async fn send(
        &self,
        _topic: &str,
        _body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        unimplemented!()
    }

    /// DPUB without waiting for the answer, as [`Producer::send`].
    ///
    /// # Errors
    /// See [`PublishError`]: the message was not sent.
    pub async fn send_deferred(
        &self,
        _topic: &str,
        _delay: Duration,
        _body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        unimplemented!()
    }

    /// MPUB without waiting for the answer, as [`Producer::send`].
    ///
    /// # Errors
    /// See [`PublishError`]: no message was sent.
    pub async fn send_batch(&self, _topic: &str, _batch: Batch) -> Result<Receipt, PublishError> {
        unimplemented!()
    }

    /// Waits for the answers to what was sent (bounded by `read_timeout`), then closes the connection.
    /// Publishes after it fail.
    pub async fn stop(&self) {
        unimplemented!()
    }
}

/// The answer to come of one publish.
#[derive(Debug)]
#[must_use = "the publish may fail"]
pub struct Receipt {
    _answer: (),
}

impl Future for Receipt {
    type Output = Result<(), PublishError>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        unimplemented!()
    }
}
