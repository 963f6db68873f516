"""nsq_to_nsq and nsq_to_http: what is passed on, to whom, and what is finished when."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Dict, List, Tuple

from harness import Context, case, equal, eventually
from ports import kept_ports, silent_port
from utility import Endpoint, Running, create, endpoint, finished, programs, publish, take, tcp

DONE = b'{"a":"done","b":1}'


# --- nsq_to_nsq


# The cases share a broker, and so its topics.
NUMBERS = itertools.count(1)


def copied(context: Context, program: Path, bodies: List[bytes], *flags: str) -> List[bytes]:
    """Copies the bodies between two topics of a broker, then a last one that passes every filter used here."""
    broker = context.shared_broker()
    topic = f"copy{next(NUMBERS)}"
    create(broker, topic, "nsq_to_nsq")
    create(broker, f"{topic}.out", "c")
    publish(broker, topic, *bodies)
    publish(broker, topic, DONE)
    address = tcp(broker)
    with Running(
        program, context.folder(), f"-topic={topic}", f"-destination-topic={topic}.out",
        f"-nsqd-tcp-address={address}", f"-destination-nsqd-tcp-address={address}", *flags,
    ) as copy:  # fmt: skip
        eventually(lambda: finished(broker, topic, "nsq_to_nsq"), "all finished")
        equal(copy.stop(), 0, f"exit status of {program}")
    entry = broker.topic(f"{topic}.out")
    assert entry is not None
    return take(broker, f"{topic}.out", "c", entry["message_count"])


BODIES = [b'{"a":1,"b":"x"}', b'{"a":"1"}', b'{"a":1.0,"c":[1]}', b'{"a":true}', b'{"b":2,"a":"done"}', b"not json", b"[1]"]


@case("tools", needs=("reference",))
def copies_are_those_of_the_reference(context: Context) -> None:
    whole = BODIES + [b"\x00\xff", b"two\nlines"]
    rows: Tuple[Tuple[List[bytes], List[str]], ...] = (
        (whole, []),
        (whole, ["-require-json-value=x"]),
        (whole, ["-mode=round-robin"]),
        (whole, ["-mode=epsilon-greedy"]),
        (BODIES, ["-require-json-field=b"]),
        (BODIES, ["-require-json-field=a", "-require-json-value=done"]),
        (BODIES, ["-whitelist-json-field=b", "-whitelist-json-field=a"]),
        (BODIES, ["-require-json-field=b", "-whitelist-json-field=a"]),
    )
    for bodies, flags in rows:
        ours, theirs = (sorted(copied(context, program, bodies, *flags)) for program in programs(context, "nsq_to_nsq"))
        # The reference writes whole floats as integers; ours as they were.
        equal([body.replace(b"1.0", b"1") for body in ours], [body.replace(b"1.0", b"1") for body in theirs], str(flags))


@case("tools")
def values_keep_their_digits(context: Context) -> None:
    program = context.settings.program("nsq_to_nsq")
    bodies = [b'{"a": 12345678901234567890, "z": {"y":1, "x":"<&>"}}']
    flags = ("-whitelist-json-field=a", "-whitelist-json-field=z")
    expected = [b'{"a":"done"}', b'{"a":12345678901234567890,"z":{"y":1, "x":"<&>"}}']
    equal(sorted(copied(context, program, bodies, *flags)), expected, "copies")


@case("tools")
def copies_spread_and_pass_over_the_dead(context: Context) -> None:
    source, first, second = context.broker(), context.broker(), context.broker()
    create(source, "t", "nsq_to_nsq")
    for broker in (first, second):
        create(broker, "t", "c")
    publish(source, "t", *[b"%d" % n for n in range(40)])
    flags = ["-topic=t", f"-nsqd-tcp-address={tcp(source)}", "-consumer-opt=default_requeue_delay,0", "-consumer-opt=max_backoff_duration,0"]
    destinations = [tcp(first), tcp(second), f"127.0.0.1:{silent_port()}"]
    flags += [f"-destination-nsqd-tcp-address={address}" for address in destinations]
    with Running(context.settings.program("nsq_to_nsq"), context.folder(), *flags) as copy:
        eventually(lambda: finished(source, "t", "nsq_to_nsq"), "all finished", 20)
        equal(copy.stop(), 0, "exit status")
    counts = [(broker.topic("t") or {})["message_count"] for broker in (first, second)]
    equal(sum(counts), 40, "copies")
    assert min(counts) >= 10, counts
    found = {body for broker, count in zip((first, second), counts) for body in take(broker, "t", "c", count)}
    equal(found, {b"%d" % n for n in range(40)}, "bodies")


@case("tools")
def copies_wait_for_a_destination(context: Context) -> None:
    address = f"127.0.0.1:{kept_ports()}"
    source, destination = context.broker(), context.broker(f"--tcp-address={address}")
    create(source, "t", "nsq_to_nsq")
    create(destination, "t", "c")
    destination.kill()
    publish(source, "t", b"kept")
    flags = ["-topic=t", f"-nsqd-tcp-address={tcp(source)}", f"-destination-nsqd-tcp-address={address}"]
    flags += ["-consumer-opt=default_requeue_delay,100ms", "-consumer-opt=backoff_multiplier,50ms"]
    with Running(context.settings.program("nsq_to_nsq"), context.folder(), *flags) as copy:
        # More often than the standard clients try: nothing is given up.
        eventually(lambda: (source.channel("t", "nsq_to_nsq") or {})["requeue_count"] > 6, "it was tried", 30)
        destination.start()
        eventually(lambda: finished(source, "t", "nsq_to_nsq"), "finished", 30)
        equal(copy.stop(), 0, "exit status")
        assert "connection refused" in copy.stderr(), copy.stderr()
    equal(take(destination, "t", "c", 1), [b"kept"], "the copy")


@case("tools")
def a_message_without_the_field_is_dropped_loudly(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "nsq_to_nsq")
    publish(broker, "t", b'{"b":1}')
    address = tcp(broker)
    flags = ["-topic=t", "-destination-topic=out", f"-nsqd-tcp-address={address}", f"-destination-nsqd-tcp-address={address}"]
    flags += ["-require-json-field=a", "-require-json-value=1"]
    flags += ["-consumer-opt=default_requeue_delay,10ms", "-consumer-opt=backoff_multiplier,10ms"]
    with Running(context.settings.program("nsq_to_nsq"), context.folder(), *flags) as copy:
        copy.logged("is dropped after 5 attempts without the required field")
        equal(copy.stderr().count("ERROR: missing field to check required value"), 5, "attempts")
        equal(copy.stop(), 0, "exit status")
    eventually(lambda: finished(broker, "t", "nsq_to_nsq"), "finished")


# --- nsq_to_http


def forwarded(context: Context, program: Path, bodies: List[bytes], *flags: str) -> List[Tuple]:
    """Sends bodies to an endpoint; the requests as they came, without what differs by design."""
    broker = context.shared_broker()
    number = next(NUMBERS)
    topic = f"http{number}"
    create(broker, topic, "nsq_to_http")
    publish(broker, topic, *bodies)
    with endpoint() as server:
        flags = tuple(flag.replace("ENDPOINT", f"http://127.0.0.1:{server.port}") for flag in flags)
        with Running(program, context.folder(), f"-topic={topic}", f"-nsqd-tcp-address={tcp(broker)}", "-n=1", *flags) as tool:
            eventually(lambda: finished(broker, topic, "nsq_to_http"), f"all finished:\n{tool.stderr()}")
            equal(tool.stop(), 0, f"exit status of {program}")
        return [(r.method, r.path, shown(r.headers, server), r.body) for r in server.requests]


def shown(headers: Dict[str, str], server: Endpoint) -> Dict[str, str]:
    """What the endpoint is meant to see; our version has more to it, and libraries add what they accept."""
    agent = headers["User-Agent"].split("+")[0]
    hidden = ("Accept", "Accept-Encoding", "Host")
    equal(headers["Host"], f"127.0.0.1:{server.port}", "Host")
    return {**{key: value for key, value in headers.items() if key not in hidden}, "User-Agent": agent}


@case("tools", needs=("reference",))
def requests_are_those_of_the_reference(context: Context) -> None:
    bodies = [b"a b&c/d", b"\xff\x00%s+~", b"plain"]
    rows = (
        ["-post=ENDPOINT/p?x=1"],
        ["-post=ENDPOINT/", "-content-type=text/plain", "-header=X-One: 1", "-header=X-Two:2 : 3"],
        ["-get=ENDPOINT/g?d=%s&e=1"],
        ["-get=ENDPOINT/%s", "-header=X-One: 1"],
    )
    for flags in rows:
        ours, theirs = (forwarded(context, program, bodies, *flags) for program in programs(context, "nsq_to_http"))
        equal(ours, theirs, str(flags))


@case("tools")
def escapes_in_an_address_stay(context: Context) -> None:
    program = context.settings.program("nsq_to_http")
    requests = forwarded(context, program, [b"x"], "-get=ENDPOINT/a%20b?d=%s")
    equal(requests[0][1], "/a%20b?d=x", "path")


def quick_retry() -> List[str]:
    return ["-consumer-opt=default_requeue_delay,10ms", "-consumer-opt=backoff_multiplier,10ms"]


@case("tools")
def failures_are_tried_again(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "nsq_to_http")
    publish(broker, "t", b"x")
    for verb in ("post", "get"):
        with endpoint() as server:
            server.statuses = [(500, {}), (404, {}), (302, {"Location": "/elsewhere"}), (204, {})]
            address = f"-{verb}=http://127.0.0.1:{server.port}/first" + ("?d=%s" if verb == "get" else "")
            flags = ["-topic=t", f"-nsqd-tcp-address={tcp(broker)}", address, *quick_retry()]
            with Running(context.settings.program("nsq_to_http"), context.folder(), *flags) as tool:
                eventually(lambda: len(server.requests) == 4 and finished(broker, "t", "nsq_to_http"), "finished")
                equal(tool.stop(), 0, "exit status")
                assert "got status code 500" in tool.stderr() and "got status code 404" in tool.stderr(), tool.stderr()
            # A redirected POST becomes a GET.
            methods = [request.method for request in server.requests]
            equal(methods, [verb.upper()] * 3 + ["GET"], "methods")
            equal(server.requests[3].path, "/elsewhere", "redirected")
        publish(broker, "t", b"x")


@case("tools")
def a_dropped_message_is_an_error(context: Context) -> None:
    broker = context.broker()
    create(broker, "t", "nsq_to_http")
    publish(broker, "t", b"x")
    with endpoint() as server:
        server.statuses = [(500, {})] * 9
        flags = ["-topic=t", f"-nsqd-tcp-address={tcp(broker)}", f"-post=http://127.0.0.1:{server.port}/", *quick_retry()]
        with Running(context.settings.program("nsq_to_http"), context.folder(), *flags, "-consumer-opt=max_attempts,2") as tool:
            tool.logged("ERROR: [t/nsq_to_http] message ")
            tool.logged("is dropped after 2 failed attempts")
            eventually(lambda: finished(broker, "t", "nsq_to_http"), "finished")
        equal(len(server.requests), 2, "requests")


@case("tools")
def endpoints_are_chosen_by_mode(context: Context) -> None:
    broker = context.broker()
    program = context.settings.program("nsq_to_http")
    for mode, expected in (("round-robin", [4, 4]), ("hostpool", [4, 4]), ("all", [8, 8])):
        topic = f"t.{mode}"
        create(broker, topic, "nsq_to_http")
        publish(broker, topic, *[b"x"] * 8)
        with endpoint() as first, endpoint() as second:
            posts = [f"-post=http://127.0.0.1:{server.port}/" for server in (first, second)]
            flags = [f"-topic={topic}", f"-nsqd-tcp-address={tcp(broker)}", f"-mode={mode}", "-n=1", "-status-every=4", *posts]
            with Running(program, context.folder(), *flags) as tool:
                eventually(lambda: finished(broker, topic, "nsq_to_http"), f"finished:\n{tool.stderr()}")
                equal(tool.stop(), 0, "exit status")
                tool.logged("[aggregate]: finished 4 - 99th: ")
                tool.logged("Warning: use more than 100 status values for accurate percentiles (configured with 4)")
            equal([len(server.requests) for server in (first, second)], expected, f"requests with {mode}")
    ended = Running(program, context.folder(), "-topic=t", "-nsqd-tcp-address=a:1", "-post=x", "-mode=multicast")
    equal(ended.wait(), 1, "an unknown mode")
    ended.logged("--mode is invalid")


@case("tools")
def a_sample_finishes_the_rest(context: Context) -> None:
    program = context.settings.program("nsq_to_http")
    equal(forwarded(context, program, [b"x"] * 20, "-post=ENDPOINT/", "-sample=0.0"), [], "requests")
    requests = forwarded(context, program, [b"x"] * 200, "-post=ENDPOINT/", "-sample=0.5")
    assert 50 <= len(requests) <= 150, len(requests)
