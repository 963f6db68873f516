//! Consumers: subscription, readiness, departure (spec nsqd.md §2.5 SUB, RDY, CLS).

use super::Shard;
use crate::consumer::Consumer;
use crate::{ConnToken, ConsumerKey, ConsumerOptions, ConsumerStats, SubscribeError, TopicKey};

impl Shard {
    /// Creates topic and channel as needed is *not* done here: call `create_channel` first.
    ///
    /// # Errors
    /// `TooManyConsumers` when the channel has as many as the flag allows.
    ///
    /// # Panics
    /// When there is no such channel.
    pub fn subscribe(
        &mut self,
        topic: TopicKey,
        channel: &str,
        conn: ConnToken,
        options: &ConsumerOptions,
    ) -> Result<ConsumerKey, SubscribeError> {
        let key = self
            .find_channel(topic, channel)
            .expect("create_channel came first");
        let found = &mut self.channels[key];
        let limit = self.limits.channel_consumers_max;
        if limit > 0 && found.crowd.members.len() >= limit as usize {
            let topic = self.topics[topic].name.as_str().to_owned();
            let channel = channel.to_owned();
            return Err(SubscribeError::TooManyConsumers {
                topic,
                channel,
                limit,
            });
        }
        let consumer = self
            .consumers
            .insert(Consumer::new(conn, key, options.clone()));
        found.crowd.members.push(consumer);
        Ok(consumer)
    }

    /// RDY. Unknown keys are ignored (the channel may just have been deleted), here and below.
    pub fn ready(&mut self, consumer: ConsumerKey, count: u32) {
        let Some(found) = self.consumers.get_mut(consumer) else {
            return;
        };
        if !found.closing {
            found.stats.ready_count = count;
            self.wake(consumer);
        }
    }

    /// CLS: no further deliveries.
    pub fn close(&mut self, consumer: ConsumerKey) {
        let Some(found) = self.consumers.get_mut(consumer) else {
            return;
        };
        found.stats.ready_count = 0;
        found.closing = true;
    }

    /// The connection's output is full (`false`: deliver nothing) or has room again.
    pub fn set_writable(&mut self, consumer: ConsumerKey, writable: bool) {
        let Some(found) = self.consumers.get_mut(consumer) else {
            return;
        };
        found.writable = writable;
        if writable {
            self.wake(consumer);
        }
    }

    /// The connection is gone: its messages wait for their timeout, unless the limits say that it
    /// comes at once. Removes an ephemeral channel
    /// whose last consumer it was, and then an ephemeral topic whose last channel that was.
    pub fn unsubscribe(&mut self, consumer: ConsumerKey) {
        let Some(gone) = self.consumers.remove(consumer) else {
            return;
        };
        if self.limits.requeue_on_disconnect && gone.stats.in_flight_count > 0 {
            self.time_out_all_of(consumer);
        }
        let channel = &mut self.channels[gone.channel];
        channel.crowd.remove(consumer);
        if channel.crowd.members.is_empty() {
            channel.relax();
            if channel.name.is_ephemeral() {
                let topic = channel.topic;
                self.pump(topic);
                self.remove_channel(gone.channel);
            }
        }
    }

    /// Counters of a live consumer.
    #[must_use]
    pub fn consumer_stats(&self, consumer: ConsumerKey) -> Option<ConsumerStats> {
        self.consumers.get(consumer).map(|consumer| consumer.stats)
    }
}
