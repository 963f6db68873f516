"""The load generator goes through the layers that it is asked for, against either broker, and says so."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Dict, List

from harness import Broker, Context, case, equal

SUITES = {
    "TLS_AES_128_GCM_SHA256": "TLS1.3",
    "TLS_AES_256_GCM_SHA384": "TLS1.3",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "TLS1.2",
}
COMPRESSIONS = ["snappy", "deflate:1", "deflate:6"]


def bench(context: Context, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [str(context.settings.program("nsq-bench")), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def load(context: Context, broker: Broker, *words: str) -> Dict:
    """Every message is numbered, published, consumed and accounted for; the same again from prepared commands."""
    doors = ["--tcp", f"127.0.0.1:{broker.tcp_port}", "--http", f"127.0.0.1:{broker.http_port}", "--json"]
    load = ["--verb", "mpub", "--depth", "4", "--body", "json", "--messages", "20000"]
    found: List[Dict] = []
    for check in (["--verify"], []):
        result = bench(context, "pubsub", *load, *check, *doors, *words)
        equal(result.returncode, 0, f"exit status of {words}: {result.stderr}{result.stdout[:2000]}")
        (run,) = json.loads(result.stdout)["runs"]
        equal((run["consumed"]["messages"], run["missing"]), (20000, 0), f"messages through {words}")
        found.append(run["layers"])
    equal(found[0], found[1], "layers")
    return found[0]


def all_layers(context: Context, broker: Broker, certificate: Path) -> None:
    for suite, version in SUITES.items():
        layers = load(context, broker, f"--tls={suite}", "--tls-root", str(certificate))
        equal(layers, {"tls": version, "cipher_suite": suite}, "layers")
    for compression in COMPRESSIONS:
        equal(load(context, broker, "--compression", compression), {"compression": compression}, "layers")
    layers = load(context, broker, "--tls", "--tls-root", str(certificate), "--compression", "snappy")
    equal(layers, {"tls": "TLS1.3", "cipher_suite": "TLS_AES_128_GCM_SHA256", "compression": "snappy"}, "layers")


def flags(context: Context, folder: Path) -> List[str]:
    made = bench(context, "certificate", str(folder))
    equal(made.returncode, 0, made.stderr)
    return ["--https-address=127.0.0.1:0", *made.stdout.split()]


@case("bench")
def goes_through_layers(context: Context) -> None:
    folder = context.folder()
    broker = context.broker(*flags(context, folder))
    all_layers(context, broker, folder / "certificate.pem")


@case("bench", needs=("reference",))
def goes_through_the_layers_of_the_reference(context: Context) -> None:
    folder = context.folder()
    broker = context.broker(*flags(context, folder), binary=context.settings.reference)
    all_layers(context, broker, folder / "certificate.pem")


@case("bench")
def takes_no_less_than_it_asked_for(context: Context) -> None:
    folder, other = context.folder(), context.folder()
    flags(context, other)
    words = [f"--tls-root={folder / 'certificate.pem'}", "--tls"]
    for broker_flags, load_words, why in (
        (flags(context, folder) + ["--snappy=false"], ["--compression=snappy"], "does not grant"),
        (["--max-deflate-level=3"], ["--compression=deflate:6"], "does not grant"),
        ([], words, "does not grant"),
        (flags(context, other), words, "TLS: invalid peer certificate"),
        (flags(context, folder), [f"--tls-root={folder / 'certificate.pem'}", "--tls=NONE"], "no cipher suite NONE"),
    ):
        broker = context.broker(*broker_flags)
        result = bench(context, "pub", "--messages=1", f"--tcp=127.0.0.1:{broker.tcp_port}", *load_words)
        equal(result.returncode, 1, f"exit status of {load_words}: {result.stdout}")
        assert why in result.stderr, result.stderr
