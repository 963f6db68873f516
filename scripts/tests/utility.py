"""The utilities as child processes: run to the end, or in the background with what they print in files."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

import contextlib

from harness import Broker, Context, eventually
from wire import Connection, Message, fin

TOOLS = ("nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq", "to_nsq")
PATIENCE_S = 30.0
TIME = re.compile(r"\b\d{4}/\d\d/\d\d \d\d:\d\d:\d\d(\.\d{6})?")


@dataclass(frozen=True)
class Ended:
    """What became of a program. Its log lines have TIME for the time."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> List[str]:
        return self.err.splitlines()


def run(
    program: Path, *flags: str, stdin: bytes = b"", patience: float = PATIENCE_S, env: Optional[Dict[str, str]] = None
) -> Ended:
    """Runs a program to its end, by its name alone: the usage of Go programs shows how they were called."""
    result = subprocess.run(
        [program.name, *flags], executable=program, input=stdin, capture_output=True, timeout=patience,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    return Ended(result.returncode, result.stdout, TIME.sub("TIME", result.stderr.decode(errors="replace")))


class Running:
    """A program in the background."""

    def __init__(self, program: Path, folder: Path, *flags: str) -> None:
        self.out, self.err = folder / f"{program.name}.out", folder / f"{program.name}.err"
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [program, *flags], stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=folder
            )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, patience: float = PATIENCE_S) -> int:
        return self.process.wait(patience)

    def stop(self, patience: float = PATIENCE_S) -> int:
        """SIGTERM; returns the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(patience)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def running(self) -> bool:
        return self.process.poll() is None

    def stderr(self) -> str:
        return self.err.read_text(errors="replace")

    def stdout(self) -> bytes:
        return self.out.read_bytes()

    def logged(self, text: str, patience: float = PATIENCE_S) -> None:
        """Waits for a text on standard error."""
        eventually(lambda: text in self.stderr(), f"{text!r} in the log of {self.out.stem}:\n{self.stderr()}", patience)


def programs(context: Context, name: str) -> List[Path]:
    """Ours, and the reference's where there is one."""
    found = [context.settings.program(name)]
    if context.settings.reference is not None:
        found.append(context.settings.reference_program(name))
    return found


def tcp(broker: Broker) -> str:
    return f"127.0.0.1:{broker.tcp_port}"


def http(broker: Broker) -> str:
    return f"127.0.0.1:{broker.http_port}"


def create(broker: Broker, topic: str, *channels: str) -> None:
    reply = broker.post(f"/topic/create?topic={topic}")
    assert reply.status == 200, reply
    for channel in channels:
        reply = broker.post(f"/channel/create?topic={topic}&channel={channel}")
        assert reply.status == 200, reply


def publish(broker: Broker, topic: str, *bodies: bytes) -> None:
    for body in bodies:
        reply = broker.post(f"/pub?topic={topic}", body)
        assert reply.status == 200, reply


def finished(broker: Broker, topic: str, channel: str) -> bool:
    """Whether there is the channel, and everything that it was given has been finished."""
    found = broker.channel(topic, channel)
    return found is not None and all(found[key] == 0 for key in ("depth", "in_flight_count", "deferred_count"))


def take(broker: Broker, topic: str, channel: str, count: int, patience: float = PATIENCE_S) -> List[bytes]:
    """Subscribes and finishes that many messages; their bodies in order of arrival."""
    bodies = []
    with broker.connect() as connection:
        connection.send(f"SUB {topic} {channel}\nRDY {min(count, 2500)}\n".encode())
        connection.ok()
        while len(bodies) < count:
            message: Message = connection.message(patience)
            connection.send(fin(message.id))
            bodies.append(message.body)
        drained(connection)
    return bodies


def drained(connection: Connection) -> None:
    """All answers have been taken in: commands of one connection are handled in order."""
    connection.send(b"CLS\n")
    assert connection.response() == b"CLOSE_WAIT"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Dict[str, str]
    body: bytes


class Endpoint:
    """An HTTP server that keeps what it got; `answer` decides the status by the request."""

    def __init__(self) -> None:
        self.requests: List[Request] = []
        self.statuses: List[Tuple[int, Dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, dict(self.headers.items()), body)
                status, headers = outer.answer(request)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            do_GET = do_POST = serve

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: Request) -> Tuple[int, Dict[str, str]]:
        """The next of the prepared answers, else 200."""
        self.requests.append(request)
        return self.statuses.pop(0) if self.statuses else (200, {})

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    try:
        yield server
    finally:
        server.close()


def first_difference(ours: object, theirs: object) -> Optional[str]:
    return None if ours == theirs else f"ours {ours!r}\nreference {theirs!r}"
