"""`/pub` and `/mpub`: order of checks, limits, deferral, text and binary bodies."""

from __future__ import annotations

import socket
import struct
import time

from harness import Broker, Context, case, equal, eventually
from test_http import JSON, TEXT, accepted, raw, refused
from wire import bodies, sized

MSG_MAX, BODY_MAX = 1048576, 5242880


def received(broker: Broker, topic: str, count: int) -> list[bytes]:
    with broker.connect() as c:
        c.subscribe(topic, "ch", 1000)
        found = sorted(m.body for m in c.messages(count))
        c.nothing(0.2)
        return found


@case("http_publish")
def pub_bodies(context: Context) -> None:
    broker = context.shared_broker()
    payloads = [b"x", b"a\nb\r\n", bytes(range(256)), b"y" * MSG_MAX]
    for payload in payloads:
        accepted(broker.http("POST", "/pub?topic=hpub", payload), b"OK", TEXT)
    equal(received(broker, "hpub", 4), sorted(payloads), "bodies")
    equal(broker.topic("hpub")["message_bytes"], sum(map(len, payloads)), "message_bytes")


@case("http_publish")
def pub_checks_in_order(context: Context) -> None:
    broker = context.shared_broker()
    refused(broker.http("POST", "/pub?topic=a:b", b""), 400, "MSG_EMPTY")
    refused(broker.http("POST", "/pub", b""), 400, "MSG_EMPTY")
    refused(broker.http("POST", "/pub", b"x"), 400, "MISSING_ARG_TOPIC")
    refused(broker.http("POST", "/pub?topic=", b"x"), 400, "INVALID_TOPIC")
    refused(broker.http("POST", "/pub?topic=a:b", b"x"), 400, "INVALID_TOPIC")
    refused(broker.http("POST", "/pub?topic=%zz", b"x"), 400, "INVALID_REQUEST")
    refused(broker.http("POST", "/pub?topic=hdef;a=b", b"x"), 400, "INVALID_REQUEST")
    for value in ("x", "-1", "3600001", "1.5", ""):
        reply = broker.http("POST", f"/pub?topic=hdef&defer={value}", b"x")
        refused(reply, 400, "INVALID_DEFER")
    equal(broker.topic("hdef") is None, context.ours, "validated before the topic is created")
    for value in ("0", "%2B0", "3600000"):
        accepted(broker.http("POST", f"/pub?topic=hdef&defer={value}", b"x"), b"OK", TEXT)
    equal(broker.topic("hdef")["message_count"], 3, "message_count")


@case("http_publish")
def pub_too_big(context: Context) -> None:
    broker = context.shared_broker()
    headers = f"POST /pub?topic=hbig HTTP/1.1\r\nHost: x\r\nContent-Length: {MSG_MAX + 1}\r\n\r\n".encode()
    reply = raw(broker, headers)  # the body is not needed to refuse it, and the connection is closed
    assert reply.startswith(b"HTTP/1.1 413 ") and reply.endswith(b'{"message":"MSG_TOO_BIG"}'), reply[:300]
    chunk = b"%x\r\n" % (MSG_MAX + 1) + b"x" * (MSG_MAX + 1) + b"\r\n0\r\n\r\n"
    headers = b"POST /pub?topic=hbig HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = raw(broker, headers + chunk)
    assert reply.startswith(b"HTTP/1.1 413 ") and b'{"message":"MSG_TOO_BIG"}' in reply, reply[:300]
    equal(broker.topic("hbig"), None, "the topic")


