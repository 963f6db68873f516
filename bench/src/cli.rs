//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::body::{BodyKind, BodySize};
use crate::layer::Compression;

/// Load for any nsqd. Numbers worth comparing need a release build and a machine that does nothing else.
#[derive(Debug, Parser)]
#[command(name = "nsq-bench", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Publish, closed loop.
    Pub(PubArgs),
    /// Consume.
    Sub(SubArgs),
    /// Publish and consume together.
    Pubsub(PubsubArgs),
    /// Latency from the intended time of sending at a fixed rate, open loop.
    E2e(E2eArgs),
    /// Publish deferred messages and consume them when they are due: none early, and how late?
    Defer(DeferArgs),
    /// Hold many connections and topics that do nothing; what do they cost the broker?
    Idle(IdleArgs),
    /// Publish a backlog into channels.
    Fill(PubArgs),
    /// Consume a backlog until the channels owe nothing.
    Drain(SubArgs),
    /// Be a server that only receives and answers OK: what this machine can do at all, on one core.
    Floor(FloorArgs),
    /// Make a certificate and a key for a broker on this machine.
    Certificate(CertificateArgs),
    /// Measure our nsqd against the reference and against the floor, in turn; scripts/compare sets it up.
    #[command(args_override_self = true)]
    Compare(CompareArgs),
}

/// What every load shares.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// The broker's TCP door.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4150", value_parser = address)]
    pub tcp: SocketAddr,
    /// The broker's HTTP door; with it, topics and channels are created and emptied before each run.
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub http: Option<SocketAddr>,
    /// The broker's process, whose processor time and memory are reported.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Speak TLS with exactly this cipher suite, by its IANA name.
    #[arg(
        long,
        value_name = "SUITE",
        requires = "tls_root",
        default_missing_value = "TLS_AES_128_GCM_SHA256",
        num_args = 0..=1,
        require_equals = true
    )]
    pub tls: Option<String>,
    /// Certificates to believe (PEM), such as what `certificate` makes.
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub tls_root: Option<PathBuf>,
    /// Compress in both directions: snappy, or deflate:LEVEL.
    #[arg(long, value_name = "HOW")]
    pub compression: Option<Compression>,
    /// Topic; with several, the first part of their names.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Number of topics.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub topics: usize,
    /// Channels of every topic. Publishing alone: 0 leaves the messages in the topic.
    #[arg(long)]
    pub channels: Option<usize>,
    /// Leave what is in the topics and channels.
    #[arg(long)]
    pub keep: bool,
    /// Delete the topics afterwards.
    #[arg(long)]
    pub cleanup: bool,
    /// Load threads for publishing and as many for consuming [default: half the cores]
    #[arg(long, value_parser = positive)]
    pub threads: Option<usize>,
    /// Cores that the load threads are pinned to, in turn.
    #[arg(long, value_name = "CORE,...", value_delimiter = ',')]
    pub pin: Vec<usize>,
    /// Load threads never sleep: for round trips, and where there are cores to spare.
    #[arg(long)]
    pub spin: bool,
    /// Number all messages and account for each of them.
    #[arg(long)]
    pub verify: bool,
    /// Messages of a run before the ones that count.
    #[arg(long, default_value_t = 0)]
    pub warmup: u64,
    /// Runs that count.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub repeat: usize,
    /// Results as JSON.
    #[arg(long)]
    pub json: bool,
}

/// How publishing goes.
#[derive(Debug, Clone, Args)]
pub struct PublishArgs {
    /// The command.
    #[arg(long, value_enum, default_value_t = Verb::Pub)]
    pub verb: Verb,
    /// Messages per MPUB.
    #[arg(long, default_value_t = 200, value_parser = positive)]
    pub batch: usize,
    /// Publishing connections.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub connections: usize,
    /// Commands that each connection keeps unanswered.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub depth: usize,
    /// Bytes per message: a number, or uniform:LOW-HIGH.
    #[arg(long, default_value = "200")]
    pub size: BodySize,
    /// What bodies look like.
    #[arg(long, value_enum, default_value_t = BodyKind::Noise)]
    pub body: BodyKind,
    /// Messages to publish; rounded up to whole commands [default: 1000000, unless there is a duration]
    #[arg(long)]
    pub messages: Option<u64>,
    /// Publish for so long.
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
}

/// A publish command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verb {
    /// One message.
    Pub,
    /// A batch.
    Mpub,
}

