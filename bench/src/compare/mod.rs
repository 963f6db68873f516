//! Ours against the reference and against the floor of the machine, in turn, in one run.
//!
//! Every measurement has a fresh broker process and a fresh data folder. The sides take turns within a
//! repetition, and every other repetition goes the other way round, so that what drifts on the machine
//! falls on all of them. Ratios are of one repetition; what is told is their median and spread.
//!
//! | module | one line |
//! |---|---|
//! | `catalogue` | the workloads and their goals, as data |
//! | `contestant` | who is compared; a broker process |
//! | `measurement` | one measurement |
//! | `results` | what was found, on disk and summed up |
//! | `table`, `chart` | the same for people |
//! | `machine` | where |

mod catalogue;
mod chart;
mod contestant;
mod machine;
mod measurement;
mod results;
mod table;

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Outcome;
use crate::certificate::Files;
use crate::cli::CompareArgs;
use catalogue::{Scale, WORKLOADS, Workload};
use contestant::{Contestants, Side};
use machine::{CoreTime, Machine};
use measurement::Measurement;
use results::{Comparison, Entrant, Results, Samples};

const PLACEMENT: &str = "The load generator and the broker share the cores; nothing is pinned but what \
    a broker pins itself (ours: one thread per core).";
const RESULTS_FILE: &str = "compare.json";
const CHART_FILE: &str = "compare.svg";
const TABLE_FILE: &str = "compare.md";
/// Where a checkout keeps what its README shows.
const PUBLISHED: &str = "bench/results";

/// Compares, and writes what was found to the output folder.
///
/// # Errors
/// A program or a folder is missing, or nothing is selected. A measurement that fails is part of the
/// results.
pub(crate) fn run(args: &CompareArgs) -> Result<Outcome> {
    let selected = select(&args.only)?;
    if args.list {
        return Ok(Outcome {
            ok: true,
            text: table::list(),
        });
    }
    let scale = Scale {
        quick: args.quick,
        seconds: args.seconds,
    };
    let repeat = args.repeat.unwrap_or(if args.quick { 3 } else { 5 });
    fs::create_dir_all(&args.work).with_context(|| format!("create {}", args.work.display()))?;
    fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    let contestants = Contestants {
        reference: args.reference.clone(),
        ours: args.ours.clone(),
        bench: std::env::current_exe().context("find this program")?,
        work: args.work.canonicalize()?,
        tls: Files::make(&args.out.join("tls"))?,
    };
    let mut results = begin(args, &contestants)?;
    for workload in selected {
        let found = compare(
            &contestants,
            workload,
            scale,
            repeat.min(workload.repeat_max),
        );
        results.put(found);
        results.write(&args.out)?;
    }
    if let Some(checkout) = &args.publish {
        results.publish(checkout)?;
    }
    Ok(Outcome {
        ok: results.workloads.iter().all(Comparison::is_whole),
        text: table::plain(&results),
    })
}

/// For each word the workload of that name, or else those whose names contain it; without words, those of the
/// default run.
fn select(words: &[String]) -> Result<Vec<&'static Workload>> {
    let is_name = |word: &String| WORKLOADS.iter().any(|workload| workload.name == word);
    let names = |word: &String, name: &str| name == word || (!is_name(word) && name.contains(word));
    let wanted = |workload: &&Workload| match words {
        [] => workload.on_request.is_none(),
        words => words.iter().any(|word| names(word, workload.name)),
    };
    let selected: Vec<_> = WORKLOADS.iter().filter(wanted).collect();
    ensure!(
        !selected.is_empty(),
        "no workload has such a name; --list shows all"
    );
    Ok(selected)
}

/// Empty results, or those of an earlier run that are to be added to.
fn begin(args: &CompareArgs, contestants: &Contestants) -> Result<Results> {
    let entrant = |side: Side| {
        Ok(Entrant {
            side,
            version: contestants.version(side)?,
            durability: side.durability().to_owned(),
        })
    };
    let fresh = Results {
        date: chrono::Utc::now().format("%Y-%m-%d").to_string(),
        machine: Machine::here(&contestants.work),
        contestants: Side::ALL.into_iter().map(entrant).collect::<Result<_>>()?,
        placement: PLACEMENT.to_owned(),
        workloads: Vec::new(),
    };
    let path = args.out.join(RESULTS_FILE);
    if !args.add || !path.exists() {
        return Ok(fresh);
    }
    let read = || -> Result<Results> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
    let earlier = read().with_context(|| format!("read {}", path.display()))?;
    ensure!(
        earlier.machine == fresh.machine && earlier.contestants == fresh.contestants,
        "{} is of another machine or of other versions; run without --add",
        path.display()
    );
    Ok(Results {
        workloads: earlier.workloads,
        ..fresh
    })
}

