"""Every way to connect, through real clients: {plain, TLS} x {none, snappy, deflate 1 to 9} x {1, 4 shards}.

Each combination publishes 10,000 messages and consumes them; every body must be what was sent, once.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Tuple

from harness import Broker, Context, case, equal
from layers import Certificates, certificates

COUNT = 10_000
LEVELS = tuple(range(1, 10))
SHARDS = (1, 4)
PATIENCE_S = 120


@dataclass(frozen=True)
class Combination:
    """How a client connects. A further dimension is a field here and a switch in the two commands."""

    tls: bool
    codec: str  # "", "snappy" or "deflate"
    level: int = 0

    @property
    def name(self) -> str:
        return f"{'tls' if self.tls else 'plain'}-{self.codec or 'none'}{self.level or ''}"

    def go_switches(self, files: Certificates) -> List[str]:
        switches = [f"-tls-ca={files.path('ca.pem')}"] if self.tls else []
        if self.codec == "snappy":
            switches.append("-snappy")
        elif self.codec == "deflate":
            switches.append(f"-deflate={self.level}")
        return switches

    def pynsq_options(self, files: Certificates) -> Dict[str, object]:
        options: Dict[str, object] = {}
        if self.tls:
            options = {"tls_v1": True, "tls_options": {"cert_reqs": 2, "ca_certs": files.path("ca.pem")}}
        if self.codec == "snappy":
            options["snappy"] = True
        elif self.codec == "deflate":
            options.update(deflate=True, deflate_level=self.level)
        return options


def combinations(levels: Tuple[int, ...]) -> Iterator[Combination]:
    for tls in (False, True):
        yield Combination(tls, "")
        yield Combination(tls, "snappy")
        for level in levels:
            yield Combination(tls, "deflate", level)


Command = Callable[[Context, Certificates, Broker, Combination, str], List[str]]


def go_nsq(context: Context, files: Certificates, broker: Broker, how: Combination, topic: str) -> List[str]:
    address = f"127.0.0.1:{broker.tcp_port}"
    program = [str(context.settings.go_client), "exchange", "-tcp", address, "-prefix", topic, "-count", str(COUNT)]
    return program + how.go_switches(files)


def pynsq(context: Context, files: Certificates, broker: Broker, how: Combination, topic: str) -> List[str]:
    script = __file__.replace("test_matrix", "exchange_pynsq")
    options = json.dumps(how.pynsq_options(files))
    python = str(context.settings.pynsq_python)
    return [python, script, f"127.0.0.1:{broker.tcp_port}", topic, str(COUNT), options]


def run_matrix(context: Context, command: Command, levels: Tuple[int, ...]) -> None:
    files = certificates(context.settings.work)
    for shards in SHARDS if context.ours else SHARDS[:1]:
        flags = files.flags() + ("--max-deflate-level=9",)
        broker = context.broker(*flags, *((f"--shards={shards}",) if context.ours else ()))
        for how in combinations(levels):
            topic = f"{how.name}-{shards}"
            words = command(context, files, broker, how, topic)
            result = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
            assert result.returncode == 0, f"{topic}: {result.stderr[-2000:]}"
            expected = {"messages": COUNT, "repeated": 0, "wrong": 0}
            equal(json.loads(result.stdout), expected, topic)
            equal(broker.topic(topic)["message_count"], COUNT, f"message_count of {topic}")


@case("matrix", needs=("go",))
def through_go_nsq(context: Context) -> None:
    run_matrix(context, go_nsq, (1, 6, 9))


@case("matrix", needs=("go",), slow=True)
def through_go_nsq_at_every_level(context: Context) -> None:
    run_matrix(context, go_nsq, LEVELS)


@case("matrix", needs=("pynsq",))
def through_pynsq(context: Context) -> None:
    run_matrix(context, pynsq, (6,))


@case("matrix", needs=("pynsq",), slow=True)
def through_pynsq_at_every_level(context: Context) -> None:
    run_matrix(context, pynsq, LEVELS)
