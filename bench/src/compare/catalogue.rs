//! What is compared: every workload as a row of data, with the goals that it is held to.

use std::time::Duration;

use super::contestant::Side;

/// A workload.
#[derive(Debug)]
pub(super) struct Workload {
    /// What `--only` looks for.
    pub(super) name: &'static str,
    /// What is done, for people.
    pub(super) title: &'static str,
    /// What else one must know to read the figures.
    pub(super) note: &'static str,
    /// Topics, each with a channel, that the broker finds in its `nsqd.dat` when it starts.
    pub(super) topics: usize,
    /// What comes before the measured load. The floor holds nothing, so it is spared.
    pub(super) prepare: &'static [Step],
    /// Arguments of the load generator; see [`Workload::arguments`].
    pub(super) load: &'static str,
    /// Messages of a run.
    pub(super) messages: Messages,
    /// Seconds of a run, where it is time that ends it.
    pub(super) seconds: u64,
    /// Flags of the reference beside addresses and data path.
    pub(super) reference_flags: &'static str,
    /// The same of ours.
    pub(super) ours_flags: &'static str,
    /// Flags of the floor, where it can do the same.
    pub(super) floor_flags: Option<&'static str>,
    /// What is read off, the subject first.
    pub(super) measures: &'static [Measure],
    /// Runs only when it is asked for by name: why.
    pub(super) on_request: Option<&'static str>,
    /// Most repetitions, whatever is asked for.
    pub(super) repeat_max: usize,
    /// A measurement that takes longer has failed.
    pub(super) limit: Duration,
}

/// Something that is not measured.
#[derive(Debug)]
pub(super) enum Step {
    /// The load generator with these arguments.
    Load(&'static str),
    /// The broker stops and starts again, and finds nothing of its files in memory.
    RestartCold,
}

/// Messages of a run by side, so that each takes a few seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Messages {
    /// For the reference.
    pub(super) reference: u64,
    /// For ours.
    pub(super) ours: u64,
    /// For the floor.
    pub(super) floor: u64,
}

/// A figure of the load generator's report.
#[derive(Debug)]
pub(super) struct Measure {
    /// With its unit.
    pub(super) name: &'static str,
    /// Where it stands in the report (JSON pointer).
    pub(super) at: &'static str,
    /// Whether more is better.
    pub(super) better: Better,
    /// What ours over reference has to reach, or may not exceed.
    pub(super) goal: Option<f64>,
    /// The same of ours over the floor.
    pub(super) floor_goal: Option<f64>,
    /// What ours may not exceed, whatever the reference does.
    pub(super) limit: Option<f64>,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    /// A rate.
    Higher,
    /// A cost.
    Lower,
}

/// How long and how large runs are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// A quarter of the messages, a third of the time.
    pub(super) quick: bool,
    /// Seconds that replace the catalogue's.
    pub(super) seconds: Option<u64>,
}

impl Workload {
    /// A command line with `{messages}`, `{backlog}` and `{seconds}` filled in, as words; `{certificate}` and
    /// `{key}` are left to who knows where they are. A backlog is some more
    /// than the messages that are taken from it, so that a run does not end with a buffer that waits to be full.
    /// Where messages are spread over time, a shorter time has fewer of them.
    pub(super) fn arguments(&self, line: &str, side: Side, scale: Scale) -> Vec<String> {
        let messages = match side {
            Side::Reference => self.messages.reference,
            Side::Ours => self.messages.ours,
            Side::Floor => self.messages.floor,
        };
        let (part, seconds) = match scale.quick {
            true => ((messages / 4).max(1), (self.seconds / 3).max(1)),
            false => (messages, self.seconds),
        };
        let seconds = scale.seconds.unwrap_or(seconds);
        let spread = line.contains("{messages}") && line.contains("{seconds}");
        let messages = match spread {
            true => (messages * seconds / self.seconds).max(1),
            false => part,
        };
        line.replace("{messages}", &messages.to_string())
            .replace("{backlog}", &(messages + messages / 16).to_string())
            .replace("{seconds}", &seconds.to_string())
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    }

