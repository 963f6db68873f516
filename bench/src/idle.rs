//! Many connections and topics that do nothing: what does each of them cost the broker?

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::cli::IdleArgs;
use crate::drive::{self, Endpoint, Waiting};
use crate::http::Http;
use crate::link::{Door, Link, Wishes};
use crate::process::{self, Usage, count};
use crate::producer::wide;
use crate::wire::{self, Frame};

/// Descriptors beside the connections.
const DESCRIPTORS_SPARE: u64 = 64;
const TICK: Duration = Duration::from_millis(100);

/// What the connections cost.
#[derive(Debug, Serialize)]
pub(crate) struct IdleReport {
    scenario: &'static str,
    connections: usize,
    topics: usize,
    subscribed: bool,
    topics_per_s: f64,
    connects_per_s: f64,
    held_s: f64,
    heartbeats: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<IdleBroker>,
    generator_cpu_s: f64,
    ok: bool,
}

/// The broker's side.
#[derive(Debug, Serialize)]
struct IdleBroker {
    rss_before_mib: f64,
    rss_topics_mib: f64,
    rss_connected_mib: f64,
    rss_after_mib: f64,
    kib_per_topic: f64,
    kib_per_connection: f64,
    topics_cpu_s: f64,
    connect_cpu_s: f64,
    hold_cpu_s: f64,
    hold_cpu_percent: f64,
}

/// A connection that only answers heartbeats.
struct Sleeper {
    link: Link,
    until: Instant,
    over: bool,
    heartbeats: u64,
}

/// Connects, holds, reports.
///
/// # Errors
/// The broker cannot be reached, refuses, or drops a connection.
pub(crate) fn run(args: &IdleArgs) -> Result<IdleReport> {
    ensure!(
        args.target.repeat == 1 && args.target.warmup == 0,
        "idle connections are held once: --repeat and --warmup do not apply"
    );
    process::want_descriptors(wide(args.connections) + DESCRIPTORS_SPARE)?;
    let usage = || args.target.pid.map(process::usage).transpose();
    let before = usage()?;
    let begin = Instant::now();
    create_topics(args)?;
    let creating = begin.elapsed();
    let created = usage()?;
    let begin = Instant::now();
    let door = Door::new(&args.target)?;
    let mut links = Vec::with_capacity(args.connections);
    for index in 0..args.connections {
        let link = connect(args, &door, &names(args, index % args.target.topics));
        links.push(link.with_context(|| format!("connection {}", index + 1))?);
    }
    let connecting = begin.elapsed();
    let connected = usage()?;
    let held_since = Instant::now();
    let until = held_since + args.hold;
    let sleeper = |link| Sleeper {
        link,
        until,
        over: false,
        heartbeats: 0,
    };
    let mut sleepers: Vec<Sleeper> = links.into_iter().map(sleeper).collect();
    drive::drive(
        &mut sleepers,
        Waiting {
            tick: TICK,
            spin: args.target.spin,
        },
    )?;
    let held = held_since.elapsed();
    let after = usage()?;
    let readings = before.zip(created).zip(connected.zip(after));
    Ok(IdleReport {
        scenario: "idle",
        connections: args.connections,
        topics: args.target.topics,
        subscribed: args.subscribe,
        topics_per_s: count(wide(args.target.topics)) / creating.as_secs_f64().max(1e-9),
        connects_per_s: count(wide(args.connections)) / connecting.as_secs_f64(),
        held_s: held.as_secs_f64(),
        heartbeats: sleepers.iter().map(|sleeper| sleeper.heartbeats).sum(),
        broker: readings.map(|((b, t), (c, a))| IdleBroker::new([b, t, c, a], args, held)),
        generator_cpu_s: process::own_cpu().as_secs_f64(),
        ok: true,
    })
}

fn names(args: &IdleArgs, index: usize) -> (String, String) {
    (format!("{}-{index}", args.target.topic), "ch0".to_owned())
}

