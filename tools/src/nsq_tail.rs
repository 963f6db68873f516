//! `nsq_tail`: prints the messages of topics, one newline after each.

use std::ffi::OsString;

use std::time::Duration;

use nsq_cli::{EarlyExit, Flag, FlagTable, Settings};
use nsq_client::{Config, Consumer, Message};
use tokio::sync::mpsc;

use crate::client::{self, Attempts, StopSignals, block_on, wait_for_stop};
use crate::command::{self, Outcome, Sources, note, refuse};
use crate::terminal::{emphasized, has_colour, print};

/// The program's name.
pub const PROGRAM: &str = "nsq_tail";

/// Most messages that are printed by one write.
const BATCH_MAX: usize = 1024;
/// Names of channels are made of numbers below this.
const CHANNELS: u32 = 999_999;

#[derive(Debug)]
struct Options {
    topics: Vec<String>,
    channel: String,
    sources: Sources,
    /// Messages to show; `None` = no end.
    count: Option<usize>,
    print_topic: bool,
    config: Config,
}

/// Messages of one topic.
#[derive(Debug)]
struct Batch {
    /// Index in [`Options::topics`].
    topic: usize,
    messages: Vec<Message>,
}

/// Runs the program.
///
/// # Errors
/// Whatever ends it with another status than 0.
pub fn run(args: Vec<OsString>) -> Outcome {
    let options = Options::from_settings(&table().load(args)?)?;
    block_on(tail(&options))
}

#[rustfmt::skip]
fn table() -> FlagTable {
    let mut flags = vec![
        Flag::list("topic", "NSQ topic (may be given multiple times)"),
        Flag::text("channel", "", "NSQ channel"),
        Flag::int("max-in-flight", 200, "max number of messages to allow in flight"),
        Flag::int("n", 0, "total messages to show (will wait if starved)"),
        Flag::bool("print-topic", false, "print topic name where message was received"),
        client::option_flag("consumer-opt", "option to passthrough to nsq.Consumer (may be given multiple times, http://godoc.org/github.com/nsqio/go-nsq#Config)"),
    ];
    flags.extend(command::source_flags());
    command::table(PROGRAM, "print version string", flags)
}

impl Options {
    fn from_settings(settings: &Settings) -> Result<Self, EarlyExit> {
        let sources = Sources::from_settings(settings, "")?;
        let topics = settings.list("topic").to_vec();
        refuse(topics.is_empty(), "--topic required")?;
        let channel = match settings.string("channel") {
            "" => format!("tail{:06}#ephemeral", fastrand::u32(..CHANNELS)),
            given => given.to_owned(),
        };
        let mut config = client::consumer_config(settings, PROGRAM, Attempts::Limited)?;
        // As in the reference a negative number is no end.
        let count = usize::try_from(settings.int("n"))
            .ok()
            .filter(|count| *count > 0);
        if let Some(count) = count {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            config.max_in_flight = config.max_in_flight.min(count);
        }
        Ok(Self {
            topics,
            channel,
            sources,
            count,
            print_topic: settings.bool("print-topic"),
            config,
        })
    }

    /// What stands before each message of each topic.
    fn prefixes(&self) -> Vec<String> {
        if !self.print_topic {
            return vec![String::new(); self.topics.len()];
        }
        let colour = has_colour();
        let prefix = |topic: &String| format!("{} | ", emphasized(topic, colour));
        self.topics.iter().map(prefix).collect()
    }
}

