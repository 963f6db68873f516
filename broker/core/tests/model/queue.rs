//! The queues as one would write them first: maps of messages, moved about one at a time.

use std::collections::{BTreeMap, BTreeSet};

use nsq_core::AckError;

#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) conn: u64,
    pub(crate) deadline_ms: u64,
    pub(crate) delivered_ms: u64,
    pub(crate) attempts: u16,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) messages: u64,
    pub(crate) delivered: u64,
    pub(crate) finished: u64,
    pub(crate) requeued: u64,
    pub(crate) timeouts: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Channel {
    pub(crate) paused: bool,
    pub(crate) bounded: bool,
    /// By body: attempts so far.
    pub(crate) ready: BTreeMap<String, u16>,
    pub(crate) in_flight: BTreeMap<String, Flight>,
    /// By body: due time and attempts so far.
    pub(crate) deferred: BTreeMap<String, (u64, u16)>,
    pub(crate) counters: Counters,
    /// Settled or dropped since the last checkpoint: a crash may bring them back.
    pub(crate) settled: BTreeSet<String>,
    /// The last checkpoint does not know this channel.
    pub(crate) unknown: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Topic {
    pub(crate) paused: bool,
    pub(crate) ephemeral: bool,
    /// Bodies and due times, oldest first.
    pub(crate) backlog: Vec<(String, u64)>,
    pub(crate) channels: BTreeMap<String, Channel>,
    pub(crate) messages: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    pub(crate) topic: String,
    pub(crate) channel: String,
    pub(crate) rdy: u64,
    pub(crate) closing: bool,
    pub(crate) writable: bool,
    pub(crate) timeout_ms: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) now_ms: u64,
    pub(crate) mem_queue_size: u64,
    pub(crate) touch_max_ms: u64,
    pub(crate) requeue_max_ms: u64,
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) consumers: BTreeMap<u64, Consumer>,
}

impl Channel {
    pub(crate) fn in_flight_of(&self, conn: u64) -> u64 {
        self.in_flight
            .values()
            .filter(|flight| flight.conn == conn)
            .count() as u64
    }

    /// Everything it owes.
    pub(crate) fn owed(&self) -> BTreeSet<String> {
        let bodies = self
            .ready
            .keys()
            .chain(self.in_flight.keys())
            .chain(self.deferred.keys());
        bodies.cloned().collect()
    }
}

impl Model {
    pub(crate) fn channel(&mut self, topic: &str, channel: &str) -> &mut Channel {
        self.topics
            .get_mut(topic)
            .unwrap()
            .channels
            .get_mut(channel)
            .unwrap()
    }

    pub(crate) fn spare(&self, conn: u64) -> u64 {
        let consumer = &self.consumers[&conn];
        let channel = &self.topics[&consumer.topic].channels[&consumer.channel];
        if consumer.closing || !consumer.writable || channel.paused {
            return 0;
        }
        consumer.rdy.saturating_sub(channel.in_flight_of(conn))
    }

    pub(crate) fn channel_spare(&self, topic: &str, channel: &str) -> u64 {
        let members = self
            .consumers
            .iter()
            .filter(|(_, c)| c.topic == topic && c.channel == channel);
        members.map(|(&conn, _)| self.spare(conn)).sum()
    }

    pub(crate) fn publish(&mut self, topic: &str, bodies: &[String], due_ms: u64) {
        let bound = self.mem_queue_size;
        let topic = self.topics.get_mut(topic).unwrap();
        let pumping = !topic.paused && !topic.channels.is_empty();
        for body in bodies {
            topic.messages += 1;
            if !topic.ephemeral || pumping || (topic.backlog.len() as u64) < bound {
                topic.backlog.push((body.clone(), due_ms));
            }
        }
    }

    /// What happens in a turn before messages go out.
    pub(crate) fn pump(&mut self) {
        let names: Vec<String> = self.topics.keys().cloned().collect();
        for name in names {
            let topic = &self.topics[&name];
            if topic.paused || topic.channels.is_empty() {
                continue;
            }
            let channels: Vec<String> = topic.channels.keys().cloned().collect();
            let backlog = std::mem::take(&mut self.topics.get_mut(&name).unwrap().backlog);
            for channel_name in channels {
                let bound = self.mem_queue_size + self.channel_spare(&name, &channel_name);
                let now_ms = self.now_ms;
                let channel = self.channel(&name, &channel_name);
                for (body, due_ms) in &backlog {
                    channel.counters.messages += 1;
                    if *due_ms > now_ms {
                        channel.deferred.insert(body.clone(), (*due_ms, 0));
                    } else if !channel.bounded || (channel.ready.len() as u64) < bound {
                        channel.ready.insert(body.clone(), 0);
                    }
                }
            }
        }
    }

    /// A consumer was sent a message.
    pub(crate) fn deliver(&mut self, conn: u64, body: &str, attempts: u16) {
        assert!(self.spare(conn) > 0, "c{conn} had no room for {body}");
        let consumer = self.consumers[&conn].clone();
        let now_ms = self.now_ms;
        let channel = self.channel(&consumer.topic, &consumer.channel);
        let before = channel.ready.remove(body);
        let before = before.unwrap_or_else(|| panic!("{body} was not ready for c{conn}"));
        assert_eq!(attempts, before + 1, "attempts of {body}");
        channel.counters.delivered += 1;
        let deadline_ms = now_ms + consumer.timeout_ms;
        let flight = Flight {
            conn,
            deadline_ms,
            delivered_ms: now_ms,
            attempts,
        };
        channel.in_flight.insert(body.to_owned(), flight);
    }

