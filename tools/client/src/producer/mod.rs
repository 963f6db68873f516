//! A producer to one nsqd: one connection, many publishes under way on it.

mod batch;
mod connection;
mod port;
mod receipt;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nsq_proto::{ErrorCode, encode_dpub, encode_mpub, encode_nop, encode_pub, is_word};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::link::Dialer;
use crate::log::InstanceLog;
use crate::{Config, ConnectError, Log, NsqdError, PublishError, StartError};
use port::Port;

pub use batch::Batch;
pub use receipt::Receipt;

/// Bytes of publishes that may wait for their answers, by [`cost`].
const ROOM_BYTES: u32 = 16 * 1024 * 1024;
/// What a publish takes beyond its bytes: so many small ones have a bound, too.
const PUBLISH_COST: usize = 128;
/// Attempts of a publish whose connection is lost before anything of it was handed over.
const TRIES: u32 = 3;

/// Publishes to one nsqd over one connection, which is made at the first publish, and made again at
/// the first publish after it was lost. Clones share it.
///
/// Publishes of one task leave in its order. Any number may wait for answers, up to 16 MiB of them;
/// further ones wait for room. When the last clone is dropped, what was sent is still answered.
#[derive(Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

struct Handle {
    address: Arc<str>,
    dialer: Arc<Dialer>,
    log: InstanceLog,
    room: Arc<Semaphore>,
    /// Connections that have not ended: the last is the one in use, unless that one is ending too.
    ports: Mutex<Vec<Arc<Port>>>,
    /// Held while connecting: one attempt at a time.
    connecting: tokio::sync::Mutex<Attempt>,
    stopped: AtomicBool,
}

/// The last attempt to connect.
#[derive(Debug, Default)]
struct Attempt {
    /// `None` when it worked, and before the first.
    error: Option<ConnectError>,
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("address", &self.handle.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(port) = self.current() {
            port.retire();
        }
    }
}

impl Producer {
    /// A producer to the nsqd at `address`, not connected yet.
    ///
    /// # Errors
    /// [`StartError::Config`].
    pub fn new(address: &str, config: &Config, log: Log) -> Result<Self, StartError> {
        config.validate()?;
        Ok(Self {
            handle: Arc::new(Handle {
                address: address.into(),
                dialer: Arc::new(Dialer::new(config.clone())),
                log: InstanceLog::new(log, ""),
                room: Arc::new(Semaphore::new(ROOM_BYTES as usize)),
                ports: Mutex::default(),
                connecting: tokio::sync::Mutex::default(),
                stopped: AtomicBool::new(false),
            }),
        })
    }

    /// The address it was made with.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.handle.address
    }

    /// Connects unless it is connected, and sends a NOP.
    ///
    /// # Errors
    /// Why it could not connect.
    pub async fn ping(&self) -> Result<(), PublishError> {
        let port = self.handle.connected().await?;
        let sent = port.outbox.push(|entry| encode_nop(entry.commands));
        sent.ok_or(PublishError::NotConnected)
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
    pub async fn publish_batch(&self, topic: &str, batch: &Batch) -> Result<(), PublishError> {
        self.send_batch(topic, batch).await?.await
    }

    /// PUB without waiting for the answer: resolves when there is room for it, to its receipt.
    /// Dropping the receipt does not take the message back.
    ///
    /// *Cancellation:* the message was not sent.
    ///
    /// # Errors
    /// See [`PublishError`]: the message was not sent.
    pub async fn send(&self, topic: &str, body: impl Into<Bytes>) -> Result<Receipt, PublishError> {
        let body = body.into();
        check("PUB", topic, &body)?;
        let encode = |out: &mut BytesMut| encode_pub(out, topic, &body);
        self.handle.send(body.len(), encode).await
    }

    /// DPUB without waiting for the answer, as [`Producer::send`].
    ///
    /// # Errors
    /// See [`PublishError`]: the message was not sent.
    pub async fn send_deferred(
        &self,
        topic: &str,
        delay: Duration,
        body: impl Into<Bytes>,
    ) -> Result<Receipt, PublishError> {
        let body = body.into();
        check("DPUB", topic, &body)?;
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let encode = |out: &mut BytesMut| encode_dpub(out, topic, delay_ms, &body);
        self.handle.send(body.len(), encode).await
    }

    /// MPUB without waiting for the answer, as [`Producer::send`]. The batch is copied: it can be
    /// cleared and filled again.
    ///
    /// # Errors
    /// See [`PublishError`]: no message was sent.
    pub async fn send_batch(&self, topic: &str, batch: &Batch) -> Result<Receipt, PublishError> {
        let list = batch.list();
        check_batch(topic, batch)?;
        let encode = |out: &mut BytesMut| encode_mpub(out, topic, batch.count(), list);
        self.handle.send(list.len(), encode).await
    }

    /// Waits for the answers to what was sent (no longer than `read_timeout`), then closes the
    /// connection and waits until it has ended. Publishes after it fail.
    pub async fn stop(&self) {
        let handle = &self.handle;
        if handle.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        let address = &handle.address;
        handle.log.info(format_args!("({address}) stopping"));
        // All of the room is free when everything is answered. Nobody else gets any from here on.
        let answered = handle.room.acquire_many(ROOM_BYTES);
        drop(timeout(handle.dialer.config.read_timeout, answered).await);
        handle.room.close();
        // Also one that nsqd is ending, after a refusal: it has something to log.
        let ports = handle.ports().clone();
        for port in ports {
            port.retire();
            port.ended().await;
        }
    }
}

