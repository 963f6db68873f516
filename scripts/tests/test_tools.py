"""The utilities: flags, usage and start-up errors as the reference writes them; nsq_stat, nsq_tail, to_nsq."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from typing import List, Tuple

from harness import Broker, Context, case, equal, eventually
from layers import certificates
from ports import silent_port
from utility import Ended, Running, create, http, programs, publish, run, take, tcp

NSQD = "-nsqd-tcp-address=127.0.0.1:1"
LOOKUPD = "-lookupd-http-address=127.0.0.1:1"

# Command lines that end at once, and the same way in ours and the reference.
ENDINGS: List[Tuple[str, List[str]]] = [
    *((tool, ["-h"]) for tool in ("nsq_stat", "nsq_tail", "nsq_to_http", "nsq_to_nsq", "to_nsq")),
    ("nsq_stat", ["-bogus"]),
    ("nsq_stat", []),
    ("nsq_stat", ["-topic=t", "-channel=c", "-interval=0"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-interval=5"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-http-client-connect-timeout=-1s"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-http-client-request-timeout=0"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-count=0"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-count=x"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-count=99999999999"]),
    ("nsq_stat", ["-topic=t", "-channel=c"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-nsqd-http-address=a", "-lookupd-http-address=b"]),
    ("nsq_stat", ["-topic=t", "-channel=c", "-nsqd-http-address=http://a:1"]),
    ("nsq_tail", []),
    ("nsq_tail", [NSQD, LOOKUPD]),
    ("nsq_tail", [NSQD]),
    ("nsq_tail", [NSQD, "-max-in-flight=x"]),
    ("nsq_tail", [NSQD, "-topic=a b"]),
    ("nsq_tail", [NSQD, "-topic=t", "-channel=a b"]),
    ("nsq_tail", [NSQD, "-topic=t", "-consumer-opt=bogus,1"]),
    ("nsq_tail", [NSQD, "-topic=t", "-consumer-opt=heartbeat_interval,2m"]),
    ("nsq_to_file", ["a", "b"]),
    ("nsq_to_file", ["-log-level=x", "-version"]),
    ("nsq_to_file", ["-channel="]),
    ("nsq_to_file", ["-http-client-connect-timeout=0"]),
    ("nsq_to_file", ["-http-client-request-timeout=0"]),
    ("nsq_to_file", []),
    ("nsq_to_file", [NSQD, LOOKUPD]),
    ("nsq_to_file", [NSQD, "-gzip-level=10"]),
    ("nsq_to_file", [NSQD]),
    ("nsq_to_file", [NSQD, "-topic-pattern=x"]),
    ("nsq_to_http", ["-topic=t", "-channel="]),
    ("nsq_to_http", ["-topic=t", "-content-type=x"]),
    ("nsq_to_http", ["-topic=t", "-content-type=", "-post=x"]),
    ("nsq_to_http", ["-topic=t"]),
    ("nsq_to_http", ["-topic=t", NSQD]),
    ("nsq_to_http", ["-topic=t", NSQD, "-get=x", "-post=x"]),
    ("nsq_to_http", ["-topic=t", NSQD, "-get=x"]),
    ("nsq_to_http", ["-topic=t", NSQD, "-post=x", "-sample=1.5"]),
    ("nsq_to_http", ["-topic=t", NSQD, "-post=x", "-n=0"]),
    ("nsq_to_nsq", []),
    ("nsq_to_nsq", ["-topic=a b"]),
    ("nsq_to_nsq", ["-topic=t", "-destination-topic=a b"]),
    ("nsq_to_nsq", ["-topic=t", "-channel=a b"]),
    ("nsq_to_nsq", ["-topic=t"]),
    ("nsq_to_nsq", ["-topic=t", NSQD]),
    ("nsq_to_nsq", ["-topic=t", NSQD, "-producer-opt=deflate_level,10"]),
    ("to_nsq", ["-version"]),
    ("to_nsq", []),
    ("to_nsq", ["-topic=t", "-delimiter=ab"]),
    ("to_nsq", ["-topic=t"]),
    ("to_nsq", ["-topic=t", "-rate=x"]),
]


@case("tools", needs=("reference",))
def endings_are_the_references(context: Context) -> None:
    for tool, flags in ENDINGS:
        ours, theirs = (run(program, *flags) for program in programs(context, tool))
        equal(ours, theirs, f"{tool} {' '.join(flags)}")


@case("tools")
def versions_and_usage(context: Context) -> None:
    for tool in ("nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq"):
        ended = run(context.settings.program(tool), "-version")
        assert re.fullmatch(rf"{tool} v1\.3\.0\S*\n", ended.out.decode()), ended
        equal((ended.status, ended.err), (0, ""), f"{tool} -version")
    for program in programs(context, "nsq_to_file"):
        usage = run(program, "-h").err
        equal(usage.splitlines()[1:4], ["  -channel string", '    \tnsq channel (default "nsq_to_file")', "  -consumer-opt value"], "usage")


@case("tools")
def nothing_is_taken_from_an_nsqd_that_is_down(context: Context) -> None:
    address = f"127.0.0.1:{silent_port()}"
    rows = (
        ("nsq_tail", ["-topic=t"]),
        ("nsq_to_http", ["-topic=t", "-post=http://127.0.0.1:1/"]),
        ("nsq_to_nsq", ["-topic=t", "-destination-nsqd-tcp-address=127.0.0.1:1"]),
    )
    for tool, flags in rows:
        for program in programs(context, tool):
            ended = run(program, f"-nsqd-tcp-address={address}", *flags)
            equal(ended.status, 1, f"exit status of {program}")
            equal(ended.lines[-1], f"TIME dial tcp {address}: connect: connection refused", f"last line of {program}")


# --- nsq_stat


def stat(context: Context, broker: Broker, *flags: str) -> List[Ended]:
    return [
        run(program, f"-nsqd-http-address={http(broker)}", "-interval=100ms", *flags)
        for program in programs(context, "nsq_stat")
    ]


@case("tools")
def stat_prints_the_rows_of_the_reference(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "c")
    publish(broker, "t", *[b"x"] * 9)
    with broker.connect() as consumer:
        consumer.send(b"SUB t c\nRDY 3\n")
        consumer.ok()
        consumer.messages(3)
        for ended in stat(context, broker, "-topic=t", "-channel=c", "-count=2"):
            equal((ended.status, ended.err), (0, ""), "nsq_stat")
            lines = ended.out.decode().splitlines()
            equal(lines[0], "------rate------+----------------depth----------------+--------------metadata---------------", "header")
            equal(lines[1], "ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients", "header")
            equal(len(lines), 4, "lines")
            for line in lines[2:]:
                cells = [int(word) for word in line.replace("|", " ").split()]
                equal(cells[:2] + cells[5:], [0, 0, 3, 0, 0, 0, 9, 1], "cells of a row")
                equal(cells[2], cells[3] + cells[4], "total")
                assert re.fullmatch(r".{7} .{7} \| .{7} .{7} .{7} .{5} .{5} \| .{7} .{7} .{12} .{7}", line), line


@case("tools")
def stat_says_what_it_cannot_find(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "c")
    for ended in stat(context, broker, "-topic=t", "-channel=nope"):
        text = "TIME ERROR: failed to find channel(nope) in stats metadata for topic(t)"
        equal((ended.status, ended.lines), (1, [text]), "unknown channel")
    for ended in stat(context, broker, "-topic=nope", "-channel=c"):
        text = "TIME ERROR: failed to get nsqd stats - failed to query any nsqd: "
        equal((ended.status, ended.lines), (1, [text]), "unknown topic")
    address = f"127.0.0.1:{silent_port()}"
    for program in programs(context, "nsq_stat"):
        ended = run(program, "-topic=t", "-channel=c", f"-nsqd-http-address={address}")
        text = (
            "TIME ERROR: failed to get topic producers - failed to query any nsqd: "
            f'Get "http://{address}/stats?format=json&topic=t&include_clients=false": '
            f"dial tcp {address}: connect: connection refused"
        )
        equal((ended.status, ended.lines), (1, [text]), "nobody answers")


@case("tools")
def stat_follows_to_https(context: Context) -> None:
    """An nsqd that requires TLS says where it is; whom to believe is the system's business."""
    broker = context.broker()
    create(broker, "t", "c")
    publish(broker, "t", b"x")
    equal(broker.terminate(), 0, "exit status")
    files = certificates(context.settings.work)
    broker.flags = (*files.flags(), "--tls-required=true")
    broker.start()
    equal(broker.http("GET", "/stats").status, 403, "without TLS")
    for program in programs(context, "nsq_stat"):
        flags = (f"-nsqd-http-address={http(broker)}", "-topic=t", "-channel=c", "-interval=50ms", "-count=1")
        ended = run(program, *flags, env={"SSL_CERT_FILE": files.path("ca.pem")})
        equal((ended.status, ended.err), (0, ""), "nsq_stat that believes the CA")
        cells = ended.out.decode().splitlines()[2].replace("|", " ").split()
        equal(cells[2], "1", "depth")
        ended = run(program, *flags)
        equal(ended.status, 1, "nsq_stat that does not")
        assert f'Get "https://127.0.0.1:{broker.https_port}/stats?' in ended.err, ended.err


