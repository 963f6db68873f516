"""nsq_to_file: names, rotation, signals, what is on disk when; kills; a cluster whose parts come and go."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import zlib
from itertools import cycle, islice
from pathlib import Path
from typing import Dict, Iterator, List

from harness import Broker, Context, case, equal, eventually
from lookupd import Lookupd, launch
from ports import kept_ports, silent_port
from utility import Running, create, finished, http, programs, publish, run, tcp
from wire import MAGIC, mpub

KILL_ROUNDS, KILL_ROUNDS_QUICK = 30, 5
KILL_MESSAGES = int(os.environ.get("RINGQ_FILE_KILL_MESSAGES", "1000000"))
NUMBER_WIDTH = 12


def unpacked(data: bytes) -> bytes:
    """What can be read of a row of gzip members, of which the last may be cut."""
    out = bytearray()
    while data:
        reader = zlib.decompressobj(wbits=31)
        try:
            out += reader.decompress(data)
        except zlib.error:
            break
        data = reader.unused_data
    return bytes(out)


def contents(folder: Path) -> Dict[str, bytes]:
    """Files below a folder by name, unpacked."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[path.relative_to(folder).as_posix()] = unpacked(data) if path.suffix == ".gz" else data
    return found


def writer(context: Context, program: Path, broker: Broker, folder: Path, *flags: str) -> Running:
    return Running(program, folder, f"-nsqd-tcp-address={tcp(broker)}", "-topic=t", "-output-dir=out", *flags)


@case("tools", needs=("reference",))
def files_are_those_of_the_reference(context: Context) -> None:
    rows = (
        ["-datetime-format=%Y"],
        ["-datetime-format=%Y-%%_%j_%Z%z", "-gzip"],
        ["-datetime-format=%y", "-rotate-size=10"],
        ["-datetime-format=%b_%B_%a_%A_%p", "-rotate-interval=1h"],
        ["-datetime-format=%Y", "-work-dir=work", "-gzip", "-rotate-size=10", "-gzip-level=1"],
        ["-filename-format=<TOPIC>/<HOST>-<TOPIC>.<BOGUS><REV>", "-host-identifier=<SHORT_HOST>_<HOSTNAME>_x"],
        ["-filename-format=a.gz<REV>.gz", "-gzip", "-skip-empty-files"],
    )
    bodies = [b"%04d" % n for n in range(7)]
    for number, flags in enumerate(rows):
        found = []
        for program in programs(context, "nsq_to_file"):
            broker = context.shared_broker()
            broker.http("POST", "/topic/delete?topic=t")
            create(broker, "t", "nsq_to_file")
            publish(broker, "t", *bodies)
            folder = context.folder()
            with writer(context, program, broker, folder, *flags) as tool:
                # Nothing is finished before a sync: the stop brings one.
                eventually(lambda: (broker.channel("t", "nsq_to_file") or {})["depth"] == 0, "all taken")
                eventually(lambda: sum(len(data) for data in raw(folder).values()) > 0, "a file")
                equal(tool.stop(), 0, f"exit status of {program}:\n{tool.stderr()}")
            eventually(lambda: finished(broker, "t", "nsq_to_file"), f"all finished: {broker.channel('t', 'nsq_to_file')}")
            found.append({"out": contents(folder / "out"), "work": contents(folder / "work")})
        equal(found[0], found[1], f"files with {flags}")
        equal(b"".join(found[0]["out"].values()), b"".join(body + b"\n" for body in bodies), f"row {number}")


def raw(folder: Path) -> Dict[str, bytes]:
    found = {}
    for name in ("out", "work"):
        for path in (folder / name).rglob("*"):
            if path.is_file():
                found[str(path)] = path.name.encode()
    return found


