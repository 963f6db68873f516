//! The way of a message: filter, choice of the destination, publish, answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nsq_client::{Consumer, Message, Producer, Receipt};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::filter::{Filter, Verdict};
use super::options::Options;
use crate::client;
use crate::command::{Failure, note};
use crate::host_pool::HostPool;
use crate::timing::Timing;

/// Messages taken from a consumer at one time.
const TAKE_MAX: usize = 256;
/// A message that lacks the field to be compared fails so often before it is dropped: it will never
/// have it.
const FIELD_ATTEMPTS_MAX: u16 = 5;

/// What the workers of all topics share.
#[derive(Debug)]
pub(super) struct Relay {
    filter: Option<Filter>,
    destinations: Vec<Destination>,
    desk: Arc<Mutex<Desk>>,
}

/// Which messages go where.
#[derive(Debug)]
pub(super) struct Route {
    consumer: Consumer,
    /// Topic at the destination.
    topic: String,
}

#[derive(Debug)]
struct Destination {
    producer: Producer,
    /// In the order of the publishes. Bounded by what consumers have in flight.
    sent: UnboundedSender<Sent>,
}

/// A message whose publish has no answer yet.
#[derive(Debug)]
struct Sent {
    message: Message,
    receipt: Receipt,
    began: Instant,
}

/// Choice and measurement of destinations: locked for a moment per message, never over a wait.
#[derive(Debug)]
struct Desk {
    pool: HostPool,
    random: fastrand::Rng,
    timings: Vec<Timing>,
    total: Timing,
}

impl Route {
    pub(super) fn new(consumer: Consumer, topic: &str) -> Self {
        let topic = topic.to_owned();
        Self { consumer, topic }
    }
}

impl Relay {
    /// Makes producers, not connected yet, and starts the tasks that take their answers.
    pub(super) fn start(options: &Options) -> Result<Self, Failure> {
        let addresses = &options.destinations;
        let desk = Arc::new(Mutex::new(Desk::new(options)));
        let mut destinations = Vec::new();
        for (index, address) in addresses.iter().enumerate() {
            let producer = Producer::new(address, &options.producer, client::log());
            let producer = producer.map_err(|error| {
                Failure::plain(format_args!("failed creating producer {error}"))
            })?;
            let (sent, answers) = unbounded_channel();
            let settling = Settling {
                index,
                address: address.clone(),
                desk: Arc::clone(&desk),
            };
            drop(tokio::spawn(settling.run(answers)));
            destinations.push(Destination { producer, sent });
        }
        Ok(Self {
            filter: options.filter.clone(),
            destinations,
            desk,
        })
    }

    /// Passes on messages until the consumer has stopped.
    pub(super) async fn run(self: Arc<Self>, route: Route) {
        let mut messages = Vec::new();
        while route.consumer.recv_many(&mut messages, TAKE_MAX).await > 0 {
            for message in messages.drain(..) {
                self.pass_on(message, &route.topic).await;
            }
        }
    }

    /// Waits for the last answers and closes the connections.
    pub(super) async fn stop(&self) {
        for destination in &self.destinations {
            destination.producer.stop().await;
        }
    }

    async fn pass_on(&self, message: Message, topic: &str) {
        let verdict = match &self.filter {
            Some(filter) => filter.judge(message.body()),
            None => Verdict::Pass(message.body().clone()),
        };
        match verdict {
            Verdict::Pass(body) => self.send(message, topic, body).await,
            Verdict::Drop => message.finish(),
            Verdict::NotJson => {
                let body = String::from_utf8_lossy(message.body());
                note(format_args!("ERROR: Unable to decode json: {body}"));
                message.finish();
            }
            Verdict::MissingField => retry_without_field(message),
        }
    }

    async fn send(&self, message: Message, topic: &str, body: Bytes) {
        let began = Instant::now();
        let index = lock(&self.desk).choose(began);
        let destination = &self.destinations[index];
        match destination.producer.send(topic, body).await {
            Ok(receipt) => {
                let sent = Sent {
                    message,
                    receipt,
                    began,
                };
                let taken = destination.sent.send(sent);
                taken.expect("the task that takes answers lives as long as the relay");
            }
            Err(error) => {
                log_failure(destination.producer.address(), &error);
                lock(&self.desk).record_failure(index);
                message.requeue(None);
            }
        }
    }
}

fn retry_without_field(message: Message) {
    note(format_args!("ERROR: missing field to check required value"));
    if message.attempts() < FIELD_ATTEMPTS_MAX {
        message.requeue(None);
    } else {
        let (id, attempts) = (message.id(), message.attempts());
        note(format_args!(
            "ERROR: message {id} is dropped after {attempts} attempts without the required field"
        ));
        message.finish();
    }
}

fn log_failure(address: &str, error: &impl std::fmt::Display) {
    note(format_args!("ERROR: ({address}) {error}"));
}

/// Takes the answers of one destination, in order.
#[derive(Debug)]
struct Settling {
    index: usize,
    address: String,
    desk: Arc<Mutex<Desk>>,
}

impl Settling {
    async fn run(self, mut answers: UnboundedReceiver<Sent>) {
        while let Some(sent) = answers.recv().await {
            let outcome = sent.receipt.await;
            let took = sent.began.elapsed();
            lock(&self.desk).record(self.index, took, outcome.is_ok());
            match outcome {
                Ok(()) => sent.message.finish(),
                Err(error) => {
                    log_failure(&self.address, &error);
                    sent.message.requeue(None);
                }
            }
        }
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    fn new(options: &Options) -> Self {
        let addresses = &options.destinations;
        // With a single destination its lines would repeat the total.
        let every = match addresses.len() {
            1 => 0,
            _ => options.status_every,
        };
        let timing = |address: &String| Timing::new(every, format!("[{address}]:"));
        Self {
            pool: HostPool::new(options.strategy, addresses.len(), Instant::now()),
            random: fastrand::Rng::new(),
            timings: addresses.iter().map(timing).collect(),
            total: Timing::new(options.status_every, "[aggregate]:".to_owned()),
        }
    }

    fn choose(&mut self, now: Instant) -> usize {
        self.pool.choose(now, &mut self.random)
    }

    fn record_failure(&mut self, index: usize) {
        self.pool.record(index, Instant::now(), None);
    }

    /// Takes in an answer, and prints the status lines that are due.
    fn record(&mut self, index: usize, took: Duration, succeeded: bool) {
        self.pool
            .record(index, Instant::now(), succeeded.then_some(took));
        let lines = [self.timings[index].record(took), self.total.record(took)];
        for line in lines.into_iter().flatten() {
            note(format_args!("{line}"));
        }
    }
}
