#!/usr/bin/env python3
"""Runs the black-box tests against an nsqd binary. `run.py --help` lists the switches; see README.md."""

from __future__ import annotations

import argparse
import importlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Dict, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

import harness  # noqa: E402  (the path must be set first)

MODULES = (
    "test_protocol",
    "test_transcripts",
    "test_consumer",
    "test_lifecycle",
    "test_timing",
    "test_http",
    "test_http_publish",
    "test_http_stats",
    "test_config",
    "test_logs",
    "test_log_lines",
    "test_latency",
    "test_profile",
    "test_unix",
    "test_topology",
    "test_process",
    "test_clean_stop",
    "test_congestion",
    "test_topic_sync",
    "test_import",
    "test_tls",
    "test_matrix",
    "test_clients",
    "test_lookupd",
    "test_lookupd_process",
    "test_lookup_client",
    "test_auth",
    "test_statsd",
    "test_tools",
    "test_tools_copy",
    "test_tools_file",
    "test_quickstart",
    "test_suites",
    "test_readme",
    "test_sharding",
    "test_hostile",
    "test_regressions",
    "test_kill",
    "test_throughput",
    "test_bench",
    "test_compare",
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Black-box tests of nsqd.")
    parser.add_argument("--nsqd", type=Path, required=True, help="the binary to test")
    parser.add_argument("--reference", type=Path, help="the Go nsqd, for comparisons")
    parser.add_argument("--go-client", type=Path, help="the built gonsq program")
    parser.add_argument("--pynsq-python", type=Path, help="a Python that has pynsq")
    parser.add_argument("--quick", action="store_true", help="leave out the long ones")
    parser.add_argument("--only", action="append", default=[], help="run cases whose name contains this; repeatable")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--force", action="store_true", help="run our own promises against the reference as well")
    parser.add_argument("--seed", type=int, help="seed of the random tests")
    parser.add_argument("--work", type=Path, help="folder for data and logs (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep the work folder")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args()


def is_ours(binary: Path) -> bool:
    """The reference says which Go release built it; ours carries build metadata in its version."""
    result = subprocess.run([binary, "-version"], capture_output=True, text=True, timeout=20, check=True)
    return "built w/go" not in result.stdout


def usable(path: Optional[Path]) -> Optional[Path]:
    return path.absolute() if path is not None and path.exists() else None


def reason_to_skip(case: harness.Case, settings: harness.Settings, force: bool) -> Optional[str]:
    if case.slow and settings.quick:
        return "left out by --quick"
    if case.ours_only and not settings.ours and not force:
        return "a promise of ours that the reference does not make"
    have = {
        "reference": (settings.reference, "reference nsqd not available: comparison skipped"),
        "go": (settings.go_client, "go-nsq client not available"),
        "pynsq": (settings.pynsq_python, "pynsq not available"),
    }
    missing = [text for need, (path, text) in have.items() if need in case.needs and path is None]
    return missing[0] if missing else None


def run_case(case: harness.Case, settings: harness.Settings, shared: Dict) -> Tuple[str, str, List[str]]:
    """Returns the outcome, a detail text and the notes."""
    context = harness.Context(settings, case.name, shared)
    try:
        case.run(context)
        context.check_logs()
        return "passed", "", context.notes
    except harness.Skip as skip:
        return "skipped", str(skip), context.notes
    except Exception:  # a case may fail in any way; the run goes on
        summary = traceback.format_exc(limit=0).strip().splitlines()[-1]
        log = "--- last lines of the broker's log\n" + context.log_tail()
        return "failed", f"{summary}\n{traceback.format_exc()}{log}", context.notes
    finally:
        context.finish()


def run_all(cases: List[harness.Case], settings: harness.Settings, force: bool) -> List[dict]:
    results: List[dict] = []
    shared: Dict[Tuple[str, ...], harness.Broker] = {}
    try:
        for case in cases:
            began = time.monotonic()
            reason = reason_to_skip(case, settings, force)
            if reason is not None:
                outcome, detail, notes = "skipped", reason, []
            else:
                outcome, detail, notes = run_case(case, settings, shared)
            seconds = time.monotonic() - began
            results.append({"name": case.name, "outcome": outcome, "detail": detail, "notes": notes, "s": seconds})
            tail = f": {detail}" if outcome == "skipped" else ""
            print(f"{outcome:8}{case.name} ({seconds:.1f} s){tail}", flush=True)
            for note in notes:
                print(f"        {note}", flush=True)
            if outcome == "failed":
                print("        " + detail.replace("\n", "\n        "), flush=True)
    finally:
        for broker in shared.values():
            broker.kill()
    return results


def heed_signals() -> None:
    """Whoever runs the tests may have signals ignored (`nohup`, a shell's background), and children inherit that.

    What has a handler here has its default effect there.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    # Ending the runner must end its brokers: let the finally clauses run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def main() -> int:
    options = arguments()
    for module in MODULES:
        importlib.import_module(module)
    cases = [c for c in harness.CASES if not options.only or any(part in c.name for part in options.only)]
    if options.list:
        print("\n".join(case.name for case in cases))
        return 0
    heed_signals()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 31)
    work = options.work or Path(tempfile.mkdtemp(prefix="ringq-tests-"))
    work.mkdir(parents=True, exist_ok=True)
    binary = options.nsqd.absolute()
    if not binary.exists():
        sys.exit(f"no such binary: {binary}")
    settings = harness.Settings(
        binary, is_ours(binary), work, seed, options.quick,
        usable(options.reference), usable(options.go_client), usable(options.pynsq_python),
    )  # fmt: skip
    print(f"testing {'our' if settings.ours else 'the reference'} nsqd, seed {seed}, work folder {work}", flush=True)
    try:
        results = run_all(cases, settings, options.force)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    count = {outcome: sum(r["outcome"] == outcome for r in results) for outcome in ("passed", "failed", "skipped")}
    for result in results:
        if result["outcome"] != "passed":
            print(f"{result['outcome']}: {result['name']}: {result['detail'].strip().splitlines()[0]}")
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not results else 0


if __name__ == "__main__":
    sys.exit(main())