/// The topics, each with a channel; without the HTTP door subscribing has to create them.
fn create_topics(args: &IdleArgs) -> Result<()> {
    let Some(http) = args.target.http.map(Http::new) else {
        return Ok(());
    };
    for index in 0..args.target.topics {
        let (topic, channel) = names(args, index);
        http.create_topic(&topic)?;
        http.create_channel(&topic, &channel)?;
    }
    Ok(())
}

fn connect(args: &IdleArgs, door: &Door, (topic, channel): &(String, String)) -> Result<Link> {
    let mut link = Link::connect(door, Wishes::default())?;
    if args.subscribe {
        let mut commands = Vec::new();
        wire::put_subscribe(&mut commands, topic, channel);
        wire::put_ready(&mut commands, args.ready);
        link.send_all(&commands)?;
        link.expect_ok().context("SUB")?;
    }
    Ok(link)
}

impl IdleBroker {
    fn new(
        [before, created, connected, after]: [Usage; 4],
        args: &IdleArgs,
        held: Duration,
    ) -> Self {
        let mib = |kib: u64| count(kib) / 1024.0;
        let each = |from: Usage, to: Usage, number: usize| {
            count(to.rss_kib.saturating_sub(from.rss_kib)) / count(wide(number))
        };
        let hold_cpu_s = after.cpu_s - connected.cpu_s;
        Self {
            rss_before_mib: mib(before.rss_kib),
            rss_topics_mib: mib(created.rss_kib),
            rss_connected_mib: mib(connected.rss_kib),
            rss_after_mib: mib(after.rss_kib),
            kib_per_topic: each(before, created, args.target.topics),
            kib_per_connection: each(created, connected, args.connections),
            topics_cpu_s: created.cpu_s - before.cpu_s,
            connect_cpu_s: connected.cpu_s - created.cpu_s,
            hold_cpu_s,
            hold_cpu_percent: hold_cpu_s / held.as_secs_f64().max(1e-9) * 100.0,
        }
    }
}

impl IdleReport {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let state = if self.subscribed {
            "subscribed"
        } else {
            "not subscribed"
        };
        let mut text = format!(
            "idle: {} connections, {state}, {} topic(s)\n  {:.0} topics/s, {:.0} connects/s, held {:.1} s, {} heartbeats, generator CPU {:.2} s\n",
            self.connections,
            self.topics,
            self.topics_per_s,
            self.connects_per_s,
            self.held_s,
            self.heartbeats,
            self.generator_cpu_s
        );
        if let Some(broker) = &self.broker {
            text += &format!(
                "  broker RSS {:.1} MiB, {:.1} with topics ({:.2} KiB each), {:.1} with connections ({:.2} KiB each), {:.1} at the end\n  broker CPU {:.2} s for topics, {:.2} s for connections, {:.2} s held ({:.2} % of a core)\n",
                broker.rss_before_mib,
                broker.rss_topics_mib,
                broker.kib_per_topic,
                broker.rss_connected_mib,
                broker.kib_per_connection,
                broker.rss_after_mib,
                broker.topics_cpu_s,
                broker.connect_cpu_s,
                broker.hold_cpu_s,
                broker.hold_cpu_percent
            );
        }
        text
    }
}

impl Endpoint for Sleeper {
    fn fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    fn on_ready(&mut self, wait: bool) -> Result<()> {
        if !self.link.receive(wait)? {
            return Ok(());
        }
        while let Some((frame, used)) = wire::next_frame(self.link.input.bytes())? {
            let beat = match frame {
                Frame::Response(text) => text == b"_heartbeat_",
                // Somebody publishes to the topic; that is not what this measures, but it is no failure.
                Frame::Message(_) => false,
                Frame::Error(text) => bail!("the broker complains: {}", text.escape_ascii()),
            };
            self.link.input.consume(used);
            if beat {
                self.heartbeats += 1;
                self.link.send_all(wire::NOP)?;
            }
        }
        Ok(())
    }

    fn on_tick(&mut self, now: Instant) -> Result<()> {
        self.over = now >= self.until;
        Ok(())
    }

    fn wants_write(&self) -> bool {
        false
    }

    fn done(&self) -> bool {
        self.over
    }
}
