"""The comparison runs from one command; what fails is told and does not stop the rest."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

from harness import Context, case, equal

# One workload for which all three sides take part, as short as it can be.
LOAD = ["--quick", "--seconds", "1", "--repeat", "2", "--only", "pub-1c"]


def compare(context: Context, reference: Path, out: Path, *more: str) -> Tuple[int, Dict, str]:
    command = [str(context.settings.program("nsq-bench")), "compare", "--ours", str(context.settings.binary)]
    command += ["--reference", str(reference), "--work", str(out / "data"), "--out", str(out), *LOAD, *more]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (out / "compare.json").exists(), result.stderr[-2000:]
    return result.returncode, json.loads((out / "compare.json").read_text()), result.stdout


def reports(results: Dict) -> Dict[str, List[bool]]:
    (workload,) = results["workloads"]
    return {side["side"]: [report is not None for report in side["reports"]] for side in workload["sides"]}


@case("compare", needs=("reference",))
def sides_take_turns(context: Context) -> None:
    out = context.folder()
    checkout = context.folder()
    (checkout / "README.md").write_text("before\n<!-- compare:begin -->\nold\n<!-- compare:end -->\nafter\n")
    reference = context.settings.reference
    assert reference is not None
    status, results, table = compare(context, reference, out, "--publish", str(checkout))
    equal(status, 0, "exit status")
    equal(reports(results), {side: [True, True] for side in ("reference", "ours", "floor")}, "measurements")
    rate = results["workloads"][0]["figures"][0]
    for one in range(2):
        ours, other = rate["ours"]["values"][one], rate["reference"]["values"][one]
        assert abs(rate["ratio"]["values"][one] - ours / other) < 1e-9, rate
    assert rate["ratio"]["min"] <= rate["ratio"]["median"] <= rate["ratio"]["max"], rate
    assert "built w/go" in results["contestants"][0]["version"], results["contestants"]
    assert "PUB 200 B, 1 connection" in table and "ratio" in table, table
    readme = (checkout / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme, readme
    assert "PUB 200 B, 1 connection" in readme, readme
    assert (checkout / "bench/results/compare.svg").read_text().rstrip().endswith("</svg>"), "a whole picture"
    assert not list((out / "data").iterdir()), "data left behind"


@case("compare")
def failures_are_told(context: Context) -> None:
    """A reference that does not work fails its measurements, and only these."""
    reference = context.folder() / "nsqd"
    reference.write_text('#!/bin/sh\n[ "$1" = --version ] && exec echo "nsqd v0"\necho "no disk here" >&2\nexit 1\n')
    reference.chmod(0o755)
    status, results, table = compare(context, reference, context.folder())
    equal(status, 1, "exit status")
    equal(reports(results), {"reference": [False, False], "ours": [True, True], "floor": [True, True]}, "measurements")
    assert "FAILED for reference" in table and "no disk here" in table, table
    assert results["workloads"][0]["figures"][0]["ratio"] is None, "a ratio of nothing"