    pub(crate) fn advance(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for channel in self
            .topics
            .values_mut()
            .flat_map(|topic| topic.channels.values_mut())
        {
            let Channel {
                ready,
                in_flight,
                deferred,
                counters,
                ..
            } = channel;
            in_flight.retain(|body, flight| {
                let stays = flight.deadline_ms > now_ms;
                if !stays {
                    ready.insert(body.clone(), flight.attempts);
                    counters.timeouts += 1;
                }
                stays
            });
            deferred.retain(|body, &mut (due_ms, attempts)| {
                if due_ms <= now_ms {
                    ready.insert(body.clone(), attempts);
                }
                due_ms > now_ms
            });
        }
    }

    /// The flight of a message, if this consumer may settle it.
    fn take(&mut self, conn: u64, body: &str) -> Result<Flight, AckError> {
        let consumer = self.consumers[&conn].clone();
        let channel = self.channel(&consumer.topic, &consumer.channel);
        let flight = channel.in_flight.get(body).ok_or(AckError::NotInFlight)?;
        if flight.conn != conn {
            return Err(AckError::NotOwner);
        }
        Ok(channel.in_flight.remove(body).unwrap())
    }

    fn channel_of(&mut self, conn: u64) -> &mut Channel {
        let consumer = self.consumers[&conn].clone();
        self.channel(&consumer.topic, &consumer.channel)
    }

    pub(crate) fn finish(&mut self, conn: u64, body: &str) -> Result<(), AckError> {
        self.take(conn, body)?;
        let channel = self.channel_of(conn);
        channel.counters.finished += 1;
        channel.settled.insert(body.to_owned());
        Ok(())
    }

    pub(crate) fn requeue(&mut self, conn: u64, body: &str, delay_ms: u64) -> Result<(), AckError> {
        let flight = self.take(conn, body)?;
        let due_ms = self.now_ms + delay_ms.min(self.requeue_max_ms);
        let channel = self.channel_of(conn);
        channel.counters.requeued += 1;
        if delay_ms == 0 {
            channel.ready.insert(body.to_owned(), flight.attempts);
        } else {
            channel
                .deferred
                .insert(body.to_owned(), (due_ms, flight.attempts));
        }
        Ok(())
    }

    pub(crate) fn touch(&mut self, conn: u64, body: &str) -> Result<(), AckError> {
        let mut flight = self.take(conn, body)?;
        let longest = flight.delivered_ms + self.touch_max_ms;
        flight.deadline_ms = (self.now_ms + self.consumers[&conn].timeout_ms).min(longest);
        self.channel_of(conn)
            .in_flight
            .insert(body.to_owned(), flight);
        Ok(())
    }

    pub(crate) fn empty_channel(&mut self, topic: &str, channel: &str) {
        let channel = self.channel(topic, channel);
        let owed = channel.owed();
        channel.settled.extend(owed);
        channel.ready.clear();
        channel.in_flight.clear();
        channel.deferred.clear();
    }

    pub(crate) fn empty_topic(&mut self, topic: &str) {
        let topic = self.topics.get_mut(topic).unwrap();
        for (body, _) in std::mem::take(&mut topic.backlog) {
            for channel in topic.channels.values_mut() {
                channel.settled.insert(body.clone());
            }
        }
    }

    pub(crate) fn unsubscribe(&mut self, conn: u64) {
        let Consumer { topic, channel, .. } = self.consumers.remove(&conn).unwrap();
        let is_used = self
            .consumers
            .values()
            .any(|c| c.topic == topic && c.channel == channel);
        if !is_used && channel.ends_with("#ephemeral") {
            self.delete_channel(&topic, &channel);
        }
    }

    pub(crate) fn delete_channel(&mut self, topic: &str, channel: &str) {
        self.consumers
            .retain(|_, c| c.topic != topic || c.channel != channel);
        let found = self.topics.get_mut(topic).unwrap();
        found.channels.remove(channel).unwrap();
        if found.ephemeral && found.channels.is_empty() {
            self.topics.remove(topic);
        }
    }

    pub(crate) fn delete_topic(&mut self, topic: &str) {
        self.consumers.retain(|_, c| c.topic != topic);
        self.topics.remove(topic).unwrap();
    }

    /// A restart right after a checkpoint: nothing that can be kept is lost.
    pub(crate) fn restart(&mut self) {
        self.consumers.clear();
        self.topics.retain(|_, topic| !topic.ephemeral);
        let now_ms = self.now_ms;
        for topic in self.topics.values_mut() {
            topic.messages = 0;
            topic
                .channels
                .retain(|name, _| !name.ends_with("#ephemeral"));
            for channel in topic.channels.values_mut() {
                channel.counters = Counters::default();
                for (body, flight) in std::mem::take(&mut channel.in_flight) {
                    channel.ready.insert(body, flight.attempts);
                }
            }
        }
        self.advance(now_ms);
    }

    pub(crate) fn note_checkpoint(&mut self) {
        for channel in self
            .topics
            .values_mut()
            .flat_map(|topic| topic.channels.values_mut())
        {
            channel.settled.clear();
            channel.unknown = false;
        }
    }
}
