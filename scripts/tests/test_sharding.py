"""Many topics over two shards: connections and topics mixed arbitrarily, all progress, and the numbers add up."""

from __future__ import annotations

import random
import threading
import time
from typing import Dict, List

from harness import Broker, Context, case, equal, eventually
from wire import Connection, Message, Silent, mpub, pub, req

TOPICS = 20
PER_TOPIC = 400
PATIENCE_S = 60.0


class Worker(threading.Thread):
    """A thread whose failure is the case's failure."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as failure:  # handed to the case by `finish`
            self.failure = failure

    def work(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        self.join(PATIENCE_S)
        assert not self.is_alive(), "a client did not end in time"
        if self.failure is not None:
            raise self.failure


class Producer(Worker):
    """Sends its share to the topics given, one after another or at random."""

    def __init__(self, broker: Broker, topics: List[str], each: int, seed: int) -> None:
        super().__init__()
        self.broker, self.topics, self.each, self.random = broker, topics, each, random.Random(seed)

    def work(self) -> None:
        plan = [topic for topic in self.topics for _ in range(self.each)]
        self.random.shuffle(plan)
        with self.broker.connect() as connection:
            while plan:
                burst = [plan.pop() for _ in range(min(len(plan), self.random.randrange(1, 40)))]
                body = b"b" * self.random.randrange(1, 400)
                commands = [self.random.choice((pub(t, body), mpub(t, [body]))) for t in burst]
                connection.send(b"".join(commands))
                for _ in burst:
                    connection.ok()


class Consumer(Worker):
    """Finishes most, requeues some at once and some with a delay; keeps the last few in flight."""

    def __init__(self, broker: Broker, topic: str, channel: str, stop: threading.Event, seed: int) -> None:
        super().__init__()
        self.broker, self.topic, self.channel, self.stop = broker, topic, channel, stop
        self.random = random.Random(seed)
        self.finished = self.delivered = 0
        self.held: List[Message] = []

    def work(self) -> None:
        with self.broker.connect() as connection:
            connection.subscribe(self.topic, self.channel, 50)
            while not self.stop.is_set():
                try:
                    message = connection.message(0.05)
                except Silent:
                    continue
                self.delivered += 1
                self.answer(connection, message)
            connection.send(b"CLS\n")
            self.wait_until_closed(connection)
            # Everything sent before has been taken in once this is answered.
            connection.alive()

    def wait_until_closed(self, connection: Connection) -> None:
        """What was under way when we stopped stays in flight, unanswered."""
        equal(connection.response(), b"CLOSE_WAIT", "answer to CLS")
        self.delivered += len(connection.early)
        connection.early.clear()

    def answer(self, connection: Connection, message: Message) -> None:
        choice = self.random.random()
        if message.attempts == 1 and choice < 0.05:
            connection.send(req(message.id, 0))
        elif message.attempts == 1 and choice < 0.1:
            connection.send(req(message.id, 300_000))
        elif len(self.held) < 3 and choice < 0.15:
            self.held.append(message)
        else:
            connection.finish(message)
            self.finished += 1


def run(context: Context, flags: List[str]) -> None:
    broker = context.broker(*flags)
    seed = context.settings.seed
    topics = [f"shard{i}" for i in range(TOPICS)]
    channels = {topic: ["a", "b"] if number % 3 else ["a"] for number, topic in enumerate(topics)}
    for topic in topics:
        broker.post(f"/topic/create?topic={topic}")
        for channel in channels[topic]:
            broker.post(f"/channel/create?topic={topic}&channel={channel}")
    stop = threading.Event()
    consumers = [
        Consumer(broker, topic, channel, stop, seed + number)
        for number, topic in enumerate(topics)
        for channel in channels[topic]
        for _ in range(2)
    ]
    shares = [topics, topics[:7], topics[7:], topics[::2], topics[1::2]]  # the first spreads over all
    producers = [Producer(broker, share, PER_TOPIC // 4, seed + 1000 + n) for n, share in enumerate(shares)]
    workers: List[Worker] = [*consumers, *producers]
    for worker in workers:
        worker.start()
    for producer in producers:
        producer.finish()
    sent = {topic: sum(p.topics.count(topic) * p.each for p in producers) for topic in topics}
    eventually(lambda: settled(broker), "every channel has handed out what it has", PATIENCE_S)
    stop.set()
    for consumer in consumers:
        consumer.finish()
    check_sums(broker, consumers, sent)


def settled(broker: Broker) -> bool:
    channels = [c for t in broker.stats()["topics"] for c in t["channels"] if t["topic_name"].startswith("shard")]
    return all(c["depth"] == 0 for c in channels)


def check_sums(broker: Broker, consumers: List[Consumer], sent: Dict[str, int]) -> None:
    """message_count = finished by the clients + depth + in flight + deferred, for every channel."""
    for topic, count in sent.items():
        entry = broker.topic(topic)
        equal(entry["message_count"], count, f"message_count of {topic}")
        for channel in entry["channels"]:
            name = f"{topic}:{channel['channel_name']}"
            own = [c for c in consumers if (c.topic, c.channel) == (topic, channel["channel_name"])]
            finished = sum(c.finished for c in own)
            left = channel["depth"] + channel["in_flight_count"] + channel["deferred_count"]
            equal(finished + left, count, f"finished + depth + in flight + deferred of {name}")
            equal(channel["message_count"], count, f"message_count of {name}")
            assert all(c.delivered > 0 for c in own), f"a consumer of {name} got nothing"


@case("sharding")
def twenty_topics(context: Context) -> None:
    run(context, ["--shards=2"] if context.ours else [])


@case("sharding")
def one_shard(context: Context) -> None:
    run(context, ["--shards=1"] if context.ours else [])


@case("sharding", ours_only=True)
def number_of_shards_may_change(context: Context) -> None:
    """What was stored by three shards is found by one and by two."""
    broker = context.broker("--shards=3")
    topics = [f"re{i}" for i in range(12)]
    with broker.connect() as p:
        for topic in topics:
            broker.post(f"/topic/create?topic={topic}")
            broker.post(f"/channel/create?topic={topic}&channel=ch")
            p.publish(topic, *[b"%d" % i for i in range(20)])
    for shards in (1, 2, 3):
        equal(broker.terminate(), 0, "exit status")
        broker.flags = (f"--shards={shards}",)
        broker.start()
        for topic in topics:
            equal(broker.depth(topic, "ch"), 20, f"depth of {topic} with {shards} shards")
    with broker.connect() as c:
        c.subscribe("re5", "ch", 100)
        equal({m.body for m in c.messages(20)}, {b"%d" % i for i in range(20)}, "bodies")


@case("sharding")
def connection_follows_its_traffic(context: Context) -> None:
    """One connection publishes to topic after topic, synchronously and pipelined; replies stay in order."""
    broker = context.broker(*(["--shards=2"] if context.ours else []))
    began = time.monotonic()
    with broker.connect() as p:
        for round_number in range(30):
            topic = f"follow{round_number % 10}"
            for _ in range(10):
                p.publish(topic, b"x")
            others = [f"follow{i}" for i in range(10)] * 5
            p.send(b"".join(pub(name, b"y") for name in others))
            for _ in others:
                p.ok()
    counts = {t["topic_name"]: t["message_count"] for t in broker.stats()["topics"]}
    equal(counts, {f"follow{i}": 180 for i in range(10)}, "message counts")
    assert time.monotonic() - began < 30, "slow"
