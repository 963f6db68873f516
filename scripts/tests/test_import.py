"""Messages that the Go nsqd left in its disk queues: each channel gets what it was owed, as it was.

The first cases write such a directory themselves, from the format alone; the last ones have the reference make it.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Dict, Iterable, List, Set, Tuple

import wire
from harness import Broker, Context, Skip, case, equal, eventually

# Timestamp in ns, deliveries so far, body.
Stored = Tuple[int, int, bytes]
START_NS = 1_795_220_909_000_000_000


def stored(number: int, attempts: int = 0) -> Stored:
    return (START_NS + number, attempts, b"%d\x00\n\xff" % number * 3)


def encode(message: Stored) -> bytes:
    timestamp, attempts, body = message
    identity = b"%016x" % timestamp
    return wire.sized(struct.pack(">QH", timestamp, attempts) + identity + body)


def write_queue(data: Path, name: str, files: List[bytes], read: Tuple[int, int] = (0, 0)) -> None:
    for number, content in enumerate(files):
        (data / f"{name}.diskqueue.{number:06d}.dat").write_bytes(content)
    meta = f"{sum(map(len, files))}\n{read[0]},{read[1]}\n{len(files) - 1},{len(files[-1])}\n"
    (data / f"{name}.diskqueue.meta.dat").write_text(meta)


def write_topics(data: Path, topics: Dict[str, Iterable[str]]) -> None:
    entries = [
        {"name": topic, "paused": False, "channels": [{"name": name, "paused": False} for name in channels] or None}
        for topic, channels in topics.items()
    ]
    (data / "nsqd.dat").write_text(json.dumps({"topics": entries, "version": "1.3.0"}))


def on_go_directory(context: Context, *flags: str) -> Broker:
    """A broker that was started once and ended, so that its data path can be filled."""
    broker = context.broker(*flags)
    broker.terminate()
    for path in broker.data.glob("nsqd.*"):
        path.unlink()
    return broker


def drain(broker: Broker, topic: str, channel: str, count: int) -> List[Tuple[int, int, bytes]]:
    """Takes and finishes so many messages, which must be all."""
    with broker.connect() as consumer:
        consumer.subscribe(topic, channel, 100)
        got = []
        for _ in range(count):
            message = consumer.message()
            consumer.finish(message)
            got.append((message.timestamp_ns, message.attempts, message.body))
        eventually(lambda: (broker.channel(topic, channel) or {}).get("in_flight_count") == 0, "everything finished")
    equal(broker.depth(topic, channel), 0, f"what {topic}:{channel} owes afterwards")
    return sorted(got)


def delivered(messages: Iterable[Stored]) -> List[Stored]:
    return sorted((timestamp, attempts + 1, body) for timestamp, attempts, body in messages)


def aside(broker: Broker) -> Set[str]:
    return {path.name for folder in broker.data.glob("imported-*") for path in folder.iterdir()}


@case("import", ours_only=True)
def each_channel_gets_what_it_was_owed(context: Context) -> None:
    """Two channels, one behind the other, a topic's own queue, several files; kept over kills."""
    broker = on_go_directory(context)
    data = broker.data
    behind = [stored(number) for number in range(40)] + [stored(100, attempts=3)]
    ahead = [stored(number) for number in range(30, 40)]
    own = [stored(number) for number in range(200, 205)]
    encoded = [encode(message) for message in behind]
    write_topics(data, {"up": ["behind", "ahead", "idle"], "lone": []})
    write_queue(data, "up:behind", [b"".join(encoded[:3]), b"".join(encoded[3:20]), b"".join(encoded[20:])])
    write_queue(data, "up:ahead", [encode(stored(7)) + b"".join(map(encode, ahead))], (0, len(encode(stored(7)))))
    write_queue(data, "up", [b"".join(map(encode, own))])
    write_queue(data, "lone", [encode(stored(1))])
    queues = {path.name for path in data.glob("*.diskqueue.*")}
    broker.start()
    broker.kill()
    broker.start()
    equal(set(data.glob("*.diskqueue.*")), set(), "queues left in the data path")
    equal(aside(broker), queues, "files set aside")
    equal(broker.depth("up", "behind"), 46, "depth of the channel that is behind")
    equal(drain(broker, "up", "ahead", 15), delivered(ahead + own), "the channel that is ahead")
    equal(drain(broker, "up", "behind", 46), delivered(behind + own), "the channel that is behind")
    equal(drain(broker, "up", "idle", 5), delivered(own), "the channel without a queue")
    equal(drain(broker, "lone", "first", 1), delivered([stored(1)]), "the first channel of a topic without any")
    log = broker.log_text()
    assert "INFO: TOPIC(up): CHANNEL(behind): imported 41 messages" in log, log
    broker.terminate()
    broker.start()
    equal([broker.depth("up", name) for name in ("ahead", "behind", "idle")], [0, 0, 0], "nothing comes again")


@case("import", ours_only=True)
def damage_costs_only_what_it_touches(context: Context) -> None:
    """A torn record and one with a wild length: the rest of their files is reported and kept, nothing else is lost."""
    broker = on_go_directory(context)
    write_topics(broker.data, {"torn": ["c"], "wild": ["c"]})
    first, second, third = (encode(stored(number)) for number in range(3))
    write_queue(broker.data, "torn:c", [first + second[:-2], third])
    write_queue(broker.data, "wild:c", [first + b"\x7f" + second[1:], third])
    broker.start()
    for topic, error in (("torn", "unexpected EOF"), ("wild", "invalid message read size")):
        equal(drain(broker, topic, "c", 2), delivered([stored(0), stored(2)]), topic)
        line = f"ERROR: DISKQUEUE({topic}:c) reading at {len(first)} of"
        assert any(line in text and error in text for text in broker.log_text().splitlines()), broker.log_text()
        assert f"{topic}:c.diskqueue.000000.dat" in aside(broker), "the damaged file is kept"