    /// Flags of a side; `None`: it does not take part.
    pub(super) fn flags(&self, side: Side) -> Option<&'static str> {
        match side {
            Side::Reference => Some(self.reference_flags),
            Side::Ours => Some(self.ours_flags),
            Side::Floor => self.floor_flags,
        }
    }
}

const LIMIT: Duration = Duration::from_secs(60);
const RATE_PUBLISHED: &str = "/runs/0/published/rate";
const RATE_CONSUMED: &str = "/runs/0/consumed/rate";
/// Everything in memory: far above any load of this table.
const IN_MEMORY: &str = "--mem-queue-size=10000000";
const FILL: Step = Step::Load("fill --verb mpub --batch 200 --depth 16 --messages {backlog}");

/// What most workloads have in common.
const PLAIN: Workload = Workload {
    name: "",
    title: "",
    note: "",
    topics: 0,
    prepare: &[],
    load: "",
    messages: Messages::same(0),
    seconds: 3,
    reference_flags: "",
    ours_flags: "",
    floor_flags: None,
    measures: &[],
    on_request: None,
    repeat_max: usize::MAX,
    limit: LIMIT,
};

const TO_TOPIC: &str = "the topic has no channel";
const FROM_MEMORY: &str = "the reference holds the backlog in memory (--mem-queue-size=10000000)";
const FROM_DISK: &str = "after a restart, no page of the files in memory; both with default flags";

impl Messages {
    const fn same(count: u64) -> Self {
        Self::by_side(count, count, count)
    }

    const fn by_side(reference: u64, ours: u64, floor: u64) -> Self {
        Self {
            reference,
            ours,
            floor,
        }
    }
}

impl Measure {
    const fn rate(at: &'static str, goal: f64) -> Self {
        Self {
            name: "msg/s",
            at,
            better: Better::Higher,
            goal: Some(goal),
            floor_goal: None,
            limit: None,
        }
    }

    const fn of_floor(mut self, goal: f64) -> Self {
        self.floor_goal = Some(goal);
        self
    }

    const fn cost(name: &'static str, at: &'static str, goal: f64) -> Self {
        Self {
            goal: Some(goal),
            ..Self::reported(name, at)
        }
    }

    const fn at_most(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }

    const fn reported(name: &'static str, at: &'static str) -> Self {
        Self {
            name,
            at,
            better: Better::Lower,
            goal: None,
            floor_goal: None,
            limit: None,
        }
    }
}

/// Processor time of the broker in a throughput row.
const CPU: Measure = cpu(0.125);

const fn cpu(goal: f64) -> Measure {
    Measure::cost(
        "broker CPU s/million",
        "/runs/0/broker/cpu_s_per_million",
        goal,
    )
}

