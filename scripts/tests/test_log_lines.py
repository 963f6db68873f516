"""The log at `debug`, line by line beside the reference's: the same clients, the same lines.

Lines are compared without their times, as a set with counts: threads and goroutines write in an order of their own.
What changes from run to run (addresses, ids, figures) is replaced. `OTHERWISE` is what differs on purpose.
"""

from __future__ import annotations

import collections
import re
from typing import Counter, List, Pattern, Tuple

from harness import Broker, Context, case, equal, eventually
from layers import Certificates, Layered, certificates
from test_auth import EVERYTHING, AuthServer, granting
from wire import dpub, fin, mpub, pub, req, sized

LINE = re.compile(r"^\[nsqd\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} (.*)$", re.MULTILINE)


def clients(broker: Broker, files: Certificates) -> None:
    """Everything that a client can do which leaves a line."""
    with broker.connect() as c:
        c.identify(client_id="me", hostname="host", user_agent="agent", heartbeat_interval=5000, sample_rate=0)
        c.subscribe("t", "c", 2)
        c.publish("t", b"one")
        first = c.message()
        c.send(b"TOUCH " + first.id + b"\n" + fin(first.id) + fin(first.id))
        c.error()
        c.send(mpub("t", [b"two"]) + dpub("t", 0, b"three"))
        c.ok()
        c.ok()
        second, third = c.messages(2)
        c.send(req(second.id, 3_700_000) + fin(third.id) + req(third.id, 0) + b"TOUCH 0123456789abcdef\n")
        c.error()
        c.error()
        c.send(b"NOP\nCLS\n")
        equal(c.response(), b"CLOSE_WAIT", "answer to CLS")
    for line in (
        b"NOPE x y\n", b"\n", b"PUB a:b\n", b"SUB t a:b\n", b"SUB t\n", b"RDY 1\n", b"FIN x\n", b"MPUB a:b\n",
        b"PUB t\n" + sized(b"")[:4], b"PUB t\n\x7f\xff\xff\xff", b"DPUB t x\n", b"DPUB t 3600001\n", b"CLS\n",
        b"IDENTIFY\n" + sized(b"{"), b"IDENTIFY\n" + sized(b"[]"), b"IDENTIFY\n" + sized(b'{"heartbeat_interval":1}'),
        b"MPUB t\n" + sized(b"\0\0\0\0"), b"AUTH\n" + sized(b"secret"), b"AUTH x\n", b"\xff\xfe\n",
    ):  # fmt: skip
        with broker.connect() as c:
            c.send(line)
            c.error()
            c.closed()
    for line in (b"FIN x\n", b"RDY x\n", b"RDY 2501\n", b"SUB t c\n", b"REQ x\n"):
        with broker.connect() as c:
            c.send(b"SUB t c\n" + line)
            c.ok()
            c.error()
            c.closed()
    for part in (b"PUB t\n\0\0", b"PUB t\n\0\0\0\5ab", b"MPUB t\n\0\0\0\x20", b"IDENTIFY\n\0\0\0\5ab"):
        with broker.connect() as c:
            c.send(part)
            c.socket.shutdown(1)
            c.error()
            c.closed()
    with broker.connect(b"  V1") as c:
        c.error()
    with broker.connect(b"  ") as c:
        pass
    for fields in ({}, {"snappy": True}, {"deflate": True, "deflate_level": 3}):
        with Layered(broker.address) as c:
            c.upgrade(files.context(), **fields)
            c.publish("t", b"layered")


def administration(broker: Broker) -> None:
    for path in (
        "/topic/create?topic=a", "/topic/create?topic=a", "/channel/create?topic=a&channel=b", "/topic/pause?topic=a",
        "/topic/unpause?topic=a", "/channel/pause?topic=a&channel=b", "/channel/unpause?topic=a&channel=b",
        "/pub?topic=a", "/mpub?topic=a", "/mpub?topic=a&binary=odd", "/channel/empty?topic=a&channel=b",
        "/topic/empty?topic=a", "/channel/delete?topic=a&channel=b", "/channel/create?topic=a&channel=c",
        "/topic/delete?topic=a", "/topic/create?topic=e%23ephemeral",
        "/channel/create?topic=e%23ephemeral&channel=f%23ephemeral", "/topic/delete?topic=e%23ephemeral",
        "/topic/delete?topic=gone", "/channel/pause?topic=t&channel=gone", "/topic/create?topic=a:b", "/topic/create",
        "/nothing", "/pub?topic=%zz", "/topic/create?topic=%zz", "/pub?topic=a:b",
    ):  # fmt: skip
        body = b"\0\0\0\1\0\0\0\1x" if "binary" in path else b"x"
        broker.http("POST", path, body)
    for path in ("/ping", "/info", "/stats", "/stats?format=json&topic=t", "/config/log_level", "/config/nope"):
        broker.http("GET", path)
    for value in (b"info", b"debug", b"nope"):
        broker.http("PUT", "/config/log_level", value)


