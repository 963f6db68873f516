"""Malformed and hostile peers: they are refused or dropped, and cost nobody else anything.

A seeded generator makes at least RINGQ_HOSTILE_INPUTS inputs of many kinds; a well-behaved client publishes and
consumes beside them all the time.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import threading
import time
from typing import Callable, Dict, List

import wire
from harness import Broker, Context, case, eventually

INPUTS = int(os.environ.get("RINGQ_HOSTILE_INPUTS", "600"))
ATTACKERS = 12
# A good client must never wait this long, whatever the others do.
GOOD_PATIENCE_S = 5.0
DESCRIPTORS_SPARE = 12
# Inputs hold at most 5 MiB each, and the brokers keep caches.
GROWTH_MAX_KIB = 256 * 1024
TOPIC = b"hostile"

Attack = Callable[["Attacker"], None]
ATTACKS: Dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    ATTACKS[function.__name__] = function
    return function


class Attacker(threading.Thread):
    """Carries out its share of the inputs, each on a connection of its own."""

    def __init__(self, broker: Broker, seed: int, names: List[str]) -> None:
        super().__init__(daemon=True)
        self.broker, self.names, self.random = broker, names, random.Random(seed)
        self.failure: str = ""

    def run(self) -> None:
        for name in self.names:
            try:
                ATTACKS[name](self)
            except (OSError, wire.Closed, wire.Silent):
                continue  # being refused or dropped is the expected end
            except Exception as error:
                self.failure = f"{name}: {error!r}"
                return

    def connect(self, magic: bytes = wire.MAGIC) -> wire.Connection:
        return self.broker.connect(magic)

    def noise(self, length: int) -> bytes:
        return bytes(self.random.randrange(256) for _ in range(length))

    def leave(self, connection: wire.Connection) -> None:
        """Goes away in one of the ways there are."""
        how = self.random.randrange(4)
        if how == 0:
            connection.reset()
        elif how == 1:
            connection.socket.shutdown(socket.SHUT_WR)
            self.swallow(connection)
        elif how == 2:
            connection.socket.shutdown(socket.SHUT_RD)
        connection.close()

    def swallow(self, connection: wire.Connection) -> None:
        """Reads what comes until the end, for a moment."""
        connection.socket.settimeout(0.2)
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and connection.socket.recv(65536):
            pass

    def throw(self, data: bytes, magic: bytes = wire.MAGIC) -> None:
        connection = self.connect(magic)
        try:
            connection.send(data)
        finally:
            self.leave(connection)


COMMANDS = (
    wire.pub("hostile", b"payload"), wire.dpub("hostile", 100, b"payload"), wire.mpub("hostile", [b"a", b"bc", b"def"]),
    b"SUB hostile ch\n", b"SUB hostile ch\nRDY 10\n", b"IDENTIFY\n" + wire.sized(b'{"client_id":"x"}'),
    b"FIN 0123456789abcdef\n", b"REQ 0123456789abcdef 0\n", b"TOUCH 0123456789abcdef\n", b"CLS\n", b"NOP\n",
    b"AUTH\n" + wire.sized(b"secret"), b"RDY 5\n",
)  # fmt: skip


@attack
def truncated(a: Attacker) -> None:
    command = a.random.choice(COMMANDS)
    a.throw(command[: a.random.randrange(len(command))])


@attack
def wrong_order(a: Attacker) -> None:
    a.throw(b"".join(a.random.choice(COMMANDS) for _ in range(a.random.randrange(1, 12))))


@attack
def flipped_bits(a: Attacker) -> None:
    data = bytearray(b"".join(a.random.choice(COMMANDS) for _ in range(4)))
    for _ in range(a.random.randrange(1, 8)):
        data[a.random.randrange(len(data))] ^= 1 << a.random.randrange(8)
    a.throw(bytes(data))


@attack
def binary_noise(a: Attacker) -> None:
    a.throw(a.noise(a.random.randrange(1, 3000)))


@attack
def noise_instead_of_magic(a: Attacker) -> None:
    a.throw(a.noise(a.random.randrange(1, 200)), magic=b"")


@attack
def no_magic(a: Attacker) -> None:
    a.throw(b"", magic=b"  V2"[: a.random.randrange(4)])


@attack
def http_on_the_wrong_port(a: Attacker) -> None:
    a.throw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", magic=b"")


@attack
def wire_protocol_on_the_http_port(a: Attacker) -> None:
    with socket.create_connection(("127.0.0.1", a.broker.http_port), timeout=1) as s:
        s.sendall(wire.MAGIC + a.random.choice(COMMANDS) + a.noise(100))
        s.settimeout(0.3)
        s.recv(4096)


@attack
def oversized_line(a: Attacker) -> None:
    a.throw(b"PUB " + b"x" * a.random.choice((16380, 16385, 70000, 300000)) + a.random.choice((b"", b"\n")))


@attack
def oversized_size(a: Attacker) -> None:
    verb = a.random.choice((b"PUB hostile\n", b"MPUB hostile\n", b"DPUB hostile 1\n", b"IDENTIFY\n", b"AUTH\n"))
    size = a.random.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE, 5242881, 1048577, a.random.randrange(1 << 32)))
    a.throw(verb + struct.pack(">I", size) + a.noise(a.random.randrange(100)))


@attack
def lying_mpub(a: Attacker) -> None:
    inner = [a.random.choice((0, 1, 5, 0x7FFFFFFF, 0xFFFFFFFF, a.random.randrange(1 << 32))) for _ in range(4)]
    body = struct.pack(">4I", *inner) + a.noise(a.random.randrange(60))
    a.throw(b"MPUB hostile\n" + struct.pack(">I", a.random.choice((len(body), 4, 20, 5242880))) + body)


@attack
def wrong_json(a: Attacker) -> None:
    body = a.random.choice((
        b"{" * 20000, b"[" * 100000, b'{"a":' * 5000, b"\xff\xfe{}", b'{"msg_timeout":1e999}', b'{"client_id":"\\ud800"}',
        b'{"heartbeat_interval":9223372036854775808}', b'{"sample_rate":-1}', b"nul", b'{"client_id":"' + b"x" * 200000 + b'"}',
        b'{"client_id":"a","client_id":"b"}', b"\0" * 50,
    ))  # fmt: skip
    a.throw(b"IDENTIFY\n" + wire.sized(body))


@attack
def one_byte_segments(a: Attacker) -> None:
    connection = a.connect(b"")
    data = wire.MAGIC + a.random.choice(COMMANDS) + a.random.choice(COMMANDS)
    for byte in data[: a.random.randrange(5, len(data))]:
        connection.send(bytes([byte]))
    a.leave(connection)


@attack
def slow_writer(a: Attacker) -> None:
    """Leaves a command unfinished for a while beside everything else."""
    connection = a.connect()
    connection.send(b"PUB hostile\n" + struct.pack(">I", 1000) + b"x" * 500)
    try:
        connection.nothing(0.2)
    finally:
        a.leave(connection)


@attack
def never_reading_consumer(a: Attacker) -> None:
    """Asks for much, reads nothing, and goes."""
    connection = a.connect()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.send(b"SUB hostile deaf%d#ephemeral\nRDY 2500\n" % a.random.randrange(3))
    with a.connect() as publisher:
        for _ in range(10):
            publisher.send(wire.mpub("hostile", [b"y" * 10000] * 20))
            publisher.ok()
    a.leave(connection)


@attack
def never_reading_producer(a: Attacker) -> None:
    """Pipelines publishes and never takes a reply."""
    connection = a.connect()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.socket.settimeout(0.5)
    try:
        connection.socket.sendall(wire.pub("hostile-replies#ephemeral", b"z") * 20000)
    finally:
        a.leave(connection)


@attack
def leaves_messages_in_flight(a: Attacker) -> None:
    connection = a.connect()
    connection.identify(msg_timeout=1000)
    connection.subscribe("hostile", "ch", 50)
    connection.publish("hostile", b"held")
    connection.message(1.0)
    a.leave(connection)


@attack
def foreign_ids(a: Attacker) -> None:
    connection = a.connect()
    connection.subscribe("hostile", "ch")
    for _ in range(50):
        verb = a.random.choice((b"FIN ", b"TOUCH ", b"REQ "))
        identity = bytes(a.random.randrange(33, 127) for _ in range(16))
        connection.send(verb + identity + (b" 5\n" if verb == b"REQ " else b"\n"))
        connection.error()
    a.leave(connection)


@attack
def huge_numbers(a: Attacker) -> None:
    number = a.random.choice((b"9" * 30, b"18446744073709551615", b"18446744073709551617", b"-1", b"0x10", b"1_0", b""))
    line = a.random.choice((b"RDY ", b"REQ 0123456789abcdef ", b"DPUB hostile "))
    a.throw(b"SUB hostile ch\n" + line + number + b"\n" + wire.sized(b"x"))


@attack
def bad_http(a: Attacker) -> None:
    request = a.random.choice((
        b"POST /pub?topic=hostile HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nshort",
        b"POST /mpub?topic=hostile&binary=true HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff",
        b"POST /pub?topic=hostile HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n",
        b"POST /pub?topic=hostile HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        b"GET /stats?format=json&topic=" + b"x" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ping HTTP/1.1\r\n" + b"X-A: b\r\n" * 20000 + b"\r\n",
        b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"PUT /config/log_level HTTP/1.1\r\nHost: x\r\n\r\n",
        a.noise(300),
    ))  # fmt: skip
    with socket.create_connection(("127.0.0.1", a.broker.http_port), timeout=1) as s:
        s.sendall(request)
        s.settimeout(0.2)
        s.recv(4096)


class GoodClient(threading.Thread):
    """Publishes one message after another and receives each on another connection, without undue delay."""

    def __init__(self, broker: Broker, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.broker, self.stop = broker, stop
        self.count = 0
        self.worst_s = 0.0
        self.failure = ""

    def run(self) -> None:
        try:
            with self.broker.connect() as producer, self.broker.connect() as consumer:
                consumer.subscribe("good", "ch", 1)  # so that nothing waits for the flush timer
                while not self.stop.is_set():
                    began = time.monotonic()
                    body = b"good %d" % self.count
                    producer.send(wire.pub("good", body))
                    producer.ok(GOOD_PATIENCE_S)
                    message = consumer.message(GOOD_PATIENCE_S)
                    assert (message.body, message.attempts) == (body, 1), f"{message} instead of {body!r}"
                    consumer.finish(message)
                    self.count += 1
                    self.worst_s = max(self.worst_s, time.monotonic() - began)
        except BaseException as error:  # handed to the case
            self.failure = f"after {self.count} messages: {error!r}"


@case("hostile")
def attacks_harm_nobody_else(context: Context) -> None:
    broker = context.broker()
    rng = random.Random(context.settings.seed)
    total = max(INPUTS, 100) if context.settings.quick else max(INPUTS, 500)
    # Every kind, and more of them at random.
    names = list(ATTACKS) + [rng.choice(list(ATTACKS)) for _ in range(total - len(ATTACKS))]
    stop = threading.Event()
    # Descriptors and memory of an ordinary client and of the topics belong to the start value.
    warm_up(broker)
    descriptors, resident = broker.descriptors(), broker.memory_kib("VmRSS")
    good = GoodClient(broker, stop)
    good.start()
    attackers = [Attacker(broker, rng.randrange(1 << 30), names[i::ATTACKERS]) for i in range(ATTACKERS)]
    for attacker in attackers:
        attacker.start()
    try:
        for attacker in attackers:
            attacker.join(300)
            assert not attacker.is_alive(), "an attack did not end"
            assert not attacker.failure, attacker.failure
            assert broker.running(), "the broker is gone"
    finally:
        stop.set()
        good.join(2 * GOOD_PATIENCE_S)
    assert not good.failure, f"the good client was harmed {good.failure}"
    assert good.count > 50, f"the good client got only {good.count} messages through"

    def closed() -> bool:
        now = broker.descriptors()
        assert now <= descriptors + DESCRIPTORS_SPARE, f"{now} descriptors, {descriptors} at the start"
        return True

    eventually(closed, "descriptors of dead connections closed", 30.0)
    growth = broker.memory_kib("VmRSS") - resident
    assert growth <= GROWTH_MAX_KIB, f"resident memory grew by {growth} KiB"
    with broker.connect() as c:
        c.alive()
    assert broker.terminate(15) == 0, "exit status"
    context.note(f"{total} inputs of {len(ATTACKS)} kinds, seed {context.settings.seed}; good client: {good.count} messages, "
                 f"slowest {good.worst_s * 1000:.0f} ms; memory +{growth / 1024:.0f} MiB")  # fmt: skip


def warm_up(broker: Broker) -> None:
    with broker.connect() as c:
        c.publish("good", b"x")
        c.subscribe("good", "ch", 1)
        c.finish(c.message())
        c.alive()
    broker.post("/topic/create?topic=hostile")
    broker.post("/channel/create?topic=hostile&channel=ch")
    broker.stats()
    eventually(lambda: broker.channel("good", "ch")["client_count"] == 0, "the first client is gone")


@case("hostile")
def many_connections_come_and_go(context: Context) -> None:
    """Two thousand short connections leave no descriptor behind."""
    broker = context.broker()
    warm_up(broker)
    descriptors = broker.descriptors()
    for batch in range(20):
        connections = [broker.connect(b"" if i % 3 == 0 else wire.MAGIC) for i in range(100)]
        for index, connection in enumerate(connections):
            if index % 3 == 1:
                connection.reset()
            else:
                connection.close()
    eventually(lambda: broker.descriptors() <= descriptors + DESCRIPTORS_SPARE, "descriptors closed", 30.0)
    with broker.connect() as c:
        c.alive()


@case("hostile")
def deaf_consumer_does_not_stop_the_channel(context: Context) -> None:
    """One consumer takes messages without reading them; another of the same channel still makes progress."""
    broker = context.broker()
    with broker.connect() as deaf, broker.connect() as good, broker.connect() as p:
        deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.identify(msg_timeout=1000)
        deaf.subscribe("deaf", "ch", 2500)
        good.subscribe("deaf", "ch", 10)
        seen = set()
        for batch in range(20):
            p.send(wire.mpub("deaf", [b"%d " % i + b"x" * 20000 for i in range(batch * 20, batch * 20 + 20)]))
            p.ok()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and len(seen) < 100:
            m = good.message(15.0)
            seen.add(m.body.split()[0])
            good.finish(m)
        assert len(seen) >= 100, f"only {len(seen)} messages reached the reading consumer"
