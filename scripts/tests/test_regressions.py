"""What once went wrong, from outside: one case for each defect that was found by reading the code."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import contextmanager
from typing import Iterator

import wire
from harness import Broker, Context, case, equal, eventually

# A FIN of a message that nobody has, and what it is answered with.
STRAY_FIN = wire.fin(b"0123456789abcdef")
STRAY_REPLY = b"E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight"
STRAY_ANSWER = wire.sized(b"\0\0\0\1" + STRAY_REPLY)


def shard_of(topic: str, shards: int) -> int:
    """The shard that owns a topic: FNV-1a over its name."""
    value = 0xCBF29CE484222325
    for byte in topic.encode():
        value = (value ^ byte) * 0x100000001B3 & (1 << 64) - 1
    return (value ^ value >> 32) % shards


def names_on(shard: int, shards: int, prefix: str) -> Iterator[str]:
    return (name for name in (f"{prefix}{i}" for i in range(1000)) if shard_of(name, shards) == shard)


@case("regressions", ours_only=True)
def producer_that_spreads_goes_on(context: Context) -> None:
    """What was answered by another shard no longer counts as under way to it."""
    broker = context.broker("--shards=2")
    topics = [next(names_on(shard, 2, "spread")) for shard in range(2)]
    with broker.connect() as producer:
        for count in range(200):
            producer.send(wire.pub(topics[count % 2], bytes(100_000)))
            equal(producer.response(), b"OK", f"answer {count}")


@case("regressions", ours_only=True, slow=True)
def deferral_counts_from_when_it_was_asked_for(context: Context) -> None:
    """Also for a message that goes to a busy shard: what arrives within its turn is not as old as that."""
    broker = context.broker("--shards=2")
    away, busy = list(names_on(0, 2, "defer"))[:2]
    over = threading.Event()
    loads = [threading.Thread(target=keep_busy, args=(broker, busy, over), daemon=True) for _ in range(2)]
    with broker.connect() as consumer, broker.connect() as producer:
        consumer.send(f"SUB {away} c\nRDY 1\n".encode())
        equal(consumer.response(), b"OK", "SUB")
        # A producer that has published to the other shard stays there.
        producer.send(wire.pub(next(names_on(1, 2, "defer")), b"stay"))
        equal(producer.response(), b"OK", "PUB")
        for load in loads:
            load.start()
        try:
            for _ in range(200):
                asked = time.monotonic()
                producer.send(wire.dpub(away, 20, b"later"))
                message = wire.parse_message(consumer.frame().data)
                passed_ms = (time.monotonic() - asked) * 1000
                assert passed_ms >= 20, f"delivered after {passed_ms:.3f} ms"
                equal(producer.response(), b"OK", "DPUB")
                consumer.send(wire.fin(message.id))
        finally:
            over.set()
            for load in loads:
                load.join()


def keep_busy(broker: Broker, topic: str, over: threading.Event) -> None:
    """Publishes small messages as fast as they are answered."""
    with broker.connect() as producer:
        producer.socket.settimeout(wire.PATIENCE_S)
        while not over.is_set():
            producer.send(wire.pub(topic, bytes(20)) * 20_000)
            left = 20_000 * 10
            while left > 0:
                left -= len(producer.socket.recv(1 << 18))


@case("regressions", ours_only=True)
def failed_start_ends(context: Context) -> None:
    """A shard that cannot start ends the process, whether or not the others were there already."""
    topic = next(names_on(0, 2, "t"))
    for _ in range(8):
        folder = context.folder()
        broker = Broker(context.settings.binary, folder / "data", folder / "nsqd.log", ("--shards=2",))
        context.own.append(broker)
        (broker.data / "topics").mkdir(parents=True)
        (broker.data / "nsqd.dat").write_text('{"topics":[{"name":"%s","paused":false,"channels":[]}]}' % topic)
        (broker.data / "topics" / f"{topic}.log").write_text("not a directory")
        broker.launch()
        assert broker.process is not None
        equal(broker.process.wait(10.0), 1, "exit status")


@case("regressions")
def subscription_is_answered_before_its_messages(context: Context) -> None:
    """Also when RDY comes in one piece with SUB."""
    broker = context.shared_broker()
    for topic in ("sub_first_a", "sub_first_b"):
        for attempt in range(2):
            # The first time the channel has to be made, the second time it is there.
            with broker.connect() as consumer:
                broker.post(f"/pub?topic={topic}", b"m%d" % attempt)
                consumer.send(f"SUB {topic} c\nRDY 1\n".encode())
                equal(consumer.frame().data, b"OK", "first frame")
                message = wire.parse_message(consumer.frame().data)
                equal(message.body, b"m%d" % attempt, "message")
                consumer.send(wire.fin(message.id) + b"CLS\n")
                equal(consumer.response(), b"CLOSE_WAIT", "CLS")


@case("regressions", ours_only=True)
def publisher_is_answered_before_its_message_comes_back(context: Context) -> None:
    """Also when the topic, its first file or the channel is still being made: clients close on the message."""
    broker = context.shared_broker()
    for attempt in range(24):
        topic, is_made_by_publish = f"ok_first_{attempt}", attempt % 2 == 0
        with broker.connect() as producer, broker.connect() as consumer:
            if is_made_by_publish:
                producer.send(wire.pub(topic, b"m"))
            consumer.send(f"SUB {topic} c\nRDY 1\n".encode())
            equal(consumer.frame().data, b"OK", "SUB")
            if not is_made_by_publish:
                producer.send(wire.pub(topic, b"m"))
            equal(consumer.message().body, b"m", "message")
            # What was sent before it has arrived before it: nothing is waited for.
            answer = producer.socket.recv(64, socket.MSG_DONTWAIT)
            equal(answer, wire.sized(b"\0\0\0\0OK"), "answer that is there")


@case("regressions", ours_only=True)
def ephemeral_topic_is_made_again_by_the_next_publish(context: Context) -> None:
    """Also when its last consumer goes in the same moment."""
    broker = context.broker()
    producer = broker.connect()
    for _ in range(20):
        consumer = broker.connect()
        consumer.send(b"SUB gone#ephemeral c#ephemeral\n")
        equal(consumer.response(), b"OK", "SUB")
        producer.send(wire.pub("gone#ephemeral", b"m"))
        equal(producer.response(), b"OK", "PUB")
        with stopped(broker):
            consumer.send(b"NONSENSE\n")
            producer.send(wire.pub("gone#ephemeral", b"m"))
        equal(producer.response(), b"OK", "PUB after the topic went")
        consumer.close()


@case("regressions", ours_only=True)
def deleting_a_failed_topic_mends_the_health(context: Context) -> None:
    broker = context.broker()
    # No log can be made below a file.
    (broker.data / "topics").write_text("in the way")
    equal(broker.http("POST", "/pub?topic=failing", b"m").status, 503, "publish without a log")
    equal(broker.http("GET", "/ping").status, 500, "health")
    broker.post("/topic/delete?topic=failing")
    equal(broker.http("GET", "/ping").status, 200, "health after the deletion")


@case("regressions", ours_only=True)
def nothing_is_promised_that_the_catalogue_cannot_hold(context: Context) -> None:
    """While `nsqd.dat` cannot be written every creation is refused, the second one of a name as well."""
    broker = context.broker()
    obstacles = [broker.data / "nsqd.dat.tmp", broker.data / "nsqd.dat.journal"]
    for obstacle in obstacles:
        obstacle.mkdir()
    for attempt in range(2):
        with broker.connect() as consumer:
            consumer.send(b"SUB unsaved c\n")
            assert consumer.frame().data.startswith(b"E_SUB_FAILED"), f"SUB {attempt}"
        equal(broker.http("POST", "/topic/create?topic=unsaved").status, 500, f"creation {attempt}")
    for obstacle in obstacles:
        obstacle.rmdir()
    broker.post("/topic/create?topic=unsaved")
    with broker.connect() as consumer:
        consumer.send(b"SUB unsaved c\n")
        equal(consumer.response(), b"OK", "SUB")
    broker.kill()
    broker.start()
    assert broker.channel("unsaved", "c") is not None, "what was answered is there after a kill"


@case("regressions", ours_only=True)
def every_answered_change_survives_a_kill_at_once(context: Context) -> None:
    """Changes in quick succession, killed before `nsqd.dat` is written again; a clean stop leaves that alone."""
    broker = context.broker()
    for number in range(30):
        broker.post(f"/topic/create?topic=t{number}")
    broker.post("/channel/create?topic=t1&channel=c")
    broker.post("/channel/pause?topic=t1&channel=c")
    broker.post("/topic/pause?topic=t2")
    broker.post("/topic/delete?topic=t3")
    broker.kill()
    broker.start()
    names = {f"t{number}" for number in range(30)} - {"t3"}
    equal({topic["topic_name"] for topic in broker.stats()["topics"]}, names, "topics after a kill")
    equal([broker.channel("t1", "c")["paused"], broker.topic("t2")["paused"]], [True, True], "what is paused")
    broker.post("/topic/delete?topic=t4")
    broker.terminate()
    saved = json.loads((broker.data / "nsqd.dat").read_text())
    equal({topic["name"] for topic in saved["topics"]}, names - {"t4"}, "topics in nsqd.dat after a clean stop")
    assert not (broker.data / "nsqd.dat.journal").exists(), "nsqd.dat stands alone"


@case("regressions", ours_only=True)
def deleted_messages_do_not_come_back(context: Context) -> None:
    """A topic that is deleted, made again and found after a kill is empty."""
    broker = context.broker()
    for count in range(10):
        broker.post("/pub?topic=again", b"m%d" % count)
        broker.post("/topic/delete?topic=again")
        broker.post("/topic/create?topic=again")
        broker.kill()
        broker.start()
        found = broker.topic("again")
        assert found is not None and found["depth"] == 0, f"after deletion: {found}"


@case("regressions", ours_only=True)
def reader_that_is_late_gets_every_answer(context: Context) -> None:
    """Output that finds the socket full in the moment in which receiving is stopped."""
    broker = context.broker("--shards=1")
    for attempt in range(4):
        with small_window(broker) as reader:
            sent = fill_output(broker, reader)
            with stopped(broker):
                # Enough input to stop receiving, and room for some of the output.
                more = send_some(reader, STRAY_FIN * 30_000)
                room = sum(len(chunk) for chunk in take(reader, 2_500_000, 1.0))
            left = len(STRAY_ANSWER) * (sent + more // len(STRAY_FIN)) - room
            got = sum(len(chunk) for chunk in take(reader, left, wire.PATIENCE_S))
            equal(got, left, f"bytes of answers, attempt {attempt}")


@case("regressions", ours_only=True)
def peer_that_closes_half_and_reads_late_costs_nothing(context: Context) -> None:
    """A socket without room is not asked over and over, and what was asked before the end is answered."""
    broker = context.broker("--shards=1")
    count = 420_000
    publishes = wire.MAGIC + wire.pub("half#ephemeral", b"x") * count
    requests = b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000
    for port, data in ((broker.tcp_port, publishes), (broker.http_port, requests)):
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.connect(("127.0.0.1", port))
            # As much as is taken while nobody reads.
            peer.settimeout(2.0)
            try:
                peer.sendall(data)
            except socket.timeout:
                pass
            peer.shutdown(socket.SHUT_WR)
            # Until it is through with what it can do.
            eventually(lambda: is_at_rest(broker), "a broker at rest", 30)
            if data is publishes:
                got = sum(len(chunk) for chunk in take(peer, 10 * count, wire.PATIENCE_S))
                equal(got, 10 * count, "bytes of answers")


def is_at_rest(broker: Broker) -> bool:
    """Whether the broker uses less than a fifth of a core."""
    before = broker.cpu_seconds()
    time.sleep(0.5)
    return broker.cpu_seconds() - before < 0.1


def small_window(broker: Broker) -> socket.socket:
    """A subscribed connection that takes little in before it reads."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    reader.connect(broker.address)
    reader.settimeout(wire.PATIENCE_S)
    reader.sendall(wire.MAGIC + b"SUB late c\n")
    equal(reader.recv(10, socket.MSG_WAITALL), wire.sized(b"\0\0\0\0OK"), "SUB")
    return reader


