"""Every way to connect, through real clients: {plain, TLS} x {none, snappy, deflate 1 to 9} x {AUTH, none} x
{1, 4 shards}.

Each combination publishes 10,000 messages and consumes them; every body must be what was sent, once. The long cases
are the levels of deflate that the others leave out.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from itertools import product
from typing import Callable, Dict, Iterable, Iterator, List, Tuple

from harness import Broker, Context, case, equal
from layers import Certificates, certificates
from test_auth import EVERYTHING, AuthServer, granting

COUNT = 10_000
USUAL_LEVEL = 6
OTHER_LEVELS = tuple(level for level in range(1, 10) if level != USUAL_LEVEL)
SHARDS = (1, 4)
SECRET = "open sesame"
PATIENCE_S = 120


@dataclass(frozen=True)
class Combination:
    """How a client connects. A further dimension is a field here and a switch in the two commands."""

    tls: bool
    codec: str  # "", "snappy" or "deflate"
    level: int = 0
    auth: bool = False

    @property
    def name(self) -> str:
        layers = f"{'tls' if self.tls else 'plain'}-{self.codec or 'none'}{self.level or ''}"
        return layers + ("-auth" if self.auth else "")

    def go_switches(self, files: Certificates) -> List[str]:
        switches = [f"-tls-ca={files.path('ca.pem')}"] if self.tls else []
        if self.codec == "snappy":
            switches.append("-snappy")
        elif self.codec == "deflate":
            switches.append(f"-deflate={self.level}")
        if self.auth:
            switches.append(f"-secret={SECRET}")
        return switches

    def pynsq_options(self, files: Certificates) -> Dict[str, object]:
        options: Dict[str, object] = {}
        if self.tls:
            options = {"tls_v1": True, "tls_options": {"cert_reqs": 2, "ca_certs": files.path("ca.pem")}}
        if self.codec == "snappy":
            options["snappy"] = True
        elif self.codec == "deflate":
            options.update(deflate=True, deflate_level=self.level)
        if self.auth:
            options["auth_secret"] = SECRET
        return options


Codec = Tuple[str, int]
USUAL: Tuple[Codec, ...] = (("", 0), ("snappy", 0), ("deflate", USUAL_LEVEL))
OTHERS: Tuple[Codec, ...] = tuple(("deflate", level) for level in OTHER_LEVELS)


def combinations(codecs: Iterable[Codec], auth: bool) -> Iterator[Combination]:
    for tls, (codec, level) in product((False, True), codecs):
        yield Combination(tls, codec, level, auth)


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


def run_matrix(context: Context, command: Command, codecs: Tuple[Codec, ...]) -> None:
    files = certificates(context.settings.work)
    with AuthServer(lambda form: granting(EVERYTHING) if form["secret"] == SECRET else (403, b"")) as server:
        for shards, auth in product(SHARDS if context.ours else SHARDS[:1], (False, True)):
            flags = [*files.flags(), "--max-deflate-level=9"]
            flags += [f"--shards={shards}"] if context.ours else []
            flags += [f"--auth-http-address={server.address}"] if auth else []
            broker = context.broker(*flags)
            for how in combinations(codecs, auth):
                exchange(command(context, files, broker, how, how.name), broker, how.name)
            assert bool(server.requests) == auth, "the authorization server is asked where there is AUTH"
            server.requests.clear()


def exchange(words: List[str], broker: Broker, topic: str) -> None:
    result = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    assert result.returncode == 0, f"{broker.flags}, {topic}: {result.stderr[-2000:]}"
    equal(json.loads(result.stdout), {"messages": COUNT, "repeated": 0, "wrong": 0}, topic)
    equal(broker.topic(topic)["message_count"], COUNT, f"message_count of {topic}")


@case("matrix", needs=("go",))
def through_go_nsq(context: Context) -> None:
    run_matrix(context, go_nsq, USUAL)


@case("matrix", needs=("go",), slow=True)
def through_go_nsq_at_the_other_levels(context: Context) -> None:
    run_matrix(context, go_nsq, OTHERS)


@case("matrix", needs=("pynsq",))
def through_pynsq(context: Context) -> None:
    run_matrix(context, pynsq, USUAL)


@case("matrix", needs=("pynsq",), slow=True)
def through_pynsq_at_the_other_levels(context: Context) -> None:
    run_matrix(context, pynsq, OTHERS)
