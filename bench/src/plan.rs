//! A scenario as data: what `pub`, `sub`, `pubsub`, `e2e`, `defer`, `fill` and `drain` are made of.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use nsq_proto::{ChannelName, TopicName};

use crate::body::{BodyKind, BodySize, STAMP_LEN};
use crate::cli::{
    ConsumeArgs, DeferArgs, E2eArgs, PubArgs, PublishArgs, PubsubArgs, SubArgs, TargetArgs, Verb,
};
use crate::consumer::Policy;
use crate::link::{Door, Wishes};
use crate::pacer::Schedule;
use crate::producer::wide;
use crate::template::{DEFERRAL_MS_MAX, Deferral, Recipe};

/// Messages to publish when nothing is said.
const MESSAGES: u64 = 1_000_000;
/// Commands that an open loop may have in its ring; nothing waits for answers there.
const PACED_DEPTH: usize = 32;

/// A scenario.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// What it is called in the results.
    pub(crate) name: &'static str,
    /// Where to, and what is common.
    pub(crate) target: TargetArgs,
    /// Where connections go.
    pub(crate) door: Door,
    /// Topics, in order.
    pub(crate) topics: Vec<String>,
    /// Channels of each topic, in order.
    pub(crate) channels: Vec<String>,
    /// The publishing part.
    pub(crate) publish: Option<Publish>,
    /// The consuming part.
    pub(crate) consume: Option<Consume>,
    /// Whether channels must owe nothing at the end.
    pub(crate) must_drain: bool,
    /// Whether the channels must have all messages before it is over.
    pub(crate) must_settle: bool,
    /// Where histograms go.
    pub(crate) histogram: Option<PathBuf>,
}

/// The publishing part.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    /// The commands.
    pub(crate) recipe: Recipe,
    /// Connections.
    pub(crate) connections: usize,
    /// When to stop, or how fast to go.
    pub(crate) pace: Pace,
}

/// How publishing is paced.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as answers come, for so many messages.
    Messages(u64),
    /// As fast as answers come, for so long.
    Time(Duration),
    /// By the clock.
    Schedule(Schedule),
}

/// The consuming part.
#[derive(Debug, Clone)]
pub(crate) struct Consume {
    /// Connections.
    pub(crate) consumers: usize,
    /// How they answer.
    pub(crate) policy: Policy,
    /// What they ask of the broker.
    pub(crate) wishes: Wishes,
    /// Messages to take; `None`: what is published or owed.
    pub(crate) messages: Option<u64>,
    /// Whether latency is measured.
    pub(crate) latency: bool,
}

impl Plan {
    /// `pub` and `fill`.
    ///
    /// # Errors
    /// Arguments that do not fit together; as below.
    pub(crate) fn publishing(name: &'static str, args: PubArgs, channels: usize) -> Result<Self> {
        let mut plan = Self::new(name, args.target, channels)?;
        plan.must_settle = name == "fill";
        plan.publish = Some(Publish::closed_loop(&args.publish, &plan)?);
        Ok(plan)
    }

    /// `sub` and `drain`.
    pub(crate) fn consuming(name: &'static str, args: SubArgs) -> Result<Self> {
        let mut plan = Self::new(name, args.target, 1)?;
        // The backlog is what it is about.
        plan.target.keep = true;
        plan.must_drain = name == "drain";
        plan.consume = Some(Consume::new(&args.consume, args.messages, &plan)?);
        Ok(plan)
    }

    /// `pubsub`.
    pub(crate) fn together(args: PubsubArgs) -> Result<Self> {
        let mut plan = Self::new("pubsub", args.target, 1)?;
        plan.publish = Some(Publish::closed_loop(&args.publish, &plan)?);
        plan.consume = Some(Consume::new(&args.consume, None, &plan)?);
        Ok(plan)
    }

