"""Real client libraries: the same scenario through go-nsq and pynsq must give the same result with every broker."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from harness import Broker, Context, case, equal, eventually
from layers import certificates

SCENARIO_PATIENCE_S = 150


def once(count: int) -> Dict[str, object]:
    return {"deliveries": count, "distinct": count, "attempts": {"1": count}, "early": 0}


EXPECTED = {
    "fanout": {"a": once(520), "b": once(520)},
    "requeue": {"deliveries": 100, "distinct": 50, "attempts": {"1": 50, "2": 50}, "early": 0},
    "touch": once(1),
    "timeout": {"deliveries": 2, "distinct": 1, "attempts": {"1": 1, "2": 1}, "early": 0},
    "in_flight": {"tally": once(20), "peak": 5},
}
TOPICS = {"fanout": 520, "requeue": 50, "touch": 1, "timeout": 1, "inflight": 20}


def play(
    context: Context, command: List[str], prefix: str, binary: Optional[Path] = None, flags: Sequence[str] = ()
) -> None:
    """Runs a client program and compares what it saw, and what the broker counted, with the expectation."""
    broker = context.broker(*flags, binary=binary)
    # Clients do not wait for the answer to SUB before they publish.
    broker.post(f"/topic/create?topic={prefix}fanout")
    for channel in ("a", "b"):
        broker.post(f"/channel/create?topic={prefix}fanout&channel={channel}")
    command = [part.replace("ADDRESS", f"127.0.0.1:{broker.tcp_port}").replace("PREFIX", prefix) for part in command]
    result = subprocess.run(command, capture_output=True, text=True, timeout=SCENARIO_PATIENCE_S)
    assert result.returncode == 0, f"the client failed: {result.stderr[-2000:]}"
    found = json.loads(result.stdout)
    for part, expected in EXPECTED.items():
        equal(found[part], expected, part)
    for topic, count in TOPICS.items():
        # The last answers may still be on their way.
        eventually(lambda: settled(broker, prefix + topic, count), f"all of {topic} is finished")
    counts = broker.channel(prefix + "requeue", "ch"), broker.channel(prefix + "timeout", "ch")
    equal((counts[0]["requeue_count"], counts[0]["timeout_count"]), (50, 0), "counters of requeue")
    equal((counts[1]["requeue_count"], counts[1]["timeout_count"]), (0, 1), "counters of timeout")


def settled(broker: Broker, topic: str, count: int) -> bool:
    """Whether the topic and each of its channels has had so many messages, and nothing is left."""
    entry = broker.topic(topic)
    equal(entry["message_count"], count, "message_count")
    for channel in entry["channels"]:
        left = [channel[key] for key in ("depth", "in_flight_count", "deferred_count")]
        equal(left, [0, 0, 0], f"what is left in {channel['channel_name']}")
        equal(channel["message_count"], count, "message_count of the channel")
    return True


def go_command(context: Context) -> List[str]:
    return [str(context.settings.go_client), "scenario", "--tcp", "ADDRESS", "--prefix", "PREFIX"]


def pynsq_command(context: Context) -> List[str]:
    script = __file__.replace("test_clients", "client_pynsq")
    return [str(context.settings.pynsq_python), script, "ADDRESS", "PREFIX"]


@case("clients", needs=("go",))
def go_nsq(context: Context) -> None:
    play(context, go_command(context), "go-")


@case("clients", needs=("go",))
def go_nsq_through_layers(context: Context) -> None:
    """The same through TLS and a compression, with topics on several shards."""
    files = certificates(context.settings.work)
    flags = files.flags() + (("--shards=4",) if context.ours else ())
    for switch in ("-snappy", "-deflate=6"):
        command = [*go_command(context), f"-tls-ca={files.path('ca.pem')}", switch]
        play(context, command, f"go{switch[:4]}-", flags=flags)


@case("clients", needs=("pynsq",))
def pynsq(context: Context) -> None:
    play(context, pynsq_command(context), "py-")


@case("clients", ours_only=True, slow=True, needs=("go", "pynsq", "reference"))
def reference_behaves_alike(context: Context) -> None:
    """The same programs with the same expectation against the reference."""
    play(context, go_command(context), "go-", context.settings.reference)
    play(context, pynsq_command(context), "py-", context.settings.reference)


@case("clients", needs=("go", "pynsq"))
def both_at_once(context: Context) -> None:
    """The two scenarios side by side on one broker, with topics of their own."""
    broker = context.broker()
    address = f"127.0.0.1:{broker.tcp_port}"
    script = __file__.replace("test_clients", "client_pynsq")
    commands = (
        [str(context.settings.go_client), "scenario", "--tcp", address, "--prefix", "go-"],
        [str(context.settings.pynsq_python), script, address, "py-"],
    )
    processes = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands]
    try:
        for process in processes:
            out, err = process.communicate(timeout=SCENARIO_PATIENCE_S)
            assert process.returncode == 0, f"a client failed: {err[-2000:]}"
            equal(json.loads(out), EXPECTED, "result")
    finally:
        for process in processes:
            process.kill()