/// All workloads, in the order of the table.
pub(super) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "mpub-1c",
        title: "MPUB 200 x 200 B, 1 connection, 16 unanswered",
        note: TO_TOPIC,
        load: "pub --verb mpub --batch 200 --depth 16 --messages {messages}",
        messages: Messages::by_side(2_000_000, 10_000_000, 60_000_000),
        floor_flags: Some(""),
        measures: &[Measure::rate(RATE_PUBLISHED, 12.0).of_floor(0.25), CPU],
        ..PLAIN
    },
    Workload {
        name: "mpub-4c",
        title: "MPUB 200 x 200 B, 4 connections, one at a time",
        note: TO_TOPIC,
        load: "pub --verb mpub --batch 200 --connections 4 --messages {messages}",
        messages: Messages::by_side(2_000_000, 10_000_000, 40_000_000),
        floor_flags: Some(""),
        measures: &[Measure::rate(RATE_PUBLISHED, 6.0), CPU],
        ..PLAIN
    },
    Workload {
        name: "pub-1c",
        title: "PUB 200 B, 1 connection, one at a time",
        note: TO_TOPIC,
        load: "pub --duration {seconds}s",
        floor_flags: Some(""),
        measures: &[Measure::rate(RATE_PUBLISHED, 1.2).of_floor(0.8), CPU],
        ..PLAIN
    },
    Workload {
        name: "pub-16c",
        title: "PUB 200 B, 16 connections, one at a time",
        note: TO_TOPIC,
        load: "pub --connections 16 --duration {seconds}s",
        floor_flags: Some(""),
        measures: &[Measure::rate(RATE_PUBLISHED, 2.0).of_floor(0.8), CPU],
        ..PLAIN
    },
    Workload {
        name: "pub-64c",
        title: "PUB 200 B, 64 connections, one at a time",
        note: TO_TOPIC,
        load: "pub --connections 64 --duration {seconds}s",
        floor_flags: Some(""),
        measures: &[Measure::rate(RATE_PUBLISHED, 2.0).of_floor(0.8), CPU],
        ..PLAIN
    },
    Workload {
        name: "pub-64c-always",
        title: "PUB 200 B, 64 connections, ours at --sync=always",
        note: "ours syncs before every answer, the reference (default flags) never does",
        load: "pub --connections 64 --duration {seconds}s",
        ours_flags: "--sync=always",
        measures: &[
            Measure::rate(RATE_PUBLISHED, 1.0),
            Measure::reported("broker CPU s/million", "/runs/0/broker/cpu_s_per_million"),
        ],
        ..PLAIN
    },
    Workload {
        name: "pub-pipelined",
        title: "PUB 200 B, 1 connection, 128 unanswered",
        note: TO_TOPIC,
        load: "pub --depth 128 --duration {seconds}s",
        floor_flags: Some(""),
        measures: &[Measure::rate(RATE_PUBLISHED, 10.0), CPU],
        ..PLAIN
    },
    Workload {
        name: "sub-1c",
        title: "SUB and FIN 200 B, RDY 2500, 1 connection",
        note: FROM_MEMORY,
        load: "sub --consumers 1 --messages {messages}",
        ..SUB_MEMORY
    },
    Workload {
        name: "sub-4c",
        title: "SUB and FIN 200 B, RDY 2500, 4 connections",
        note: FROM_MEMORY,
        load: "sub --consumers 4 --messages {messages}",
        ..SUB_MEMORY
    },
    Workload {
        name: "sub-16c",
        title: "SUB and FIN 200 B, RDY 2500, 16 connections",
        note: FROM_MEMORY,
        load: "sub --consumers 16 --messages {messages}",
        ..SUB_MEMORY
    },
    Workload {
        name: "sub-cold-1c",
        title: "SUB and FIN 200 B from a cold disk, 1 connection",
        note: FROM_DISK,
        load: "sub --consumers 1 --messages {messages}",
        ..SUB_DISK
    },
    Workload {
        name: "sub-cold-4c",
        title: "SUB and FIN 200 B from a cold disk, 4 connections",
        note: FROM_DISK,
        load: "sub --consumers 4 --messages {messages}",
        ..SUB_DISK
    },
    Workload {
        name: "pubsub-1ch",
        title: "MPUB and SUB together, 1 channel",
        load: "pubsub --verb mpub --batch 200 --depth 4 --channels 1 --messages {messages}",
        messages: Messages::by_side(2_500_000, 8_000_000, 0),
        measures: &[Measure::rate(RATE_CONSUMED, 6.0), CPU],
        ..PUBSUB
    },
    Workload {
        name: "pubsub-3ch",
        title: "MPUB and SUB together, 3 channels",
        load: "pubsub --verb mpub --batch 200 --depth 4 --channels 3 --messages {messages}",
        messages: Messages::by_side(1_200_000, 6_000_000, 0),
        measures: &[
            Measure {
                goal: None,
                ..Measure::rate(RATE_CONSUMED, 0.0)
            },
            CPU,
        ],
        ..PUBSUB
    },
    Workload {
        name: "pubsub-10ch",
        title: "MPUB and SUB together, 10 channels",
        load: "pubsub --verb mpub --batch 200 --depth 4 --channels 10 --messages {messages}",
        messages: Messages::by_side(400_000, 2_000_000, 0),
        measures: &[Measure::rate(RATE_CONSUMED, 10.0), CPU],
        ..PUBSUB
    },
    Workload {
        name: "mpub-tls",
        title: "MPUB 200 x 200 B over TLS 1.3 (AES-128-GCM), 16 unanswered",
        load: "pub --verb mpub --batch 200 --depth 16 --body json --tls=TLS_AES_128_GCM_SHA256 \
            --tls-root {certificate} --messages {messages}",
        messages: Messages::by_side(1_600_000, 6_000_000, 0),
        reference_flags: TLS_FLAGS,
        ours_flags: TLS_FLAGS,
        ..LAYERED
    },
    Workload {
        name: "sub-tls",
        title: "SUB and FIN 200 B over TLS 1.3 (AES-128-GCM), RDY 2500",
        load: "sub --tls=TLS_AES_128_GCM_SHA256 --tls-root {certificate} --messages {messages}",
        messages: Messages::by_side(1_600_000, 6_000_000, 0),
        reference_flags: TLS_SUB_FLAGS,
        ours_flags: TLS_SUB_FLAGS,
        ..LAYERED_SUB
    },
    Workload {
        name: "mpub-snappy",
        title: "MPUB 200 x 200 B with snappy, 16 unanswered",
        load: "pub --verb mpub --batch 200 --depth 16 --body json --compression snappy --messages {messages}",
        messages: Messages::by_side(1_600_000, 6_000_000, 0),
        ..LAYERED
    },
    Workload {
        name: "sub-snappy",
        title: "SUB and FIN 200 B with snappy, RDY 2500",
        load: "sub --compression snappy --messages {messages}",
        messages: Messages::by_side(1_600_000, 6_000_000, 0),
        ..LAYERED_SUB
    },
    Workload {
        name: "mpub-deflate-1",
        title: "MPUB 200 x 200 B with DEFLATE, level 1, 16 unanswered",
        load: "pub --verb mpub --batch 200 --depth 16 --body json --compression deflate:1 --messages {messages}",
        messages: Messages::by_side(1_200_000, 4_000_000, 0),
        ..LAYERED
    },
    Workload {
        name: "sub-deflate-1",
        title: "SUB and FIN 200 B with DEFLATE, level 1, RDY 2500",
        load: "sub --compression deflate:1 --messages {messages}",
        messages: Messages::by_side(800_000, 3_000_000, 0),
        ..LAYERED_SUB
    },
    Workload {
        name: "mpub-deflate-6",
        title: "MPUB 200 x 200 B with DEFLATE, level 6, 16 unanswered",
        load: "pub --verb mpub --batch 200 --depth 16 --body json --compression deflate:6 --messages {messages}",
        messages: Messages::by_side(1_200_000, 4_000_000, 0),
        ..LAYERED
    },
    Workload {
        name: "sub-deflate-6",
        title: "SUB and FIN 200 B with DEFLATE, level 6, RDY 2500",
        load: "sub --compression deflate:6 --messages {messages}",
        messages: Messages::by_side(600_000, 1_600_000, 0),
        ..LAYERED_SUB
    },
    Workload {
        name: "e2e-50k",
        title: "end to end at 50 000 msg/s",
        load: "e2e --rate 50000 --duration {seconds}s --idle 10s",
        ..E2E
    },
    Workload {
        name: "e2e-200k",
        title: "end to end at 200 000 msg/s",
        load: "e2e --rate 200000 --duration {seconds}s --idle 10s",
        measures: &[
            Measure::cost("p50 us", "/runs/0/latency_us/p50", 0.1),
            Measure::cost("p99 us", "/runs/0/latency_us/p99", 0.1),
            Measure::reported("p99.99 us", "/runs/0/latency_us/p99_99"),
            Measure::reported("max us", "/runs/0/latency_us/max"),
            Measure::reported("sent late p99 us", "/runs/0/lateness_us/p99"),
            Measure::reported("broker CPU s/million", "/runs/0/broker/cpu_s_per_million"),
        ],
        ..E2E
    },
    Workload {
        name: "backlog-10m",
        title: "10 million messages of 200 B queued",
        note: FROM_MEMORY,
        load: "fill --verb mpub --batch 200 --depth 16 --messages {messages}",
        messages: Messages::same(10_000_000),
        reference_flags: IN_MEMORY,
        measures: &[Measure::cost("RSS MiB", "/runs/0/broker/rss_after_mib", 0.125).at_most(286.0)],
        repeat_max: 3,
        limit: Duration::from_secs(90),
        ..PLAIN
    },
    Workload {
        name: "idle-10k",
        title: "10 000 subscribed connections that do nothing",
        note: "memory of the kernel for sockets is not in it, on neither side",
        load: "idle --connections 10000 --subscribe --hold {seconds}s",
        measures: &[
            Measure::cost("RSS MiB", "/broker/rss_after_mib", 0.5),
            Measure::reported("KiB per connection", "/broker/kib_per_connection"),
            Measure::reported("broker CPU, % of a core", "/broker/hold_cpu_percent"),
        ],
        repeat_max: 3,
        ..PLAIN
    },
    Workload {
        name: "topics-10k",
        title: "10 000 topics with a channel, nothing published",
        note: "the topics come from nsqd.dat: creating them one by one takes the reference minutes",
        topics: 10_000,
        load: "idle --connections 1 --hold {seconds}s",
        measures: &[
            Measure::reported("RSS MiB", "/broker/rss_after_mib"),
            Measure::reported("broker CPU, % of a core", "/broker/hold_cpu_percent"),
        ],
        seconds: 5,
        repeat_max: 3,
        ..PLAIN
    },
    Workload {
        name: "defer-1m",
        title: "1 million deferred messages, due over the window",
        note: "DPUB; lateness is counted from the moment at which a message is due",
        load: "defer --messages {messages} --depth 64 --defer-least 10s --defer-most {seconds}s",
        messages: Messages::same(1_000_000),
        seconds: 600,
        measures: &[
            Measure::reported("early", "/runs/0/early").at_most(0.0),
            Measure::reported("late p50 us", "/runs/0/latency_us/p50"),
            Measure::reported("late p99 us", "/runs/0/latency_us/p99").at_most(5000.0),
            Measure::reported("late max us", "/runs/0/latency_us/max"),
            Measure::reported("bytes of memory each", "/runs/0/broker/bytes_per_message")
                .at_most(100.0),
        ],
        on_request: Some("takes 10 minutes a side; --seconds shortens the window"),
        repeat_max: 1,
        limit: Duration::from_secs(900),
        ..PLAIN
    },
];