/// How consuming goes.
#[derive(Debug, Clone, Args)]
pub struct ConsumeArgs {
    /// Consuming connections, spread over topics and channels.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub consumers: usize,
    /// Ready count.
    #[arg(long, default_value_t = 2500)]
    pub ready: u32,
    /// Finish messages so late.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub finish_after: Duration,
    /// Gather so many answers before they are sent, though not for more than some 20 ms.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub finish_batch: usize,
    /// Requeue every so manieth delivery instead of finishing it; 0: none.
    #[arg(long, default_value_t = 0)]
    pub requeue_every: u64,
    /// How long a requeued message stays away.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub requeue_for: Duration,
    /// Go when no message has come for so long.
    #[arg(long, value_parser = duration, default_value = "5s")]
    pub idle: Duration,
    /// Milliseconds that the broker may hold messages back (-1: not by time) [default: the broker's]
    #[arg(long, allow_negative_numbers = true)]
    pub output_buffer_timeout: Option<i64>,
    /// Bytes of the broker's output buffer (-1: none) [default: the broker's]
    #[arg(long, allow_negative_numbers = true)]
    pub output_buffer_size: Option<i64>,
    /// After this an unanswered message comes again [default: the broker's]
    #[arg(long, value_parser = duration)]
    pub msg_timeout: Option<Duration>,
}