async fn tail(options: &Options) -> Outcome {
    let mut stop = StopSignals::install();
    let (sender, batches) = mpsc::channel(1);
    let mut consumers = Vec::new();
    for (topic, name) in options.topics.iter().enumerate() {
        note(format_args!("Adding consumer for topic: {name}"));
        let consumer = client::consumer(name, &options.channel, &options.config)?;
        client::connect(&consumer, &options.sources).await?;
        drop(tokio::spawn(receive(
            topic,
            consumer.clone(),
            sender.clone(),
        )));
        consumers.push(consumer);
    }
    drop(sender);
    let printer = Printer {
        prefixes: options.prefixes(),
        left: options.count.unwrap_or(usize::MAX),
        consumers: consumers.clone(),
    };
    // On a task of its own: standard output that takes nothing must not hold up signals.
    let printing = tokio::spawn(printer.run(batches));
    let stopping = async {
        stop.wait().await;
        begin_stop(&consumers);
        wait_for_stop(&consumers).await;
    };
    tokio::select! {
        outcome = printing => outcome.expect("printing does not panic")?,
        () = stopping => return Ok(()),
    }
    wait_for_stop(&consumers).await;
    Ok(())
}

fn begin_stop(consumers: &[Consumer]) {
    for consumer in consumers {
        consumer.begin_stop();
    }
}

/// Takes messages of one topic until its consumer has stopped.
async fn receive(topic: usize, consumer: Consumer, batches: mpsc::Sender<Batch>) {
    loop {
        let mut messages = Vec::new();
        if consumer.recv_many(&mut messages, BATCH_MAX).await == 0 {
            return;
        }
        if batches.send(Batch { topic, messages }).await.is_err() {
            return;
        }
    }
}

/// Prints what all topics bring.
#[derive(Debug)]
struct Printer {
    /// What stands before the messages of each topic.
    prefixes: Vec<String>,
    /// Messages still to be shown.
    left: usize,
    consumers: Vec<Consumer>,
}

impl Printer {
    /// Prints until the consumers have stopped, and stops them when enough was shown.
    async fn run(mut self, mut batches: mpsc::Receiver<Batch>) -> Outcome {
        while let Some(batch) = batches.recv().await {
            self.show(batch)?;
            if self.left == 0 {
                begin_stop(&self.consumers);
            }
        }
        Ok(())
    }

    /// Prints and finishes what is still to be shown; other messages go back at once.
    fn show(&mut self, batch: Batch) -> Outcome {
        let mut messages = batch.messages.into_iter();
        let shown: Vec<Message> = messages.by_ref().take(self.left).collect();
        let mut text = Vec::new();
        for message in &shown {
            text.extend_from_slice(self.prefixes[batch.topic].as_bytes());
            text.extend_from_slice(message.body());
            text.push(b'\n');
        }
        tokio::task::block_in_place(|| print(&text))?;
        self.left -= shown.len();
        shown.into_iter().for_each(Message::finish);
        messages.for_each(|message| message.requeue_without_backoff(Some(Duration::ZERO)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options, EarlyExit> {
        Options::from_settings(&table().load(args.iter().map(OsString::from))?)
    }

    #[test]
    fn addresses_are_checked_before_topics() {
        let rows: [(&[&str], &str); 2] = [
            (&[], "--nsqd-tcp-address or --lookupd-http-address required"),
            (&["-nsqd-tcp-address=a:1"], "--topic required"),
        ];
        for (args, text) in rows {
            let exit = options(args).expect_err("refused");
            assert_eq!(exit, EarlyExit::Plain(text.into()));
        }
    }

    #[test]
    fn no_more_is_asked_for_than_shown() {
        let base = ["-nsqd-tcp-address=a:1", "-topic=t"];
        for (n, max_in_flight, count) in [
            ("0", 200, None),
            ("-3", 200, None),
            ("3", 3, Some(3)),
            ("300", 200, Some(300)),
        ] {
            let options = options(&[&base[..], &["-n", n]].concat()).expect("fine");
            assert_eq!(options.config.max_in_flight, max_in_flight, "{n}");
            assert_eq!(options.count, count, "{n}");
        }
    }

    #[test]
    fn a_channel_of_its_own_vanishes_with_it() {
        let options = options(&["-nsqd-tcp-address=a:1", "-topic=t"]).expect("fine");
        let number = options.channel.strip_prefix("tail");
        let number = number.and_then(|rest| rest.strip_suffix("#ephemeral"));
        let number = number.expect("both ends");
        assert!(
            number.len() == 6 && number.parse::<u32>().is_ok(),
            "{number}"
        );
    }
}