/// What the secure and compressed rows publish: noise would not compress, on neither side.
const FILL_JSON: Step =
    Step::Load("fill --verb mpub --batch 200 --depth 16 --body json --messages {backlog}");
/// The same flags for both brokers.
const TLS_FLAGS: &str = "--https-address=127.0.0.1:0 --tls-cert={certificate} --tls-key={key}";
const TLS_SUB_FLAGS: &str = "--https-address=127.0.0.1:0 --tls-cert={certificate} --tls-key={key} \
    --mem-queue-size=10000000";

const LAYERED: Workload = Workload {
    note: "the same flags on both sides; bodies are JSON events; commands are compressed before the run, but \
        encrypted during it; the floor has no layers: a server that decodes and encodes does not do nothing",
    measures: &[
        Measure::rate(RATE_PUBLISHED, 3.0),
        Measure::reported("broker CPU s/million", "/runs/0/broker/cpu_s_per_million"),
    ],
    ..PLAIN
};

const LAYERED_SUB: Workload = Workload {
    note: "the same flags on both sides, the backlog in memory (--mem-queue-size=10000000); bodies are JSON events; \
        the floor has no layers",
    prepare: &[FILL_JSON],
    reference_flags: IN_MEMORY,
    ours_flags: IN_MEMORY,
    measures: &[
        Measure::rate(RATE_CONSUMED, 3.0),
        Measure::reported("broker CPU s/million", "/runs/0/broker/cpu_s_per_million"),
    ],
    ..PLAIN
};

