//! `to_nsq`: publishes what comes on standard input, piece by piece, to one or more nsqds.
//!
//! One thread reads and splits; publishes are sent as they come, many under way at once, and the
//! answers are taken in order. The first error ends the program.

mod pieces;
mod throttle;

use std::ffi::OsString;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use nsq_cli::{EarlyExit, Flag, FlagTable, Settings};
use nsq_client::{Config, Producer, Receipt};
use tokio::sync::mpsc;

use self::pieces::Pieces;
use self::throttle::Throttle;
use crate::client::{self, StopSignals, block_on};
use crate::command::{Failure, Outcome, note, refuse};
use crate::terminal::Progress;

/// The program's name.
pub const PROGRAM: &str = "to_nsq";

/// Publishes whose answers may be under way.
const UNANSWERED_MAX: usize = 16 * 1024;
/// Reads that may wait to be published.
const READS_AHEAD: usize = 2;

#[derive(Debug)]
struct Options {
    topic: String,
    delimiter: u8,
    /// Each once.
    addresses: Vec<String>,
    /// Messages per second; 0 = no limit.
    rate: u32,
    config: Config,
}

/// Runs the program.
///
/// # Errors
/// Whatever ends it with another status than 0.
pub fn run(args: Vec<OsString>) -> Outcome {
    let options = Options::from_settings(&table().load(args)?)?;
    block_on(publish_input(&options))
}

#[rustfmt::skip]
fn table() -> FlagTable {
    FlagTable::new(PROGRAM, vec![
        Flag::text("topic", "", "NSQ topic to publish to"),
        Flag::text("delimiter", "\n", "character to split input from stdin").default_text("\"\\n\""),
        Flag::list("nsqd-tcp-address", "destination nsqd TCP address (may be given multiple times)"),
        Flag::int("rate", 0, "Throttle messages to n/second. 0 to disable"),
        client::option_flag("producer-opt", "option to passthrough to nsq.Producer (may be given multiple times, http://godoc.org/github.com/nsqio/go-nsq#Config)"),
    ])
}

impl Options {
    /// The order of the checks is that of the reference.
    fn from_settings(settings: &Settings) -> Result<Self, EarlyExit> {
        let topic = settings.string("topic").to_owned();
        refuse(topic.is_empty(), "--topic required")?;
        let &[delimiter] = settings.string("delimiter").as_bytes() else {
            return Err(EarlyExit::Plain("--delimiter must be a single byte".into()));
        };
        let config = client::config(settings, "producer-opt", PROGRAM)?;
        let mut addresses: Vec<String> = Vec::new();
        for address in settings.list("nsqd-tcp-address") {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        if !addresses.is_empty() {
            config.validate().map_err(|error| {
                EarlyExit::Plain(format!("failed to create nsq.Producer - {error}"))
            })?;
        }
        refuse(addresses.is_empty(), "--nsqd-tcp-address required")?;
        Ok(Self {
            topic,
            delimiter,
            addresses,
            rate: u32::try_from(settings.int("rate").max(0)).unwrap_or(u32::MAX),
            config,
        })
    }
}

async fn publish_input(options: &Options) -> Outcome {
    let mut stop = StopSignals::install();
    let mut producers = Vec::new();
    for address in &options.addresses {
        let producer = Producer::new(address, &options.config, client::log());
        producers.push(producer.map_err(Failure::plain)?);
    }
    let (receipts, answers) = mpsc::channel(UNANSWERED_MAX);
    let progress = Progress::default();
    let sending = send_all(options, &producers, receipts);
    let settling = settle(answers, &progress);
    let outcome = tokio::select! {
        outcome = async { tokio::try_join!(sending, settling) } => outcome.map(|_| ()),
        never = progress.show() => match never {},
        () = stop.wait() => Ok(()),
    };
    for producer in &producers {
        producer.stop().await;
    }
    outcome
}

/// Publishes every piece of the input to every nsqd.
async fn send_all(
    options: &Options,
    producers: &[Producer],
    receipts: mpsc::Sender<Receipt>,
) -> Outcome {
    let mut input = spawn_reader(options.delimiter);
    let mut throttle = Throttle::new(options.rate, Instant::now());
    if throttle.is_some() {
        let rate = options.rate;
        note(format_args!(
            "Throttling messages rate to max:{rate}/second"
        ));
    }
    while let Some(pieces) = input.recv().await {
        for piece in pieces.map_err(Failure::plain)? {
            if let Some(throttle) = &mut throttle {
                let delay = throttle.take(Instant::now());
                tokio::time::sleep(delay).await;
            }
            for producer in producers {
                let sent = producer.send(&options.topic, piece.clone()).await;
                let receipt = sent.map_err(Failure::plain)?;
                if receipts.send(receipt).await.is_err() {
                    // The other side has met an error, and reports it.
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Takes the answers in the order of the publishes.
async fn settle(mut answers: mpsc::Receiver<Receipt>, progress: &Progress) -> Outcome {
    while let Some(receipt) = answers.recv().await {
        receipt.await.map_err(Failure::plain)?;
        progress.add(1);
    }
    Ok(())
}

/// Splits standard input on a thread of its own, which ends with the input or the process.
fn spawn_reader(delimiter: u8) -> mpsc::Receiver<io::Result<Vec<Bytes>>> {
    let (sender, receiver) = mpsc::channel(READS_AHEAD);
    drop(std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut pieces = Pieces::new(delimiter);
        loop {
            let read = pieces.read(&mut input);
            let is_last = !matches!(read, Ok(Some(_)));
            let found = match read {
                Ok(Some(found)) => Ok(found),
                Ok(None) => Ok(pieces.take_rest().into_iter().collect()),
                Err(error) => Err(error),
            };
            if sender.blocking_send(found).is_err() || is_last {
                return;
            }
        }
    }));
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options, EarlyExit> {
        Options::from_settings(&table().load(args.iter().map(OsString::from))?)
    }

    #[test]
    fn checks_come_in_the_order_of_the_reference() {
        let rows: [(&[&str], &str); 5] = [
            (&["-delimiter="], "--topic required"),
            (
                &["-topic=t", "-delimiter=ab"],
                "--delimiter must be a single byte",
            ),
            (
                &["-topic=t", "-delimiter=\u{e9}"],
                "--delimiter must be a single byte",
            ),
            (&["-topic=t"], "--nsqd-tcp-address required"),
            (
                &[
                    "-topic=t",
                    "-nsqd-tcp-address=a:1",
                    "-producer-opt=heartbeat_interval,2m",
                ],
                "failed to create nsq.Producer - \
                 HeartbeatInterval 2m0s must be less than ReadTimeout 1m0s",
            ),
        ];
        for (args, text) in rows {
            let exit = options(args).expect_err("refused");
            assert_eq!(exit, EarlyExit::Plain(text.into()), "{args:?}");
        }
    }

    #[test]
    fn an_address_counts_once() {
        let args = ["-topic=t", "-nsqd-tcp-address=a:1", "-nsqd-tcp-address=a:1"];
        assert_eq!(options(&args).expect("fine").addresses, ["a:1"]);
    }

    #[test]
    fn there_is_no_version_flag() {
        let Err(EarlyExit::Usage { message, .. }) = options(&["-version"]) else {
            panic!("accepted")
        };
        assert_eq!(message, "flag provided but not defined: -version");
    }
}
