//! The program against the floor server or, with `RINGQ_NSQD` set, against that broker.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use clap::Parser;
use nsq_bench::cli::{self, Cli};
use nsq_bench::floor::{Floor, Served};
use serde_json::Value;

/// What the program is pointed at.
enum Target {
    Floor {
        tcp: String,
        stop: Arc<AtomicBool>,
        thread: JoinHandle<Served>,
    },
    Broker {
        tcp: String,
        http: String,
        child: Child,
        _data: tempfile::TempDir,
    },
}

impl Target {
    /// The broker under test, or a floor started with these arguments.
    fn start(floor: &str) -> Self {
        match std::env::var_os("RINGQ_NSQD") {
            Some(binary) => Self::broker(Path::new(&binary)),
            None => Self::floor(floor),
        }
    }

    fn floor(args: &str) -> Self {
        let line = format!("nsq-bench floor --tcp 127.0.0.1:0 {args}");
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let cli::Command::Floor(args) = cli.command else {
            panic!("no floor: {line}")
        };
        let floor = Floor::bind(&args).unwrap();
        let tcp = floor.address().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || floor.run(&told).unwrap());
        Self::Floor { tcp, stop, thread }
    }

    fn broker(binary: &Path) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut child = Command::new(binary)
            .args(["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"])
            .arg(format!("--data-path={}", data.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut tcp, mut http) = (None, None);
        while tcp.is_none() || http.is_none() {
            let line = lines
                .next()
                .expect("the broker says where it listens")
                .unwrap();
            let find = |what: &str| line.split_once(what).map(|(_, at)| at.trim().to_owned());
            tcp = tcp.or_else(|| find("TCP: listening on "));
            http = http.or_else(|| find("HTTP: listening on "));
        }
        // Nobody may leave the broker with a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Self::Broker {
            tcp: tcp.unwrap(),
            http: http.unwrap(),
            child,
            _data: data,
        }
    }

    fn is_floor(&self) -> bool {
        matches!(self, Self::Floor { .. })
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsq-bench"));
        command.args(line.split_whitespace()).arg("--json");
        match self {
            Self::Floor { tcp, .. } => command.args(["--tcp", tcp]),
            Self::Broker {
                tcp, http, child, ..
            } => command.args([
                "--tcp",
                tcp,
                "--http",
                http,
                "--pid",
                &child.id().to_string(),
            ]),
        };
        command.output().unwrap()
    }

    fn good(&self, line: &str) -> Value {
        let output = self.run(line);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {text}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["ok"], true, "{line}: {report}");
        report
    }

    /// What the floor has served; `None` for a broker.
    fn end(self) -> Option<Served> {
        match self {
            Self::Floor { stop, thread, .. } => {
                stop.store(true, Ordering::Relaxed);
                Some(thread.join().unwrap())
            }
            Self::Broker { mut child, .. } => {
                child.kill().unwrap();
                child.wait().unwrap();
                None
            }
        }
    }
}

#[test]
fn every_publish_is_acknowledged_once() {
    let target = Target::start("");
    let one_by_one = target.good("pub --messages 1000 --connections 3 --topics 2");
    assert_eq!(one_by_one["runs"][0]["published"]["messages"], 1000);
    let batches = target.good("pub --verb mpub --batch 50 --depth 8 --messages 20000 --repeat 3");
    assert_eq!(batches["runs"][2]["published"]["messages"], 20_000);
    assert_eq!(batches["summary"][0]["name"], "published msg/s");
    let sizes = target.good("pub --size uniform:30-300 --depth 100 --messages 5000 --verify");
    assert_eq!(sizes["runs"][0]["published"]["messages"], 5000);
    if let Some(served) = target.end() {
        assert_eq!(served.publishes, 1000 + 3 * 20_000 / 50 + 5000);
    }
}

#[test]
fn publishing_for_a_time_ends() {
    let target = Target::start("");
    let report = target.good("pub --duration 100ms --connections 2");
    assert!(
        report["runs"][0]["published"]["messages"].as_u64().unwrap() > 0,
        "{report}"
    );
    target.end();
}

#[test]
fn a_backlog_is_consumed_and_accounted_for() {
    let target = Target::start("--serve-messages 30000");
    if !target.is_floor() {
        target.good("fill --messages 30000 --verb mpub --verify");
    }
    let verb = if target.is_floor() {
        "sub --messages 30000"
    } else {
        "drain --consumers 2"
    };
    let report = target.good(&format!("{verb} --verify"));
    let run = &report["runs"][0];
    assert_eq!(run["consumed"]["messages"], 30_000, "{report}");
    assert_eq!(run["verdict"]["lost"], 0);
    if let Some(served) = target.end() {
        assert_eq!((served.messages, served.finishes), (30_000, 30_000));
    }
}