const SUB_MEMORY: Workload = Workload {
    prepare: &[FILL],
    messages: Messages::by_side(2_000_000, 8_000_000, 40_000_000),
    reference_flags: IN_MEMORY,
    floor_flags: Some("--serve-messages {backlog}"),
    measures: &[Measure::rate(RATE_CONSUMED, 10.0).of_floor(0.35), CPU],
    ..PLAIN
};

const SUB_DISK: Workload = Workload {
    prepare: &[FILL, Step::RestartCold],
    messages: Messages::by_side(1_000_000, 8_000_000, 0),
    measures: &[Measure::rate(RATE_CONSUMED, 5.0), CPU],
    ..PLAIN
};

const PUBSUB: Workload = Workload {
    note: "1 publisher with 4 unanswered MPUB of 200 x 200 B, 1 consumer per channel, RDY 2500; msg/s delivered; the \
        reference's output buffer holds the last messages for up to 250 ms",
    ..PLAIN
};

const E2E: Workload = Workload {
    note: "open loop, 1 publisher and 1 consumer, RDY 2500; latency is counted from the intended time of sending; \
        the reference's output buffer holds the last messages for up to 250 ms",
    seconds: 10,
    floor_flags: Some("--relay"),
    measures: &[
        Measure::cost("p50 us", "/runs/0/latency_us/p50", 0.1),
        Measure::cost("p99 us", "/runs/0/latency_us/p99", 0.1),
        Measure::reported("p99.99 us", "/runs/0/latency_us/p99_99"),
        Measure::reported("max us", "/runs/0/latency_us/max"),
        Measure::reported("sent late p99 us", "/runs/0/lateness_us/p99"),
        cpu(1.0),
    ],
    ..PLAIN
};

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    const FULL: Scale = Scale {
        quick: false,
        seconds: None,
    };

    #[test]
    fn names_are_unique() {
        for (index, workload) in WORKLOADS.iter().enumerate() {
            assert!(
                WORKLOADS[..index].iter().all(|o| o.name != workload.name),
                "{}",
                workload.name
            );
            assert!(!workload.measures.is_empty(), "{}", workload.name);
        }
    }

    #[test]
    fn every_command_line_is_one_of_the_load_generator() {
        for workload in WORKLOADS {
            let loads = workload.prepare.iter().filter_map(|step| match step {
                Step::Load(line) => Some(*line),
                Step::RestartCold => None,
            });
            let floor = workload.floor_flags.map(|flags| format!("floor {flags}"));
            let lines = loads.chain([workload.load]).map(str::to_owned).chain(floor);
            for line in lines {
                let words = workload.arguments(&line, Side::Ours, FULL);
                let line: Vec<_> = std::iter::once("nsq-bench".to_owned())
                    .chain(words)
                    .collect();
                if let Err(error) = Cli::try_parse_from(&line) {
                    panic!("{}: {line:?}: {error}", workload.name);
                }
            }
        }
    }

    #[test]
    fn loads_scale() {
        let workload = &WORKLOADS[0];
        let quick = Scale {
            quick: true,
            seconds: Some(7),
        };
        let words = |line, side, scale| workload.arguments(line, side, scale);
        let both = "{messages} {seconds}";
        assert_eq!(words(both, Side::Reference, FULL), ["2000000", "3"]);
        assert_eq!(words("{messages}", Side::Ours, quick), ["2500000"]);
        assert_eq!(words("{backlog}", Side::Floor, quick), ["15937500"]);
        let short = Scale {
            seconds: Some(1),
            ..quick
        };
        assert_eq!(words(both, Side::Ours, short), ["3333333", "1"]);
    }
}