def fill_output(broker: Broker, reader: socket.socket) -> int:
    """Asks without reading until the broker takes no more commands; returns how often."""
    sent = 0
    while sent < 1_000_000:
        expected = broker.log.stat().st_size + 2_000 * len(STRAY_ANSWER)
        reader.sendall(STRAY_FIN * 2_000)
        sent += 2_000
        deadline = time.monotonic() + 0.3
        # Every answer is a line of the log as well.
        while broker.log.stat().st_size < expected:
            if time.monotonic() > deadline:
                return sent
            time.sleep(0.001)
    raise AssertionError("the broker takes commands without end")


def send_some(peer: socket.socket, data: bytes) -> int:
    """Sends what the peer's kernel takes at once; returns how much."""
    peer.setblocking(False)
    sent = 0
    try:
        while sent < len(data):
            sent += peer.send(data[sent:])
    except BlockingIOError:
        pass
    return sent


def take(peer: socket.socket, limit: int, patience: float) -> Iterator[bytes]:
    """Reads until there are `limit` bytes or nothing has come for a while."""
    peer.settimeout(patience)
    while limit > 0:
        try:
            chunk = peer.recv(min(limit, 1 << 20))
        except socket.timeout:
            return
        if not chunk:
            return
        limit -= len(chunk)
        yield chunk


@contextmanager
def stopped(broker: Broker) -> Iterator[None]:
    """The broker stands still, so that it finds what happens meanwhile all at once."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)
