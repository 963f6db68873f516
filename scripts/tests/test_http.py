"""The HTTP API: routing, administration, configuration. Publishing and statistics have files of their own."""

from __future__ import annotations

import json
import socket
from typing import Optional

from harness import Broker, Context, Reply, case, equal, eventually

V1 = "nsq; version=1.0"
JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


def refused(reply: Reply, status: int, code: str) -> None:
    equal((reply.status, reply.body), (status, json.dumps({"message": code}, separators=(",", ":")).encode()), "error")
    equal(reply.header("content-type"), JSON, "content type")
    equal(reply.header("x-nsq-content-type"), V1, "X-NSQ-Content-Type")


def accepted(reply: Reply, body: bytes, content_type: Optional[str]) -> None:
    equal((reply.status, reply.body), (200, body), "reply")
    equal(reply.header("content-type"), content_type, "content type")
    equal(reply.header("x-nsq-content-type"), V1, "X-NSQ-Content-Type")
    equal(reply.header("content-length"), str(len(body)), "content length")
    assert reply.header("date"), "no Date header"


def raw(broker: Broker, request: bytes, patience: float = 10.0) -> bytes:
    """Sends bytes and reads until the broker closes; the request must ask for that."""
    with socket.create_connection(("127.0.0.1", broker.http_port), timeout=patience) as s:
        s.sendall(request)
        parts = []
        while True:
            try:
                part = s.recv(65536)
            except ConnectionError:
                break
            if not part:
                break
            parts.append(part)
    return b"".join(parts)


@case("http")
def ping(context: Context) -> None:
    reply = context.shared_broker().http("GET", "/ping")
    equal((reply.status, reply.body), (200, b"OK"), "reply")
    equal(reply.header("content-type"), TEXT, "content type")
    equal(reply.header("x-nsq-content-type"), None, "X-NSQ-Content-Type")


@case("http")
def info(context: Context) -> None:
    broker = context.shared_broker()
    reply = broker.http("GET", "/info")
    accepted(reply, reply.body, JSON)
    value = reply.json()
    assert isinstance(value, dict)
    keys = (
        "version broadcast_address hostname http_port tcp_port start_time max_heartbeat_interval max_output_buffer_size "
        "max_output_buffer_timeout max_deflate_level topology_zone topology_region"
    ).split()
    equal(list(value), keys, "keys in order")
    expected = dict(broadcast_address="127.0.0.1", hostname=socket.gethostname(), http_port=broker.http_port,
                    tcp_port=broker.tcp_port, max_heartbeat_interval=60 * 10**9, max_output_buffer_size=65536,
                    max_output_buffer_timeout=30 * 10**9, max_deflate_level=6, topology_zone="")  # fmt: skip
    equal({key: value[key] for key in expected}, expected, "values")


@case("http")
def unknown_paths(context: Context) -> None:
    broker = context.shared_broker()
    for method, path in (("GET", "/"), ("GET", "/nope"), ("POST", "/create_topic?topic=x"), ("GET", "/debug/vars"),
                         ("GET", "/pub/x"), ("GET", "/config/"), ("PUT", "/nope")):  # fmt: skip
        refused(broker.http(method, path), 404, "NOT_FOUND")


@case("http")
def wrong_methods(context: Context) -> None:
    broker = context.shared_broker()
    rows = (
        ("GET", "/pub?topic=x", "OPTIONS, POST"),
        ("PUT", "/mpub?topic=x", "OPTIONS, POST"),
        ("POST", "/ping", "GET, OPTIONS"),
        ("DELETE", "/stats", "GET, OPTIONS"),
        ("POST", "/info", "GET, OPTIONS"),
        ("GET", "/topic/create?topic=x", "OPTIONS, POST"),
        ("GET", "/channel/delete", "OPTIONS, POST"),
        ("POST", "/config/log_level", "GET, OPTIONS, PUT"),
    )
    for method, path, allow in rows:
        reply = broker.http(method, path)
        refused(reply, 405, "METHOD_NOT_ALLOWED")
        equal(reply.header("allow"), allow, f"Allow of {method} {path}")
    for path in ("/ping", "/stats", "/info"):
        reply = broker.http("HEAD", path)
        equal((reply.status, reply.body), (405, b""), f"HEAD {path}")
        equal(reply.header("allow"), "GET, OPTIONS", f"Allow of HEAD {path}")


@case("http")
def options(context: Context) -> None:
    broker = context.shared_broker()
    for path, allow in (("/ping", "GET, OPTIONS"), ("/pub", "OPTIONS, POST"), ("/config/x", "GET, OPTIONS, PUT")):
        reply = broker.http("OPTIONS", path)
        equal((reply.status, reply.body, reply.header("allow")), (200, b"", allow), f"OPTIONS {path}")
    reply = broker.http("OPTIONS", "*")
    equal((reply.status, reply.body), (200, b""), "OPTIONS *")
    refused(broker.http("OPTIONS", "/nope"), 404, "NOT_FOUND")


