//! The command line of `nsq_to_nsq`.

use std::ffi::OsString;

use nsq_cli::{EarlyExit, Flag, FlagTable, Settings};
use nsq_client::Config;
use nsq_proto::{ChannelName, TopicName};

use super::PROGRAM;
use super::filter::Filter;
use crate::client::{self, Attempts};
use crate::command::{self, Sources, refuse};
use crate::host_pool::Strategy;

/// Everything that `nsq_to_nsq` was told, checked.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) topics: Vec<String>,
    pub(super) channel: String,
    /// Empty: that of the message.
    pub(super) destination_topic: String,
    pub(super) sources: Sources,
    /// Addresses, at least one.
    pub(super) destinations: Vec<String>,
    pub(super) strategy: Strategy,
    /// Messages between status lines; 0 = none.
    pub(super) status_every: usize,
    /// `None` = messages are passed on unread.
    pub(super) filter: Option<Filter>,
    pub(super) consumer: Config,
    pub(super) producer: Config,
}

#[rustfmt::skip]
fn table() -> FlagTable {
    let mut flags = vec![
        Flag::text("channel", "nsq_to_nsq", "nsq channel"),
        Flag::text("destination-topic", "", "use this destination topic for all consumed topics (default is consumed topic name)"),
        Flag::int("max-in-flight", 200, "max number of messages to allow in flight"),
        Flag::int("status-every", 250, "the # of requests between logging status (per destination), 0 disables"),
        Flag::text("mode", "hostpool", "the upstream request mode options: round-robin, hostpool (default), epsilon-greedy"),
        Flag::list("destination-nsqd-tcp-address", "destination nsqd TCP address (may be given multiple times)"),
        Flag::list("topic", "nsq topic (may be given multiple times)"),
        Flag::list("whitelist-json-field", "for JSON messages: pass this field (may be given multiple times)"),
        Flag::text("require-json-field", "", "for JSON messages: only pass messages that contain this field"),
        Flag::text("require-json-value", "", "for JSON messages: only pass messages in which the required field has this value"),
        client::option_flag("consumer-opt", "option to passthrough to nsq.Consumer (may be given multiple times, see http://godoc.org/github.com/nsqio/go-nsq#Config)"),
        client::option_flag("producer-opt", "option to passthrough to nsq.Producer (may be given multiple times, see http://godoc.org/github.com/nsqio/go-nsq#Config)"),
    ];
    flags.extend(command::source_flags());
    command::table(PROGRAM, "print version string", flags)
}

impl Options {
    /// Reads the command line. The order of the checks is that of the reference.
    ///
    /// # Errors
    /// Also `-help` and `-version`.
    pub(super) fn from_args(args: Vec<OsString>) -> Result<Self, EarlyExit> {
        let settings = table().load(args)?;
        let topics = settings.list("topic").to_vec();
        let channel = settings.string("channel").to_owned();
        refuse(
            topics.is_empty() || channel.is_empty(),
            "--topic and --channel are required",
        )?;
        let is_topic = |name: &String| TopicName::is_valid(name.as_bytes());
        refuse(!topics.iter().all(is_topic), "--topic is invalid")?;
        let destination_topic = settings.string("destination-topic").to_owned();
        refuse(
            !destination_topic.is_empty() && !is_topic(&destination_topic),
            "--destination-topic is invalid",
        )?;
        refuse(
            !ChannelName::is_valid(channel.as_bytes()),
            "--channel is invalid",
        )?;
        let sources = Sources::from_settings(&settings, "")?;
        let destinations = settings.list("destination-nsqd-tcp-address").to_vec();
        refuse(
            destinations.is_empty(),
            "--destination-nsqd-tcp-address required",
        )?;
        let strategy = Strategy::parse(settings.string("mode"));
        Ok(Self {
            topics,
            channel,
            destination_topic,
            sources,
            destinations,
            strategy: strategy.map_err(|error| EarlyExit::Plain(error.to_string()))?,
            status_every: usize::try_from(settings.int("status-every")).unwrap_or(0),
            filter: filter(&settings),
            consumer: client::consumer_config(&settings, PROGRAM, Attempts::Unlimited)?,
            producer: client::config(&settings, "producer-opt", PROGRAM)?,
        })
    }
}

fn filter(settings: &Settings) -> Option<Filter> {
    Filter::new(
        settings.string("require-json-field"),
        settings.string("require-json-value"),
        settings.list("whitelist-json-field"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options, EarlyExit> {
        Options::from_args(args.iter().map(OsString::from).collect())
    }

    const NAMED: [&str; 2] = ["-topic=t", "-nsqd-tcp-address=a:1"];

    #[test]
    fn checks_come_in_the_order_of_the_reference() {
        let rows: [(&[&str], &str); 8] = [
            (&[], "--topic and --channel are required"),
            (
                &["-topic=t", "-channel="],
                "--topic and --channel are required",
            ),
            (&["-topic=a b", "-channel=a b"], "--topic is invalid"),
            (
                &["-topic=t", "-channel=a b", "-destination-topic=$"],
                "--destination-topic is invalid",
            ),
            (&["-topic=t", "-channel=a b"], "--channel is invalid"),
            (
                &["-topic=t"],
                "--nsqd-tcp-address or --lookupd-http-address required",
            ),
            (&NAMED, "--destination-nsqd-tcp-address required"),
            (
                &[
                    NAMED[0],
                    NAMED[1],
                    "-destination-nsqd-tcp-address=b:1",
                    "-mode=any",
                ],
                "--mode is invalid",
            ),
        ];
        for (args, text) in rows {
            let exit = options(args).expect_err("refused");
            assert_eq!(exit, EarlyExit::Plain(text.into()), "{args:?}");
        }
    }

    #[test]
    fn what_cannot_be_delivered_now_is_not_given_up() {
        let args = [NAMED[0], NAMED[1], "-destination-nsqd-tcp-address=b:1"];
        let options = options(&args).expect("fine");
        assert_eq!(options.consumer.max_attempts, 0);
        assert_eq!(options.strategy, Strategy::HostPool);
        assert!(options.filter.is_none());
    }
}