@case("import", ours_only=True)
def strangers_are_set_aside(context: Context) -> None:
    """Queues of names that nsqd.dat does not have reach no topic that is made later."""
    broker = on_go_directory(context)
    write_topics(broker.data, {"known": ["c"]})
    write_queue(broker.data, "stale", [encode(stored(1))])
    write_queue(broker.data, "known:gone", [encode(stored(1))])
    broker.start()
    equal(len(aside(broker)), 4, "files set aside")
    broker.post("/channel/create?topic=known&channel=gone")
    broker.post("/topic/create?topic=stale")
    broker.post("/channel/create?topic=stale&channel=c")
    broker.terminate()
    broker.start()
    equal((broker.depth("known", "gone"), broker.depth("stale", "c")), (0, 0), "messages of another life")


def reference_broker(context: Context) -> Broker:
    if context.settings.reference is None:
        raise Skip("reference nsqd not available: its directories were not imported")
    flags = ("--mem-queue-size=0", "--max-bytes-per-file=2048", "--sync-every=1", "--msg-timeout=60s")
    return context.broker(*flags, binary=context.settings.reference)


def requeue_some(broker: Broker, topic: str, channel: str, take: int) -> List[Stored]:
    """Finishes every other message of `take`, requeues the rest; what was finished."""
    finished = []
    with broker.connect() as consumer:
        consumer.subscribe(topic, channel, 1)
        for number in range(take):
            message = consumer.message()
            if number == take - 1:
                consumer.ready(0)
            if number % 2:
                consumer.send(wire.req(message.id, 0))
            else:
                consumer.finish(message)
                finished.append((message.timestamp_ns, message.attempts, message.body))
        eventually(lambda: (broker.channel(topic, channel) or {})["in_flight_count"] == 0, "everything answered")
    return finished


def upgrade(context: Context, stop: str) -> None:
    broker = reference_broker(context)
    bodies = [os.urandom(1 + number * 7 % 500) for number in range(120)]
    for topic in ("one", "two"):
        broker.post(f"/topic/create?topic={topic}")
        for channel in ("a", "b"):
            broker.post(f"/channel/create?topic={topic}&channel={channel}")
        with broker.connect() as producer:
            producer.publish(topic, *bodies[:100])
        eventually(lambda: broker.depth(topic, "a") == broker.depth(topic, "b") == 100, "messages with the channels")
        broker.post(f"/topic/pause?topic={topic}")
        with broker.connect() as producer:
            producer.publish(topic, *bodies[100:])
        eventually(lambda: (broker.topic(topic) or {})["depth"] == 20, "messages with the topic")
    finished = {body for _, _, body in requeue_some(broker, "one", "a", 50)}
    left = broker.depth("one", "a")
    if stop == "kill":
        broker.kill()
    else:
        equal(broker.terminate(), 0, "exit status of the reference")
    broker.binary = context.settings.binary
    broker.start()
    equal([broker.depth("one", "a"), broker.depth("two", "b")], [left, 100], "depths before the pause ends")
    for topic in ("one", "two"):
        broker.post(f"/topic/unpause?topic={topic}")
    got = {(t, c): drain(broker, t, c, 120 - len(finished if (t, c) == ("one", "a") else ())) for t in ("one", "two") for c in "ab"}
    for (topic, channel), messages in got.items():
        expected = [body for body in bodies if (topic, channel) != ("one", "a") or body not in finished]
        equal(sorted(body for _, _, body in messages), sorted(expected), f"bodies of {topic}:{channel}")
    again = [attempts for _, attempts, _ in got["one", "a"] if attempts > 1]
    equal(again, [2] * 25, "attempts of what came back")
    assert set(got["one", "b"]) >= {m for m in got["one", "a"] if m[1] == 1}, "timestamps are kept"


@case("import", ours_only=True, needs=("reference",))
def takes_over_from_the_reference_after_a_clean_stop(context: Context) -> None:
    """Everything that the reference owed is delivered after the change of programs, once per channel."""
    upgrade(context, "stop")


@case("import", ours_only=True, needs=("reference",))
def takes_over_from_the_reference_after_a_kill(context: Context) -> None:
    """The same after kill -9, with every write synced."""
    upgrade(context, "kill")


@case("import", ours_only=True, needs=("reference",))
def what_was_in_memory_and_in_flight_comes_over(context: Context) -> None:
    """A clean stop of the reference flushes memory, messages in flight and deferred ones: none is missing."""
    broker = reference_broker(context)
    broker.terminate()
    broker.flags = ("--msg-timeout=60s",)
    broker.start()
    broker.post("/topic/create?topic=mem")
    broker.post("/channel/create?topic=mem&channel=c")
    with broker.connect() as producer, broker.connect() as consumer:
        producer.publish("mem", *(b"m%d" % number for number in range(30)))
        producer.send(wire.dpub("mem", 60_000, b"later"))
        producer.ok()
        consumer.subscribe("mem", "c", 10)
        consumer.messages(10)
        equal(broker.terminate(), 0, "exit status of the reference")
    broker.binary = context.settings.binary
    broker.start()
    got = drain(broker, "mem", "c", 31)
    equal(sorted(body for _, _, body in got), sorted([b"later", *(b"m%d" % n for n in range(30))]), "bodies")
    equal(sorted(attempts for _, attempts, _ in got), [1] * 21 + [2] * 10, "attempts")
