//! `nsq_to_nsq`: copies topics to other nsqds over TCP.
//!
//! A message is finished when a destination has answered `OK`, and requeued, with back-off, when it
//! could not be delivered. Workers of a topic take messages, filter them and send them; one task per
//! destination takes the answers in order. Nothing is held beyond `--max-in-flight` per topic.

mod filter;
mod options;
mod relay;

use std::ffi::OsString;
use std::sync::Arc;

use self::options::Options;
use self::relay::{Relay, Route};
use crate::client::{self, StopSignals, block_on, wait_for_stop};
use crate::command::Outcome;

/// The program's name.
pub const PROGRAM: &str = "nsq_to_nsq";

/// Runs the program.
///
/// # Errors
/// Whatever ends it with another status than 0.
pub fn run(args: Vec<OsString>) -> Outcome {
    let options = Options::from_args(args)?;
    block_on(copy(options))
}

async fn copy(options: Options) -> Outcome {
    let mut stop = StopSignals::install();
    let relay = Arc::new(Relay::start(&options)?);
    let mut consumers = Vec::new();
    for topic in &options.topics {
        consumers.push(client::consumer(
            topic,
            &options.channel,
            &options.consumer,
        )?);
    }
    for (topic, consumer) in options.topics.iter().zip(&consumers) {
        let destination = match options.destination_topic.as_str() {
            "" => topic,
            given => given,
        };
        // As many as destinations: one that is slow to connect must not hold up the others.
        for _ in &options.destinations {
            let route = Route::new(consumer.clone(), destination);
            drop(tokio::spawn(Arc::clone(&relay).run(route)));
        }
        client::connect(consumer, &options.sources).await?;
    }
    stop.wait().await;
    for consumer in &consumers {
        consumer.begin_stop();
    }
    wait_for_stop(&consumers).await;
    relay.stop().await;
    Ok(())
}
