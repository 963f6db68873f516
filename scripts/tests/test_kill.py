"""What was answered OK survives kill -9; what was finished stays finished; nothing deferred comes early.

Rounds of traffic, each ended by a stop at a random moment, on one data directory per group; then everything is
drained and the books are compared. RINGQ_KILL_ROUNDS sets the number of rounds; the seed is printed by the runner.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Dict, List, Set, Tuple

import wire
from harness import Broker, Context, case, equal, eventually
from ledger import Ledger, Sent, make_body

ROUNDS = int(os.environ.get("RINGQ_KILL_ROUNDS", "50"))
ROUNDS_PER_GROUP = 5
TRAFFIC_MAX_S = 2.6
# Bounds the work of a round, and so of the drain.
MESSAGES_PER_PUBLISHER = 1500
DELAY_MAX_MS = 3500
DRAIN_PATIENCE_S = 60.0
# `held` is paused until the drain; the topic without channels gets its first one, `late`, at the drain.
TOPICS: Dict[str, Tuple[str, ...]] = {"kt0": ("a", "b", "held"), "kt1": ("a",), "kt2": ("a", "b", "c"), "kt3": ("late",)}


def is_refused_at_stop(error: AssertionError) -> bool:
    """A clean stop refuses what comes too late; everything else must be an OK."""
    return "FAILED" in str(error) and "exiting" in str(error)


class Publisher(threading.Thread):
    """Publishes in one manner until the broker is gone; every message is in the ledger before it is sent."""

    def __init__(self, broker: Broker, ledger: Ledger, manner: str, name: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.broker, self.ledger, self.manner, self.prefix = broker, ledger, manner, name
        self.random = random.Random(seed)
        self.number = 0

    def run(self) -> None:
        try:
            with self.broker.connect() as connection:
                while self.number < MESSAGES_PER_PUBLISHER:
                    self.burst(connection)
        except (OSError, wire.Closed, wire.Silent):
            return  # the broker was stopped
        except AssertionError as error:
            if not is_refused_at_stop(error):
                self.ledger.violation(f"publisher {self.prefix}: {error}")

    def burst(self, connection: wire.Connection) -> None:
        """Sends one or several commands at once and takes their replies."""
        commands = {"sync": 1, "pipelined": 40, "mpub": 4, "dpub": 8}[self.manner]
        planned = [self.command() for _ in range(commands)]
        connection.send(b"".join(data for data, _ in planned))
        for _, keys in planned:
            connection.ok()
            self.ledger.acknowledge(keys)

    def command(self) -> Tuple[bytes, List[str]]:
        topic = self.random.choice(list(TOPICS))
        count = self.random.randrange(1, 40) if self.manner == "mpub" else 1
        delay_ms = self.random.randrange(200, DELAY_MAX_MS) if self.manner == "dpub" else 0
        keys, bodies = [], []
        for _ in range(count):
            self.number += 1
            key = f"{self.prefix}.{self.number}"
            length = self.random.choice((30, 100, 200, 1000, 5000, 30000)) + self.random.randrange(20)
            due = time.monotonic() + delay_ms / 1000 if delay_ms else 0.0
            self.ledger.announce(key, Sent(topic, length, TOPICS[topic], due))
            keys.append(key)
            bodies.append(make_body(key, length))
        if self.manner == "mpub":
            return wire.mpub(topic, bodies), keys
        if self.manner == "dpub":
            return wire.dpub(topic, delay_ms, bodies[0]), keys
        return wire.pub(topic, bodies[0]), keys


class Consumer(threading.Thread):
    """Answers in all manners, or, when draining, finishes everything."""

    def __init__(self, broker: Broker, ledger: Ledger, topic: str, channel: str, seed: int, drain: bool = False) -> None:
        super().__init__(daemon=True)
        self.broker, self.ledger, self.topic, self.channel, self.drain = broker, ledger, topic, channel, drain
        self.random = random.Random(seed)
        self.held = 0

    def run(self) -> None:
        try:
            with self.broker.connect() as connection:
                connection.subscribe(self.topic, self.channel, 100)
                while True:
                    message = connection.message(120.0)
                    key = self.ledger.delivered(self.topic, self.channel, message, time.monotonic())
                    answer = self.answer(key, message.id)
                    if answer:
                        connection.send(answer)
        except (OSError, wire.Closed, wire.Silent):
            return  # the broker was stopped
        except AssertionError as error:
            if not is_refused_at_stop(error):
                self.ledger.violation(f"consumer of {self.topic}:{self.channel}: {error}")

    def answer(self, key: str, message_id: bytes) -> bytes:
        choice = 0.0 if self.drain else self.random.random()
        now = time.monotonic()
        if choice >= 0.93 and self.held < 40:
            self.held += 1
            return b""
        if 0.80 <= choice < 0.86:
            self.ledger.requeueing(self.topic, self.channel, key, now, 0.0)
            return wire.req(message_id, 0)
        if 0.86 <= choice < 0.93:
            delay_ms = self.random.randrange(300, DELAY_MAX_MS)
            self.ledger.requeueing(self.topic, self.channel, key, now, delay_ms / 1000)
            return wire.req(message_id, delay_ms)
        self.ledger.finishing(self.topic, self.channel, key, now)
        return wire.fin(message_id)


class Churn(threading.Thread):
    """Creates and deletes topics; what was acknowledged must hold after the restart."""

    def __init__(self, broker: Broker, present: Set[str], prefix: str) -> None:
        super().__init__(daemon=True)
        self.broker, self.present, self.prefix = broker, present, prefix
        self.in_doubt: Set[str] = set()

    def run(self) -> None:
        try:
            for number in range(40):
                name = f"{self.prefix}-{number}"
                self.change(name, "/topic/create", True)
                if number % 3 == 0:
                    self.change(min(self.present), "/topic/delete", False)
        except (OSError, AssertionError, ValueError, wire.Closed):
            return  # the broker was stopped
        except Exception as error:  # http.client has a family of its own for cut replies
            if type(error).__module__ != "http.client":
                raise

    def change(self, name: str, path: str, exists: bool) -> None:
        self.in_doubt.add(name)
        self.broker.post(f"{path}?topic={name}")
        (self.present.add if exists else self.present.discard)(name)
        self.in_doubt.discard(name)


class Group:
    """Rounds on one data directory."""

    def __init__(self, context: Context, ledger: Ledger, name: str, seed: int, kill: bool) -> None:
        self.context, self.ledger, self.name, self.kill = context, ledger, name, kill
        self.random = random.Random(seed)
        self.base_flags: Tuple[str, ...] = self.random.choice(
            ((), ("--max-bytes-per-file=1048576", "--mem-queue-size=100"), ("--sync-every=10", "--sync-timeout=100ms"))
        )
        if context.ours and self.random.random() < 0.3:
            self.base_flags += ("--sync=always",)
        if context.ours and self.random.random() < 0.5:
            self.base_flags += ("--segment-io=direct",)
        self.broker = context.broker(*self.flags())
        self.churned: Set[str] = set()
        self.in_doubt: Set[str] = set()
        for topic, channels in TOPICS.items():
            self.broker.post(f"/topic/create?topic={topic}")
            for channel in channels:
                if channel != "late":
                    self.broker.post(f"/channel/create?topic={topic}&channel={channel}")
                if channel == "held":
                    self.broker.post(f"/channel/pause?topic={topic}&channel={channel}")

    def flags(self) -> Tuple[str, ...]:
        shards = (f"--shards={self.random.randrange(1, 4)}",) if self.context.ours else ()
        return self.base_flags + shards

    def round(self, number: int) -> None:
        """Traffic, then a stop at a random moment, then a start, which may itself be cut short."""
        seed = self.random.randrange(1 << 30)
        manners = ("sync", "pipelined", "mpub", "dpub")
        threads: List[threading.Thread] = [
            Publisher(self.broker, self.ledger, manner, f"{self.name}.{number}.{manner}", seed + i)
            for i, manner in enumerate(manners)
        ]
        threads += [
            Consumer(self.broker, self.ledger, topic, channel, seed + 10 + i)
            for topic, channels in TOPICS.items()
            for i, channel in enumerate(channels)
            if channel != "late"
        ]
        churn = Churn(self.broker, self.churned, f"churn{number}")
        for thread in [*threads, churn]:
            thread.start()
        # The random moment is the point of the test: there is no condition to wait for.
        time.sleep(self.random.uniform(0.0, TRAFFIC_MAX_S) * self.random.choice((0.2, 1.0)))
        stopped_at = self.stop()
        for thread in [*threads, churn]:
            thread.join(30)
            assert not thread.is_alive(), "a client outlived its broker"
        # Only now: until they end, clients still take what the stopped process had sent them.
        self.ledger.stopped(stopped_at)
        self.in_doubt |= churn.in_doubt
        self.broker.flags = self.flags()
        if self.kill and self.random.random() < 0.2:
            self.broker.launch()
            time.sleep(self.random.uniform(0.0, 0.08))
            self.broker.kill()
            self.ledger.stopped(time.monotonic())
        self.broker.start()
        self.check_catalogue()

    def stop(self) -> float:
        """Stops the broker; the time at which that began."""
        at = time.monotonic()
        if self.kill:
            self.broker.kill()
        else:
            equal(self.broker.terminate(15), 0, "exit status of a clean stop")
        return at

    def check_catalogue(self) -> None:
        topics = {t["topic_name"]: t for t in self.broker.stats()["topics"]}
        for topic, channels in TOPICS.items():
            found = {c["channel_name"]: c["paused"] for c in topics[topic]["channels"]}
            equal(found, {c: c == "held" for c in channels if c != "late"}, f"channels of {topic} and pause flags")
        there = {name for name in topics if name.startswith("churn")}
        lost = sorted(self.churned - there - self.in_doubt)
        risen = sorted(there - self.churned - self.in_doubt)
        assert not lost, f"{len(lost)} topics whose creation was acknowledged are gone, such as {lost[:3]}"
        assert not risen, f"{len(risen)} topics whose deletion was acknowledged are back, such as {risen[:3]}"

    def drain(self) -> None:
        """Takes everything there is, then compares the books."""
        self.broker.post("/channel/unpause?topic=kt0&channel=held")
        self.broker.post("/channel/create?topic=kt3&channel=late")
        for topic, channels in TOPICS.items():
            for channel in channels:
                Consumer(self.broker, self.ledger, topic, channel, 0, drain=True).start()

        def empty() -> bool:
            topics = [t for t in self.broker.stats()["topics"] if t["topic_name"] in TOPICS]
            gauges = ("depth", "in_flight_count", "deferred_count")
            left = sum(c[key] for t in topics for c in t["channels"] for key in gauges)
            return left + sum(t["depth"] for t in topics) == 0

        eventually(empty, "everything drained", DRAIN_PATIENCE_S)
        # A FIN is on record before it is sent, so an empty broker means a complete ledger.
        missing = self.ledger.missing()
        assert not missing, f"{len(missing)} acknowledged messages are lost, such as {missing[:5]}"
        self.ledger.check()
        self.broker.terminate()


def rounds(context: Context, total: int, kill: bool) -> None:
    slack = 2.0 if kill else 0.5
    rng = random.Random(context.settings.seed)
    published = deliveries = low = 0
    for start in range(0, total, ROUNDS_PER_GROUP):
        ledger = Ledger(slack, deferrals_survive=context.ours, strict_attempts=not kill)
        group = Group(context, ledger, f"g{start}", rng.randrange(1 << 30), kill)
        for number in range(min(ROUNDS_PER_GROUP, total - start)):
            group.round(number)
            ledger.check()
        group.drain()
        published += sum(sent.acknowledged for sent in ledger.sent.values())
        deliveries, low = deliveries + ledger.deliveries, low + ledger.low_attempts
        context.finish()  # the group's data
        context.check_logs()
        context.own.clear()
    assert published > total, f"only {published} messages were acknowledged: the test did not test"
    context.note(f"{total} rounds, {published} messages acknowledged, {deliveries} deliveries, seed {context.settings.seed}")
    if kill:
        context.note(f"redelivered with attempts that should have been higher: {low}")


@case("kill", ours_only=True)
def nothing_acknowledged_is_lost(context: Context) -> None:
    """SIGKILL."""
    rounds(context, min(ROUNDS, 10) if context.settings.quick else ROUNDS, kill=True)


@case("kill", ours_only=True)
def what_was_on_its_way_to_the_device_is_not_lost(context: Context) -> None:
    """Batches around the page cache are answered before the device has them: the next start writes them."""
    rng = random.Random(context.settings.seed)
    broker = context.broker("--segment-io=direct", "--shards=1")
    broker.post("/topic/create?topic=t")
    broker.post("/channel/create?topic=t&channel=c")
    batch = 200
    data = [f"{n:06}".encode() * 60 for n in range(batch)]
    expected: list[bytes] = []
    redone = 0
    for _ in range(8):
        wanted = rng.randrange(20, 200)
        acknowledged = 0
        with broker.connect() as connection:
            command = wire.mpub("t", data)
            connection.send(command * 8)
            while acknowledged < wanted:
                connection.ok()
                acknowledged += 1
                connection.send(command)
            broker.kill()
            # What it had answered before it died counts as well.
            try:
                while True:
                    connection.ok()
                    acknowledged += 1
            except (OSError, wire.Closed, wire.Silent):
                pass
        before = len(broker.log_text())
        broker.start()
        redone += "DISK: redid" in broker.log_text(before)
        kept = broker.depth("t", "c") - len(expected)
        assert kept >= acknowledged * batch, f"{acknowledged * batch - kept} acknowledged messages are lost"
        # Those after the last answer may be there or not, of the last MPUB a part.
        expected += (data[number % batch] for number in range(kept))
    assert redone, "no start found anything to write: the test did not test"
    with broker.connect() as connection:
        connection.subscribe("t", "c", ready=2500)
        for number, body in enumerate(expected):
            message = connection.message()
            equal(message.body, body, f"message {number}")
            connection.finish(message)
    eventually(lambda: broker.depth("t", "c") == 0, "everything taken")
    context.note(f"{len(expected)} messages, {redone} of 8 starts had some to write")


@case("kill")
def clean_stops_lose_nothing(context: Context) -> None:
    """SIGTERM: exit status 0 in time, everything kept, with us also the times of deferrals."""
    rounds(context, 5 if context.settings.quick else 10, kill=False)
