"""An nsqlookupd as a child process, and its protocol over a plain socket. Shared by the cases that need one."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Iterator, List, Optional, Tuple
from urllib.parse import quote

import wire
from harness import Broker, Context, Skip
from ports import kept_ports

MAGIC = b"  V1"


class Lookupd(Broker):
    """An nsqlookupd, ours or the reference's, on ports that it keeps over a restart."""

    def __init__(self, binary: Path, ours: bool, folder: Path, flags: Tuple[str, ...] = ()) -> None:
        super().__init__(binary, folder / "data", folder / "nsqlookupd.log", flags)
        self.ours = ours
        self.tcp_port = kept_ports()
        self.http_port = self.tcp_port + 1

    def command(self, *more: str) -> List[str]:
        addresses = [f"--tcp-address=127.0.0.1:{self.tcp_port}", f"--http-address=127.0.0.1:{self.http_port}"]
        return [str(self.binary), *addresses, "--broadcast-address=127.0.0.1", *self.flags, *more]

    def pick(self, reference, ours):  # type: ignore[no-untyped-def]
        return ours if self.ours else reference

    def producer(self, address: str = "host", tcp_port: int = 4150, http_port: int = 4151) -> "Producer":
        return Producer(self, address, tcp_port, http_port)

    def get(self, path: str) -> dict:
        """The JSON of a GET that must succeed."""
        reply = self.http("GET", path)
        assert reply.status == 200, f"GET {path}: {reply.status} {reply.body!r}"
        value = reply.json()
        assert isinstance(value, dict)
        return value

    def topics(self) -> List[str]:
        return sorted(self.get("/topics")["topics"])

    def channels(self, topic: str) -> List[str]:
        return sorted(self.get(f"/channels?topic={quote(topic)}")["channels"])

    def lookup(self, topic: str) -> Optional[List[str]]:
        """Broadcast addresses of those who have the topic, `None` when it is not known."""
        reply = self.http("GET", f"/lookup?topic={topic}")
        if reply.status == 404:
            return None
        assert reply.status == 200, f"{reply.status} {reply.body!r}"
        value = reply.json()
        assert isinstance(value, dict)
        return sorted(producer["broadcast_address"] for producer in value["producers"])

    def producers(self, topic: str) -> List[int]:
        """TCP ports of the nsqds that have the topic."""
        reply = self.http("GET", f"/lookup?topic={quote(topic)}")
        return [] if reply.status == 404 else [producer["tcp_port"] for producer in reply.json()["producers"]]

    def holders(self, topic: str, channel: str) -> int:
        """How many nsqds have the channel; the name of one that was lasting stays known after the last."""
        return len(self.get("/debug").get(f"channel:{topic}:{channel}") or [])

    def talk(self, data: bytes) -> bytes:
        """Sends bytes on a connection of their own, ends our side, and returns all that comes back."""
        with socket.create_connection(self.address, timeout=wire.PATIENCE_S) as s:
            s.sendall(data)
            try:
                s.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: s.recv(65536), b""))
            except ConnectionError as error:
                raise AssertionError(f"reset instead of an orderly end: {error}") from error


def start(context: Context, *flags: str) -> Lookupd:
    """The nsqlookupd beside the nsqd under test."""
    return launch(context, context.settings.program("nsqlookupd"), context.ours, flags)


def start_both(context: Context, *flags: str) -> Iterator[Lookupd]:
    """The one under test, then the reference's, where there is one and it is not the same."""
    yield start(context, *flags)
    if context.ours:
        try:
            binary = context.settings.reference_program("nsqlookupd")
        except Skip as skip:
            context.note(str(skip))
            return
        yield launch(context, binary, False, flags)


def references(context: Context) -> Lookupd:
    """The reference's nsqlookupd."""
    return launch(context, context.settings.reference_program("nsqlookupd"), False)


def launch(context: Context, binary: Path, ours: bool, flags: Tuple[str, ...] = ()) -> Lookupd:
    lookupd = Lookupd(binary, ours, context.folder(), flags)
    context.own.append(lookupd)
    lookupd.start()
    return lookupd


def announcement(address: str = "host", tcp_port: int = 4150, http_port: int = 4151) -> bytes:
    fields = {
        "broadcast_address": address, "hostname": "h", "http_port": http_port, "tcp_port": tcp_port, "version": "1.3.0",
    }  # fmt: skip
    return json.dumps(fields).encode()


def identify(body: bytes) -> bytes:
    return b"IDENTIFY\n" + wire.sized(body)


class Producer:
    """One identified connection, as an nsqd holds it."""

    def __init__(self, lookupd: Lookupd, address: str, tcp_port: int, http_port: int) -> None:
        self.socket = socket.create_connection(lookupd.address, timeout=wire.PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(MAGIC + identify(announcement(address, tcp_port, http_port)))
        self.identity = json.loads(self.read())

    def __enter__(self) -> "Producer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def id(self) -> str:
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    def read(self) -> bytes:
        return self.exactly(struct.unpack(">i", self.exactly(4))[0])

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise wire.Closed("end of stream")
            data += part
        return data

    def say(self, *lines: str) -> None:
        """Commands that must be answered with OK."""
        self.socket.sendall("".join(line + "\n" for line in lines).encode())
        for line in lines:
            reply = self.read()
            assert reply == b"OK", f"{line}: {reply!r}"

    def closed(self) -> None:
        """Asserts that the other side ends the connection."""
        try:
            data = self.socket.recv(1)
        except ConnectionError:
            return
        assert data == b"", f"expected the end of the stream, got {data!r}"