@case("http_publish")
def pub_chunked_and_expect(context: Context) -> None:
    broker = context.shared_broker()
    head = b"POST /pub?topic=hchunk HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    reply = raw(broker, head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 OK\r\n"), reply[:200]
    with socket.create_connection(("127.0.0.1", broker.http_port), timeout=10) as s:
        s.sendall(head + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert s.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n"), "100 Continue"
        s.sendall(b"xyz")
        assert s.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n"), "200 OK"
    equal(received(broker, "hchunk", 2), [b"abcde", b"xyz"], "bodies")


@case("http_publish")
def pub_broken_chunks(context: Context) -> None:
    broker = context.shared_broker()
    head = b"POST /pub?topic=hbroken HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    reply = raw(broker, head + b"3\r\nabc\r\nnonsense\r\n")
    assert reply.startswith(b"HTTP/1.1 500 ") and reply.endswith(b'{"message":"INTERNAL_ERROR"}'), reply[:300]
    equal(broker.topic("hbroken"), None, "the topic")


@case("http_publish")
def pub_deferred(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c:
        c.subscribe("hlater", "ch", 1)
        began = time.monotonic()
        accepted(broker.http("POST", "/pub?topic=hlater&defer=600", b"x"), b"OK", TEXT)
        equal(broker.channel("hlater", "ch")["deferred_count"], 1, "deferred_count")
        c.message()
        assert time.monotonic() - began >= 0.595, "early"


@case("http_publish")
def mpub_text(context: Context) -> None:
    broker = context.shared_broker()
    accepted(broker.http("POST", "/mpub?topic=hm", b"a\n\nbc\r\n\nlast"), b"OK", TEXT)
    accepted(broker.http("POST", "/mpub?topic=hm&binary=false", b"x\n"), b"OK", TEXT)
    accepted(broker.http("POST", "/mpub?topic=hm&binary=0", b"y"), b"OK", TEXT)
    accepted(broker.http("POST", "/mpub?topic=hm&defer=100000", b"z"), b"OK", TEXT)
    equal(received(broker, "hm", 6), [b"a", b"bc\r", b"last", b"x", b"y", b"z"], "bodies")
    accepted(broker.http("POST", "/mpub?topic=hmzero", b"\n\n\n"), b"OK", TEXT)
    accepted(broker.http("POST", "/mpub?topic=hmzero", b""), b"OK", TEXT)
    equal(broker.topic("hmzero")["message_count"], 0, "zero messages are accepted and create the topic")


@case("http_publish")
def mpub_text_limits(context: Context) -> None:
    broker = context.shared_broker()
    refused(broker.http("POST", "/mpub", b"x"), 400, "MISSING_ARG_TOPIC")
    refused(broker.http("POST", "/mpub?topic=a:b", b"x"), 400, "INVALID_TOPIC")
    head = f"POST /mpub?topic=hmbig HTTP/1.1\r\nHost: x\r\nContent-Length: {BODY_MAX + 1}\r\n\r\n".encode()
    reply = raw(broker, head)
    assert reply.startswith(b"HTTP/1.1 413 ") and reply.endswith(b'{"message":"BODY_TOO_BIG"}'), reply[:300]
    refused(broker.http("POST", "/mpub?topic=hmline", b"a\n" + b"x" * (MSG_MAX + 1) + b"\nb\n"), 413, "MSG_TOO_BIG")
    entry = broker.topic("hmline")
    assert entry is None or entry["message_count"] == 0, "nothing is published unless everything is right"
    lines = b"\n".join([b"z" * MSG_MAX] * 4)
    accepted(broker.http("POST", "/mpub?topic=hmlines", lines), b"OK", TEXT)
    equal(broker.topic("hmlines")["message_count"], 4, "message_count")


@case("http_publish")
def mpub_binary(context: Context) -> None:
    broker = context.shared_broker()
    body = bodies([b"a\nb", b"c"])
    for value in ("true", "1", "", "yes"):
        accepted(broker.http("POST", f"/mpub?topic=hb&binary={value}", body), b"OK", TEXT)
    accepted(broker.http("POST", "/mpub?topic=hb&binary=true", body + b"trailing"), b"OK", TEXT)
    equal(received(broker, "hb", 10), [b"a\nb"] * 5 + [b"c"] * 5, "bodies")


@case("http_publish")
def mpub_binary_errors(context: Context) -> None:
    broker = context.shared_broker()
    rows = (
        (b"", "BAD_BODY"), (b"\0\0", "BAD_BODY"), (struct.pack(">i", 0), "BAD_BODY"), (struct.pack(">i", -1), "BAD_BODY"),
        (struct.pack(">i", 1), "BAD_MESSAGE"), (struct.pack(">ii", 1, 0), "BAD_MESSAGE"),
        (struct.pack(">ii", 1, 5) + b"abc", "BAD_MESSAGE"), (struct.pack(">ii", 1, MSG_MAX + 1), "BAD_MESSAGE"),
        (struct.pack(">i", 2) + sized(b"ok"), "BAD_MESSAGE"),
    )  # fmt: skip
    for body, code in rows:
        refused(broker.http("POST", "/mpub?topic=hberr&binary=true", body), 413, code)
    entry = broker.topic("hberr")
    assert entry is None or entry["message_count"] == 0, "nothing is published unless everything is right"


@case("http_publish", ours_only=True)
def old_names(context: Context) -> None:
    """Old tutorials use /put and /mput."""
    broker = context.shared_broker()
    accepted(broker.http("POST", "/put?topic=hold", b"a"), b"OK", TEXT)
    accepted(broker.http("POST", "/mput?topic=hold", b"b\nc\n"), b"OK", TEXT)
    equal(received(broker, "hold", 3), [b"a", b"b", b"c"], "bodies")
    refused(broker.http("GET", "/put?topic=hold"), 405, "METHOD_NOT_ALLOWED")


@case("http_publish")
def health(context: Context) -> None:
    broker = context.shared_broker()
    eventually(lambda: broker.stats()["health"] == "OK", "healthy")
    equal(broker.http("GET", "/stats?format=json").header("content-type"), JSON, "content type")