fn compare(
    contestants: &Contestants,
    workload: &'static Workload,
    scale: Scale,
    repeat: usize,
) -> Comparison {
    let taking_part = Side::ALL
        .into_iter()
        .filter(|side| workload.flags(*side).is_some());
    let mut measurements: Vec<(Measurement<'_>, Samples)> = taking_part
        .map(|side| {
            let measurement = Measurement {
                contestants,
                workload,
                side,
                scale,
            };
            (measurement, Samples::of(side, measurement.command_lines()))
        })
        .collect();
    for number in 1..=repeat {
        for (measurement, samples) in &mut measurements {
            take(measurement, samples, (number, repeat));
        }
        measurements.reverse();
    }
    let mut sides: Vec<Samples> = measurements
        .into_iter()
        .map(|(_, samples)| samples)
        .collect();
    sides.sort_by_key(|samples| Side::ALL.iter().position(|side| *side == samples.side));
    Comparison::new(workload, scale.quick, sides)
}

fn take(measurement: &Measurement<'_>, samples: &mut Samples, (number, repeat): (usize, usize)) {
    let (workload, side) = (measurement.workload, samples.side.name());
    let before = CoreTime::now();
    let report = measurement.take();
    samples.stolen = samples.stolen.max(CoreTime::now().stolen_since(before));
    let told = match &report {
        Ok(report) => {
            let subject = &workload.measures[0];
            let value = report.pointer(subject.at).and_then(Value::as_f64);
            value.map_or_else(
                || format!("no {}", subject.name),
                |value| format!("{} {}", crate::report::number(value), subject.name),
            )
        }
        Err(error) => format!("FAILED: {error:#}"),
    };
    samples.add(number, report);
    // A terminal that has gone takes nothing away from the results.
    let _gone = writeln!(
        std::io::stderr(),
        "{:<16} {number}/{repeat} {side:<10} {told}",
        workload.name
    );
}

impl Samples {
    fn of(side: Side, commands: Vec<String>) -> Self {
        Self {
            side,
            commands,
            reports: Vec::new(),
            failures: Vec::new(),
            generator_busiest: 0.0,
            stolen: 0.0,
        }
    }

    fn add(&mut self, number: usize, report: Result<Value>) {
        let report = report.unwrap_or_else(|error| {
            self.failures
                .push(format!("repetition {number}: {error:#}"));
            Value::Null
        });
        let busiest = report.pointer("/runs/0/generator/busiest");
        let busiest = busiest.and_then(Value::as_f64).unwrap_or(0.0);
        self.generator_busiest = self.generator_busiest.max(busiest);
        self.reports.push(report);
    }
}

impl Results {
    /// Adds a workload's outcome in its place, instead of an earlier one.
    fn put(&mut self, found: Comparison) {
        self.workloads.retain(|earlier| earlier.name != found.name);
        self.workloads.push(found);
        self.workloads
            .sort_by_key(|found| WORKLOADS.iter().position(|known| known.name == found.name));
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let files = [
            (RESULTS_FILE, serde_json::to_string_pretty(self)? + "\n"),
            (CHART_FILE, chart::svg(self)?),
            (TABLE_FILE, table::markdown(self)),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    }

    /// Writes the files that the README shows, and the table between its markers.
    fn publish(&self, checkout: &Path) -> Result<()> {
        let folder = checkout.join(PUBLISHED);
        fs::create_dir_all(&folder)?;
        self.write(&folder)?;
        let path = checkout.join("README.md");
        let readme =
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let summary = table::summary(
            self,
            &format!("{PUBLISHED}/{CHART_FILE}"),
            &format!("{PUBLISHED}/{TABLE_FILE}"),
        );
        let text = table::between_markers(&readme, &summary)
            .with_context(|| format!("{} lacks the markers", path.display()))?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_run_leaves_out_what_must_be_asked_for() {
        let names = |words: &[&str]| -> Vec<&str> {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            let selected = select(&words).unwrap();
            selected.iter().map(|workload| workload.name).collect()
        };
        assert!(!names(&[]).contains(&"defer-1m") && names(&[]).contains(&"pub-1c"));
        assert_eq!(names(&["defer"]), ["defer-1m"]);
        assert_eq!(names(&["pub-1c", "e2e-50k"]), ["pub-1c", "e2e-50k"]);
        assert_eq!(names(&["pub-1"]), ["mpub-1c", "pub-1c", "pub-16c"]);
        assert!(select(&["nothing-like-it".into()]).is_err());
    }

    #[test]
    fn failures_are_part_of_the_results() {
        let mut samples = Samples::of(Side::Ours, Vec::new());
        samples.add(1, Err(anyhow::anyhow!("no")));
        let report = serde_json::json!({"runs": [{"generator": {"busiest": 0.95}}]});
        samples.add(2, Ok(report));
        assert_eq!(samples.reports.len(), 2);
        assert_eq!(samples.failures, ["repetition 1: no"]);
        assert!(samples.generator_was_the_limit());
    }
}