/// Refuses what would break the connection for other publishes, in the words of nsqd.
fn check(verb: &str, topic: &str, body: &[u8]) -> Result<(), NsqdError> {
    if !is_word(topic) {
        let detail = format!("{verb} topic name {topic:?} is not valid");
        return Err(refusal(ErrorCode::BadTopic, &detail));
    }
    if body.is_empty() {
        let detail = format!("{verb} invalid message body size 0");
        return Err(refusal(ErrorCode::BadMessage, &detail));
    }
    Ok(())
}

fn check_batch(topic: &str, batch: &Batch) -> Result<(), NsqdError> {
    check("MPUB", topic, batch.list())?;
    match batch.first_empty() {
        None => Ok(()),
        Some(index) => {
            let detail = format!("MPUB invalid message({index}) body size 0");
            Err(refusal(ErrorCode::BadMessage, &detail))
        }
    }
}

fn refusal(code: ErrorCode, detail: &str) -> NsqdError {
    NsqdError {
        code: Some(code),
        text: format!("{} {detail}", code.as_str()),
    }
}

/// Room that a publish of so many bytes takes: all of it for what is larger than that.
fn cost(bytes: usize) -> u32 {
    u32::try_from(bytes + PUBLISH_COST)
        .unwrap_or(ROOM_BYTES)
        .min(ROOM_BYTES)
}

impl Handle {
    /// The connection, if it takes publishes.
    fn current(&self) -> Option<Arc<Port>> {
        let ports = self.ports();
        ports.last().filter(|port| port.is_usable()).cloned()
    }

    fn ports(&self) -> MutexGuard<'_, Vec<Arc<Port>>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(
        &self,
        bytes: usize,
        encode: impl Fn(&mut BytesMut),
    ) -> Result<Receipt, PublishError> {
        let room = Arc::clone(&self.room);
        let mut room = room
            .acquire_many_owned(cost(bytes))
            .await
            .map_err(|_| PublishError::Stopped)?;
        for _ in 0..TRIES {
            let port = self.connected().await?;
            match port.send(&encode, room) {
                Ok(receipt) => return Ok(receipt),
                Err(unused) => room = unused,
            }
        }
        Err(PublishError::NotConnected)
    }

    /// The connection, made if there is none. Those who wait for an attempt share how it ends.
    async fn connected(&self) -> Result<Arc<Port>, PublishError> {
        if self.stopped.load(Ordering::Acquire) {
            return Err(PublishError::Stopped);
        }
        if let Some(port) = self.current() {
            return Ok(port);
        }
        let (mut attempt, waited) = match self.connecting.try_lock() {
            Ok(attempt) => (attempt, false),
            Err(_) => (self.connecting.lock().await, true),
        };
        if let Some(port) = self.current() {
            return Ok(port);
        }
        if let Some(error) = attempt.error.clone().filter(|_| waited) {
            return Err(error.into());
        }
        let opened = Box::pin(connection::open(&self.dialer, &self.address, &self.log)).await;
        attempt.error = opened.as_ref().err().cloned();
        let port = opened?;
        {
            let mut ports = self.ports();
            ports.retain(|port| !port.has_ended());
            ports.push(Arc::clone(&port));
        }
        if self.stopped.load(Ordering::Acquire) {
            // It was being made while the producer was stopped.
            port.retire();
            return Err(PublishError::Stopped);
        }
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_the_connection_is_refused_in_the_words_of_nsqd() {
        let refused = |verb, topic, body: &[u8]| check(verb, topic, body).unwrap_err();
        let topic = refused("PUB", "a b", b"x");
        assert_eq!(topic.code, Some(ErrorCode::BadTopic));
        assert_eq!(
            topic.to_string(),
            r#"E_BAD_TOPIC PUB topic name "a b" is not valid"#
        );
        assert_eq!(
            refused("DPUB", "t", b"").to_string(),
            "E_BAD_MESSAGE DPUB invalid message body size 0"
        );
        let batch: Batch = ["x", ""].into_iter().collect();
        assert_eq!(
            check_batch("t", &batch).unwrap_err().to_string(),
            "E_BAD_MESSAGE MPUB invalid message(1) body size 0"
        );
        // The server's business.
        assert!(check("PUB", "a$", b"x").is_ok());
    }

    #[test]
    fn room_is_never_more_than_there_is() {
        assert_eq!(cost(0), 128);
        assert_eq!(cost(usize::MAX - PUBLISH_COST), ROOM_BYTES);
    }
}