@case("http")
def redirects_to_the_canonical_path(context: Context) -> None:
    broker = context.shared_broker()
    rows = (
        ("GET", "/ping/", 301, "/ping"),
        ("GET", "/PING", 301, "/ping"),
        ("GET", "//ping", 301, "/ping"),
        ("GET", "/x/../ping", 301, "/ping"),
        ("GET", "/stats/?format=json", 301, "/stats?format=json"),
        ("POST", "/PUB?topic=x", 308, "/pub?topic=x"),
        ("POST", "/topic/create/?topic=x", 308, "/topic/create?topic=x"),
        ("POST", "/Topic/Create?topic=x", 308, "/topic/create?topic=x"),
    )
    for method, path, status, location in rows:
        reply = broker.http(method, path)
        # Which of the two a Go build sends depends on the release of its router; they mean the same.
        found = 308 if reply.status == 307 and not context.ours else reply.status
        equal((found, reply.header("location")), (status, location), f"{method} {path}")
    assert broker.topic("x") is None, "a redirected request must have no effect"


@case("http")
def topic_administration(context: Context) -> None:
    broker = context.shared_broker()
    for verb in ("create", "delete", "empty", "pause", "unpause"):
        refused(broker.http("POST", f"/topic/{verb}"), 400, "MISSING_ARG_TOPIC")
        refused(broker.http("POST", f"/topic/{verb}?topic=a%zz"), 400, "INVALID_REQUEST")
        if verb in ("create", "empty"):
            refused(broker.http("POST", f"/topic/{verb}?topic=a:b"), 400, "INVALID_TOPIC")
        else:
            refused(broker.http("POST", f"/topic/{verb}?topic=a:b"), 404, "TOPIC_NOT_FOUND")
        if verb != "create":
            refused(broker.http("POST", f"/topic/{verb}?topic=absent"), 404, "TOPIC_NOT_FOUND")
    for verb, _ in (("create", 1), ("create", 2), ("pause", 1), ("pause", 2), ("unpause", 1), ("empty", 1)):
        accepted(broker.http("POST", f"/topic/{verb}?topic=admt"), b"", None)
        equal(broker.topic("admt")["paused"], verb == "pause", f"paused after {verb}")
    accepted(broker.http("POST", "/topic/delete?topic=admt"), b"", None)
    refused(broker.http("POST", "/topic/delete?topic=admt"), 404, "TOPIC_NOT_FOUND")


@case("http")
def channel_administration(context: Context) -> None:
    broker = context.shared_broker()
    broker.post("/topic/create?topic=admc")
    for verb in ("create", "delete", "empty", "pause", "unpause"):
        path = f"/channel/{verb}"
        refused(broker.http("POST", path), 400, "MISSING_ARG_TOPIC")
        refused(broker.http("POST", f"{path}?topic=a:b"), 400, "INVALID_ARG_TOPIC")
        refused(broker.http("POST", f"{path}?topic=admc"), 400, "MISSING_ARG_CHANNEL")
        refused(broker.http("POST", f"{path}?topic=admc&channel=a:b"), 400, "INVALID_ARG_CHANNEL")
        refused(broker.http("POST", f"{path}?topic=absent&channel=ch"), 404, "TOPIC_NOT_FOUND")
        if verb != "create":
            refused(broker.http("POST", f"{path}?topic=admc&channel=absent"), 404, "CHANNEL_NOT_FOUND")
    for verb in ("create", "create", "pause", "pause", "unpause", "empty"):
        accepted(broker.http("POST", f"/channel/{verb}?topic=admc&channel=ch"), b"", None)
        equal(broker.channel("admc", "ch")["paused"], verb == "pause", f"paused after {verb}")
    accepted(broker.http("POST", "/channel/delete?topic=admc&channel=ch"), b"", None)
    equal(broker.channel("admc", "ch"), None, "the channel")


@case("http")
def query_parsing(context: Context) -> None:
    broker = context.shared_broker()
    broker.post("/topic/create?topic=q1&topic=q2")
    assert broker.topic("q1") and not broker.topic("q2"), "the first value wins"
    broker.post("/topic/create?topic=q%33")
    assert broker.topic("q3"), "escapes are decoded"
    refused(broker.http("POST", "/topic/create?a=1;topic=q4"), 400, "INVALID_REQUEST")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    refused(broker.http("POST", "/topic/create", b"topic=q5", form), 400, "MISSING_ARG_TOPIC")
    broker.post("/topic/create?topic=q6%23ephemeral")
    assert broker.topic("q6#ephemeral"), "an escaped #"


@case("http")
def config_values(context: Context) -> None:
    broker = context.shared_broker()
    rows = (
        ("max_msg_size", b"1048576", JSON), ("mem_queue_size", b"10000", JSON), ("msg_timeout", b"60000000000", JSON),
        ("deflate", b"true", JSON), ("log_level", b"2", JSON), ("nsqlookupd_tcp_addresses", b"[]", JSON),
        ("broadcast_address", b"127.0.0.1", TEXT), ("log_prefix", b"[nsqd] ", TEXT), ("tls_required", b"0", JSON),
        ("tls_min_version", b"769", JSON), ("max_rdy_count", b"2500", JSON), ("sync_timeout", b"2000000000", JSON),
        ("e2e_processing_latency_percentiles", b"[]", JSON), ("broadcast_tcp_port", str(broker.tcp_port).encode(), JSON),
    )  # fmt: skip
    for key, body, content_type in rows:
        reply = broker.http("GET", f"/config/{key}")
        equal((key, reply.status, reply.body), (key, 200, body), "reply")
        equal(reply.header("content-type"), content_type, f"content type of {key}")
    assert 0 <= int(broker.http("GET", "/config/id").body) < 1024, "node id"
    for key in ("node_id", "version", "config", "verbose", "worker_id", "nope", "max-msg-size"):
        refused(broker.http("GET", f"/config/{key}"), 400, "INVALID_OPTION")


