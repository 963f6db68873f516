"""Numbers pushed to statsd: names, kinds and order as the reference's; counters as differences."""

from __future__ import annotations

import re
import socket
import time
from typing import Dict, List, Tuple

from harness import Broker, Context, case, equal, eventually
from wire import fin, pub

LINE = re.compile(rb"[!-~]+:\d+\|[cg]\n")


class Sink:
    """A UDP socket that takes what is pushed."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.datagrams: List[Tuple[float, bytes]] = []

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def push(self, patience: float = 6.0) -> List[str]:
        """The lines of the next push: up to its last one, which ends the memory block."""
        self.socket.settimeout(patience)
        lines: List[str] = []
        self.datagrams.clear()
        while not lines or not re.search(r"mem\.gc_runs:\d+\|c$", lines[-1]):
            datagram = self.socket.recv(65536)
            self.datagrams.append((time.monotonic(), datagram))
            assert datagram.endswith(b"\n") and b"".join(LINE.findall(datagram)) == datagram, datagram
            lines += datagram.decode().splitlines()
        return lines


def flags(sink: Sink, *more: str) -> Tuple[str, ...]:
    return (f"--statsd-address={sink.address}", "--statsd-interval=1100ms", *more)


def values(lines: List[str], prefix: str) -> Dict[str, str]:
    assert all(line.startswith(prefix) for line in lines), lines
    return dict(line[len(prefix) :].split(":") for line in lines)


def use(broker: Broker) -> None:
    """Two topics, one with a consumer that has finished a message and requeued another."""
    broker.post("/topic/create?topic=idle")
    broker.post("/channel/create?topic=idle&channel=x")
    with broker.connect() as consumer:
        consumer.send(b"SUB busy.er c\nRDY 2\n" + pub("busy.er", b"one") + pub("busy.er", b"three"))
        frames = [consumer.frame() for _ in range(5)]
        messages = [frame.data[10:26] for frame in frames if frame.kind == 2]
        consumer.send(fin(messages[0]) + b"REQ " + messages[1] + b" 60000\n")
        eventually(lambda: broker.channel("busy.er", "c")["requeue_count"] == 1, "one requeued")


@case("statsd")
def lines_are_those_of_the_reference(context: Context) -> None:
    with Sink() as sink:
        broker = context.broker(*flags(sink))
        use(broker)
        prefix = f"nsq.127_0_0_1_{broker.http_port}."
        # A push may have begun before all was done.
        seen: Dict[str, str] = {}
        for _ in range(4):
            lines = sink.push()
            found = values(lines, prefix)
            for name, value in found.items():
                number, kind = value.split("|")
                before = int(seen.get(name, "0|c").split("|")[0])
                seen[name] = f"{int(number) + (before if kind == 'c' else 0)}|{kind}"
            if seen.get("topic.busy.er.channel.c.requeue_count") == "1|c":
                break
        expected = {
            "topic.busy.er.message_count": "2|c",
            "topic.busy.er.message_bytes": "8|c",
            "topic.busy.er.depth": "0|g",
            "topic.busy.er.backend_depth": "0|g",
            "topic.busy.er.channel.c.message_count": "2|c",
            "topic.busy.er.channel.c.depth": "0|g",
            "topic.busy.er.channel.c.backend_depth": "0|g",
            "topic.busy.er.channel.c.in_flight_count": "0|g",
            "topic.busy.er.channel.c.deferred_count": "1|g",
            "topic.busy.er.channel.c.requeue_count": "1|c",
            "topic.busy.er.channel.c.timeout_count": "0|c",
            "topic.idle.message_count": "0|c",
        }
        for name, value in expected.items():
            equal(seen.get(name), value, name)
        again = values(sink.push(), prefix)
        equal(again["topic.busy.er.message_count"], "0|c", "a counter when nothing came")
        equal(again["topic.busy.er.channel.c.deferred_count"], "1|g", "a gauge when nothing came")
        assert f"INFO: STATSD: pushing stats to {sink.address}" in broker.log_text()


def shape(context: Context, broker: Broker, sink: Sink) -> List[str]:
    use(broker)
    prefix = f"nsq.127_0_0_1_{broker.http_port}."
    for _ in range(5):
        names = [re.sub(r":\d+", "", line[len(prefix) :]) for line in sink.push()]
        if "topic.busy.er.channel.c.clients|g" in names and "topic.idle.channel.x.clients|g" in names:
            return names
    raise AssertionError(f"not all names were pushed: {names}")


@case("statsd", needs=("reference",))
def names_and_order_equal_the_references(context: Context) -> None:
    measured = "--e2e-processing-latency-percentile=0.5,1.0,0.99"
    with Sink() as ours, Sink() as theirs:
        mine = shape(context, context.broker(*flags(ours, measured)), ours)
        reference = shape(context, context.broker(*flags(theirs, measured), binary=context.settings.reference), theirs)
        equal(mine, reference, "names, kinds and order")
        assert "topic.busy.er.channel.c.e2e_processing_latency_99|g" in mine, mine


@case("statsd", ours_only=True)
def percentiles_have_names_of_their_own(context: Context) -> None:
    with Sink() as sink:
        broker = context.broker(*flags(sink, "--statsd-prefix=", "--e2e-processing-latency-percentile=0.999,1.0"))
        use(broker)
        # A push may have begun before all was done.
        for _ in range(3):
            found = values(sink.push(), "")
            if found.get("topic.busy.er.channel.c.requeue_count") == "1|c":
                break
        for of in ("topic.busy.er", "topic.busy.er.channel.c"):
            nearly, longest = (int(found[f"{of}.e2e_processing_latency_{name}"].split("|")[0]) for name in ("99_9", "100"))
            assert 0 < nearly <= longest, found


@case("statsd")
def datagrams_hold_whole_lines_and_are_spread(context: Context) -> None:
    with Sink() as sink:
        broker = context.broker(
            f"--statsd-address={sink.address}", "--statsd-interval=2s", "--statsd-udp-packet-size=100", "--statsd-prefix=p"
        )
        use(broker)
        lines = sink.push()
        assert all(line.startswith("p.") for line in lines), lines
        times = [at for at, _ in sink.datagrams]
        sizes = [len(datagram) for _, datagram in sink.datagrams]
        assert len(sizes) >= 5 and max(sizes) <= 100, sizes
        assert times[-1] - times[0] > 0.5, "they came all at once"
        first, second = (datagram for _, datagram in sink.datagrams[:2])
        assert len(first) + len(second.splitlines(keepends=True)[0]) > 100, "a line that had fitted was put off"
        # The rest goes out when the broker stops.
        sink.socket.recv(65536)
        began = time.monotonic()
        equal(broker.terminate(), 0, "exit status")
        assert sink.push(1.0) and time.monotonic() - began < 5, "the rest of the push"


@case("statsd")
def what_can_be_left_out(context: Context) -> None:
    with Sink() as sink:
        left_out = ("--statsd-exclude-ephemeral", "--statsd-prefix=", "--statsd-mem-stats=false")
        broker = context.broker(*flags(sink, *left_out))
        with broker.connect() as consumer:
            consumer.send(b"SUB lasting c#ephemeral\n" + pub("fleeting#ephemeral", b"m") + pub("lasting", b"m"))
            equal([consumer.frame().data for _ in range(3)], [b"OK"] * 3, "answers")
            sink.socket.settimeout(6)
            lines = sink.socket.recv(65536).decode().splitlines()
            names = [line.split(":")[0] for line in lines]
            expected = ["message_count", "message_bytes", "depth", "backend_depth"]
            equal(names, [f"topic.lasting.{name}" for name in expected], "names")


@case("statsd", ours_only=True)
def a_topic_made_again_begins_anew(context: Context) -> None:
    with Sink() as sink:
        broker = context.broker(*flags(sink, "--statsd-prefix="))
        for _ in range(5):
            broker.post("/pub?topic=t", b"m")
        total = 0
        while total < 5:
            total += int(values(sink.push(), "").get("topic.t.message_count", "0|c").split("|")[0])
        broker.post("/topic/delete?topic=t")
        broker.post("/pub?topic=t", b"m")
        counts = []
        while sum(counts) < 1:
            counts.append(int(values(sink.push(), "").get("topic.t.message_count", "0|c").split("|")[0]))
        equal(counts[-1], 1, "message_count of the new topic")


@case("statsd", ours_only=True)
def nobody_listening_harms_nothing(context: Context) -> None:
    with Sink() as sink:
        address = sink.address
    broker = context.broker(f"--statsd-address={address}", "--statsd-interval=1100ms")
    eventually(lambda: broker.log_text().count("STATSD: pushing stats") >= 2, "two pushes")
    lost = context.broker("--statsd-address=nowhere.invalid:8125", "--statsd-interval=1100ms")
    text = "ERROR: failed to create UDP socket to statsd(nowhere.invalid:8125)"
    eventually(lambda: text in lost.log_text(), "the error")
    for one in (broker, lost):
        equal(one.post("/pub?topic=t", b"m").body, b"OK", "answer")
        equal(one.terminate(), 0, "exit status")