def authorized(broker: Broker) -> None:
    for secret, topic in ((b"good", "t"), (b"bad", "t")):
        with broker.connect() as c:
            c.send(b"AUTH\n" + sized(secret))
            if secret == b"bad":
                c.error()
                c.closed()
                continue
            c.response()
            c.publish(topic, b"x")
            c.send(b"MPUB other\n")
            c.error()
            c.closed()


# Addresses, ids, durations and names of folders.
CHANGING: Tuple[Tuple[Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"127\.0\.0\.1:\d+", "ADDRESS"),
        (r"\bmsg\([0-9a-v]{16}\)", "msg(ID)"),
        (r"\b(FIN|REQ|TOUCH) (?!0123456789)[0-9a-v]{16}\b", r"\1 ID"),
        (r"\) [\d.]+(ns|µs|ms|s)$", ") TIME"),
        (r"metadata to .*/nsqd\.dat", "metadata to nsqd.dat"),
        (r"^INFO: (nsqd v|ID: ).*", r"INFO: \1*"),
    )
)
# Of the reference: parts that ours does not have, and what depends on how its goroutines meet.
THEIRS = re.compile(
    r"INFO: DISKQUEUE\(|INFO: QUEUESCAN: |INFO: TOPIC\(.*\): closing \.\.\. messagePump|DEBUG: \[ADDRESS\] state rdy: "
    # A client that leaves without ending its compressed stream.
    r"|ERROR: client\(ADDRESS\) - failed to read command - unexpected EOF"
    # A heartbeat or message that meets the end of its connection.
    r"|ERROR: PROTOCOL\(V2\): \[ADDRESS\] messagePump error - write tcp .*: use of closed network connection"
    # When a changed topic or channel is written is up to each.
    r"|INFO: NSQ: persisting topic/channel metadata"
)
OURS = re.compile(r"INFO: TLS: |INFO: NSQ: persisting topic/channel metadata")
# Causes in the words of another library.
CAUSES = re.compile(
    r"(E_BAD_BODY IDENTIFY failed to decode JSON body|failed to read (?!command|protocol)[\w() ]+"
    r"|E_AUTH_FAILED AUTH failed|AUTH failed failed to auth against ADDRESS) - .*"
)


def lines(text: str, otherwise: Pattern[str]) -> Counter[str]:
    found: List[str] = []
    for line in LINE.findall(text):
        for pattern, replacement in CHANGING:
            line = pattern.sub(replacement, line)
        line = line.replace("E_BAD_TOPIC E_BAD_TOPIC", "E_BAD_TOPIC")  # K6
        line = CAUSES.sub(r"\1", line)
        if not otherwise.match(line):
            found.append(line)
    return collections.Counter(found)


def everybody_left(broker: Broker) -> bool:
    text = broker.log_text()
    return text.count("exiting messagePump") == text.count("desired protocol magic '  V2'")


def told(context: Context, ours: bool) -> Tuple[Counter[str], Counter[str]]:
    """The lines of one broker without authorization and of one with."""
    files = certificates(context.settings.work)
    binary = context.settings.binary if ours else context.settings.reference
    more = ("--shards=1",) if ours else ()
    otherwise = OURS if ours else THEIRS
    plain = context.broker("--log-level=debug", *files.flags(), *more, binary=binary)
    clients(plain, files)
    administration(plain)
    eventually(lambda: everybody_left(plain), "everybody has left")
    plain.terminate()
    grant = granting({**EVERYTHING, "topic": "^t$"})
    with AuthServer(lambda form: grant if form["secret"] == "good" else (403, b"")) as server:
        guarded = context.broker("--log-level=debug", f"--auth-http-address={server.address}", *more, binary=binary)
        authorized(guarded)
        eventually(lambda: everybody_left(guarded), "everybody has left")
        guarded.terminate()
    return lines(plain.log_text(), otherwise), lines(guarded.log_text(), otherwise)


@case("logs", needs=("reference",), ours_only=True)
def lines_are_those_of_the_reference(context: Context) -> None:
    for ours, theirs in zip(told(context, True), told(context, False)):
        missing, surplus = theirs - ours, ours - theirs
        shown = [f"- {line} ({count})" for line, count in sorted(missing.items())]
        shown += [f"+ {line} ({count})" for line, count in sorted(surplus.items())]
        assert not shown, "lines that only the reference (-) or only ours (+) has:\n" + "\n".join(shown)
        context.note(f"{theirs.total()} lines")


@case("logs", ours_only=True)
def what_is_off_is_not_logged(context: Context) -> None:
    """`debug` can be switched on and off while clients are there; commands are shown only in between."""
    broker = context.broker()
    with broker.connect() as c:
        c.subscribe("t", "c", 5)
        for level, body in ((b"debug", b"seen"), (b"info", b"unseen")):
            equal(broker.http("PUT", "/config/log_level", level).status, 200, "status of /config/log_level")
            c.publish("t", body)
            c.finish(c.message())
    text = broker.log_text()
    assert "[PUB t]" in text and ") - seen\n" in text, text
    equal((text.count("[PUB t]"), text.count("unseen")), (1, 0), "lines of publishes")