/// `pub` and `fill`.
#[derive(Debug, Clone, Args)]
pub struct PubArgs {
    /// See there.
    #[command(flatten)]
    pub target: TargetArgs,
    /// See there.
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// `sub` and `drain`.
#[derive(Debug, Clone, Args)]
pub struct SubArgs {
    /// See there.
    #[command(flatten)]
    pub target: TargetArgs,
    /// See there.
    #[command(flatten)]
    pub consume: ConsumeArgs,
    /// Go after so many messages [default: what the channels owe, if HTTP tells; else when idle]
    #[arg(long)]
    pub messages: Option<u64>,
}

/// `pubsub`.
#[derive(Debug, Clone, Args)]
pub struct PubsubArgs {
    /// See there.
    #[command(flatten)]
    pub target: TargetArgs,
    /// See there.
    #[command(flatten)]
    pub publish: PublishArgs,
    /// See there.
    #[command(flatten)]
    pub consume: ConsumeArgs,
}

/// `e2e`.
#[derive(Debug, Clone, Args)]
pub struct E2eArgs {
    /// See there.
    #[command(flatten)]
    pub target: TargetArgs,
    /// See there.
    #[command(flatten)]
    pub consume: ConsumeArgs,
    /// Publishing connections; all are served by one thread.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub connections: usize,
    /// Messages per second over all connections.
    #[arg(long, default_value_t = 10_000)]
    pub rate: u64,
    /// How long.
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub duration: Duration,
    /// Bytes per message: a number, or uniform:LOW-HIGH.
    #[arg(long, default_value = "200")]
    pub size: BodySize,
    /// Least time between two sends: a publisher that wakes up less often costs less, and is later.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub tick: Duration,
    /// Also write the histograms, one per run, in HdrHistogram's V2 log format.
    #[arg(long, value_name = "FILE")]
    pub histogram: Option<PathBuf>,
}

/// `defer`.
#[derive(Debug, Clone, Args)]
pub struct DeferArgs {
    /// See there.
    #[command(flatten)]
    pub target: TargetArgs,
    /// See there.
    #[command(flatten)]
    pub consume: ConsumeArgs,
    /// Publishing connections.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub connections: usize,
    /// Commands that each connection keeps unanswered.
    #[arg(long, default_value_t = 16, value_parser = positive)]
    pub depth: usize,
    /// Bytes per message: a number, or uniform:LOW-HIGH.
    #[arg(long, default_value = "200")]
    pub size: BodySize,
    /// Messages.
    #[arg(long, default_value_t = 100_000)]
    pub messages: u64,
    /// The shortest deferral; all between it and the longest are as likely.
    #[arg(long, value_parser = duration, default_value = "1s")]
    pub defer_least: Duration,
    /// The longest deferral.
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub defer_most: Duration,
    /// Also write the histograms, one per run, in HdrHistogram's V2 log format.
    #[arg(long, value_name = "FILE")]
    pub histogram: Option<PathBuf>,
}

/// `idle`.
#[derive(Debug, Clone, Args)]
pub struct IdleArgs {
    /// See there.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Connections.
    #[arg(long, default_value_t = 1000, value_parser = positive)]
    pub connections: usize,
    /// Subscribe each of them, spread over topics and channels.
    #[arg(long)]
    pub subscribe: bool,
    /// Ready count of the subscribed.
    #[arg(long, default_value_t = 1)]
    pub ready: u32,
    /// How long they are held.
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub hold: Duration,
}

/// `floor`.
#[derive(Debug, Clone, Args)]
pub struct FloorArgs {
    /// Where to listen.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4150", value_parser = address)]
    pub tcp: SocketAddr,
    /// Messages that each subscriber is sent as fast as it takes them, without regard to answers.
    #[arg(long, default_value_t = 0)]
    pub serve_messages: u64,
    /// Bytes of these.
    #[arg(long, default_value_t = 200, value_parser = positive)]
    pub size: usize,
    /// Pass what is published on to the subscribers of its topic.
    #[arg(long, conflicts_with = "serve_messages")]
    pub relay: bool,
    /// Core to run on.
    #[arg(long)]
    pub pin: Option<usize>,
    /// Never sleep.
    #[arg(long)]
    pub spin: bool,
    /// Stop after so long [default: run until killed]
    #[arg(long, value_parser = duration)]
    pub duration: Option<Duration>,
}

/// `certificate`.
#[derive(Debug, Clone, Args)]
pub struct CertificateArgs {
    /// Folder for certificate.pem and key.pem.
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// `compare`.
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// The Go nsqd.
    #[arg(long, value_name = "PROGRAM", default_value = "nsqd")]
    pub reference: PathBuf,
    /// Our nsqd.
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/nsqd")]
    pub ours: PathBuf,
    /// Only workloads whose names contain one of these words.
    #[arg(long, value_name = "WORD,...", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Repetitions [default: 5, or 3 when quick]
    #[arg(long, value_parser = positive)]
    pub repeat: Option<usize>,
    /// Smaller loads: to see that all works, not to quote figures.
    #[arg(long)]
    pub quick: bool,
    /// Length of runs that end by time, in place of each workload's own.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Folder for the brokers' data; it has to be on the disk that is to be measured.
    #[arg(long, value_name = "DIR", default_value = "target/compare-data")]
    pub work: PathBuf,
    /// Folder for compare.json, compare.md and compare.svg.
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    pub out: PathBuf,
    /// Keep the other workloads of the results that are in the output folder.
    #[arg(long)]
    pub add: bool,
    /// Also write the results into README.md and bench/results of this checkout.
    #[arg(long, value_name = "CHECKOUT")]
    pub publish: Option<PathBuf>,
    /// Show the workloads and their goals, and do nothing.
    #[arg(long)]
    pub list: bool,
}

fn address(text: &str) -> Result<SocketAddr> {
    let mut found = text
        .to_socket_addrs()
        .with_context(|| format!("{text:?} is no address"))?;
    found
        .next()
        .with_context(|| format!("{text:?} has no address"))
}

fn positive(text: &str) -> Result<usize> {
    let number = text.parse::<usize>()?;
    ensure!(number > 0, "must be above 0");
    Ok(number)
}

/// `500us`, `20ms`, `1.5s`, `2m`, or a plain number of seconds.
fn duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let scale = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" | "" => 1.0,
        "m" => 60.0,
        unit => anyhow::bail!("unknown unit {unit:?}"),
    };
    let number: f64 = digits
        .parse()
        .with_context(|| format!("{text:?} is no duration"))?;
    Ok(Duration::try_from_secs_f64(number * scale)?)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_parse() {
        for (text, micros) in [
            ("500us", 500),
            ("20ms", 20_000),
            ("1.5s", 1_500_000),
            ("2m", 120_000_000),
            ("3", 3_000_000),
        ] {
            assert_eq!(
                duration(text).unwrap(),
                Duration::from_micros(micros),
                "{text}"
            );
        }
        for text in ["", "s", "-1s", "1h", "x"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn values_are_checked() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        assert!(parse("nsq-bench pub --verb mpub --batch 10 --size uniform:10-20").is_ok());
        assert!(parse("nsq-bench sub --tls --tls-root x --compression deflate:6").is_ok());
        for line in [
            "nsq-bench pub --connections 0",
            "nsq-bench pub --size 0",
            "nsq-bench pub --tcp nowhere",
            "nsq-bench floor --relay --serve-messages 1",
            "nsq-bench pub --tls",
            "nsq-bench pub --tls-root x",
            "nsq-bench pub --compression gzip",
            "nsq-bench",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
