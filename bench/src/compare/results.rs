//! What a comparison found, as it is written to disk and read back, and what the figures amount to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::catalogue::{Better, Measure, Workload};
use super::contestant::Side;
use super::machine::Machine;
use crate::report::quantile;

/// Above this share a load thread may have been the limit.
const BUSY_SHARE: f64 = 0.9;
/// Above this share the host of a virtual machine disturbed the run.
const STOLEN_SHARE: f64 = 0.01;

/// All that was found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Results {
    /// Day of the (last) run, in UTC.
    pub(super) date: String,
    /// Where.
    pub(super) machine: Machine,
    /// Who took part.
    pub(super) contestants: Vec<Entrant>,
    /// How cores are shared.
    pub(super) placement: String,
    /// Workloads, in the order of the catalogue.
    pub(super) workloads: Vec<Comparison>,
}

/// Who took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entrant {
    /// Which side.
    pub(super) side: Side,
    /// What it says of itself.
    pub(super) version: String,
    /// What its `OK` means with the flags that it ran with, unless a workload says otherwise.
    pub(super) durability: String,
}

/// A workload's outcome.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Comparison {
    /// As in the catalogue.
    pub(super) name: String,
    /// As in the catalogue.
    pub(super) title: String,
    /// As in the catalogue.
    pub(super) note: String,
    /// Whether the load was a small one.
    pub(super) quick: bool,
    /// The sides, in order.
    pub(super) sides: Vec<Samples>,
    /// What the samples amount to.
    pub(super) figures: Vec<Figure>,
}

/// The measurements of a side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Samples {
    /// Which side.
    pub(super) side: Side,
    /// The exact command lines of one measurement.
    pub(super) commands: Vec<String>,
    /// The load generator's reports, one per repetition; `null` where it failed.
    pub(super) reports: Vec<Value>,
    /// What failed, and in which repetition.
    pub(super) failures: Vec<String>,
    /// The most that a load thread was busy in a repetition, as a share of its time.
    pub(super) generator_busiest: f64,
    /// The most that the host of a virtual machine took away in a repetition, as a share of all cores' time.
    pub(super) stolen: f64,
}

/// A measure over all repetitions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Figure {
    /// With its unit.
    pub(super) name: String,
    /// Which direction is good.
    pub(super) better: Better,
    /// The reference's values.
    pub(super) reference: Option<Spread>,
    /// Ours.
    pub(super) ours: Option<Spread>,
    /// The floor's.
    pub(super) floor: Option<Spread>,
    /// Ours over the reference's, repetition by repetition.
    pub(super) ratio: Option<Spread>,
    /// Ours over the floor's, repetition by repetition.
    pub(super) floor_ratio: Option<Spread>,
    /// What `ratio` is held to.
    pub(super) goal: Option<Goal>,
    /// What `floor_ratio` is held to.
    pub(super) floor_goal: Option<Goal>,
    /// What `ours` is held to.
    pub(super) limit: Option<Goal>,
}

/// A goal and whether the median meets it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Goal {
    /// The bound.
    pub(super) bound: f64,
    /// `None`: could not be measured.
    pub(super) met: Option<bool>,
}

/// Values and their spread.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// The middle.
    pub(super) median: f64,
    /// The least.
    pub(super) min: f64,
    /// The most.
    pub(super) max: f64,
    /// All, in the order of the repetitions.
    pub(super) values: Vec<f64>,
}

impl Spread {
    /// `None` without values.
    fn of(values: Vec<f64>) -> Option<Self> {
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 2),
            min: *sorted.first()?,
            max: *sorted.last()?,
            values,
        })
    }
}

impl Samples {
    fn values(&self, pointer: &str) -> Vec<Option<f64>> {
        let read = |report: &Value| report.pointer(pointer).and_then(Value::as_f64);
        self.reports.iter().map(read).collect()
    }