@case("http")
def config_changes(context: Context) -> None:
    broker = context.broker()
    for key in ("log_level", "nope"):
        refused(broker.http("PUT", f"/config/{key}", b""), 413, "INVALID_VALUE")
        refused(broker.http("PUT", f"/config/{key}", b"x" * 1048577), 413, "INVALID_VALUE")
    refused(broker.http("PUT", "/config/nope", b"x"), 400, "INVALID_OPTION")
    refused(broker.http("PUT", "/config/max_msg_size", b"5"), 400, "INVALID_OPTION")
    refused(broker.http("PUT", "/config/log_level", b'"debug"'), 400, "INVALID_VALUE")
    refused(broker.http("PUT", "/config/log_level", b"debug\n"), 400, "INVALID_VALUE")
    refused(broker.http("PUT", "/config/nsqlookupd_tcp_addresses", b"nonsense"), 400, "INVALID_VALUE")
    accepted(broker.http("PUT", "/config/log_level", b"DEBUG"), b"1", JSON)
    equal(broker.http("GET", "/config/log_level").body, b"1", "level")
    accepted(broker.http("PUT", "/config/log_level", b"error"), b"4", JSON)
    accepted(broker.http("PUT", "/config/nsqlookupd_tcp_addresses", b"[]"), b"[]", JSON)
    broker.post("/topic/create?topic=quiet")
    offset = len(broker.log_text().encode())
    broker.post("/topic/create?topic=quieter")
    equal(broker.log_text(offset), "", "log output at level error")


@case("http")
def keep_alive_and_pipelining(context: Context) -> None:
    broker = context.shared_broker()
    request = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    equal(raw(broker, request * 9 + last).count(b"HTTP/1.1 200 OK\r\n"), 10, "replies to pipelined requests")
    publish = b"POST /pub?topic=pipe HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
    equal(raw(broker, publish * 50 + last).count(b"HTTP/1.1 200 OK\r\n"), 51, "replies to pipelined publishes")
    equal(broker.topic("pipe")["message_count"], 50, "message_count")


@case("http")
def http_1_0(context: Context) -> None:
    broker = context.shared_broker()
    reply = raw(broker, b"GET /ping HTTP/1.0\r\n\r\n")
    assert reply.startswith(b"HTTP/1.0 200 OK\r\n") and reply.endswith(b"\r\n\r\nOK"), reply


@case("http")
def half_closed_client_still_gets_its_reply(context: Context) -> None:
    broker = context.shared_broker()
    with socket.create_connection(("127.0.0.1", broker.http_port), timeout=10) as s:
        s.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        if context.ours:
            s.shutdown(socket.SHUT_WR)  # the reference may cancel the request
        data = b""
        while part := s.recv(65536):
            data += part
    assert data.endswith(b"OK"), data


@case("http")
def header_names_as_the_reference_writes_them(context: Context) -> None:
    reply = context.shared_broker().http("GET", "/info")
    equal(set(reply.headers), {"Content-Type", "X-Nsq-Content-Type", "Date", "Content-Length"}, "header names")


@case("http")
def malformed_requests(context: Context) -> None:
    broker = context.shared_broker()
    for request in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
                    b"GET /ping HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
                    b"POST /pub?topic=bad HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):  # fmt: skip
        reply = raw(broker, request)
        assert not reply.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2")), f"{request!r}: {reply[:200]!r}"
    equal(broker.http("GET", "/ping").body, b"OK", "ping afterwards")


@case("http")
def profiles(context: Context) -> None:
    broker = context.shared_broker()
    reply = broker.http("GET", "/debug/pprof")
    equal((reply.status, reply.header("location")), (301, "/debug/pprof/"), "redirect to the index")
    equal(broker.http("GET", "/debug/pprof/").status, 200, "index")
    equal(broker.http("GET", "/debug/pprof/allocs").status, 404, "a profile that never was there")


@case("http")
def debug_actions_answer_as_they_act(context: Context) -> None:
    """The reference performs them and then answers 500."""
    broker = context.shared_broker()
    equal(broker.http("POST", "/debug/freememory").status, context.pick(500, 200), "freememory")
    equal(broker.http("PUT", "/debug/setblockrate?rate=0").status, context.pick(500, 200), "setblockrate")
    reply = broker.http("PUT", "/debug/setblockrate?rate=abc")
    equal(reply.status, 400, "a bad rate")
    eventually(lambda: broker.http("GET", "/ping").body == b"OK", "alive")
