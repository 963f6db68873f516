//! FIN, REQ and TOUCH (spec nsqd.md §2.5, §3.3).
//!
//! Hot path: no allocation, formatting or hashing per message; an id is decoded, checked against
//! the epoch of its sequence, and indexes the window.

use std::time::Duration;

use super::Shard;
use crate::channel::window::State;
use crate::latency::Latencies;
use crate::timers::{NewRun, Run};
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
        self.observe(now);
        let (channel, sequence, published_at) = self.release(consumer, id)?;
        let found = &mut self.channels[channel];
        if let Some(config) = &self.limits.latency {
            let latencies = found
                .latencies
                .get_or_insert_with(|| Latencies::new(now).into());
            latencies.record(config, published_at, now);
        }
        let was_outlier = found.finish(sequence);
        let topic = found.topic;
        self.consumers[consumer].stats.finish_count += 1;
        if was_outlier {
            self.release_kept(topic, sequence);
        }
        self.wake(consumer);
        Ok(())
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
        let (channel, sequence, _) = self.release(consumer, id)?;
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
        let topic = &self.topics[channel.topic];
        let sequence = topic
            .resolve(self.limits.node, id)
            .ok_or(AckError::NotInFlight)?;
        let slot = channel
            .window
            .get(sequence)
            .filter(|slot| slot.state == State::InFlight);
        let slot = slot.ok_or(AckError::NotInFlight)?;
        if self.timers.run(slot.key).consumer != consumer {
            return Err(AckError::NotOwner);
        }
        Ok((key, sequence, slot.key))
    }

    /// Takes a message out of flight, and tells when it was published; the caller gives its slot
    /// the next state.
    fn release(
        &mut self,
        consumer: ConsumerKey,
        id: &MessageId,
    ) -> Result<(ChannelKey, u64, Now), AckError> {
        let (channel, sequence, run) = self.locate(consumer, id)?;
        let published_at = self.timers.run(run).published_at;
        self.timers.settle(run);
        self.channels[channel].counters.in_flight_count -= 1;
        self.consumers[consumer].stats.in_flight_count -= 1;
        Ok((channel, sequence, published_at))
    }
}
