"""A look at throughput: ours and the reference in turn, one topic, one channel, publishing and consuming together.

No time is asserted, machines differ; that every message arrives exactly once is.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path
from typing import Dict, List

from harness import Context, case, equal

COUNT, SIZE, BATCH, REPETITIONS = 1_000_000, 200, 200, 3
# Whoever drives the load must not be the limit: above this share of a run its own CPU use is remarked on.
CLIENT_SHARE_NOTED = 0.7


def measure(context: Context, binary: Path, count: int) -> Dict[str, float]:
    broker = context.broker(binary=binary)
    command = [str(context.settings.go_client), "load", "--tcp", f"127.0.0.1:{broker.tcp_port}", "--prefix", "load"]
    command += ["--count", str(count), "--size", str(SIZE), "--batch", str(BATCH)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    equal((found["messages"], found["repeated"]), (count, 0), "messages and repetitions")
    found["broker_cpu_s"] = broker.cpu_seconds()
    found["peak_mib"] = broker.memory_kib("VmHWM") / 1024
    broker.kill()
    return found


def describe(name: str, runs: List[Dict[str, float]], count: int) -> str:
    def middle(key: str) -> float:
        return statistics.median(run[key] for run in runs)

    rate = count / middle("total_s") / 1e6
    text = f"{name}: {rate:.2f} M messages/s published and consumed ({count / middle('publish_s') / 1e6:.2f} M/s published)"
    text += f", broker CPU {middle('broker_cpu_s') / count * 1e6:.2f} s per million, peak memory {middle('peak_mib'):.0f} MiB"
    text += f", client CPU {middle('client_cpu_s'):.2f} s of {middle('total_s'):.2f} s"
    return text + (" (the client may be the limit)" if middle("client_cpu_s") > CLIENT_SHARE_NOTED * middle("total_s") else "")


@case("throughput", slow=True, needs=("go",))
def one_topic_one_channel(context: Context) -> None:
    binaries = {"tested": context.settings.binary}
    if context.settings.reference is not None and context.ours:
        binaries["reference"] = context.settings.reference
    runs: Dict[str, List[Dict[str, float]]] = {name: [] for name in binaries}
    for _ in range(REPETITIONS):
        for name, binary in binaries.items():
            runs[name].append(measure(context, binary, COUNT))
    for name, found in runs.items():
        context.note(describe(name, found, COUNT))
    if "reference" in runs:
        pairs = zip(runs["reference"], runs["tested"])
        ratio = statistics.median(slow["total_s"] / fast["total_s"] for slow, fast in pairs)
        context.note(f"median ratio tested to reference: {ratio:.2f}")
    elif context.ours:
        context.note("reference nsqd not available: comparison skipped")


@case("throughput", needs=("go",))
def exactly_once_under_load(context: Context) -> None:
    """A short run, also in the quick set: nothing lost, nothing repeated."""
    context.note(describe("tested", [measure(context, context.settings.binary, 100_000)], 100_000))
