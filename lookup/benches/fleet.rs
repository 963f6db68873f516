//! A fleet of nsqd as the directory sees it: thousands of connections that register and go on
//! registering, while consumers look topics up. For any nsqlookupd, ours or the reference:
//!
//! `cargo bench -p nsqlookupd --bench fleet -- --tcp 127.0.0.1:4160 --http 127.0.0.1:4161`
//!
//! Lookups and registrations are sent at fixed rates. One that is late because the one before took too
//! long is measured from its intended time, so that a server that stalls does not slow its own judge
//! down; one that the timer woke late (it ticks in milliseconds) from when it was sent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Parser)]
struct Args {
    /// The TCP door.
    #[arg(long, default_value = "127.0.0.1:4160")]
    tcp: SocketAddr,
    /// The HTTP door.
    #[arg(long, default_value = "127.0.0.1:4161")]
    http: SocketAddr,
    /// Connections, each as one nsqd.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// Topics that each node registers, with one channel.
    #[arg(long, default_value_t = 100)]
    topics: usize,
    /// Different topics altogether: each has nodes x topics / pool producers.
    #[arg(long, default_value_t = 10_000)]
    pool: usize,
    /// Lookups per second.
    #[arg(long, default_value_t = 500)]
    lookups: u64,
    /// Changes (UNREGISTER or REGISTER) per second.
    #[arg(long, default_value_t = 2_000)]
    changes: u64,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Tasks of each kind.
    #[arg(long, default_value_t = 16)]
    tasks: u64,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// The topic that a node has at a place.
    fn topic(&self, node: usize, place: usize) -> String {
        format!("topic-{:05}", (node * self.topics + place) % self.pool)
    }
}

/// One nsqd.
struct Node {
    stream: TcpStream,
    number: usize,
    answer: Vec<u8>,
}

impl Node {
    async fn connect(number: usize, args: &Args) -> Result<Self> {
        let stream = TcpStream::connect(args.tcp)
            .await
            .context("connecting a node")?;
        stream.set_nodelay(true)?;
        let mut node = Self {
            stream,
            number,
            answer: Vec::new(),
        };
        let body = format!(
            r#"{{"broadcast_address":"node-{number:05}.example.net","hostname":"node-{number:05}","tcp_port":4150,"http_port":4151,"version":"1.3.0"}}"#
        );
        let size = u32::try_from(body.len())?.to_be_bytes();
        let hello = [b"  V1IDENTIFY\n", &size[..], body.as_bytes()].concat();
        node.stream.write_all(&hello).await?;
        node.read_answer().await?;
        let lines: String = (0..args.topics)
            .map(|place| format!("REGISTER {} ch\n", args.topic(number, place)))
            .collect();
        node.stream.write_all(lines.as_bytes()).await?;
        for _ in 0..args.topics {
            node.read_ok().await?;
        }
        Ok(node)
    }

    async fn read_answer(&mut self) -> Result<()> {
        let size = usize::try_from(self.stream.read_u32().await?)?;
        self.answer.resize(size, 0);
        self.stream.read_exact(&mut self.answer).await?;
        Ok(())
    }

    async fn read_ok(&mut self) -> Result<()> {
        self.read_answer().await?;
        let text = String::from_utf8_lossy(&self.answer);
        ensure!(text == "OK", "answered {text}");
        Ok(())
    }

    async fn change(&mut self, verb: &str, topic: &str) -> Result<()> {
        self.stream
            .write_all(format!("{verb} {topic} ch\n").as_bytes())
            .await?;
        self.read_ok().await
    }
}

/// What one kind of task measured, in microseconds.
type Latencies = Histogram<u64>;

fn latencies() -> Latencies {
    Histogram::new_with_max(600_000_000, 3).expect("ten minutes with three digits are fine")
}

/// Intended times of sending of one task: all tasks together send evenly, `rate` per second.
fn intervals(args: &Args, task: u64, rate: u64) -> impl Iterator<Item = Duration> + use<> {
    let each = Duration::from_secs_f64(args.tasks as f64 / rate as f64);
    let offset = Duration::from_secs_f64(task as f64 / rate as f64);
    let end = Duration::from_secs(args.seconds);
    (0_u32..)
        .map(move |n| offset + each * n)
        .take_while(move |at| *at < end)
}