@case("tools")
def stat_goes_on_with_those_that_answer(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "c")
    program = context.settings.program("nsq_stat")
    down = f"-nsqd-http-address=127.0.0.1:{silent_port()}"
    ended = run(program, f"-nsqd-http-address={http(broker)}", down, "-topic=t", "-channel=c", "-interval=50ms", "-count=1")
    equal((ended.status, len(ended.out.splitlines())), (0, 3), "rows")
    assert "WARNING: Get " in ended.err, ended.err


@case("tools")
def stat_ends_with_signals(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "c")
    for program in programs(context, "nsq_stat"):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            with Running(program, context.folder(), f"-nsqd-http-address={http(broker)}", "-topic=t", "-channel=c") as stat:
                eventually(lambda: b"ingress" in stat.stdout(), "the header")
                stat.send(number)
                equal(stat.wait(), 0, f"exit status of {program} after {number.name}")


# --- nsq_tail


@case("tools")
def tail_shows_and_finishes(context: Context) -> None:
    broker = context.broker()
    bodies = [b"one", b"t\two", b"three\nlines\n", b"\xff\x00"]
    expected = b"".join(b"t | " + body + b"\n" for body in bodies)
    create(broker, "t", "ours", "theirs")
    publish(broker, "t", *bodies, b"five", b"six")
    for program, channel in zip(programs(context, "nsq_tail"), ("ours", "theirs")):
        ended = run(program, f"-nsqd-tcp-address={tcp(broker)}", "-topic=t", f"-channel={channel}", "-n=4", "-print-topic")
        equal((ended.status, ended.out), (0, expected), f"{program}")
        equal(ended.lines[0], "TIME Adding consumer for topic: t", "first line")
    # The reference leaves what it showed in flight.
    counts = eventually(lambda: settled(broker, "t", "ours"), "what was shown is finished")
    equal(counts, 2, "what is left")


