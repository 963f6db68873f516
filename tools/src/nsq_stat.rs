//! `nsq_stat`: prints the numbers of one channel, summed over the cluster, at an interval.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use nsq_cli::{Custom, EarlyExit, Flag, FlagTable, Form, Kind, Settings, Value, parse_int};
use tokio::signal::unix::SignalKind;

use crate::client::{block_on, handler};
use crate::cluster::{ChannelStats, Cluster, NoAnswer};
use crate::command::{self, Failure, Outcome, note, refuse};
use crate::terminal::{emphasized, has_colour, print};

/// The program's name.
pub const PROGRAM: &str = "nsq_stat";

/// The header comes again after this many polls.
const HEADER_EVERY: u64 = 25;
const HEADER: [&str; 2] = [
    "------rate------+----------------depth----------------+--------------metadata---------------",
    "ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients",
];

#[derive(Debug)]
struct Options {
    topic: String,
    channel: String,
    interval: Duration,
    connect_timeout: Duration,
    request_timeout: Duration,
    /// Rows to print; `None` = no end.
    count: Option<u64>,
    source: Source,
}

/// Whom to ask.
#[derive(Debug)]
enum Source {
    Nsqds(Vec<String>),
    Lookupds(Vec<String>),
}

/// The channel on each nsqd that has it, by address.
type Snapshot = BTreeMap<String, ChannelStats>;

/// Runs the program.
///
/// # Errors
/// Whatever ends it with another status than 0.
pub fn run(args: Vec<OsString>) -> Outcome {
    let options = Options::from_settings(&table().load(args)?)?;
    block_on(async {
        let mut hangup = handler(SignalKind::hangup());
        let mut stop = crate::client::StopSignals::install();
        tokio::select! {
            outcome = report(&options) => outcome,
            () = stop.wait() => Ok(()),
            _ = hangup.recv() => Ok(()),
        }
    })
}

#[rustfmt::skip]
fn table() -> FlagTable {
    let count = Custom {
        parse: |text| match parse_int(text, 10) {
            Ok(number) if i32::try_from(number).is_ok() => Ok(Value::Int(number)),
            Ok(_) => Err(format!("strconv.ParseInt: parsing {text:?}: value out of range")),
            Err(error) => Err(format!("strconv.ParseInt: parsing {text:?}: {error}")),
        },
        form: Form::Required,
        type_name: "value",
    };
    command::table(PROGRAM, "print version", vec![
        Flag::text("topic", "", "NSQ topic"),
        Flag::text("channel", "", "NSQ channel"),
        Flag::duration("interval", "2s", "duration of time between polling/printing output"),
        Flag::duration("http-client-connect-timeout", "2s", "timeout for HTTP connect"),
        Flag::duration("http-client-request-timeout", "5s", "timeout for HTTP request"),
        Flag::list("nsqd-http-address", "nsqd HTTP address (may be given multiple times)"),
        Flag::list("lookupd-http-address", "lookupd HTTP address (may be given multiple times)"),
        Flag::new("count", Kind::Custom(count), Value::Int(0), "number of reports"),
    ])
}

impl Options {
    /// The order of the checks is that of the reference.
    fn from_settings(settings: &Settings) -> Result<Self, EarlyExit> {
        let (topic, channel) = (settings.string("topic"), settings.string("channel"));
        refuse(
            topic.is_empty() || channel.is_empty(),
            "--topic and --channel are required",
        )?;
        let positive = |name: &str| {
            let nanos = u64::try_from(settings.nanos(name)).ok();
            let positive = nanos.filter(|nanos| *nanos > 0).map(Duration::from_nanos);
            positive.ok_or_else(|| EarlyExit::Plain(format!("--{name} should be positive")))
        };
        let interval = positive("interval")?;
        let connect_timeout = positive("http-client-connect-timeout")?;
        let request_timeout = positive("http-client-request-timeout")?;
        let count = match settings.is_given("count") {
            true => Some(settings.int("count")),
            false => None,
        };
        refuse(
            count.is_some_and(|count| count <= 0),
            "--count should be positive",
        )?;
        Ok(Self {
            topic: topic.to_owned(),
            channel: channel.to_owned(),
            interval,
            connect_timeout,
            request_timeout,
            count: count.map(i64::unsigned_abs),
            source: Source::from_settings(settings)?,
        })
    }
}