@case("tools")
def messages_are_finished_when_they_are_synced(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "nsq_to_file")
    folder = context.folder()
    program = context.settings.program("nsq_to_file")
    with writer(context, program, broker, folder, "-filename-format=f") as tool:
        # A new file is synced with its first message.
        publish(broker, "t", b"first")
        eventually(lambda: finished(broker, "t", "nsq_to_file"), "the first message")
        publish(broker, "t", *[b"x"] * 10)
        eventually(lambda: contents(folder / "out") == {"f": b"first\n" + b"x\n" * 10}, "readers see them at once")
        equal((broker.channel("t", "nsq_to_file") or {})["in_flight_count"], 10, "not finished yet")
        # As an external rotation does.
        (folder / "out" / "f").rename(folder / "out" / "old")
        tool.send(signal.SIGHUP)
        eventually(lambda: finished(broker, "t", "nsq_to_file"), "SIGHUP syncs")
        publish(broker, "t", b"y")
        eventually(lambda: contents(folder / "out") == {"old": b"first\n" + b"x\n" * 10, "f": b"y\n"}, "a new file")
        equal(tool.stop(), 0, "exit status")
        assert "INFO: [t/nsq_to_file] syncing 10 records to disk" in tool.stderr(), tool.stderr()
    eventually(lambda: finished(broker, "t", "nsq_to_file"), "the stop syncs")
    with writer(context, program, broker, folder, "-filename-format=f", "-sync-interval=50ms") as tool:
        publish(broker, "t", b"z")
        eventually(lambda: finished(broker, "t", "nsq_to_file"), "the interval syncs")
    with writer(context, program, broker, folder, "-filename-format=f", "-max-in-flight=4") as tool:
        # What comes first after the file is opened is synced by itself, alone or not.
        publish(broker, "t", b"z")
        eventually(lambda: finished(broker, "t", "nsq_to_file"), "the first message")
        # 85 % of what may be in flight.
        publish(broker, "t", *[b"z"] * 3)
        eventually(lambda: finished(broker, "t", "nsq_to_file"), "a starved consumer syncs")
    equal(contents(folder / "out")["f"], b"y\n" + b"z\n" * 5, "continued")


@case("tools")
def a_work_folder_survives_hangups_and_silence(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "nsq_to_file")
    program = context.settings.program("nsq_to_file")
    folder = context.folder()
    with writer(context, program, broker, folder, "-work-dir=./work/", "-filename-format=f<REV>") as tool:
        for number in range(3):
            publish(broker, "t", b"%d" % number)
            eventually(lambda: f"f-{number:06}" in contents(folder / "work"), "being written")
            tool.send(signal.SIGHUP)
            eventually(lambda: f"f-{number:06}" in contents(folder / "out"), "moved")
        equal(contents(folder / "work"), {}, "work folder")
        equal(tool.stop(), 0, f"exit status: {tool.stderr()}")
    equal(contents(folder / "out"), {f"f-{n:06}": b"%d\n" % n for n in range(3)}, "files")
    folder = context.folder()
    flags = ("-work-dir=work", "-skip-empty-files", "-datetime-format=%S", "-sync-interval=50ms")
    with writer(context, program, broker, folder, *flags) as tool:
        publish(broker, "t", b"a")
        eventually(lambda: len(contents(folder / "out")) == 1, "moved when its second is over")
        moved = time.monotonic()
        eventually(lambda: time.monotonic() > moved + 1.2 or not tool.running(), "another second, and many ticks")
        publish(broker, "t", b"b")
        eventually(lambda: len(contents(folder / "out")) == 2, "moved")
        equal(tool.stop(), 0, f"exit status: {tool.stderr()}")
    equal(b"".join(contents(folder / "out").values()), b"a\nb\n", "no empty files")


@case("tools")
def reachable_nsqds_are_written_while_others_are_down(context: Context) -> None:
    address = f"127.0.0.1:{kept_ports()}"
    up, down = context.broker(), context.broker(f"--tcp-address={address}")
    create(up, "t", "nsq_to_file")
    create(down, "t", "nsq_to_file")
    publish(down, "t", b"later")
    down.terminate()
    publish(up, "t", b"now")
    folder = context.folder()
    flags = (f"-nsqd-tcp-address={address}", "-consumer-opt=lookupd_poll_interval,200ms", "-sync-interval=50ms")
    with writer(context, context.settings.program("nsq_to_file"), up, folder, *flags, "-filename-format=f") as tool:
        eventually(lambda: finished(up, "t", "nsq_to_file"), f"written:\n{tool.stderr()}")
        equal(contents(folder / "out"), {"f": b"now\n"}, "what could be reached")
        down.start()
        eventually(lambda: finished(down, "t", "nsq_to_file"), "reached later")
        equal(tool.stop(), 0, "exit status")
    equal(contents(folder / "out"), {"f": b"now\nlater\n"}, "both")


