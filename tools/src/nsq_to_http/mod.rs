//! `nsq_to_http`: sends each message to HTTP endpoints.
//!
//! A message is finished when an endpoint, or each of them with `--mode=all`, has answered with a
//! status of 200 to 299; otherwise it is requeued, with back-off. `--n` workers each have one request
//! under way.

mod options;
mod request;

use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nsq_client::{Consumer, Message};

use self::options::{Mode, Options};
use self::request::Sender;
use crate::client::{self, StopSignals, block_on, wait_for_stop};
use crate::command::{Failure, Outcome, note};
use crate::host_pool::{HostPool, Strategy};
use crate::timing::Timing;

/// The program's name.
pub const PROGRAM: &str = "nsq_to_http";

/// Runs the program.
///
/// # Errors
/// Whatever ends it with another status than 0.
pub fn run(args: Vec<OsString>) -> Outcome {
    let options = Options::from_args(args)?;
    block_on(forward(options))
}

async fn forward(options: Options) -> Outcome {
    let mut stop = StopSignals::install();
    let consumer = client::consumer(&options.topic, &options.channel, &options.consumer)?;
    if options.workers == 0 {
        return Err(Failure::plain("no handlers"));
    }
    let forwarder = Arc::new(Forwarder::new(&options));
    for _ in 0..options.workers {
        drop(tokio::spawn(Arc::clone(&forwarder).run(consumer.clone())));
    }
    client::connect(&consumer, &options.sources).await?;
    stop.wait().await;
    consumer.begin_stop();
    wait_for_stop(&[consumer]).await;
    Ok(())
}

/// What the workers share.
#[derive(Debug)]
struct Forwarder {
    sender: Sender,
    mode: Mode,
    /// Share of the messages that are sent, 0 to 1.
    sample: f64,
    desk: Mutex<Desk>,
}

/// Choice and measurement of endpoints: locked for a moment per message, never over a wait.
#[derive(Debug)]
struct Desk {
    pool: HostPool,
    random: fastrand::Rng,
    timings: Vec<Timing>,
    total: Timing,
}

impl Forwarder {
    fn new(options: &Options) -> Self {
        let addresses = options.sender.addresses();
        // With a single endpoint its lines would repeat the total.
        let every = match addresses.len() {
            1 => 0,
            _ => options.status_every,
        };
        let strategy = match options.mode {
            Mode::One(strategy) => strategy,
            Mode::All => Strategy::RoundRobin,
        };
        let timing = |address: &&str| Timing::new(every, format!("[{address}]:"));
        Self {
            sender: options.sender.clone(),
            mode: options.mode,
            sample: options.sample,
            desk: Mutex::new(Desk {
                pool: HostPool::new(strategy, addresses.len(), Instant::now()),
                random: fastrand::Rng::new(),
                timings: addresses.iter().map(timing).collect(),
                total: Timing::new(options.status_every, "[aggregate]:".to_owned()),
            }),
        }
    }

    /// Sends messages, one after the other, until the consumer has stopped.
    async fn run(self: Arc<Self>, consumer: Consumer) {
        while let Some(message) = consumer.recv().await {
            if self.is_left_out() {
                message.finish();
                continue;
            }
            let began = Instant::now();
            let result = match self.mode {
                Mode::One(_) => self.send_to_one(&message).await,
                Mode::All => self.send_to_all(&message).await,
            };
            match result {
                Ok(()) => {
                    let line = self.desk().total.record(began.elapsed());
                    print_status(line);
                    message.finish();
                }
                Err(error) => {
                    note(format_args!(
                        "ERROR: message {} failed - {error}",
                        message.id()
                    ));
                    message.requeue(None);
                }
            }
        }
    }

    fn is_left_out(&self) -> bool {
        self.sample < 1.0 && self.desk().random.f64() > self.sample
    }

    async fn send_to_one(&self, message: &Message) -> Result<(), String> {
        let began = Instant::now();
        let index = {
            let mut desk = self.desk();
            let Desk { pool, random, .. } = &mut *desk;
            pool.choose(began, random)
        };
        let result = self.sender.send(index, message.body()).await;
        let took = result.is_ok().then(|| began.elapsed());
        self.desk().pool.record(index, Instant::now(), took);
        self.record(index, took);
        result
    }

    /// In order; the first failure ends it, and the message comes again to all of them.
    async fn send_to_all(&self, message: &Message) -> Result<(), String> {
        for index in 0..self.sender.addresses().len() {
            let began = Instant::now();
            self.sender.send(index, message.body()).await?;
            self.record(index, Some(began.elapsed()));
        }
        Ok(())
    }

    fn record(&self, index: usize, took: Option<Duration>) {
        if let Some(took) = took {
            let line = self.desk().timings[index].record(took);
            print_status(line);
        }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn print_status(line: Option<String>) {
    if let Some(line) = line {
        note(format_args!("{line}"));
    }
}