impl Source {
    fn from_settings(settings: &Settings) -> Result<Self, EarlyExit> {
        let nsqds = settings.list("nsqd-http-address");
        let lookupds = settings.list("lookupd-http-address");
        refuse(
            nsqds.is_empty() && lookupds.is_empty(),
            "--nsqd-http-address or --lookupd-http-address required",
        )?;
        refuse(
            !nsqds.is_empty() && !lookupds.is_empty(),
            "use --nsqd-http-address or --lookupd-http-address not both",
        )?;
        for (name, addresses) in [
            ("nsqd-http-address", nsqds),
            ("lookupd-http-address", lookupds),
        ] {
            refuse(
                addresses.iter().any(|address| has_scheme(address)),
                format_args!("--{name} error - address should not contain scheme"),
            )?;
        }
        Ok(match lookupds.is_empty() {
            true => Self::Nsqds(nsqds.to_vec()),
            false => Self::Lookupds(lookupds.to_vec()),
        })
    }
}

/// The reference refuses whatever begins with "http", also a host of that name.
fn has_scheme(address: &str) -> bool {
    address.starts_with("http:") || address.starts_with("https:")
}

/// Polls and prints until the last row.
async fn report(options: &Options) -> Outcome {
    let cluster = Cluster::new(options.connect_timeout, options.request_timeout);
    let colour = has_colour();
    let mut before: Option<(Instant, Snapshot)> = None;
    for poll in 0_u64.. {
        let snapshot = snapshot(&cluster, options).await?;
        let now = Instant::now();
        if poll % HEADER_EVERY == 0 {
            let header = HEADER.map(|line| emphasized(line, colour) + "\n");
            print(header.concat().as_bytes())?;
        }
        if let Some((then, previous)) = &before {
            let line = row(previous, &snapshot, now.duration_since(*then));
            print(line.as_bytes())?;
        }
        if options.count == Some(poll) {
            break;
        }
        before = Some((now, snapshot));
        tokio::time::sleep(options.interval).await;
    }
    Ok(())
}

/// Asks everybody; who does not answer is reported and left out.
async fn snapshot(cluster: &Cluster, options: &Options) -> Result<Snapshot, Failure> {
    let (topic, channel) = (&options.topic, &options.channel);
    let no_producers = |error: NoAnswer| {
        Failure::plain(format_args!(
            "ERROR: failed to get topic producers - {error}"
        ))
    };
    let found = match &options.source {
        Source::Nsqds(nsqds) => cluster.holders(topic, nsqds).await,
        Source::Lookupds(lookupds) => cluster.producers(topic, lookupds).await,
    };
    let (producers, mut failures) = found.map_err(no_producers)?;
    let answers = cluster.node_stats(topic, Some(channel), &producers).await;
    let answers = answers.map_err(|error| {
        Failure::plain(format_args!("ERROR: failed to get nsqd stats - {error}"))
    })?;
    failures.extend(answers.failures);
    for failure in failures {
        note(format_args!("WARNING: {failure}"));
    }
    let entries = answers.found.into_iter();
    let snapshot: Snapshot = entries
        .filter_map(|(node, stats)| Some((node, stats.channel(topic, channel)?.clone())))
        .collect();
    if snapshot.is_empty() {
        return Err(Failure::plain(format_args!(
            "ERROR: failed to find channel({channel}) in stats metadata for topic({topic})"
        )));
    }
    Ok(snapshot)
}

