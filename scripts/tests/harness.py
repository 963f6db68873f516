"""What every black-box test shares: a broker as a child process, the registry of cases, bounded waiting.

A case is a function that takes a `Context` and raises when the broker misbehaves. The same case runs against
our broker and against the reference; where the reference is known to be wrong, `Context.pick` chooses the
expectation.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple, TypeVar

import wire

T = TypeVar("T")
LISTENING = re.compile(r"(TCP|HTTP|HTTPS): listening on 127\.0\.0\.1:(\d+)")
PANIC = re.compile(r"panicked at|^panic:|goroutine \d+ \[running\]|fatal runtime error", re.MULTILINE)
START_PATIENCE_S = 30.0
POLL_S = 0.01


class Skip(Exception):
    """Raised by a case that cannot run here; the text says why."""


def eventually(condition: Callable[[], T], what: str, patience: float = wire.PATIENCE_S) -> T:
    """Polls until the condition is truthy and returns its value; fails when time is up.

    A condition may also raise AssertionError, then the last one is the failure.
    """
    deadline = time.monotonic() + patience
    while True:
        failure: Optional[AssertionError] = None
        try:
            value = condition()
            if value:
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() >= deadline:
            raise AssertionError(f"not within {patience} s: {what}" + (f" ({failure})" if failure else ""))
        time.sleep(POLL_S)


def equal(actual: object, expected: object, what: str) -> None:
    assert actual == expected, f"{what}: expected {expected!r}, got {actual!r}"


@dataclass(frozen=True)
class Reply:
    """An HTTP reply; header names keep the spelling of the wire."""

    status: int
    headers: Dict[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)

    def header(self, name: str) -> Optional[str]:
        return {key.lower(): value for key, value in self.headers.items()}.get(name.lower())


class Broker:
    """An nsqd process on free ports of the loopback interface."""

    def __init__(self, binary: Path, data: Path, log: Path, flags: Tuple[str, ...] = ()) -> None:
        self.binary, self.data, self.log, self.flags = binary, data, log, flags
        self.process: Optional[subprocess.Popen] = None
        self.tcp_port = self.http_port = self.https_port = 0

    def command(self, *more: str) -> List[str]:
        addresses = ["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0", "--broadcast-address=127.0.0.1"]
        return [str(self.binary), *addresses, f"--data-path={self.data}", *self.flags, *more]

    def start(self) -> "Broker":
        """Starts the process and waits until both listeners are announced in its log."""
        offset = self.launch()

        def listening() -> Dict[str, int]:
            text = self.log_text(offset)
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the broker exited with {self.process.returncode} at start:\n{text[-2000:]}")
            found = {name: int(port) for name, port in LISTENING.findall(text)}
            wanted = 3 if any(flag.startswith("--tls-cert=") for flag in self.flags) else 2
            return found if len(found) == wanted else {}

        ports = eventually(listening, "listeners announced", START_PATIENCE_S)
        self.tcp_port, self.http_port = ports["TCP"], ports["HTTP"]
        self.https_port = ports.get("HTTPS", 0)
        return self

    def launch(self) -> int:
        """Starts the process without waiting; returns where its part of the log begins."""
        assert not self.running(), "the broker is already running"
        self.data.mkdir(parents=True, exist_ok=True)
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return offset

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def address(self) -> Tuple[str, int]:
        return ("127.0.0.1", self.tcp_port)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(START_PATIENCE_S)

    def terminate(self, patience: float = 15.0) -> int:
        """SIGTERM; returns the exit status, fails when the process does not end in time."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running {patience} s after SIGTERM") from None

    def log_text(self, offset: int = 0) -> str:
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode("utf-8", "replace")

    def connect(self, magic: bytes = wire.MAGIC, heartbeats: bool = True) -> wire.Connection:
        return wire.Connection(self.address, magic, heartbeats)

    def http(
        self, method: str, path: str, body: Optional[bytes] = None, headers: Optional[Dict[str, str]] = None
    ) -> Reply:
        """One request on a connection of its own; redirects are not followed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=wire.PATIENCE_S)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return Reply(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def post(self, path: str, body: bytes = b"") -> Reply:
        """A POST that must succeed."""
        reply = self.http("POST", path, body)
        assert reply.status == 200, f"POST {path}: {reply.status} {reply.body!r}"
        return reply

    def stats(self, query: str = "") -> dict:
        reply = self.http("GET", f"/stats?format=json{query}")
        equal(reply.status, 200, "status of /stats")
        value = reply.json()
        assert isinstance(value, dict)
        return value

    def topic(self, name: str) -> Optional[dict]:
        found = [t for t in self.stats()["topics"] or [] if t["topic_name"] == name]
        return found[0] if found else None

    def channel(self, topic: str, name: str) -> Optional[dict]:
        entry = self.topic(topic)
        found = [c for c in entry["channels"] if c["channel_name"] == name] if entry else []
        return found[0] if found else None

    def depth(self, topic: str, channel: str) -> int:
        entry = self.channel(topic, channel)
        assert entry is not None, f"no channel {topic}:{channel}"
        return entry["depth"]

    def memory_kib(self, key: str) -> int:
        """A figure of /proc/PID/status, such as VmRSS or VmHWM."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"^{key}:\s+(\d+) kB", text, re.MULTILINE)
        assert found, f"no {key}"
        return int(found.group(1))

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@dataclass(frozen=True)
class Case:
    name: str
    run: Callable[["Context"], None]
    ours_only: bool = False
    slow: bool = False
    needs: Tuple[str, ...] = ()