    /// What connections agreed on with the broker, in every way in which they did; empty without layers.
    fn layers(&self) -> BTreeSet<String> {
        let keys = ["tls", "cipher_suite", "compression"];
        let describe = |layers: &Value| {
            let parts: Vec<&str> = keys
                .iter()
                .filter_map(|key| layers[*key].as_str())
                .collect();
            parts.join(", ")
        };
        let layers = self
            .reports
            .iter()
            .filter_map(|report| report.pointer("/runs/0/layers"));
        layers.map(describe).collect()
    }

    /// Whether the machine was not ours alone.
    pub(super) fn was_disturbed(&self) -> bool {
        self.stolen > STOLEN_SHARE
    }

    /// Whether the generator may have been the limit on this side.
    pub(super) fn generator_was_the_limit(&self) -> bool {
        self.generator_busiest > BUSY_SHARE
    }
}

impl Comparison {
    /// Sums the samples up.
    pub(super) fn new(workload: &Workload, quick: bool, sides: Vec<Samples>) -> Self {
        let figures = workload.measures.iter().map(|m| Figure::new(m, &sides));
        Self {
            name: workload.name.to_owned(),
            title: workload.title.to_owned(),
            note: workload.note.to_owned(),
            quick,
            figures: figures.collect(),
            sides,
        }
    }

    /// Every figure.
    pub(super) fn all(&self) -> Vec<&Figure> {
        self.figures.iter().collect()
    }

    /// The subject, and what is held to a goal.
    pub(super) fn essentials(&self) -> Vec<&Figure> {
        let essential = |(index, figure): &(usize, &Figure)| {
            *index == 0 || figure.goal.is_some() || figure.limit.is_some()
        };
        let figures = self.figures.iter().enumerate().filter(essential);
        figures.map(|(_, figure)| figure).collect()
    }

    /// What all connections of all sides agreed on with their broker; `None` without layers.
    ///
    /// # Errors
    /// They did not all agree on the same, so the sides did not do the same work: what there was.
    pub(super) fn layers(&self) -> Result<Option<String>, String> {
        let all: Vec<String> = self.sides.iter().flat_map(Samples::layers).collect();
        let mut distinct: Vec<String> = all.clone();
        distinct.dedup();
        match distinct.len() {
            0 | 1 => Ok(distinct.pop()),
            _ => Err(all.join("; ")),
        }
    }

    /// Whether every measurement succeeded, and all sides did the same work.
    pub(super) fn is_whole(&self) -> bool {
        self.layers().is_ok() && self.sides.iter().all(|side| side.failures.is_empty())
    }
}

impl Figure {
    fn new(measure: &Measure, sides: &[Samples]) -> Self {
        let of = |side: Side| {
            let samples = sides.iter().find(|samples| samples.side == side);
            samples.map_or_else(Vec::new, |samples| samples.values(measure.at))
        };
        let (reference, ours, floor) = (of(Side::Reference), of(Side::Ours), of(Side::Floor));
        let ratio = ratios(&ours, &reference);
        let floor_ratio = ratios(&ours, &floor);
        let ours = Spread::of(ours.into_iter().flatten().collect());
        let goal = |bound: Option<f64>, spread: &Option<Spread>, better| {
            bound.map(|bound| Goal::new(bound, spread.as_ref(), better))
        };
        Self {
            name: measure.name.to_owned(),
            better: measure.better,
            goal: goal(measure.goal, &ratio, measure.better),
            floor_goal: goal(measure.floor_goal, &floor_ratio, measure.better),
            limit: goal(measure.limit, &ours, Better::Lower),
            reference: Spread::of(reference.into_iter().flatten().collect()),
            ours,
            floor: Spread::of(floor.into_iter().flatten().collect()),
            ratio,
            floor_ratio,
        }
    }

    /// How many times better than the reference ours is: the ratio, or for costs its inverse.
    pub(super) fn gain(&self) -> Option<(f64, f64, f64)> {
        let ratio = self.ratio.as_ref()?;
        match self.better {
            Better::Higher => Some((ratio.median, ratio.min, ratio.max)),
            Better::Lower => Some((1.0 / ratio.median, 1.0 / ratio.max, 1.0 / ratio.min)),
        }
    }
}