/// Waits for the intended time, and says from when on to measure.
async fn sending_time(intended: Instant) -> Instant {
    if Instant::now() >= intended {
        return intended;
    }
    tokio::time::sleep_until(intended.into()).await;
    Instant::now()
}

/// Registers and unregisters, one after the other on each of its nodes.
async fn change(
    args: Args,
    task: u64,
    mut nodes: Vec<Node>,
    begin: Instant,
) -> Result<(Latencies, Vec<Node>)> {
    let mut measured = latencies();
    for (turn, at) in intervals(&args, task, args.changes).enumerate() {
        let sent = sending_time(begin + at).await;
        let (pair, is_second) = (turn / 2, turn % 2 == 1);
        let index = pair % nodes.len();
        let node = &mut nodes[index];
        let topic = args.topic(node.number, pair / 7 % args.topics);
        node.change(if is_second { "REGISTER" } else { "UNREGISTER" }, &topic)
            .await?;
        measured.saturating_record(u64::try_from(sent.elapsed().as_micros())?);
    }
    Ok((measured, nodes))
}

/// Looks topics up over one connection.
async fn look_up(
    args: Args,
    task: u64,
    begin: Instant,
    bytes: Arc<AtomicU64>,
) -> Result<Latencies> {
    let stream = TcpStream::connect(args.http)
        .await
        .context("connecting a consumer")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut measured = latencies();
    for (turn, at) in intervals(&args, task, args.lookups).enumerate() {
        let sent = sending_time(begin + at).await;
        let topic = args.topic(usize::try_from(task)? * 131 + turn * 17, turn % args.topics);
        let request = http::Request::get(format!("/lookup?topic={topic}"))
            .header("host", args.http.to_string())
            .body(Empty::<Bytes>::new())?;
        sender.ready().await?;
        let mut answer = sender.send_request(request).await?;
        ensure!(answer.status() == 200, "{topic}: {}", answer.status());
        while let Some(frame) = answer.frame().await {
            let length = frame?.data_ref().map_or(0, Bytes::len);
            bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        measured.saturating_record(u64::try_from(sent.elapsed().as_micros())?);
    }
    Ok(measured)
}

async fn connect_all(args: &Args) -> Result<Vec<Node>> {
    let mut nodes = Vec::with_capacity(args.nodes);
    let mut joining = JoinSet::new();
    for number in 0..args.nodes {
        if joining.len() == 64 {
            nodes.push(joining.join_next().await.expect("not empty")??);
        }
        let args = args.clone();
        joining.spawn(async move { Node::connect(number, &args).await });
    }
    while let Some(node) = joining.join_next().await {
        nodes.push(node??);
    }
    Ok(nodes)
}

#[expect(clippy::print_stdout, reason = "the report")]
fn report(what: &str, measured: &Latencies, rate: u64) {
    let at = |quantile| measured.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{what:9} {:7} at {rate:6}/s   p50 {:8.3} ms   p99 {:8.3} ms   p99.9 {:8.3} ms   max {:8.3} ms",
        measured.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the report")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let begun = Instant::now();
    let mut nodes = connect_all(&args).await?;
    let registrations = args.nodes * args.topics;
    let elapsed = begun.elapsed().as_secs_f64();
    println!(
        "{} nodes, {registrations} topic and as many channel registrations in {elapsed:.1} s ({:.0}/s)",
        args.nodes,
        registrations as f64 / elapsed,
    );
    let bytes = Arc::new(AtomicU64::new(0));
    let (mut changing, mut looking) = (JoinSet::new(), JoinSet::new());
    let begin = Instant::now() + Duration::from_millis(100);
    let share = nodes.len() / usize::try_from(args.tasks)?;
    for task in 0..args.tasks {
        let mine = nodes.split_off(nodes.len() - share);
        changing.spawn(change(args.clone(), task, mine, begin));
        looking.spawn(look_up(args.clone(), task, begin, Arc::clone(&bytes)));
    }
    let (mut changes, mut lookups) = (latencies(), latencies());
    while let Some(measured) = changing.join_next().await {
        let (measured, mine) = measured??;
        changes.add(measured)?;
        nodes.extend(mine);
    }
    while let Some(measured) = looking.join_next().await {
        lookups.add(measured??)?;
    }
    report("lookups", &lookups, args.lookups);
    report("changes", &changes, args.changes);
    let total = bytes.load(Ordering::Relaxed);
    println!(
        "answers of {} bytes on average",
        total / lookups.len().max(1)
    );
    Ok(())
}
