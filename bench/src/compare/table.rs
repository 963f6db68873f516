//! Results and workloads as text.

use std::fmt::Write as _;

use super::catalogue::{Better, WORKLOADS};
use super::contestant::Side;
use super::results::{Comparison, Figure, Goal, Results, Spread};
use crate::report::number;

/// Between these lines of the README stands the table.
const MARKERS: (&str, &str) = ("<!-- compare:begin -->", "<!-- compare:end -->");
const WRITTEN: &str = "writing to a string never fails";

/// The workloads and their goals.
pub(super) fn list() -> String {
    let mut text = String::new();
    for workload in WORKLOADS {
        writeln!(text, "{:<16} {}", workload.name, workload.title).expect(WRITTEN);
        for measure in workload.measures {
            let goals = [
                measure
                    .goal
                    .map(|b| bound(b, measure.better) + "x of the reference"),
                measure
                    .floor_goal
                    .map(|b| bound(b, measure.better) + "x of the floor"),
                measure.limit.map(|b| bound(b, Better::Lower)),
            ];
            let goals: Vec<String> = goals.into_iter().flatten().collect();
            let goals = match goals.as_slice() {
                [] => "reported".to_owned(),
                goals => goals.join(", "),
            };
            writeln!(text, "{:<16}   {}: {goals}", "", measure.name).expect(WRITTEN);
        }
        if let Some(why) = workload.on_request {
            writeln!(text, "{:<16}   only with --only: {why}", "").expect(WRITTEN);
        }
    }
    text
}

/// The results for a terminal.
pub(super) fn plain(results: &Results) -> String {
    let mut text = heading(results) + "\n\n";
    for found in &results.workloads {
        writeln!(text, "{}: {}{}", found.name, found.title, quick(found)).expect(WRITTEN);
        for figure in &found.figures {
            writeln!(
                text,
                "  {:<24} reference {:>12}  ours {:>12}  ratio {:<26} {:<14}{}",
                figure.name,
                middle(figure.reference.as_ref()),
                middle(figure.ours.as_ref()),
                ratio(figure.ratio.as_ref()),
                verdicts(figure),
                of_floor(figure),
            )
            .expect(WRITTEN);
        }
        for remark in remarks(found) {
            writeln!(text, "  {remark}").expect(WRITTEN);
        }
    }
    text
}

fn of_floor(figure: &Figure) -> String {
    if figure.floor.is_none() {
        return String::new();
    }
    format!(
        "  floor {:>12}  of it {} {}",
        middle(figure.floor.as_ref()),
        ratio(figure.floor_ratio.as_ref()),
        verdict(figure.floor_goal, figure.better),
    )
}

/// Everything, as Markdown.
pub(super) fn markdown(results: &Results) -> String {
    format!(
        "{}\n\n{}\n{}",
        heading(results),
        rows(results, Comparison::all),
        notes(results)
    )
}

/// What matters of it, with the picture, for the README.
pub(super) fn summary(results: &Results, chart: &str, all: &str) -> String {
    format!(
        "![Ours against the Go nsqd]({chart})\n\n{}\n\n{}\nAll figures and remarks: [{all}]({all}).\n",
        heading(results),
        rows(results, Comparison::essentials),
    )
}

fn rows(results: &Results, of: fn(&Comparison) -> Vec<&Figure>) -> String {
    let mut text = "| workload | measure | reference | ours | ours / reference | goal | floor | ours / floor | goal |\n\
                    |---|---|---:|---:|---:|---|---:|---:|---|\n"
        .to_owned();
    for found in &results.workloads {
        for (index, figure) in of(found).into_iter().enumerate() {
            let title = match index {
                0 => format!("{}{}", found.title, quick(found)),
                _ => String::new(),
            };
            let cells = [
                title,
                figure.name.clone(),
                middle(figure.reference.as_ref()),
                middle(figure.ours.as_ref()),
                ratio(figure.ratio.as_ref()),
                verdicts(figure),
                middle(figure.floor.as_ref()),
                ratio(figure.floor_ratio.as_ref()),
                verdict(figure.floor_goal, figure.better),
            ];
            writeln!(text, "| {} |", cells.join(" | ")).expect(WRITTEN);
        }
    }
    text
}

fn notes(results: &Results) -> String {
    let mut text = String::new();
    for found in &results.workloads {
        for remark in remarks(found) {
            writeln!(text, "- {}: {remark}.", found.name).expect(WRITTEN);
        }
    }
    text
}

/// Replaces what stands between the markers; `None` where they are missing.
pub(super) fn between_markers(readme: &str, table: &str) -> Option<String> {
    let (before, rest) = readme.split_once(MARKERS.0)?;
    let (_, after) = rest.split_once(MARKERS.1)?;
    let (begin, end) = MARKERS;
    Some(format!("{before}{begin}\n{table}{end}{after}"))
}

