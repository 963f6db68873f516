//! Publishing: one path for TCP and HTTP, local and from other shards.
//!
//! Every door ends in [`Shard::publish`], which applies the publish to the core and queues the
//! publisher for its answer. A publish for a topic of another shard travels in that shard's
//! [`Outgoing`] batch, one per turn, and is answered by a [`PublishOutcome`].

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use nsq_core::{Now, PublishError, Sequence, TopicKey};
use nsq_proto::TopicName;

use super::message::{PublishBatch, PublishOutcome, Publisher, RemotePublish, ShardId};
use super::{Shard, SocketKey};
use crate::conn::{Phase, PublishVerb, Ticket, error_frame, response_frame};

/// Bytes that a connection may have under way to other shards before its commands wait.
pub(super) const REMOTE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Where the publisher of a waiting publish is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Local(Publisher),
    Remote(ShardId, Publisher),
}

/// A publisher that waits until everything below `end` is committed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiter {
    end: Sequence,
    origin: Origin,
}

/// The publishes of one turn for one other shard.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    publishes: Vec<RemotePublish>,
    bodies: BytesMut,
}

impl Outgoing {
    fn push<'a>(
        &mut self,
        publisher: Publisher,
        topic: &TopicName,
        delay: Duration,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) -> usize {
        let start = self.bodies.len();
        for body in bodies {
            let length = u32::try_from(body.len()).expect("bodies are bounded by --max-msg-size");
            self.bodies.reserve(4 + body.len());
            self.bodies.put_u32_ne(length);
            self.bodies.put_slice(body);
        }
        let end = self.bodies.len();
        self.publishes.push(RemotePublish {
            publisher,
            topic: topic.clone(),
            delay,
            start,
            end,
        });
        end - start
    }

    pub(super) fn take(&mut self, origin: ShardId, sent: Now) -> Option<PublishBatch> {
        (!self.publishes.is_empty()).then(|| PublishBatch {
            origin,
            sent,
            publishes: std::mem::take(&mut self.publishes),
            bodies: self.bodies.split().freeze(),
        })
    }
}

/// The bodies of one remote publish.
struct PackedBodies<'a>(&'a [u8]);

impl<'a> Iterator for PackedBodies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).expect("32 bits fit");
        let (body, rest) = rest.split_at(length);
        self.0 = rest;
        Some(body)
    }
}

/// A publish command as a connection gives it.
pub(super) struct ConnectionPublish<'a, I> {
    pub(super) verb: PublishVerb,
    pub(super) topic: &'a str,
    pub(super) delay: Duration,
    pub(super) bodies: I,
    pub(super) messages: u64,
}

