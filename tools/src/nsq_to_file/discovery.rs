//! Which topics are written: given ones, or those that the nsqlookupds know and the pattern matches.
//!
//! Owner of the list of topics. Topics are added and never dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use nsq_cli::{Logger, hostname};
use nsq_client::{ConnectError, Consumer};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::TopicLog;
use super::filename::FileNames;
use super::options::Options;
use super::rotation::{FileError, FileRotation};
use super::topic::{Order, TopicWriter};
use crate::client::{self, StopSignals, handler};
use crate::cluster::Cluster;
use crate::command::{Failure, Outcome, Sources};
use crate::terminal::Progress;

/// Orders that may wait for a topic that is busy with its disk.
const ORDERS_MAX: usize = 4;
/// Long after the end of any process.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The running program.
#[derive(Debug)]
pub(super) struct Discovery {
    options: Options,
    logger: Logger,
    cluster: Cluster,
    /// The way to the task of each topic.
    topics: BTreeMap<String, mpsc::Sender<Order>>,
    /// Topics that were found and left out, so that each is reported once.
    skipped: BTreeSet<String>,
    tasks: JoinSet<Result<(), TopicFailure>>,
    progress: Progress,
}

/// A topic cannot go on, and so the program cannot.
#[derive(Debug, thiserror::Error)]
enum TopicFailure {
    #[error("[{scope}] {error}")]
    File { scope: String, error: FileError },
    #[error("[{scope}] {error}")]
    Address { scope: String, error: ConnectError },
}

impl Discovery {
    pub(super) fn new(options: Options) -> Self {
        let logger = Logger::new(options.log_prefix.clone(), options.log_level);
        let cluster = Cluster::new(options.http_connect_timeout, options.http_request_timeout);
        Self {
            options,
            logger,
            cluster,
            topics: BTreeMap::new(),
            skipped: BTreeSet::new(),
            tasks: JoinSet::new(),
            progress: Progress::default(),
        }
    }

    /// Runs until a signal or a failure ends it.
    pub(super) async fn run(mut self) -> Outcome {
        let mut stop = StopSignals::install();
        let mut hangup = handler(SignalKind::hangup());
        let progress = self.progress.clone();
        for topic in self.options.topics.clone() {
            if let Err(text) = self.consider(&topic) {
                return Err(self.fatal(format_args!("{text}")));
            }
        }
        let mut refresh = self.refresh_ticks();
        loop {
            tokio::select! {
                () = stop.wait() => break,
                _ = hangup.recv() => self.reopen(),
                () = tick(&mut refresh) => self.discover().await,
                Some(ended) = self.tasks.join_next() => self.check(ended)?,
                never = progress.show() => match never {},
            }
        }
        for orders in self.topics.values() {
            // A task that has ended needs no order.
            let _ended = orders.send(Order::Stop).await;
        }
        while let Some(ended) = self.tasks.join_next().await {
            self.check(ended)?;
        }
        Ok(())
    }

    /// When to look for topics: at once and then regularly, unless they are given.
    fn refresh_ticks(&self) -> Option<Interval> {
        let period = match self.options.topic_refresh {
            Duration::ZERO => NEVER,
            period => period,
        };
        let is_needed = self.options.topics.is_empty();
        is_needed.then(|| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        })
    }

    async fn discover(&mut self) {
        let failures = match self.cluster.topics(&self.options.sources.lookupd).await {
            Ok((topics, failures)) => {
                for topic in topics {
                    if let Err(text) = self.consider(&topic) {
                        self.logger.error(format_args!("{text}"));
                    }
                }
                failures
            }
            Err(error) => vec![error.to_string()],
        };
        for failure in failures {
            self.logger
                .error(format_args!("could not retrieve topic list: {failure}"));
        }
    }

    /// Starts to write a topic, unless it is written already or not wanted.
    fn consider(&mut self, topic: &str) -> Result<(), String> {
        if self.topics.contains_key(topic) || self.skipped.contains(topic) {
            return Ok(());
        }
        if let Some(pattern) = &self.options.pattern
            && !pattern.is_match(topic)
        {
            self.logger.warn(format_args!(
                "skipping topic {topic} (doesn't match pattern {pattern})"
            ));
            self.skipped.insert(topic.to_owned());
            return Ok(());
        }
        self.start(topic).map_err(|error| {
            self.skipped.insert(topic.to_owned());
            format!("couldn't create logger for new topic {topic}: {error}")
        })
    }

    fn start(&mut self, topic: &str) -> anyhow::Result<()> {
        let writing = self.options.writing.clone();
        let names = FileNames::new(&writing.names, topic, &hostname())?;
        let consumer = client::builder(topic, &writing.channel, &self.options.consumer).build()?;
        let log = TopicLog::new(self.logger.clone(), topic, &writing.channel);
        let files = FileRotation::new(writing.files.clone(), names, log.clone());
        let scope = format!("{topic}/{}", writing.channel);
        let sources = self.options.sources.clone();
        let writer = TopicWriter::new(consumer.clone(), files, log, writing, self.progress.clone());
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        self.topics.insert(topic.to_owned(), orders);
        self.tasks.spawn(async move {
            let connecting = async {
                let connected = connect(&consumer, &sources).await;
                connected.map_err(|error| TopicFailure::Address {
                    scope: scope.clone(),
                    error,
                })
            };
            let writing = async {
                let written = writer.run(received).await;
                written.map_err(|error| TopicFailure::File {
                    scope: scope.clone(),
                    error,
                })
            };
            tokio::try_join!(connecting, writing).map(|_| ())
        });
        Ok(())
    }

    /// Has all topics close their files. A topic that is still busy with such an order gets no
    /// further one.
    fn reopen(&self) {
        for orders in self.topics.values() {
            let _busy = orders.try_send(Order::Reopen);
        }
    }

    /// Looks at how the task of a topic ended.
    fn check(&self, ended: Result<Result<(), TopicFailure>, JoinError>) -> Outcome {
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(failure)) => Err(self.fatal(format_args!("{failure}"))),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn fatal(&self, text: fmt::Arguments<'_>) -> Failure {
        self.logger.fatal(text);
        Failure::Reported
    }
}

/// Never resolves without ticks.
async fn tick(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// An nsqd that cannot be reached now is tried again and again: the others are written meanwhile.
async fn connect(consumer: &Consumer, sources: &Sources) -> Result<(), ConnectError> {
    for address in &sources.nsqd {
        consumer.add_nsqd(address);
    }
    if sources.lookupd.is_empty() {
        return Ok(());
    }
    match consumer.connect_to_lookupds(&sources.lookupd).await {
        Err(ConnectError::Stopped) => Ok(()),
        connected => connected,
    }
}