fn heading(results: &Results) -> String {
    let machine = &results.machine;
    let version = |side: Side| {
        let entrant = results.contestants.iter().find(|e| e.side == side);
        entrant.map_or("unknown", |entrant| entrant.version.as_str())
    };
    let mut text = format!(
        "{}: {}, {} cores, {} GiB, Linux {}, {}. Reference: {}. Ours: {}. {}\n\
         Medians; ratios are of pairs, with their least and most.",
        results.date,
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.kernel,
        machine.filesystem,
        version(Side::Reference),
        version(Side::Ours),
        results.placement,
    );
    for entrant in &results.contestants {
        if entrant.side != Side::Floor {
            write!(text, "\n{}: {}.", entrant.side.name(), entrant.durability).expect(WRITTEN);
        }
    }
    text
}

fn quick(found: &Comparison) -> &'static str {
    if found.quick { " (quick)" } else { "" }
}

fn middle(spread: Option<&Spread>) -> String {
    spread.map_or_else(|| "-".into(), |spread| number(spread.median))
}

fn ratio(spread: Option<&Spread>) -> String {
    let Some(spread) = spread else {
        return "-".into();
    };
    let (median, min, max) = (
        factor(spread.median),
        factor(spread.min),
        factor(spread.max),
    );
    format!("{median}x ({min}..{max})")
}

/// Three places that matter.
fn factor(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

fn verdicts(figure: &Figure) -> String {
    let list = [
        verdict(figure.goal, figure.better),
        verdict(figure.limit, Better::Lower),
    ];
    let list: Vec<String> = list.into_iter().filter(|text| !text.is_empty()).collect();
    list.join(", ")
}

fn verdict(goal: Option<Goal>, better: Better) -> String {
    let Some(goal) = goal else {
        return String::new();
    };
    let word = match goal.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "not measured",
    };
    format!("{} {word}", bound(goal.bound, better))
}

fn bound(bound: f64, better: Better) -> String {
    let sign = match better {
        Better::Higher => ">=",
        Better::Lower => "<=",
    };
    format!("{sign} {bound}")
}

fn remarks(found: &Comparison) -> Vec<String> {
    let mut remarks = Vec::new();
    if !found.note.is_empty() {
        remarks.push(found.note.clone());
    }
    match found.layers() {
        Ok(None) => {}
        Ok(Some(layers)) => remarks.push(format!("as agreed on with each broker: {layers}")),
        Err(layers) => remarks.push(format!("FAILED: not the same layers everywhere: {layers}")),
    }
    for side in &found.sides {
        if side.generator_was_the_limit() {
            let busy = side.generator_busiest * 100.0;
            remarks.push(format!(
                "the load generator was busy {busy:.0} % of the time against {} and may be the limit there",
                side.side.name()
            ));
        }
        if side.was_disturbed() {
            let stolen = side.stolen * 100.0;
            remarks.push(format!(
                "the host of this virtual machine took {stolen:.1} % of the cores' time from {}",
                side.side.name()
            ));
        }
        for failure in &side.failures {
            remarks.push(format!("FAILED for {}: {failure}", side.side.name()));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::compare::machine::Machine;
    use crate::compare::results::Samples;

    fn results() -> Results {
        let samples = |side, rate: f64, busiest| Samples {
            side,
            commands: Vec::new(),
            reports: vec![json!({"runs": [{"published": {"rate": rate}}]})],
            failures: Vec::new(),
            generator_busiest: busiest,
            stolen: 0.02,
        };
        let sides = vec![
            samples(Side::Reference, 1000.0, 0.1),
            samples(Side::Ours, 13_000.0, 0.95),
        ];
        Results {
            date: "2026-01-01".into(),
            machine: Machine {
                cpu: "A".into(),
                cores: 2,
                memory_gib: 4,
                kernel: "6".into(),
                filesystem: "ext4".into(),
            },
            contestants: Vec::new(),
            placement: "Shared.".into(),
            workloads: vec![Comparison::new(&WORKLOADS[0], true, sides)],
        }
    }

    #[test]
    fn both_tables_say_ratio_goal_and_doubt() {
        for text in [plain(&results()), markdown(&results())] {
            for want in [
                "13.0x (13.0..13.0)",
                ">= 12 met",
                "busy 95 %",
                "took 2.0 %",
                "(quick)",
                "13 000",
            ] {
                assert!(text.contains(want), "{want} in {text}");
            }
        }
    }

    #[test]
    fn the_summary_shows_the_picture_and_where_the_rest_is() {
        let text = summary(&results(), "a/b.svg", "a/b.md");
        assert!(
            text.starts_with("![Ours against the Go nsqd](a/b.svg)\n"),
            "{text}"
        );
        assert!(
            text.contains("[a/b.md](a/b.md)") && text.contains("13.0x"),
            "{text}"
        );
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let readme = "a\n<!-- compare:begin -->\nold\n<!-- compare:end -->\nb\n";
        let new = between_markers(readme, "new\n").unwrap();
        assert_eq!(
            new,
            "a\n<!-- compare:begin -->\nnew\n<!-- compare:end -->\nb\n"
        );
        assert_eq!(between_markers("no markers", "x"), None);
    }

    #[test]
    fn the_list_shows_every_workload_with_its_goals() {
        let text = list();
        assert!(
            WORKLOADS
                .iter()
                .all(|workload| text.contains(workload.title))
        );
        assert!(text.contains(">= 12x of the reference, >= 0.25x of the floor"));
    }
}