/// One line of numbers. Rates are over the time that really passed, and over the nodes that answered
/// both times, so that one that comes or goes is no burst.
fn row(before: &Snapshot, now: &Snapshot, span: Duration) -> String {
    let (mut ingress, mut egress) = (0, 0);
    for (node, stats) in now {
        if let Some(old) = before.get(node) {
            let new_messages = stats.message_count - old.message_count;
            ingress += new_messages;
            egress += new_messages - (stats.depth - old.depth);
        }
    }
    let sum = |value: fn(&ChannelStats) -> i64| now.values().map(value).sum::<i64>();
    format!(
        "{:7} {:7} | {:7} {:7} {:7} {:5} {:5} | {:7} {:7} {:12} {:7}\n",
        per_second(ingress, span),
        per_second(egress, span),
        sum(|stats| stats.depth),
        sum(|stats| stats.depth - stats.backend_depth),
        sum(|stats| stats.backend_depth),
        sum(|stats| stats.in_flight_count),
        sum(|stats| stats.deferred_count),
        sum(|stats| stats.requeue_count),
        sum(|stats| stats.timeout_count),
        sum(|stats| stats.message_count),
        sum(|stats| stats.client_count),
    )
}

/// Cut to a whole number, as in the reference.
fn per_second(count: i64, span: Duration) -> i128 {
    let nanos = i128::try_from(span.as_nanos()).unwrap_or(i128::MAX).max(1);
    i128::from(count) * 1_000_000_000 / nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options, EarlyExit> {
        Options::from_settings(&table().load(args.iter().map(OsString::from))?)
    }

    #[test]
    fn checks_come_in_the_order_of_the_reference() {
        let rows: [(&[&str], &str); 9] = [
            (&["-interval=0"], "--topic and --channel are required"),
            (
                &["-topic=t", "-channel=c", "-interval=-1s", "-count=0"],
                "--interval should be positive",
            ),
            (
                &["-topic=t", "-channel=c", "-http-client-connect-timeout=0"],
                "--http-client-connect-timeout should be positive",
            ),
            (
                &["-topic=t", "-channel=c", "-http-client-request-timeout=0"],
                "--http-client-request-timeout should be positive",
            ),
            (
                &["-topic=t", "-channel=c", "-count=-1"],
                "--count should be positive",
            ),
            (
                &["-topic=t", "-channel=c"],
                "--nsqd-http-address or --lookupd-http-address required",
            ),
            (
                &[
                    "-topic=t",
                    "-channel=c",
                    "-nsqd-http-address=a",
                    "-lookupd-http-address=b",
                ],
                "use --nsqd-http-address or --lookupd-http-address not both",
            ),
            (
                &["-topic=t", "-channel=c", "-nsqd-http-address=http://a:1"],
                "--nsqd-http-address error - address should not contain scheme",
            ),
            (
                &[
                    "-topic=t",
                    "-channel=c",
                    "-lookupd-http-address=https://a:1",
                ],
                "--lookupd-http-address error - address should not contain scheme",
            ),
        ];
        for (args, text) in rows {
            let exit = options(args).expect_err("refused");
            assert_eq!(exit, EarlyExit::Plain(text.into()), "{args:?}");
        }
        let fine = options(&[
            "-topic=t",
            "-channel=c",
            "-nsqd-http-address=httpd:1",
            "-count=3",
        ]);
        assert_eq!(fine.expect("a host may be called httpd").count, Some(3));
    }

    #[test]
    fn a_count_is_a_number() {
        for (text, reason) in [
            ("x", "invalid syntax"),
            ("3000000000", "value out of range"),
        ] {
            let Err(EarlyExit::Usage { message, .. }) = options(&["-count", text]) else {
                panic!("accepted {text}")
            };
            let expected = format!(
                "invalid value {text:?} for flag -count: strconv.ParseInt: parsing {text:?}: {reason}"
            );
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn rows_sum_nodes_and_rate_those_seen_twice() {
        let stats = |message_count, depth| ChannelStats {
            message_count,
            depth,
            backend_depth: 1,
            client_count: 2,
            ..ChannelStats::default()
        };
        let before = Snapshot::from([("a:1".into(), stats(100, 10)), ("b:1".into(), stats(7, 1))]);
        let now = Snapshot::from([
            ("a:1".into(), stats(150, 20)),
            ("c:1".into(), stats(9000, 3)),
        ]);
        let line = row(&before, &now, Duration::from_millis(500));
        let expected = "    100      80 |      23      21       2     0     0 \
                        |       0       0         9150       4\n";
        assert_eq!(line, expected);
    }
}
