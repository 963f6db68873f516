"""Publishers over HTTP wait, as those over TCP do, while too much is gathered and not yet written."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List

import wire
from harness import Broker, Context, Skip, case, equal, eventually

PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
WALL = 0x40000000
BODY = b"x" * (4 << 20)
# What one shard gathers before publishers wait, and room for what was being read at that moment.
BOUND_MIB = 64
SLACK_MIB = 48
PUBLISHERS = 48


@contextmanager
def storage_stopped(broker: Broker) -> Iterator[None]:
    """The thread that makes files stands still: a log that needs its next file gathers what it is given."""
    tasks = Path(f"/proc/{broker.pid}/task").iterdir()
    [thread] = [int(task.name) for task in tasks if (task / "comm").read_text().strip() == "storage"]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(PTRACE_SEIZE, thread, None, None) != 0:
        raise Skip(f"ptrace is not allowed here: {os.strerror(ctypes.get_errno())}")
    libc.ptrace(PTRACE_INTERRUPT, thread, None, None)
    os.waitpid(thread, WALL)
    try:
        yield
    finally:
        libc.ptrace(PTRACE_DETACH, thread, None, None)


class Publisher:
    """One POST of a large message, sent as far as the broker takes it."""

    def __init__(self, broker: Broker, path: str) -> None:
        self.socket = socket.socket()
        # Little of what is not read is to stay in the kernel.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        self.socket.connect(("127.0.0.1", broker.http_port))
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
        self.left = memoryview(head.encode() + BODY)

    def push(self, patience: float) -> bool:
        """Whether everything was taken; gives up when nothing was for so long."""
        self.socket.settimeout(patience)
        try:
            while self.left:
                self.left = self.left[self.socket.send(self.left) :]
        except TimeoutError:
            return False
        return True

    def answer(self) -> bytes:
        self.socket.settimeout(wire.PATIENCE_S)
        return self.socket.recv(4096).split(b"\r\n", 1)[0]


@case("congestion", ours_only=True)
def http_publishers_wait_for_room(context: Context) -> None:
    check(context, 1)


@case("congestion", ours_only=True)
def http_publishers_wait_for_room_on_another_shard(context: Context) -> None:
    check(context, 2)


def check(context: Context, shards: int) -> None:
    broker = context.broker(f"--shards={shards}", "--max-bytes-per-file=1048576", f"--max-msg-size={len(BODY)}")
    broker.post("/topic/create?topic=slow")
    broker.post("/pub?topic=slow", b"its log is there")
    start = broker.memory_kib("RssAnon")
    taken: List[Publisher] = []
    with storage_stopped(broker):
        held = None
        while held is None and len(taken) < PUBLISHERS:
            publisher = Publisher(broker, "/pub?topic=slow")
            if publisher.push(0.5):
                taken.append(publisher)
            else:
                held = publisher
        assert held is not None, f"{len(taken)} publishes were taken, none was held back"
        taken_mib = len(taken) * len(BODY) >> 20
        assert BOUND_MIB <= taken_mib <= BOUND_MIB + SLACK_MIB, f"{taken_mib} MiB were taken"
        grown = (broker.memory_kib("RssAnon") - start) >> 10
        assert grown < 2 * (BOUND_MIB + SLACK_MIB), f"{grown} MiB more in memory"
        refused = broker.http("POST", "/pub?topic=a+b", b"x")
        equal(refused.status, 400, "what is wrong is told at once")
        equal(broker.http("GET", "/ping").status, 200, "other requests go on")
        gone = Publisher(broker, "/pub?topic=slow")
        assert not gone.push(0.5), "another one is held back as well"
        gone.socket.close()
    assert held.push(wire.PATIENCE_S), "there is room again"
    for publisher in [*taken, held]:
        equal(publisher.answer(), b"HTTP/1.1 200 OK", "answer")
        publisher.socket.close()
    equal(broker.topic("slow")["depth"], len(taken) + 2, "every message answered, once")
    with broker.connect() as producer:
        producer.publish("slow", b"tcp")
    eventually(lambda: broker.topic("slow")["depth"] == len(taken) + 3, "and TCP goes on")
