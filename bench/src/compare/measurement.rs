//! One measurement: a fresh broker, what comes before, the load, the end.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::catalogue::{Scale, Step, Workload};
use super::contestant::{Broker, Contestants, Side};

/// A measurement about to be taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measurement<'a> {
    /// Programs and the place for data.
    pub(super) contestants: &'a Contestants,
    /// What is done.
    pub(super) workload: &'a Workload,
    /// Who does it.
    pub(super) side: Side,
    /// How much of it.
    pub(super) scale: Scale,
}

/// What the load generator is pointed at.
struct Pointing {
    tcp: String,
    http: Option<String>,
    pid: String,
}

impl Measurement<'_> {
    /// Takes it: the load generator's report.
    ///
    /// # Errors
    /// Something does not start, fails, or takes too long. What was started has ended then.
    pub(super) fn take(&self) -> Result<Value> {
        self.contestants.fresh_data(self.workload.topics)?;
        let deadline = Instant::now() + self.workload.limit;
        let mut broker = self.start()?;
        for step in self.preparation() {
            match step {
                Step::Load(line) => {
                    let found = self.load(line, &mut broker, deadline);
                    found.context("preparation")?;
                }
                Step::RestartCold => {
                    broker.stop(deadline).context("preparation")?;
                    self.contestants.make_cold()?;
                    broker = self.start().context("restart")?;
                }
            }
        }
        let report = self.load(self.workload.load, &mut broker, deadline);
        // What is still to be written would burden whoever comes next.
        drop(broker);
        self.contestants.remove_data()?;
        report
    }

    /// The command lines, for whoever wants to repeat it by hand.
    pub(super) fn command_lines(&self) -> Vec<String> {
        let start = std::iter::once(self.contestants.program(self.side).display().to_string())
            .chain(self.contestants.command(self.side, &self.flags()))
            .collect::<Vec<String>>()
            .join(" ");
        let pointing = Pointing {
            tcp: "HOST:PORT".into(),
            http: (self.side != Side::Floor).then(|| "HOST:PORT".into()),
            pid: "PID".into(),
        };
        let load = |line: &str| {
            let words = self.load_arguments(line, pointing.words());
            format!("{} {}", self.contestants.bench.display(), words.join(" "))
        };
        let mut lines = vec![start.clone()];
        for step in self.preparation() {
            match step {
                Step::Load(line) => lines.push(load(line)),
                Step::RestartCold => lines.push(start.clone()),
            }
        }
        lines.push(load(self.workload.load));
        lines
    }

    fn preparation(&self) -> &'static [Step] {
        if self.side == Side::Floor {
            &[]
        } else {
            self.workload.prepare
        }
    }

    fn flags(&self) -> Vec<String> {
        let flags = self.workload.flags(self.side).unwrap_or_default();
        let words = self.workload.arguments(flags, self.side, self.scale);
        self.contestants.point(words)
    }

    fn start(&self) -> Result<Broker> {
        Broker::start(self.contestants, self.side, &self.flags())
    }

    fn load_arguments(&self, line: &str, pointing: Vec<String>) -> Vec<String> {
        let words = self.workload.arguments(line, self.side, self.scale);
        let mut words = self.contestants.point(words);
        words.extend(pointing);
        words
    }

    fn load(&self, line: &str, broker: &mut Broker, deadline: Instant) -> Result<Value> {
        let pointing = Pointing {
            tcp: broker.tcp.to_string(),
            http: broker.http.map(|address| address.to_string()),
            pid: broker.pid().to_string(),
        };
        let words = self.load_arguments(line, pointing.words());
        let report = run(self.contestants, &words, deadline);
        report.map_err(|error| match broker.obituary() {
            Some(obituary) => error.context(obituary),
            None => error,
        })
    }
}

impl Pointing {
    fn words(&self) -> Vec<String> {
        let mut words = vec!["--tcp".to_owned(), self.tcp.clone()];
        if let Some(http) = &self.http {
            words.extend(["--http".to_owned(), http.clone()]);
        }
        words.extend(["--pid".to_owned(), self.pid.clone(), "--json".to_owned()]);
        words
    }
}

/// Runs the load generator and reads its report.
fn run(contestants: &Contestants, words: &[String], deadline: Instant) -> Result<Value> {
    let mut child = Command::new(&contestants.bench)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (mut stdout, mut stderr) = (
        child.stdout.take().expect("it was asked for"),
        child.stderr.take().expect("it was asked for"),
    );
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let (mut report, mut complaint) = (String::new(), String::new());
        let read = stdout
            .read_to_string(&mut report)
            .and_then(|_| stderr.read_to_string(&mut complaint));
        // Nobody waits any longer after the time limit.
        drop(sender.send(read.map(|_| (report, complaint))));
    });
    let left = deadline.saturating_duration_since(Instant::now());
    let output = receiver.recv_timeout(left);
    if matches!(output, Err(RecvTimeoutError::Timeout)) {
        let _gone = child.kill();
    }
    let status = child.wait()?;
    let Ok(Ok((report, complaint))) = output else {
        bail!("the load did not end in time");
    };
    let complaint = complaint.trim();
    let report: Value = serde_json::from_str(&report)
        .with_context(|| format!("the load generator ended with {status}: {complaint}"))?;
    ensure!(
        status.success(),
        "the load failed: {}",
        report.get("runs").unwrap_or(&report)
    );
    Ok(report)
}