@case("tools")
def what_cannot_work_is_said_at_start(context: Context) -> None:
    program = context.settings.program("nsq_to_file")
    base = ("-nsqd-tcp-address=127.0.0.1:1",)
    rows = (
        (["-topic=a b"], "FATAL: couldn't create logger for new topic a b: invalid topic name"),
        (["-topic=t", "-filename-format=x", "-gzip"], "FATAL: couldn't create logger for new topic t: missing <REV> in --filename-format when gzip, rotation, or work dir enabled"),
        (["-topic=t", "-sync-interval=0"], "--sync-interval should be positive"),
        (["-topic=t", "-consumer-opt=bogus,1"], 'invalid value "bogus,1" for flag -consumer-opt: invalid option bogus'),
    )  # fmt: skip
    for flags, text in rows:
        ended = run(program, *base, *flags)
        equal(ended.status, 2 if "invalid value" in text else 1, f"exit status of {flags}")
        assert text in ended.err, ended.err
    broker = context.broker()
    publish(broker, "t", b"x")
    folder = context.folder()
    (folder / "out").write_text("in the way")
    with writer(context, program, broker, folder) as tool:
        equal(tool.wait(), 1, "exit status")
        tool.logged("[nsq_to_file] ")
        tool.logged("FATAL: [t/nsq_to_file] unable to create dir: mkdir out: ")


# --- kills


def numbers(folder: Path) -> Iterator[bytes]:
    """Every whole line in the output and work folders; a line that a kill has cut is shorter."""
    for data in [*contents(folder / "out").values(), *contents(folder / "work").values()]:
        for line in data.split(b"\n"):
            if len(line) == NUMBER_WIDTH:
                yield line
            else:
                assert len(line) < NUMBER_WIDTH, f"two records in one line: {line!r}"


def publish_numbers(broker: Broker, first: int, count: int) -> None:
    with broker.connect(MAGIC) as connection:
        for begin in range(first, first + count, 1000):
            end = min(begin + 1000, first + count)
            connection.send(mpub("t", (b"%0*d" % (NUMBER_WIDTH, n) for n in range(begin, end))))
            connection.ok()


@case("tools")
def kills_lose_nothing_that_was_finished(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "nsq_to_file")
    chance = random.Random(context.settings.seed)
    rounds = KILL_ROUNDS_QUICK if context.settings.quick else KILL_ROUNDS
    share = KILL_MESSAGES // KILL_ROUNDS // 2
    folder = context.folder()
    program = context.settings.program("nsq_to_file")
    ways = (["-filename-format=plain"], ["-gzip"], ["-work-dir=work", "-rotate-size=100000", "-gzip"], ["-rotate-size=500000"])
    common = ("-max-in-flight=2000", "-sync-interval=100ms", "-consumer-opt=msg_timeout,1s", "-datetime-format=%H%M")
    published = 0
    for number in range(rounds):
        publish_numbers(broker, published, share)
        with writer(context, program, broker, folder, *common, *ways[number % len(ways)]) as tool:
            limit = threading.Timer(chance.uniform(0.0, 0.5), tool.process.kill)
            limit.start()
            publish_numbers(broker, published + share, share)
            published += 2 * share
            equal(tool.wait(), -signal.SIGKILL, tool.stderr()[-2000:])
    with writer(context, program, broker, folder, *common, "-filename-format=plain") as tool:
        # Its log holds what the killed ones said as well.
        eventually(lambda: (broker.channel("t", "nsq_to_file") or {})["client_count"] == 1, "it consumes")
        eventually(lambda: finished(broker, "t", "nsq_to_file"), f"all finished: {broker.channel('t', 'nsq_to_file')}", 120)
        equal(tool.stop(), 0, "exit status")
    lines = list(numbers(folder))
    found = set(lines)
    missing = [n for n in range(published) if b"%0*d" % (NUMBER_WIDTH, n) not in found]
    equal(missing[:5], [], f"numbers missing of {published} ({len(missing)})")
    equal(len(found), published, "numbers")
    context.note(f"{rounds} kills, {published} messages, {len(lines) - published} written twice")


# --- a cluster


def directories(context: Context, count: int) -> List[Lookupd]:
    """Ours and, where there is one, the reference's in turn."""
    binaries = islice(cycle(programs(context, "nsqlookupd")), count)
    return [launch(context, binary, binary == context.settings.program("nsqlookupd")) for binary in binaries]