impl Shard {
    /// Applies a publish of a connection to this shard's core or sends it to the topic's owner.
    ///
    /// # Errors
    /// The reason for which it was refused; the connection is to be told and closed.
    pub(super) fn publish_from_connection<'a>(
        &mut self,
        key: SocketKey,
        publish: ConnectionPublish<'a, impl Iterator<Item = &'a [u8]>>,
    ) -> Result<(), PublishError> {
        let ConnectionPublish {
            verb,
            topic: name,
            delay,
            bodies,
            messages,
        } = publish;
        let known = self.connection(key).and_then(|connection| {
            let (name, topic) = connection.published.last(name)?;
            Some((name.clone(), topic))
        });
        let (name, cached) = match known {
            Some((name, topic)) => (name, topic),
            None => (
                TopicName::parse(name.as_bytes()).expect("checked by the decoder"),
                None,
            ),
        };
        let owner = self.owner_of(name.as_str());
        if owner != self.id {
            self.publish_remotely(key, owner, (verb, &name, delay, messages), bodies);
            return Ok(());
        }
        // An ephemeral topic is gone from the core some steps before it is from `topics`.
        let topic = match cached.filter(|topic| self.core.topic_name(*topic).is_some()) {
            Some(topic) => topic,
            None => self.topic(&name),
        };
        if let Some(refusal) = self.refusal(topic) {
            return Err(refusal);
        }
        let published = self.core.publish(self.now, topic, delay, bodies)?;
        self.schedule_checkpoint(topic);
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return Ok(());
        };
        connection.published.count(&name, Some(topic), messages);
        connection.published.elsewhere = (self.id, 0);
        if !published.logged {
            connection.replies.push_ready(response_frame(b"OK"));
            return Ok(());
        }
        let waiters = &mut self.topics[topic].waiters;
        if let Some(Waiter {
            end,
            origin: Origin::Local(Publisher::Connection(tag, ticket)),
        }) = waiters.back_mut()
            && *tag == key.tag()
            && connection.replies.extend_publish(*ticket, verb)
        {
            *end = published.end;
            return Ok(());
        }
        let ticket = connection.replies.push_publish(verb);
        let origin = Origin::Local(Publisher::Connection(key.tag(), ticket));
        waiters.push_back(Waiter {
            end: published.end,
            origin,
        });
        Ok(())
    }

    fn publish_remotely<'a>(
        &mut self,
        key: SocketKey,
        owner: ShardId,
        (verb, name, delay, messages): (PublishVerb, &TopicName, Duration, u64),
        bodies: impl Iterator<Item = &'a [u8]>,
    ) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        let ticket = connection.replies.push_publish(verb);
        let publisher = Publisher::Connection(key.tag(), ticket);
        let bytes = self.outboxes[owner]
            .publishes
            .push(publisher, name, delay, bodies);
        connection.replies.note_remote_bytes(ticket, bytes);
        let published = &mut connection.published;
        published.count(name, None, messages);
        published.remote_bytes += bytes;
        published.elsewhere = match published.elsewhere {
            (shard, count) if shard == owner => (owner, count.saturating_add(1)),
            _ => (owner, 1),
        };
    }

    /// Publishes for a local task (HTTP); the request is answered when it is committed.
    pub(super) fn publish_from_task(
        &mut self,
        request: u64,
        name: &TopicName,
        delay: Duration,
        bodies: &[Bytes],
    ) {
        let publisher = Publisher::Task(request);
        if self.stopping.is_some() {
            let result = Err(PublishError::Exiting.to_string());
            return self.on_outcome(PublishOutcome { publisher, result });
        }
        let owner = self.owner_of(name.as_str());
        let bodies = bodies.iter().map(|body| &body[..]);
        if owner == self.id {
            self.publish(Origin::Local(publisher), name, delay, bodies);
        } else {
            self.outboxes[owner]
                .publishes
                .push(publisher, name, delay, bodies);
        }
    }

    /// Takes the publishes of another shard.
    pub(super) fn on_remote_publishes(&mut self, batch: PublishBatch) {
        self.catch_up(batch.sent);
        self.work += batch.publishes.len() as u64;
        for publish in batch.publishes {
            let bodies = PackedBodies(&batch.bodies[publish.start..publish.end]);
            let origin = Origin::Remote(batch.origin, publish.publisher);
            self.publish(origin, &publish.topic, publish.delay, bodies);
        }
    }

    /// Applies a publish to the core, and answers it now or when it is committed.
    fn publish<'a>(
        &mut self,
        origin: Origin,
        name: &TopicName,
        delay: Duration,
        bodies: impl Iterator<Item = &'a [u8]>,
    ) {
        if self.stopping.is_some() {
            return self.answer(origin, Err(PublishError::Exiting.to_string()));
        }
        let topic = self.topic(name);
        let published = match self.refusal(topic) {
            Some(refusal) => Err(refusal),
            None => self.core.publish(self.now, topic, delay, bodies),
        };
        match published {
            Err(error) => self.answer(origin, Err(error.to_string())),
            Ok(published) => {
                self.schedule_checkpoint(topic);
                if published.logged {
                    self.topics[topic].waiters.push_back(Waiter {
                        end: published.end,
                        origin,
                    });
                } else {
                    self.answer(origin, Ok(()));
                }
            }
        }
    }

    /// Answers everybody whose publish is committed and whose topic is in the catalogue.
    pub(super) fn answer_waiters(&mut self, topic: TopicKey) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        if state.saved_when > self.catalogue_saved {
            return;
        }
        let committed = state.committed;
        while let Some(state) = self.topics.get_mut(topic)
            && let Some(waiter) = state.waiters.front()
            && waiter.end <= committed
        {
            let origin = waiter.origin;
            state.waiters.pop_front();
            self.answer(origin, Ok(()));
        }
    }

    /// Tells everybody who waits on this topic that it failed.
    pub(super) fn fail_waiters(&mut self, topic: TopicKey, reason: &str) {
        let Some(state) = self.topics.get_mut(topic) else {
            return;
        };
        for waiter in std::mem::take(&mut state.waiters) {
            self.answer(waiter.origin, Err(reason.to_owned()));
        }
    }

    fn answer(&mut self, origin: Origin, result: Result<(), String>) {
        match origin {
            Origin::Local(publisher) => self.on_outcome(PublishOutcome { publisher, result }),
            Origin::Remote(shard, publisher) => {
                self.outboxes[shard]
                    .outcomes
                    .push(PublishOutcome { publisher, result });
            }
        }
    }

    /// Outcomes of publishes that this shard sent to another one.
    pub(super) fn on_published(&mut self, outcomes: Vec<PublishOutcome>) {
        for outcome in outcomes {
            self.on_outcome(outcome);
        }
    }

    fn on_outcome(&mut self, outcome: PublishOutcome) {
        match outcome.publisher {
            Publisher::Task(request) => self.on_task_published(request, outcome.result),
            Publisher::Connection(tag, ticket) => {
                self.on_connection_published(SocketKey::from_tag(tag), ticket, outcome.result);
            }
        }
    }

    fn on_connection_published(
        &mut self,
        key: SocketKey,
        ticket: Ticket,
        result: Result<(), String>,
    ) {
        let Some(connection) = connection_mut(&mut self.sockets, key) else {
            return;
        };
        match result {
            Ok(()) => {
                let bytes = connection.replies.complete(ticket);
                connection.published.remote_bytes -= bytes;
            }
            Err(reason) => {
                if let Some(error) = connection.replies.fail(ticket, &reason) {
                    if connection.phase == (Phase::Closing { linger: true }) {
                        // It fails already, with an error that was just dropped as a later one.
                        connection.replies.push_ready(error_frame(&error));
                    }
                    self.fail_connection(key, &error);
                }
            }
        }
        self.queue_flush(key);
    }
}

/// The connection behind a key; a free function so that other fields of the shard stay usable.
pub(super) fn connection_mut(
    sockets: &mut slotmap::SlotMap<SocketKey, super::Socket>,
    key: SocketKey,
) -> Option<&mut crate::conn::Connection> {
    sockets.get_mut(key)?.tcp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_survive_the_way_to_another_shard() {
        let mut outgoing = Outgoing::default();
        assert!(outgoing.take(0, Now(1)).is_none());
        let topic = TopicName::parse(b"t").unwrap();
        let bodies: [&[u8]; 3] = [b"one", b"", b"three"];
        for request in [1, 2] {
            let publisher = Publisher::Task(request);
            outgoing.push(publisher, &topic, Duration::ZERO, bodies.into_iter());
        }
        let batch = outgoing.take(3, Now(1)).unwrap();
        assert_eq!((batch.origin, batch.publishes.len()), (3, 2));
        for publish in &batch.publishes {
            let packed = PackedBodies(&batch.bodies[publish.start..publish.end]);
            assert_eq!(packed.collect::<Vec<_>>(), bodies);
        }
        assert!(outgoing.take(3, Now(1)).is_none());
    }
}