    /// `e2e`.
    pub(crate) fn paced(args: E2eArgs) -> Result<Self> {
        ensure!(args.rate > 0, "the rate must be above 0");
        let mut plan = Self::new("e2e", args.target, 1)?;
        let ms = u64::try_from(args.duration.as_millis())?;
        let schedule = Schedule {
            rate: args.rate,
            messages: (args.rate.saturating_mul(ms) / 1000).max(1),
            tick_ns: u64::try_from(args.tick.as_nanos())?,
            spin: plan.target.spin,
        };
        let recipe = recipe(&plan.topics, args.size, (0, PACED_DEPTH), true)?;
        let pace = Pace::Schedule(schedule);
        plan.publish = Some(Publish {
            recipe,
            connections: args.connections,
            pace,
        });
        plan.consume = Some(Consume::new(&args.consume, None, &plan)?);
        if let Some(consume) = &mut plan.consume {
            consume.latency = true;
        }
        plan.histogram = args.histogram;
        Ok(plan)
    }

    /// `defer`.
    pub(crate) fn deferred(args: DeferArgs) -> Result<Self> {
        let ms = |time: Duration| u64::try_from(time.as_millis());
        let deferral = Deferral(ms(args.defer_least)?, ms(args.defer_most)?);
        ensure!(
            deferral.0 <= deferral.1 && deferral.1 <= DEFERRAL_MS_MAX,
            "deferrals must be in order and at most {DEFERRAL_MS_MAX} ms"
        );
        let mut plan = Self::new("defer", args.target, 1)?;
        let recipe = recipe(&plan.topics, args.size, (0, args.depth), true)?;
        plan.publish = Some(Publish {
            recipe: Recipe {
                deferral: Some(deferral),
                ..recipe
            },
            connections: args.connections,
            pace: Pace::Messages(args.messages),
        });
        let mut consume = Consume::new(&args.consume, None, &plan)?;
        consume.latency = true;
        consume.policy.idle += args.defer_most;
        plan.consume = Some(consume);
        plan.histogram = args.histogram;
        Ok(plan)
    }

    fn new(name: &'static str, target: TargetArgs, channels: usize) -> Result<Self> {
        let topics = names(&target.topic, target.topics);
        let channels = target.channels.unwrap_or(channels);
        let channels: Vec<String> = (0..channels).map(|number| format!("ch{number}")).collect();
        ensure!(
            topics
                .iter()
                .all(|name| TopicName::is_valid(name.as_bytes())),
            "no topic name"
        );
        ensure!(
            channels
                .iter()
                .all(|name| ChannelName::is_valid(name.as_bytes())),
            "too many"
        );
        Ok(Self {
            name,
            door: Door::new(&target)?,
            target,
            topics,
            channels,
            publish: None,
            consume: None,
            must_drain: false,
            must_settle: false,
            histogram: None,
        })
    }

    /// The same in small, to warm up.
    pub(crate) fn warmup(&self, messages: u64) -> Self {
        let mut plan = self.clone();
        if let Some(publish) = &mut plan.publish {
            publish.pace = match publish.pace {
                Pace::Messages(_) | Pace::Time(_) => Pace::Messages(messages),
                Pace::Schedule(schedule) => Pace::Schedule(Schedule {
                    messages,
                    ..schedule
                }),
            };
        } else if let Some(consume) = &mut plan.consume {
            consume.messages = Some(messages);
            plan.must_drain = false;
        }
        plan.histogram = None;
        plan
    }

    /// The (topic, channel) pairs, channels first: neighbours in the list are of different channels.
    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = (&String, usize)> {
        self.topics
            .iter()
            .flat_map(|topic| (0..self.channels.len()).map(move |c| (topic, c)))
    }
}

