"""The V2 wire protocol over a plain socket, as a test wants it: bytes in, frames out, every wait bounded."""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Deque, Iterable, Optional, Tuple, Union

RESPONSE, ERROR, MESSAGE = 0, 1, 2
MAGIC = b"  V2"
HEARTBEAT = b"_heartbeat_"
# Long enough for a loaded two-core machine, short enough that a hang is noticed.
PATIENCE_S = 10.0


class Closed(Exception):
    """The peer closed the connection where a frame was expected."""


class Silent(Exception):
    """Nothing came within the time allowed."""


@dataclass(frozen=True)
class Frame:
    kind: int
    data: bytes

    def __str__(self) -> str:
        name = {RESPONSE: "response", ERROR: "error", MESSAGE: "message"}.get(self.kind, str(self.kind))
        return f"{name} {self.data[:200]!r}"


@dataclass(frozen=True)
class Message:
    timestamp_ns: int
    attempts: int
    id: bytes
    body: bytes


def sized(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def pub(topic: str, body: bytes) -> bytes:
    return b"PUB " + topic.encode() + b"\n" + sized(body)


def dpub(topic: str, delay_ms: int, body: bytes) -> bytes:
    return b"DPUB %s %d\n" % (topic.encode(), delay_ms) + sized(body)


def bodies(items: Iterable[bytes]) -> bytes:
    """count, then size and body of each: the inside of MPUB and the body of a binary /mpub."""
    parts = [sized(item) for item in items]
    return struct.pack(">I", len(parts)) + b"".join(parts)


def mpub(topic: str, items: Iterable[bytes]) -> bytes:
    return b"MPUB " + topic.encode() + b"\n" + sized(bodies(items))


def fin(message_id: bytes) -> bytes:
    return b"FIN " + message_id + b"\n"


def req(message_id: bytes, delay_ms: int) -> bytes:
    return b"REQ %s %d\n" % (message_id, delay_ms)


def parse_message(data: bytes) -> Message:
    timestamp, attempts = struct.unpack(">qH", data[:10])
    return Message(timestamp, attempts, data[10:26], data[26:])


class Connection:
    """One client connection. Heartbeats are answered and skipped unless `heartbeats` is set to False."""

    def __init__(
        self, address: Union[Tuple[str, int], Path], magic: bytes = MAGIC, heartbeats: bool = True
    ) -> None:
        if isinstance(address, Path):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(str(address))
        else:
            self.socket = socket.create_connection(address, timeout=PATIENCE_S)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer_heartbeats = heartbeats
        self.buffer = bytearray()
        self.early: Deque[Frame] = deque()
        if magic:
            self.send(magic)

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.settimeout(PATIENCE_S)
        self.socket.sendall(data)

    def decoded(self, data: bytes) -> bytes:
        """What arrived, without the layers that a connection may have; see layers.py."""
        return data

    def ended(self) -> bool:
        """A layer has seen the end of the peer's stream."""
        return False

    def take_buffered(self) -> Optional[Frame]:
        """The next whole frame already received, if any."""
        if len(self.buffer) < 8:
            return None
        size, kind = struct.unpack_from(">II", self.buffer)
        if len(self.buffer) < 4 + size:
            return None
        data = bytes(self.buffer[8 : 4 + size])
        del self.buffer[: 4 + size]
        return Frame(kind, data)

    def frame(self, patience: float = PATIENCE_S) -> Frame:
        """The next frame; raises Closed at end of stream (also on RST) and Silent when time is up."""
        return self.early.popleft() if self.early else self.receive(patience)

    def receive(self, patience: float) -> Frame:
        deadline = time.monotonic() + patience
        while True:
            found = self.take_buffered()
            if found is not None:
                if self.answer_heartbeats and found == Frame(RESPONSE, HEARTBEAT):
                    self.send(b"NOP\n")
                    continue
                return found
            if self.ended():
                raise Closed("end of the layer's stream")
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                raise Silent(f"no frame within {patience} s")
            try:
                received = self.socket.recv(1 << 18)
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if not received:
                raise Closed("end of stream")
            self.buffer += self.decoded(received)

    def response(self, patience: float = PATIENCE_S) -> bytes:
        """The next response. A message that overtakes it (of a consumer that publishes) is kept for later."""
        frame = self.receive(patience)
        while frame.kind == MESSAGE:
            self.early.append(frame)
            frame = self.receive(patience)
        assert frame.kind == RESPONSE, f"expected a response, got {frame}"
        return frame.data

    def ok(self, patience: float = PATIENCE_S) -> None:
        data = self.response(patience)
        assert data == b"OK", f"expected OK, got {data!r}"

    def error(self, patience: float = PATIENCE_S) -> str:
        frame = self.frame(patience)
        assert frame.kind == ERROR, f"expected an error, got {frame}"
        return frame.data.decode("utf-8", "backslashreplace")

    def message(self, patience: float = PATIENCE_S) -> Message:
        frame = self.frame(patience)
        assert frame.kind == MESSAGE, f"expected a message, got {frame}"
        return parse_message(frame.data)

    def messages(self, count: int, patience: float = PATIENCE_S) -> list[Message]:
        return [self.message(patience) for _ in range(count)]

    def nothing(self, seconds: float) -> None:
        """Asserts that no frame comes for so long and that the connection stays open."""
        try:
            frame = self.frame(seconds)
        except Silent:
            return
        raise AssertionError(f"expected silence, got {frame}")

    def closed(self, patience: float = PATIENCE_S) -> None:
        """Asserts that the connection is closed without a further frame."""
        try:
            frame = self.frame(patience)
        except Closed:
            return
        except Silent:
            raise AssertionError("the connection was not closed") from None
        raise AssertionError(f"expected the connection to be closed, got {frame}")

    def alive(self) -> None:
        """Asserts that the connection still works, by a command that is always answered with OK."""
        self.send(pub("wire-alive#ephemeral", b"x"))
        self.ok()

    def identify(self, **fields: object) -> dict:
        """IDENTIFY with negotiation; returns the reply."""
        body = json.dumps({"feature_negotiation": True, **fields}).encode()
        self.send(b"IDENTIFY\n" + sized(body))
        return json.loads(self.response())

    def subscribe(self, topic: str, channel: str, ready: int = 0) -> None:
        self.send(b"SUB %s %s\n" % (topic.encode(), channel.encode()))
        self.ok()
        if ready:
            self.ready(ready)

    def ready(self, count: int) -> None:
        self.send(b"RDY %d\n" % count)

    def publish(self, topic: str, *items: bytes) -> None:
        """PUB of each item, pipelined; all must be accepted."""
        self.send(b"".join(pub(topic, item) for item in items))
        for _ in items:
            self.ok()

    def finish(self, *messages: Message) -> None:
        self.send(b"".join(fin(message.id) for message in messages))