def registered_brokers(context: Context, lookupds: List[Lookupd], count: int) -> List[Broker]:
    """Ours and, where there is one, the reference's in turn; each keeps its ports."""
    flags = [f"--lookupd-tcp-address={tcp(lookupd)}" for lookupd in lookupds]
    brokers = []
    for binary in islice(cycle(programs(context, "nsqd")), count):
        port = kept_ports()
        addresses = (f"--tcp-address=127.0.0.1:{port}", f"--http-address=127.0.0.1:{port + 1}")
        brokers.append(context.broker(*flags, *addresses, binary=binary))
    return brokers


@case("tools")
def topics_are_found_at_once_and_by_pattern(context: Context) -> None:
    lookupds = directories(context, 1)
    (broker,) = registered_brokers(context, lookupds, 1)
    for topic in ("log.a", "log.b", "other"):
        create(broker, topic)
        publish(broker, topic, topic.encode())
    folder = context.folder()
    dead = f"-lookupd-http-address=127.0.0.1:{silent_port()}"
    flags = [dead, f"-lookupd-http-address={http(lookupds[0])}", "-topic-pattern=^log", "-topic-refresh=300ms"]
    flags += ["-sync-interval=50ms", "-output-dir=out", "-filename-format=<TOPIC>", "-consumer-opt=lookupd_poll_interval,300ms"]
    with Running(context.settings.program("nsq_to_file"), folder, *flags) as tool:
        expected = {"log.a": b"log.a\n", "log.b": b"log.b\n"}
        eventually(lambda: contents(folder / "out") == expected, f"files:\n{tool.stderr()}")
        create(broker, "log.c")
        publish(broker, "log.c", b"new")
        expected["log.c"] = b"new\n"
        eventually(lambda: contents(folder / "out") == expected, "a topic that came later")
        equal(tool.stop(), 0, "exit status")
        assert "ERROR: could not retrieve topic list: Get " in tool.stderr(), tool.stderr()
        equal(tool.stderr().count("skipping topic other (doesn't match pattern ^log)"), 1, "warnings")


@case("tools")
def a_cluster_whose_parts_come_and_go_loses_nothing(context: Context) -> None:
    lookupds = directories(context, 2)
    brokers = registered_brokers(context, lookupds, 3)
    for broker in brokers:
        create(broker, "t", "nsq_to_file")
    published: List[bytes] = []

    def send(targets: List[Broker]) -> None:
        for broker in targets:
            body = b"%d" % len(published)
            publish(broker, "t", body)
            published.append(body)

    interval_s = 1.0
    folder = context.folder()
    flags = [f"-lookupd-http-address={http(lookupd)}" for lookupd in lookupds]
    flags += ["-topic=t", "-output-dir=out", "-filename-format=f", "-sync-interval=50ms"]
    flags += [f"-consumer-opt=lookupd_poll_interval,{interval_s:.0f}s", "-consumer-opt=lookupd_poll_jitter,0"]
    with Running(context.settings.program("nsq_to_file"), folder, *flags) as tool:
        send(brokers * 3)
        eventually(lambda: all(finished(broker, "t", "nsq_to_file") for broker in brokers), f"all written:\n{tool.stderr()}", 20)
        lookupds[0].kill()
        equal(brokers[0].terminate(), 0, "exit status of an nsqd")
        send(brokers[1:] * 3)
        eventually(lambda: all(finished(broker, "t", "nsq_to_file") for broker in brokers[1:]), "the others go on", 20)
        lookupds[0].start()
        brokers[0].start()
        eventually(lambda: listed(lookupds[1], brokers[0]), "registered again", 20)
        since = time.monotonic()
        send(brokers * 3)
        eventually(lambda: (brokers[0].channel("t", "nsq_to_file") or {}).get("clients"), "found again", 20)
        took = time.monotonic() - since
        eventually(lambda: all(finished(broker, "t", "nsq_to_file") for broker in brokers), "all written", 20)
        equal(tool.stop(), 0, "exit status")
    # One poll may go to the nsqlookupd that does not know it yet; a busy machine gets some more.
    assert took < 5 * interval_s, f"found again after {took:.1f} s"
    lines = contents(folder / "out")["f"].split()
    equal(sorted(set(lines), key=int), published, "messages")
    context.note(f"found again {took:.1f} s after it was registered, polling every {interval_s:.0f} s")


def listed(lookupd: Lookupd, broker: Broker) -> bool:
    producers = lookupd.http("GET", "/lookup?topic=t").json()["producers"]
    return any(producer["tcp_port"] == broker.tcp_port for producer in producers)