impl Publish {
    fn closed_loop(args: &PublishArgs, plan: &Plan) -> Result<Self> {
        let batch = if args.verb == Verb::Mpub {
            args.batch
        } else {
            0
        };
        let recipe = recipe(
            &plan.topics,
            args.size,
            (batch, args.depth),
            plan.target.verify,
        )?;
        let recipe = Recipe {
            kind: args.body,
            ..recipe
        };
        let pace = match (args.messages, args.duration) {
            (None, Some(time)) => Pace::Time(time),
            (Some(messages), None) => Pace::Messages(messages),
            (None, None) => Pace::Messages(MESSAGES),
            (Some(_), Some(_)) => anyhow::bail!("either messages or a duration"),
        };
        Ok(Self {
            recipe,
            connections: args.connections,
            pace,
        })
    }

    /// Commands of each connection, so that all together publish at least so many messages.
    pub(crate) fn shares(&self, messages: u64) -> Vec<u64> {
        let commands = messages.div_ceil(wide(self.recipe.messages_per_command()));
        let count = wide(self.connections);
        (0..count)
            .map(|index| commands / count + u64::from(index < commands % count))
            .collect()
    }
}

impl Consume {
    fn new(args: &ConsumeArgs, messages: Option<u64>, plan: &Plan) -> Result<Self> {
        let pairs = plan.topics.len() * plan.channels.len();
        ensure!(pairs > 0, "consumers need a channel");
        ensure!(
            args.requeue_every != 1,
            "requeueing every delivery never ends"
        );
        let policy = Policy {
            ready: args.ready,
            delay: args.finish_after,
            batch: args.finish_batch,
            requeue_every: args.requeue_every,
            requeue_ms: u64::try_from(args.requeue_for.as_millis())?,
            idle: args.idle,
        };
        let wishes = Wishes {
            output_buffer_timeout_ms: args.output_buffer_timeout,
            output_buffer_size: args.output_buffer_size,
            msg_timeout_ms: match args.msg_timeout {
                Some(time) => Some(u64::try_from(time.as_millis())?),
                None => None,
            },
        };
        // Every channel of every topic has a consumer, or its messages would never come.
        let consumers = args.consumers.max(pairs);
        Ok(Self {
            consumers,
            policy,
            wishes,
            messages,
            latency: false,
        })
    }
}

fn recipe(
    topics: &[String],
    size: BodySize,
    (batch, depth): (usize, usize),
    stamped: bool,
) -> Result<Recipe> {
    ensure!(
        !stamped || size.least() >= STAMP_LEN,
        "numbered bodies have at least {STAMP_LEN} bytes"
    );
    Ok(Recipe {
        topics: topics.to_vec(),
        batch,
        size,
        kind: BodyKind::Noise,
        depth,
        stamped,
        deferral: None,
    })
}

fn names(first: &str, count: usize) -> Vec<String> {
    match count {
        1 => vec![first.to_owned()],
        _ => (0..count)
            .map(|number| format!("{first}-{number}"))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn publishing(line: &str) -> Result<Plan> {
        let Command::Pub(args) = Cli::try_parse_from(line.split(' '))?.command else {
            panic!("{line}")
        };
        Plan::publishing("pub", args, 0)
    }

    #[test]
    fn shares_cover_all_messages_in_whole_commands() {
        let plan =
            publishing("x pub --verb mpub --batch 10 --connections 4 --messages 95").unwrap();
        let shares = plan.publish.unwrap().shares(95);
        assert_eq!(shares, [3, 3, 2, 2]);
    }

    #[test]
    fn topics_are_numbered_when_there_are_several() {
        assert_eq!(
            publishing("x pub --topics 2").unwrap().topics,
            ["bench-0", "bench-1"]
        );
        assert_eq!(publishing("x pub").unwrap().topics, ["bench"]);
        assert!(publishing("x pub --topic a/b").is_err());
    }

    #[test]
    fn numbered_bodies_need_room() {
        assert!(publishing("x pub --size 10").is_ok());
        assert!(publishing("x pub --size 10 --verify").is_err());
        assert!(publishing("x pub --messages 5 --duration 1s").is_err());
    }
}