#[test]
fn finishes_may_be_late() {
    let target = Target::start("--relay");
    let report = target.good("pubsub --messages 2000 --verify --finish-after 5ms");
    assert_eq!(report["runs"][0]["consumed"]["messages"], 2000, "{report}");
    if let Some(served) = target.end() {
        assert_eq!(
            served.finishes, 2000,
            "late finishes are not forgotten at the end"
        );
    }
}

#[test]
fn together_everything_published_is_consumed() {
    let target = Target::start("--relay");
    let line = "pubsub --messages 20000 --connections 4 --depth 16 --verify --channels 1";
    let report = target.good(line);
    let run = &report["runs"][0];
    assert_eq!(run["consumed"]["messages"], 20_000);
    assert_eq!(run["verdict"]["duplicated"], 0);
    target.end();
}

#[test]
fn latency_is_measured_and_logged() {
    let target = Target::start("--relay");
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("latency.hlog");
    let line = format!(
        "e2e --rate 2000 --duration 500ms --verify --connections 2 --output-buffer-size -1 --histogram {}",
        log.display()
    );
    let report = target.good(&line);
    let run = &report["runs"][0];
    assert_eq!(run["consumed"]["messages"], 1000, "{report}");
    let p50 = run["latency_us"]["p50"].as_f64().unwrap();
    assert!(p50 > 1.0 && p50 <= run["latency_us"]["max"].as_f64().unwrap());
    let text = std::fs::read_to_string(log).unwrap();
    assert!(
        text.contains("Tag=run") && text.contains("HISTFAAAA"),
        "{text}"
    );
    target.end();
}

#[test]
fn deferred_messages_come_when_they_are_due() {
    let target = Target::start("--relay");
    // The floor only relays; to be due at once is all that it can do.
    let deferral = if target.is_floor() {
        "--defer-least 0s --defer-most 0s"
    } else {
        "--defer-least 100ms --defer-most 400ms"
    };
    let report = target.good(&format!("defer --messages 500 --verify {deferral}"));
    let run = &report["runs"][0];
    assert_eq!(run["consumed"]["messages"], 500, "{run}");
    assert_eq!(
        (&run["early"], &run["verdict"]["lost"]),
        (&0.into(), &0.into()),
        "{run}"
    );
    target.end();
}

#[test]
fn early_messages_fail_the_run() {
    // The floor relays at once what is to be deferred.
    let target = Target::floor("--relay");
    let output = target.run("defer --messages 100 --defer-least 5s --defer-most 6s");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["runs"][0]["early"], 100, "{report}");
    target.end();
}

#[test]
fn gathered_finishes_all_leave() {
    let target = Target::start("--relay");
    target.good("pubsub --messages 1050 --verify --finish-batch 100");
    if let Some(served) = target.end() {
        assert_eq!(served.finishes, 1050);
    }
}

#[test]
fn idle_connections_are_not_repeated() {
    let target = Target::floor("");
    let output = target.run("idle --connections 1 --repeat 2");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("--repeat"),
        "{text}"
    );
    target.end();
}

#[test]
fn losses_fail_the_run() {
    // Nobody relays, so nothing comes.
    let target = Target::floor("");
    let output = target.run("pubsub --messages 100 --verify --idle 200ms");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["runs"][0]["verdict"]["lost"], 100);
    assert_eq!(report["runs"][0]["missing"], 100);
    target.end();
}

#[test]
fn messages_of_another_run_fail_the_verification() {
    // The floor streams 2,000 numbered messages where 10 were published.
    let target = Target::floor("--serve-messages 2000");
    let output = target.run("pubsub --messages 10 --verify");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        report["runs"][0]["verdict"]["foreign"].as_u64().unwrap() > 0,
        "{report}"
    );
    target.end();
}

#[test]
fn idle_connections_are_held() {
    let target = Target::start("");
    let report = target.good("idle --connections 200 --subscribe --topics 5 --hold 200ms");
    assert_eq!(report["connections"], 200);
    assert_eq!(report["broker"].is_object(), !target.is_floor());
    target.end();
}

#[test]
fn nobody_listening_is_an_error_and_not_a_hang() {
    let output = Command::new(env!("CARGO_BIN_EXE_nsq-bench"))
        .args(["pub", "--tcp", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("connect to the broker"));
}
