"""End-to-end latency: `--e2e-processing-latency-*` and what `/stats` makes of it."""

from __future__ import annotations

import re
import time
from typing import List

from harness import Broker, Context, case, equal, eventually

PERCENTILES = "--e2e-processing-latency-percentile=0.5,1.0,0.99"
HELD_S = 0.2


def figures(entry: dict) -> List[float]:
    """The values in nanoseconds, in the order of output; the quantiles are checked."""
    percentiles = entry["e2e_processing_latency"]["percentiles"]
    equal([list(p) for p in percentiles], [["quantile", "value"]] * 3, "keys of a percentile")
    equal([p["quantile"] for p in percentiles], [1.0, 0.99, 0.5], "quantiles, descending")
    return [p["value"] for p in percentiles]


def finish_late(broker: Broker) -> None:
    """A message that is finished some time after its publish, and one that stays in flight."""
    with broker.connect() as consumer, broker.connect() as producer:
        consumer.subscribe("t", "a", 2)
        producer.publish("t", b"x", b"y")
        first, _ = consumer.messages(2)
        held_since = time.time()
        eventually(lambda: time.time() > held_since + HELD_S, "the message is held for a while")
        consumer.finish(first)
        eventually(lambda: broker.channel("t", "a")["in_flight_count"] == 1, "one finished")


@case("latency")
def percentiles_of_channels_and_topics(context: Context) -> None:
    broker = context.broker(PERCENTILES)
    broker.post("/topic/create?topic=t")
    equal(broker.topic("t")["e2e_processing_latency"], {"count": 0, "percentiles": None}, "without a channel")
    broker.post("/channel/create?topic=t&channel=a")
    broker.post("/channel/create?topic=t&channel=idle")
    equal(figures(broker.channel("t", "a")), [0, 0, 0], "without samples")
    finish_late(broker)
    for entry in (broker.channel("t", "a"), broker.topic("t")):
        equal(entry["e2e_processing_latency"]["count"], 1, "samples")
        for value in figures(entry):
            assert HELD_S * 0.98e9 < value < 60e9, f"{value} ns"
    equal(figures(broker.channel("t", "idle")), [0, 0, 0], "of a channel without FIN")
    text = broker.http("GET", "/stats").body.decode()
    lines = re.findall(r"e2e%: (.*)", text)
    equal(len(lines), 3, f"lines with figures in {text}")
    for line in lines[:2]:
        assert re.fullmatch(r"\d+\.\d(ms|s), \d+\.\d(ms|s), \d+\.\d(ms|s)", line), line
    equal(lines[2], "0.0ns, 0.0ns, 0.0ns", "the idle channel")


@case("latency")
def without_percentiles_nothing_is_shown(context: Context) -> None:
    broker = context.broker()
    finish_late(broker)
    for entry in (broker.channel("t", "a"), broker.topic("t")):
        equal(entry["e2e_processing_latency"], {"count": 0, "percentiles": None}, "not configured")
    assert all(not line for line in re.findall(r"e2e%: (.*)", broker.http("GET", "/stats").body.decode()))


@case("latency", ours_only=True)
def latency_counts_from_the_publish_also_over_a_restart(context: Context) -> None:
    broker = context.broker(PERCENTILES)
    broker.post("/topic/create?topic=t")
    broker.post("/channel/create?topic=t&channel=a")
    published = time.time()
    broker.post("/pub?topic=t", b"x")
    broker.terminate()
    broker.start()
    with broker.connect() as consumer:
        consumer.subscribe("t", "a", 1)
        message = consumer.message()
        eventually(lambda: time.time() > published + HELD_S, "some time has passed")
        consumer.finish(message)
        eventually(lambda: broker.channel("t", "a")["e2e_processing_latency"]["count"] == 1, "one sample")
    slowest = figures(broker.channel("t", "a"))[0]
    assert HELD_S * 0.98e9 < slowest < 60e9, f"{slowest} ns"


@case("latency")
def samples_leave_with_the_window(context: Context) -> None:
    broker = context.broker(PERCENTILES, "--e2e-processing-latency-window-time=1s")
    finish_late(broker)

    def count() -> int:
        return broker.channel("t", "a")["e2e_processing_latency"]["count"]

    eventually(lambda: count() == 0, "the sample has left")
    equal(figures(broker.channel("t", "a")), [0, 0, 0], "without samples")