CASES: List[Case] = []


def case(
    subject: str, *, ours_only: bool = False, slow: bool = False, needs: Tuple[str, ...] = ()
) -> Callable[[Callable[["Context"], None]], Callable[["Context"], None]]:
    """Registers a function as the case `subject.function_name`."""

    def register(function: Callable[["Context"], None]) -> Callable[["Context"], None]:
        CASES.append(Case(f"{subject}.{function.__name__}", function, ours_only, slow, needs))
        return function

    return register


@dataclass
class Settings:
    """What the runner was told; the same for all cases of a run."""

    binary: Path
    ours: bool
    work: Path
    seed: int
    quick: bool = False
    reference: Optional[Path] = None
    go_client: Optional[Path] = None
    pynsq_python: Optional[Path] = None

    def program(self, name: str) -> Path:
        """Another program of ours; it lies beside the binary under test."""
        return beside(self.binary, name)

    def reference_program(self, name: str) -> Path:
        """A program of the reference; it lies beside the reference's nsqd."""
        if self.reference is None:
            raise Skip(f"reference {name} not available: comparison skipped")
        return beside(self.reference, name)


def beside(binary: Path, name: str) -> Path:
    path = binary.parent / name
    if not path.exists():
        raise Skip(f"{path} does not exist")
    return path


@dataclass
class Context:
    """What a case gets: the binary under test, brokers on demand, a folder, and a place for notes."""

    settings: Settings
    name: str
    shared: Dict[Tuple[str, ...], Broker]
    notes: List[str] = field(default_factory=list)
    own: List[Broker] = field(default_factory=list)
    count: int = 0

    @property
    def ours(self) -> bool:
        return self.settings.ours

    def pick(self, reference: T, ours: T) -> T:
        return ours if self.settings.ours else reference

    def note(self, text: str) -> None:
        self.notes.append(text)

    def folder(self) -> Path:
        self.count += 1
        path = self.settings.work / f"{self.name.replace('/', '_')}-{self.count}"
        path.mkdir(parents=True)
        return path

    def broker(self, *flags: str, binary: Optional[Path] = None) -> Broker:
        """A broker of this case alone, ended with it."""
        folder = self.folder()
        broker = Broker(binary or self.settings.binary, folder / "data", folder / "nsqd.log", flags)
        self.own.append(broker)
        return broker.start()

    def shared_broker(self, *flags: str) -> Broker:
        """A broker that all cases with these flags share; use topic names of your own."""
        broker = self.shared.get(flags)
        if broker is None or not broker.running():
            folder = self.folder()
            broker = Broker(self.settings.binary, folder / "data", folder / "nsqd.log", flags)
            self.shared[flags] = broker
            broker.start()
        return broker

    def finish(self) -> None:
        """Ends the case's own brokers and removes what they stored; logs are kept for the report."""
        for broker in self.own:
            broker.kill()
            shutil.rmtree(broker.data, ignore_errors=True)

    def check_logs(self) -> None:
        """No broker that this case touched may have panicked."""
        for broker in [*self.own, *self.shared.values()]:
            found = PANIC.search(broker.log_text())
            assert not found, f"panic in the broker's log: {broker.log_text()[found.start():][:2000] if found else ''}"

    def log_tail(self, lines: int = 25) -> str:
        brokers = self.own or list(self.shared.values())[-1:]
        return "\n".join("\n".join(b.log_text().splitlines()[-lines:]) for b in brokers)