impl Goal {
    fn new(bound: f64, spread: Option<&Spread>, better: Better) -> Self {
        let met = spread.map(|spread| match better {
            Better::Higher => spread.median >= bound,
            Better::Lower => spread.median <= bound,
        });
        Self { bound, met }
    }
}

/// Repetition by repetition; those in which a side failed are left out.
fn ratios(over: &[Option<f64>], under: &[Option<f64>]) -> Option<Spread> {
    let pairs = over.iter().zip(under).filter_map(|(a, b)| (*a).zip(*b));
    Spread::of(
        pairs
            .filter(|(_, under)| *under > 0.0)
            .map(|(a, b)| a / b)
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compare::catalogue::WORKLOADS;

    fn samples(side: Side, rates: &[f64]) -> Samples {
        let report = |rate: &f64| match rate {
            0.0 => Value::Null,
            rate => json!({"runs": [{"published": {"rate": rate}}]}),
        };
        Samples {
            side,
            commands: Vec::new(),
            reports: rates.iter().map(report).collect(),
            failures: Vec::new(),
            generator_busiest: 0.5,
            stolen: 0.0,
        }
    }

    #[test]
    fn ratios_are_of_pairs_and_leave_failures_out() {
        let sides = vec![
            samples(Side::Reference, &[10.0, 20.0, 0.0]),
            samples(Side::Ours, &[130.0, 240.0, 500.0]),
            samples(Side::Floor, &[1300.0, 240.0, 500.0]),
        ];
        let found = Comparison::new(&WORKLOADS[0], false, sides);
        let rate = &found.figures[0];
        let ratio = rate.ratio.as_ref().unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (12.5, 12.0, 13.0));
        assert_eq!(rate.floor_ratio.as_ref().unwrap().values, [0.1, 1.0, 1.0]);
        assert_eq!(rate.goal.unwrap().met, Some(true), "12 is asked for");
        assert_eq!(rate.ours.as_ref().unwrap().median, 240.0);
        let cpu = &found.figures[1];
        assert!(cpu.ratio.is_none() && cpu.goal.unwrap().met.is_none());
    }

    #[test]
    fn sides_that_went_through_other_layers_did_other_work() {
        let through = |side, suite: &str| Samples {
            reports: vec![
                json!({"runs": [{"layers": {"cipher_suite": suite, "tls": "TLS1.3"}}]}),
                Value::Null,
            ],
            ..samples(side, &[])
        };
        let compare = |ours| {
            let sides = vec![through(Side::Reference, "A"), through(Side::Ours, ours)];
            Comparison::new(&WORKLOADS[0], true, sides)
        };
        assert_eq!(compare("A").layers(), Ok(Some("TLS1.3, A".into())));
        assert!(compare("A").is_whole());
        assert_eq!(compare("B").layers(), Err("TLS1.3, A; TLS1.3, B".into()));
        assert!(!compare("B").is_whole());
        let plain = vec![samples(Side::Ours, &[1.0])];
        assert_eq!(
            Comparison::new(&WORKLOADS[0], true, plain).layers(),
            Ok(None)
        );
    }

    #[test]
    fn costs_gain_by_falling() {
        let spread = Spread::of(vec![0.25, 0.5, 0.1]);
        let figure = Figure {
            ratio: spread.clone(),
            better: Better::Lower,
            ..Figure::new(&WORKLOADS[0].measures[1], &[])
        };
        assert_eq!(figure.gain(), Some((4.0, 2.0, 10.0)));
        assert_eq!(
            Goal::new(0.25, spread.as_ref(), Better::Lower).met,
            Some(true)
        );
        assert_eq!(
            Goal::new(0.2, spread.as_ref(), Better::Lower).met,
            Some(false)
        );
    }

    #[test]
    fn results_survive_being_written() {
        let found = Comparison::new(&WORKLOADS[0], true, vec![samples(Side::Ours, &[1.0])]);
        let text = serde_json::to_string(&found).unwrap();
        let back: Comparison = serde_json::from_str(&text).unwrap();
        assert_eq!(back.figures[0].ours, found.figures[0].ours);
    }
}