def settled(broker: Broker, topic: str, channel: str) -> int:
    """Depth, once nothing is in flight; 0 counts as not yet."""
    found = broker.channel(topic, channel)
    assert found is not None
    return found["depth"] if found["in_flight_count"] == 0 and found["deferred_count"] == 0 else 0


@case("tools")
def tail_counts_over_all_topics(context: Context) -> None:
    broker = context.broker()
    for topic in ("a", "b"):
        create(broker, topic, "c")
        publish(broker, topic, *[topic.encode()] * 5)
    program = context.settings.program("nsq_tail")
    ended = run(program, f"-nsqd-tcp-address={tcp(broker)}", "-topic=a", "-topic=b", "-channel=c", "-n=5")
    equal((ended.status, len(ended.out.splitlines())), (0, 5), "lines shown")
    left = eventually(lambda: settled(broker, "a", "c") + settled(broker, "b", "c") >= 5, "the others are there")
    assert left


@case("tools")
def tail_follows_on_a_channel_that_vanishes(context: Context) -> None:
    broker = context.broker()
    for program in programs(context, "nsq_tail"):
        with Running(program, context.folder(), f"-nsqd-tcp-address={tcp(broker)}", "-topic=follow") as tail:
            channel = eventually(lambda: channels(broker, "follow"), "a channel")[0]
            assert re.fullmatch(r"tail\d{6}#ephemeral", channel), channel
            publish(broker, "follow", b"hello")
            eventually(lambda: tail.stdout() == b"hello\n", "the message")
            equal(tail.stop(), 0, "exit status")
        eventually(lambda: not channels(broker, "follow"), "the channel is gone")


def channels(broker: Broker, topic: str) -> List[str]:
    found = broker.topic(topic)
    return [channel["channel_name"] for channel in found["channels"]] if found else []


@case("tools")
def tail_dies_of_hangups_and_closed_pipes(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "c")
    publish(broker, "t", b"x")
    for program in programs(context, "nsq_tail"):
        flags = (f"-nsqd-tcp-address={tcp(broker)}", "-topic=t")
        with Running(program, context.folder(), *flags, "-channel=other") as tail:
            tail.logged("connecting to nsqd")
            eventually(lambda: "other" in channels(broker, "t"), "subscribed")
            tail.send(signal.SIGHUP)
            equal(tail.wait(), -signal.SIGHUP, "status after SIGHUP")
        reader, writer = os.pipe()
        os.close(reader)
        command = [program, *flags, "-channel=c"]
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=20)
        os.close(writer)
        equal(ended.returncode, -signal.SIGPIPE, f"{program} with a closed pipe")
        # What it had taken is in flight for a minute.
        publish(broker, "t", b"x")
        with open("/dev/full", "wb") as full:
            ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=20)
        text = b"ERROR: failed to write to os.Stdout - write /dev/stdout: no space left on device"
        equal((ended.returncode, ended.stderr.splitlines()[-1].endswith(text)), (1, True), f"{program} with a full disk")
        publish(broker, "t", b"x")


