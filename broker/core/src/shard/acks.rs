//! FIN, REQ and TOUCH (spec nsqd.md §2.5, §3.3).
//!
//! Hot path: no allocation, formatting or hashing per message; an id is decoded, checked against
//! the epoch of its sequence, and indexes the window.

use std::time::Duration;

use super::Shard;
use crate::channel::Channel;
use crate::channel::window::State;
use crate::latency::Latencies;
use crate::timers::{NewRun, Run, Timers};
use crate::types::ChannelKey;
use crate::wheel::Timer;
use crate::{AckError, ConsumerKey, MessageId, Now};

impl Shard {
    /// FIN: the message is settled.
    ///
    /// # Errors
    /// See [`AckError`].
    pub fn finish(
        &mut self,
        now: Now,
        consumer: ConsumerKey,
        id: &MessageId,
    ) -> Result<(), AckError> {
        match self.finish_all(now, consumer, std::iter::once(*id)) {
            (_, Some(error)) => Err(error),
            (_, None) => Ok(()),
        }
    }

    /// FINs of one consumer, in order, up to the first that is wrong: how many messages are settled, and
    /// what is wrong with the next one. May stop before: the rest is to be given again then.
    pub fn finish_all(
        &mut self,
        now: Now,
        consumer: ConsumerKey,
        ids: impl Iterator<Item = MessageId>,
    ) -> (usize, Option<AckError>) {
        self.observe(now);
        let Some(owner) = self.consumers.get_mut(consumer) else {
            return (0, Some(AckError::NotInFlight));
        };
        let found = &mut self.channels[owner.channel];
        let topic_key = found.topic;
        let topic = &self.topics[topic_key];
        let (mut count, mut failure, mut outlier) = (0, None, None);
        for id in ids {
            let sequence = topic.resolve(self.limits.node, &id);
            let (sequence, run) = match in_flight(found, &self.timers, consumer, sequence) {
                Ok(place) => place,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            if let Some(config) = &self.limits.latency {
                let latencies = found
                    .latencies
                    .get_or_insert_with(|| Latencies::new(now).into());
                latencies.record(config, self.timers.run(run).published_at, now);
            }
            self.timers.settle(run);
            count += 1;
            if found.finish(sequence) && topic.ephemeral {
                outlier = Some(sequence);
                break;
            }
        }
        let settled = count as u64;
        found.counters.in_flight_count -= settled;
        owner.stats.in_flight_count -= settled;
        owner.stats.finish_count += settled;
        if let Some(sequence) = outlier {
            self.release_kept(topic_key, sequence);
        }
        if count > 0 {
            self.wake(consumer);
        }
        (count, failure)
    }

    /// REQ: the message is delivered again, after `delay`, which is clamped to `requeue_delay_max`.
    ///
    /// # Errors
    /// See [`AckError`].
    pub fn requeue(
        &mut self,
        now: Now,
        consumer: ConsumerKey,
        id: &MessageId,
        delay: Duration,
    ) -> Result<(), AckError> {
        self.observe(now);
        let (channel, sequence, run) = self.locate(consumer, id)?;
        self.timers.settle(run);
        self.channels[channel].counters.in_flight_count -= 1;
        self.consumers[consumer].stats.in_flight_count -= 1;
        let found = &mut self.channels[channel];
        let delay = delay.min(self.limits.requeue_delay_max);
        if delay.is_zero() {
            found.requeue(sequence);
        } else {
            let timer = Timer::Deferred { channel, sequence };
            found.defer(sequence, self.timers.wheel.insert(now.after(delay), timer));
        }
        found.counters.requeue_count += 1;
        self.consumers[consumer].stats.requeue_count += 1;
        self.wake(consumer);
        Ok(())
    }

    /// TOUCH: the delivery timeout begins anew, within `msg_timeout_max` from the delivery.
    ///
    /// # Errors
    /// See [`AckError`].
    pub fn touch(
        &mut self,
        now: Now,
        consumer: ConsumerKey,
        id: &MessageId,
    ) -> Result<(), AckError> {
        self.observe(now);
        let (channel, sequence, number) = self.locate(consumer, id)?;
        let &Run {
            delivered_at,
            published_at,
            ..
        } = self.timers.run(number);
        let msg_timeout = self.consumers[consumer].options.msg_timeout;
        let latest = delivered_at.after(self.limits.msg_timeout_max);
        let deadline = now.after(msg_timeout).min(latest);
        // The message leaves the run that it came with: the others keep their deadline.
        self.timers.settle(number);
        let own = NewRun {
            consumer,
            channel,
            first: sequence,
            count: 1,
            delivered_at,
            published_at,
        };
        let own = self.timers.open_run(own, deadline);
        let slot = self.channels[channel].window.get_mut(sequence);
        slot.expect("it was located just now").key = own;
        Ok(())
    }

    /// Finds a message that is in flight to this consumer: its channel, sequence and run.
    fn locate(
        &self,
        consumer: ConsumerKey,
        id: &MessageId,
    ) -> Result<(ChannelKey, u64, u32), AckError> {
        let key = self
            .consumers
            .get(consumer)
            .ok_or(AckError::NotInFlight)?
            .channel;
        let channel = &self.channels[key];
        let sequence = self.topics[channel.topic].resolve(self.limits.node, id);
        let (sequence, run) = in_flight(channel, &self.timers, consumer, sequence)?;
        Ok((key, sequence, run))
    }
}

/// The sequence and run of a message, if it is in flight to this consumer.
fn in_flight(
    channel: &Channel,
    timers: &Timers,
    consumer: ConsumerKey,
    sequence: Option<u64>,
) -> Result<(u64, u32), AckError> {
    let sequence = sequence.ok_or(AckError::NotInFlight)?;
    let slot = channel
        .window
        .get(sequence)
        .filter(|slot| slot.state == State::InFlight)
        .ok_or(AckError::NotInFlight)?;
    if timers.run(slot.key).consumer != consumer {
        return Err(AckError::NotOwner);
    }
    Ok((sequence, slot.key))
}
