#!/usr/bin/env python3
"""Transcripts: what was sent to the reference and what it answered, as text files that anybody can read.

    transcripts.py record --nsqd PATH [--only NAME]...   writes the reference's answers into the files

A file names the state of the broker, then sections. Lines of a file:

    # text              a remark
    ! flag --x=y        a switch of the broker (`! tls` adds certificates, `! auth SECRET STATUS BODY` an
                        authorization server that answers so)
    == KIND NAME        a section: `tcp` (one connection, magic sent), `bare` (without the magic), `http` (a
                        connection for each exchange, the first line is method and target, the others the body),
                        `raw` (the same, bytes of the request as they are)
    > bytes             what is sent; several lines are one write, an empty line ends the exchange
    >eof                our side of the stream ends
    < answer            what the reference answered: recorded, never written by hand
    <ours answer        what we answer instead; a remark above says why, or that it is not on purpose

In bytes `[5]` is a 32-bit integer in network order, `{64*x}` a repetition, `{id}` the id of the message received
last; `\\n`, `\\r`, `\\t`, `\\\\`, `\\[` and `\\x00` are as in C. Ids, times, ports, versions and memory figures are
replaced by `*`. A section that is not closed at its end must answer an unknown command next.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import re
import socket
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import Broker, eventually  # noqa: E402  (the path must be set first)
from layers import certificates  # noqa: E402
from wire import ERROR, MESSAGE, PATIENCE_S, RESPONSE, Closed, Connection, Frame, Silent, parse_message  # noqa: E402

FOLDER = Path(__file__).resolve().parent / "transcripts"
KINDS = {RESPONSE: "response", ERROR: "error"}
# While recording, an exchange is over when nothing came for so long.
SILENCE_S = 0.2
TOKEN = re.compile(rb"\\n|\\r|\\t|\\\\|\\\[|\\x[0-9a-f]{2}|\[-?\d+\]|\{\d+\*.\}|\{id\}|.", re.DOTALL)
ESCAPES = {b"\\n": b"\n", b"\\r": b"\r", b"\\t": b"\t", b"\\\\": b"\\", b"\\[": b"["}
PROBE = b"PROBE\n"
CHANGING = (
    (rb'"(version|hostname|remote_address)":"[^"]*"', rb'"\1":"*"'),
    (rb'"(start_time|connect_ts|\w+_port|heap_\w+|gc_\w+|next_gc_bytes)": ?\d+', rb'"\1":*'),
    (rb"((?:heap|gc|next_gc)_\w+ *\t)\d+", rb"\1*"),
    (rb"nsqd v[^\n]*\n", b"nsqd v*\n"),
    (rb"(start_time|uptime) [^\n]*\n", rb"\1 *\n"),
)


class Differs(AssertionError):
    """An answer is not the one of the transcript."""


@dataclass
class Exchange:
    send: List[str] = field(default_factory=list)
    recorded: List[str] = field(default_factory=list)
    ours: Optional[List[str]] = None
    # Index of the last line sent, where the recorder puts the answer.
    line: int = 0

    def expected(self, ours: bool) -> List[str]:
        return self.ours if ours and self.ours is not None else self.recorded


@dataclass
class Section:
    kind: str
    name: str
    exchanges: List[Exchange] = field(default_factory=list)


@dataclass
class Transcript:
    path: Path
    lines: List[str]
    flags: List[str] = field(default_factory=list)
    tls: bool = False
    auth: List[Tuple[str, int, bytes]] = field(default_factory=list)
    sections: List[Section] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.stem

    def exchanges(self) -> Iterator[Exchange]:
        return (exchange for section in self.sections for exchange in section.exchanges)


def load(path: Path) -> Transcript:
    transcript = Transcript(path, path.read_text(encoding="ascii").splitlines())
    answered = True
    for number, line in enumerate(transcript.lines):
        if line.startswith("! "):
            setting(transcript, line[2:])
        elif line.startswith("== "):
            _, kind, name = line.split(" ", 2)
            transcript.sections.append(Section(kind, name))
            answered = True
        elif line.startswith(">"):
            exchanges = transcript.sections[-1].exchanges
            if answered:
                exchanges.append(Exchange())
            exchanges[-1].send.append(line)
            exchanges[-1].line = number
            answered = False
        elif line.startswith("<ours"):
            exchange = transcript.sections[-1].exchanges[-1]
            exchange.ours = [*(exchange.ours or []), line[6:]]
            answered = True
        elif line.startswith("< "):
            transcript.sections[-1].exchanges[-1].recorded.append(line[2:])
            answered = True
        elif line and not line.startswith("#"):
            raise ValueError(f"{path}:{number + 1}: {line!r} means nothing")
        else:
            answered = True
    return transcript


def setting(transcript: Transcript, text: str) -> None:
    word, _, rest = text.partition(" ")
    if word == "flag":
        transcript.flags.append(rest)
    elif word == "tls":
        transcript.tls = True
    elif word == "auth":
        secret, status, body = rest.split(" ", 2)
        transcript.auth.append((secret, int(status), body.encode()))
    else:
        raise ValueError(f"{transcript.path}: no such setting: {text!r}")


def decoded(text: str, message_id: bytes = b"") -> bytes:
    """The bytes that a line stands for."""

    def one(found: re.Match[bytes]) -> bytes:
        token = found.group()
        if token in ESCAPES:
            return ESCAPES[token]
        if token == b"{id}":
            return message_id
        if len(token) == 1:
            return token
        if token[:2] == b"\\x":
            return bytes([int(token[2:], 16)])
        if token[:1] == b"[":
            return int(token[1:-1]).to_bytes(4, "big", signed=True)
        count, byte = token[1:-1].split(b"*", 1)
        return byte * int(count)

    return TOKEN.sub(one, text.encode("ascii"))


def encoded(data: bytes, message_id: bytes = b"") -> str:
    """Bytes received, as a line shows them."""
    text = "".join(chr(byte) if 32 <= byte < 127 and byte != 92 else f"\\x{byte:02x}" for byte in data)
    text = text.replace("\\x0a", "\\n").replace("\\x0d", "\\r").replace("\\x09", "\\t").replace("\\x5c", "\\\\")
    if message_id:
        text = text.replace(message_id.decode(), "{id}")
    return re.sub(r"([^\\])\1{39,}", lambda run: f"{{{len(run.group())}*{run.group(1)}}}", text)


def normalised(data: bytes) -> bytes:
    for pattern, replacement in CHANGING:
        data = re.sub(pattern, replacement, data)
    return data


class Talk:
    """One connection of a TCP section."""

    def __init__(self, broker: Broker, section: Section) -> None:
        self.connection: Connection = broker.connect() if section.kind == "tcp" else broker.connect(b"")
        self.id = b""
        self.closed = self.ended = False

    def send(self, lines: List[str]) -> None:
        data = b"".join(decoded(line[2:], self.id) for line in lines if line != ">eof")
        # A refusal may come before all is sent: the answer is what counts.
        with contextlib.suppress(ConnectionError):
            self.connection.send(data)
            if ">eof" in lines:
                self.ended = True
                self.connection.socket.shutdown(socket.SHUT_WR)

    def answer(self, patience: float) -> Optional[str]:
        """The next frame or the end as a line; None when nothing comes."""
        try:
            return self.shown(self.connection.frame(patience))
        except Closed:
            self.closed = True
            return "closed"
        except Silent:
            return None

    def shown(self, frame: Frame) -> str:
        if frame.kind == MESSAGE:
            message = parse_message(frame.data)
            self.id = message.id
            return f"message {message.attempts} {encoded(message.body)}"
        return f"{KINDS[frame.kind]} {encoded(normalised(frame.data), self.id)}"

    def check_end(self) -> None:
        """A connection that was not closed is usable: nothing more comes but the answer to an unknown command."""
        if self.closed:
            return
        assert not self.ended, "the stream ended on our side, and the broker did not close"
        self.connection.send(PROBE)
        answer = self.answer(PATIENCE_S)
        refused = answer is not None and answer.startswith("error E_INVALID ") and "PROBE" in answer
        assert refused, f"an unknown command at the end was answered with {answer!r}"


def request(section: Section, exchange: Exchange) -> Tuple[str, bytes]:
    """The method and the bytes of an HTTP request."""
    if section.kind == "raw":
        data = b"".join(decoded(line[2:]) for line in exchange.send)
        return data.split(b" ", 1)[0].decode("ascii", "replace"), data
    line, body = exchange.send[0][2:], b"".join(decoded(line[2:]) for line in exchange.send[1:])
    method = line.split(" ", 1)[0]
    length = f"Content-Length: {len(body)}\r\n" if body or method in ("POST", "PUT") else ""
    return method, f"{line} HTTP/1.1\r\nHost: nsqd\r\n{length}\r\n".encode() + body


def http_answer(broker: Broker, section: Section, exchange: Exchange) -> List[str]:
    """One request on a connection of its own: status line, headers sorted, body."""
    method, data = request(section, exchange)
    with socket.create_connection(("127.0.0.1", broker.http_port), timeout=PATIENCE_S) as connection:
        # A refusal may come before all is sent.
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        with http.client.HTTPResponse(connection, method=method) as reply:
            reply.begin()
            body = normalised(reply.read())
            version = "HTTP/1.1" if reply.version == 11 else "HTTP/1.0"
            shown = [f"{version} {reply.status} {reply.reason}"]
            for key, value in sorted(reply.getheaders()):
                # The length of what changes changes too.
                varies = key == "Date" or (key == "Content-Length" and b"*" in body)
                shown.append(f"{key}: {'*' if varies else value}")
    return shown + [f"| {encoded(part)}" for part in body.splitlines(keepends=True)]


def repeatable(section: Section, exchange: Exchange) -> bool:
    return section.kind == "http" and exchange.send[0].startswith("> GET ")


def compare(where: str, answer: List[str], expected: List[str]) -> None:
    if answer != expected:
        raise Differs(f"{where}: expected {expected}, got {answer}")


def replay_section(broker: Broker, section: Section, ours: bool) -> None:
    if section.kind in ("http", "raw"):
        for exchange in section.exchanges:
            expected, where = exchange.expected(ours), f"{section.name}, {exchange.send[0]}"

            def same(exchange: Exchange = exchange, expected: List[str] = expected, where: str = where) -> bool:
                compare(where, http_answer(broker, section, exchange), expected)
                return True

            # What is only read may need a moment: a topic hands its messages to its channels by itself.
            eventually(same, where) if repeatable(section, exchange) else same()
        return
    talk = Talk(broker, section)
    with talk.connection:
        for exchange in section.exchanges:
            talk.send(exchange.send)
            where = f"{section.name}, {exchange.send[0][:200]}"
            for expected in exchange.expected(ours):
                compare(where, [str(talk.answer(PATIENCE_S))], [expected])
        talk.check_end()


def replay(transcript: Transcript, broker: Broker, ours: bool) -> int:
    """Plays every section and returns the number of exchanges; raises with all the differences."""
    differences = []
    for section in transcript.sections:
        try:
            replay_section(broker, section, ours)
        except (AssertionError, Closed, OSError, http.client.HTTPException) as error:
            differences.append(f"{section.name}: {error}")
    assert not differences, f"{len(differences)} of {len(transcript.sections)} sections differ:\n" + "\n".join(differences)
    return sum(1 for _ in transcript.exchanges())


def record_section(broker: Broker, section: Section) -> None:
    if section.kind in ("http", "raw"):
        for exchange in section.exchanges:
            if repeatable(section, exchange):
                settle(lambda exchange=exchange: http_answer(broker, section, exchange))
            exchange.recorded = http_answer(broker, section, exchange)
        return
    talk = Talk(broker, section)
    with talk.connection:
        for exchange in section.exchanges:
            talk.send(exchange.send)
            exchange.recorded = []
            while not talk.closed:
                answer = talk.answer(PATIENCE_S if talk.ended else SILENCE_S)
                if answer is None:
                    break
                exchange.recorded.append(answer)
        talk.check_end()


def settle(read: Callable[[], List[str]]) -> None:
    """Reads until twenty readings in a row are the same."""
    seen: List[List[str]] = []

    def still() -> bool:
        seen.append(read())
        return len(seen) >= 20 and all(reading == seen[-1] for reading in seen[-20:])

    eventually(still, "the same reading twenty times")


def record(transcript: Transcript, broker: Broker) -> None:
    for section in transcript.sections:
        record_section(broker, section)
    answers = {exchange.line: exchange.recorded for exchange in transcript.exchanges()}
    kept: List[str] = []
    for number, line in enumerate(transcript.lines):
        if not line.startswith("< "):
            kept.append(line)
        kept += [f"< {answer}" for answer in answers.get(number, [])]
    transcript.path.write_text("\n".join(kept) + "\n", encoding="ascii")


def broker_flags(transcript: Transcript, work: Path) -> Tuple[str, ...]:
    tls = certificates(work).flags() if transcript.tls else ()
    return (*transcript.flags, *tls)


@contextlib.contextmanager
def auth_flags(transcript: Transcript) -> Iterator[Tuple[str, ...]]:
    """Runs the authorization server that the transcript describes, if any."""
    if not transcript.auth:
        yield ()
        return
    from test_auth import AuthServer

    answers = {secret: (status, body) for secret, status, body in transcript.auth}
    with AuthServer(lambda form: answers.get(form["secret"], (500, b""))) as server:
        yield (f"--auth-http-address={server.address}",)


def record_file(path: Path, nsqd: Path, work: Path) -> None:
    transcript = load(path)
    with auth_flags(transcript) as auth:
        flags = (*broker_flags(transcript, work), *auth)
        folder = work / transcript.name
        folder.mkdir()
        broker = Broker(nsqd, folder / "data", folder / "nsqd.log", flags)
        try:
            record(transcript, broker.start())
        finally:
            broker.kill()
    print(f"{path.name}: {sum(1 for _ in transcript.exchanges())} exchanges", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Records what the reference answers.")
    parser.add_argument("action", choices=["record"])
    parser.add_argument("--nsqd", type=Path, required=True, help="the reference's nsqd")
    parser.add_argument("--only", action="append", default=[], help="a file to record (default: all); repeatable")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(FOLDER.glob("*.txt")):
            if not options.only or path.stem in options.only:
                record_file(path, options.nsqd.absolute(), Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