# --- to_nsq


@case("tools")
def input_is_split_and_published_in_order(context: Context) -> None:
    broker = context.broker()
    flags = (f"-nsqd-tcp-address={tcp(broker)}",)
    program = context.settings.program("to_nsq")
    rows = (
        (b"a\nb\n\nc\r\n", "\n", [b"a", b"b", b"c\r"]),
        (b"no newline at the end", "\n", [b"no newline at the end"]),
        (b"one,two,three\n", ",", [b"one", b"two", b"three"]),
        (b"".join(b"%d\n" % n for n in range(20_000)), "\n", [b"%d" % n for n in range(20_000)]),
    )
    for number, (text, delimiter, expected) in enumerate(rows):
        topic = f"in{number}"
        create(broker, topic, "c")
        ended = run(program, *flags, f"-topic={topic}", f"-delimiter={delimiter}", stdin=text)
        equal((ended.status, ended.out), (0, b""), f"to_nsq: {ended.err}")
        equal(take(broker, topic, "c", len(expected)), expected, f"bodies of {text[:40]!r}")


@case("tools")
def input_goes_to_every_nsqd(context: Context) -> None:
    brokers = [context.broker(), context.broker()]
    for broker in brokers:
        create(broker, "t", "c")
    flags = [f"-nsqd-tcp-address={tcp(broker)}" for broker in brokers]
    ended = run(context.settings.program("to_nsq"), *flags, "-topic=t", stdin=b"1\n2\n3\n")
    equal(ended.status, 0, ended.err)
    for broker in brokers:
        equal(take(broker, "t", "c", 3), [b"1", b"2", b"3"], "bodies")


@case("tools")
def the_first_error_ends_the_input(context: Context) -> None:
    broker = context.broker("--max-msg-size=1000")
    create(broker, "t", "c")
    address = f"-nsqd-tcp-address={tcp(broker)}"
    refused = f"127.0.0.1:{silent_port()}"
    rows = (
        ([address, "-topic=a$"], b"x\n", 1, 'E_BAD_TOPIC PUB topic name "a$" is not valid'),
        ([address, "-topic=t"], b"x\n" + b"y" * 1001 + b"\nz\n", 1, "E_BAD_MESSAGE PUB message too big 1001 > 1000"),
        ([f"-nsqd-tcp-address={refused}", "-topic=t"], b"x\n", 1, f"dial tcp {refused}: connect: connection refused"),
        ([f"-nsqd-tcp-address={refused}", "-topic=a$"], b"", 0, None),
    )
    for flags, text, status, message in rows:
        for program in programs(context, "to_nsq"):
            ended = run(program, *flags, stdin=text)
            equal(ended.status, status, f"exit status of {program} {flags}: {ended.err}")
            if message is not None:
                # The connection's own last words may come after it.
                assert f"TIME {message}" in ended.lines, f"{program}: no line {message!r} in\n{ended.err}"
    count = len(programs(context, "to_nsq"))
    equal(take(broker, "t", "c", count), [b"x"] * count, "what stood before the error")


@case("tools")
def input_is_throttled(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "c")
    flags = (f"-nsqd-tcp-address={tcp(broker)}", "-topic=t", "-rate=20")
    ended = run(context.settings.program("to_nsq"), *flags, stdin=b"x\n" * 11)
    equal(ended.status, 0, ended.err)
    equal(ended.lines[0], "TIME Throttling messages rate to max:20/second", "first line")
    with broker.connect() as connection:
        connection.send(b"SUB t c\nRDY 11\n")
        connection.ok()
        messages = connection.messages(11)
    took = (messages[-1].timestamp_ns - messages[0].timestamp_ns) / 1e9
    assert took > 0.45, f"11 messages at 20/s within {took:.2f} s"


@case("tools")
def input_that_stays_open_is_left_at_a_signal(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "c")
    program = context.settings.program("to_nsq")
    process = subprocess.Popen(
        [program, f"-nsqd-tcp-address={tcp(broker)}", "-topic=t"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b"now\nlater")
        process.stdin.flush()
        equal(take(broker, "t", "c", 1), [b"now"], "published while the input is open")
        process.send_signal(signal.SIGTERM)
        equal(process.wait(20), 0, "exit status")
    finally:
        process.kill()
        process.wait()
    equal(broker.depth("t", "c"), 0, "nothing more")
