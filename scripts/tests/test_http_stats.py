"""`/stats`: every key in its place and of its type, the filters, the text form, and the shape of the reference."""

from __future__ import annotations

import re
from typing import Dict, List

from harness import Broker, Context, case, equal, eventually
from wire import Connection, req

TOP = ["version", "health", "start_time", "topics", "memory", "producers"]
TOPIC = ["topic_name", "channels", "depth", "backend_depth", "message_count", "message_bytes", "paused",
         "e2e_processing_latency"]  # fmt: skip
CHANNEL = ["channel_name", "depth", "backend_depth", "in_flight_count", "deferred_count", "message_count",
           "requeue_count", "timeout_count", "client_count", "clients", "paused", "e2e_processing_latency"]  # fmt: skip
CLIENT = ["client_id", "hostname", "version", "remote_address", "state", "ready_count", "in_flight_count",
          "message_count", "finish_count", "requeue_count", "connect_ts", "sample_rate", "deflate", "snappy",
          "user_agent", "tls", "tls_cipher_suite", "tls_version", "tls_negotiated_protocol",
          "tls_negotiated_protocol_is_mutual"]  # fmt: skip
MEMORY = ["heap_objects", "heap_idle_bytes", "heap_in_use_bytes", "heap_released_bytes", "gc_pause_usec_100",
          "gc_pause_usec_99", "gc_pause_usec_95", "next_gc_bytes", "gc_total_runs"]  # fmt: skip
# Left out when zero or empty, and at fixed places otherwise.
OPTIONAL = {"zone_local_msg_count", "region_local_msg_count", "global_msg_count", "authed", "auth_identity",
            "auth_identity_url", "topology_zone", "topology_region", "pub_counts"}  # fmt: skip


def keys(entry: Dict[str, object], expected: List[str], what: str) -> None:
    equal([key for key in entry if key not in OPTIONAL], expected, f"keys of {what} in order")


def populate(broker: Broker) -> List[Connection]:
    """Two topics, three channels, a consumer that has finished one, requeued one and holds two, and a producer."""
    producer, consumer = broker.connect(), broker.connect()
    producer.identify(client_id="pid", hostname="phost", user_agent="pua/1.0")
    consumer.identify(client_id="cid", hostname="chost", user_agent="cua/1.0", sample_rate=0)
    for topic, channel in (("s1", "a"), ("s1", "b"), ("s2", "a")):
        broker.post(f"/topic/create?topic={topic}")
        broker.post(f"/channel/create?topic={topic}&channel={channel}")
    producer.publish("s1", *[b"12345"] * 6)
    producer.publish("s2", b"1")
    broker.post("/topic/create?topic=s3")
    broker.post("/topic/pause?topic=s2")
    broker.post("/channel/pause?topic=s1&channel=b")
    consumer.subscribe("s1", "a", 4)
    first, second, *_ = consumer.messages(4)
    consumer.ready(2)
    consumer.finish(first)
    consumer.send(req(second.id, 600_000))
    eventually(lambda: broker.channel("s1", "a")["deferred_count"] == 1, "one deferred")
    return [producer, consumer]


@case("http_stats")
def json_values(context: Context) -> None:
    broker = context.broker()
    connections = populate(broker)
    stats = broker.stats()
    keys(stats, TOP, "the whole")
    equal(stats["health"], "OK", "health")
    equal([t["topic_name"] for t in stats["topics"]], ["s1", "s2", "s3"], "topics, sorted")
    for topic in stats["topics"]:
        keys(topic, TOPIC, "a topic")
        equal(topic["e2e_processing_latency"]["count"], 0, "e2e count")
        for channel in topic["channels"]:
            keys(channel, CHANNEL, "a channel")
    first = stats["topics"][0]
    equal((first["message_count"], first["message_bytes"], first["depth"], first["paused"]), (6, 30, 0, False), "s1")
    equal((stats["topics"][1]["paused"], stats["topics"][2]["channels"]), (True, []), "s2 paused, s3 without channels")
    a, b = first["channels"]
    counts = ("depth", "in_flight_count", "deferred_count", "message_count", "requeue_count", "timeout_count", "client_count")
    equal([a[key] for key in counts], [2, 2, 1, 6, 1, 0, 1], "channel a")
    equal([b[key] for key in counts], [6, 0, 0, 6, 0, 0, 0], "channel b")
    equal((b["paused"], b["clients"]), (True, []), "channel b paused, no clients")
    keys(a["clients"][0], CLIENT, "a consumer")
    equal(len(stats["producers"]), 1, "producers")
    keys(stats["producers"][0], CLIENT, "a producer")
    consumer = a["clients"][0]
    expected = dict(client_id="cid", hostname="chost", user_agent="cua/1.0", version="V2", state=3, ready_count=2,
                    in_flight_count=2, message_count=4, finish_count=1, requeue_count=1, sample_rate=0, deflate=False,
                    snappy=False, tls=False, tls_cipher_suite="", tls_version="")  # fmt: skip
    equal({key: consumer[key] for key in expected}, expected, "the consumer")
    host, port = connections[1].socket.getsockname()
    equal(consumer["remote_address"], f"{host}:{port}", "remote address")
    counted = {entry["topic"]: entry["count"] for entry in stats["producers"][0]["pub_counts"]}
    everything = {"s1": 6, "s2": 1}
    assert counted == everything if context.ours else counted.items() <= everything.items(), counted
    for connection in connections:
        connection.close()


@case("http_stats")
def filters(context: Context) -> None:
    broker = context.broker()
    connections = populate(broker)

    def names(query: str) -> List[str]:
        topics = broker.stats(query)["topics"] or []
        return [f"{t['topic_name']}:{','.join(c['channel_name'] for c in t['channels'])}" for t in topics]

    equal(names(""), ["s1:a,b", "s2:a", "s3:"], "all")
    equal(names("&topic=s1"), ["s1:a,b"], "one topic")
    equal(names("&topic=s1&channel=b"), ["s1:b"], "one channel")
    equal(names("&channel=a"), ["s1:a", "s2:a"], "a channel name")
    equal(names("&topic=nope"), [], "no match")
    equal(names("&topic="), ["s1:a,b", "s2:a", "s3:"], "an empty filter is none")
    for value in ("false", "0"):
        stats = broker.stats(f"&include_clients={value}&include_mem={value}")
        assert "memory" not in stats, "memory was to be left out"
        assert not stats["producers"], "producers were to be left out"
        channel = stats["topics"][0]["channels"][0]
        equal((channel["clients"] or [], channel["client_count"]), ([], 1), "clients and their number")
    for value in ("true", "1", "x", ""):
        stats = broker.stats(f"&include_clients={value}&include_mem={value}")
        equal(list(stats["memory"]), MEMORY, "memory keys")
        equal(len(stats["topics"][0]["channels"][0]["clients"]), 1, "clients")
    only = broker.stats("&topic=s2")["producers"]
    equal([e for p in only for e in p.get("pub_counts", []) if e["topic"] != "s2"], [], "pub_counts honour the filter")
    for connection in connections:
        connection.close()


@case("http_stats")
def empty_broker(context: Context) -> None:
    broker = context.broker()
    stats = broker.stats()
    equal((stats["topics"], stats["producers"]), ([], None), "topics and producers")
    text = broker.http("GET", "/stats").body.decode()
    assert "\nTopics: None\n" in text and "\nProducers: None\n" in text, text


@case("http_stats")
def text_layout(context: Context) -> None:
    broker = context.broker()
    connections = populate(broker)
    reply = broker.http("GET", "/stats")
    equal(reply.header("content-type"), "text/plain; charset=utf-8", "content type")
    lines = [
        r"nsqd v1\.3\.0\S* \(built w/.+\)",
        r"start_time \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)",
        r"uptime [0-9.hmµn]+s",
        r"",
        r"Health: OK",
        r"",
        r"Memory:",
        *[rf"   {key:<25}\t\d+" for key in MEMORY],
        r"",
        r"Topics:",
        r"   \[s1             \] depth: 0     be-depth: 0     msgs: 6        e2e%: ",
        r"      \[a                        \] depth: 2     be-depth: 0     inflt: 2    def: 1    re-q: 1     timeout: 0     msgs: 6        e2e%: ",
        r"        \[V2 chost:\d+ cua/1\.0 *\] state: 3 inflt: 2    rdy: 2    fin: 1        re-q: 1        msgs: 4        connected: \d+s",
        r"   \*P \[b                        \] depth: 6     be-depth: 0     inflt: 0    def: 0    re-q: 0     timeout: 0     msgs: 6        e2e%: ",
        r"",
        r"\*P \[s2             \] depth: \d     be-depth: 0     msgs: 1        e2e%: ",
        r"      \[a                        \] depth: \d     be-depth: 0     inflt: 0    def: 0    re-q: 0     timeout: 0     msgs: \d        e2e%: ",
        r"",
        r"   \[s3             \] depth: 0     be-depth: 0     msgs: 0        e2e%: ",
        r"",
        r"Producers:",
        r"   \[V2 phost:\d+ pua/1\.0 *\] msgs: \d        topics: (s1=6|s2=1|s1=6,s2=1) connected: \d+s",
    ]
    found = reply.body.decode().rstrip("\n").split("\n")
    for number, (pattern, line) in enumerate(zip(lines, found), 1):
        assert re.fullmatch(pattern, line), f"line {number}: expected {pattern!r}, got {line!r}"
    equal(len(found), len(lines), "number of lines")
    for connection in connections:
        connection.close()


def shape(value: object) -> object:
    """The keys in order and the types; lists by their first entry; null stays null."""
    if isinstance(value, dict):
        return {key: shape(entry) for key, entry in value.items() if key not in OPTIONAL}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return type(value).__name__
    return "number"


@case("http_stats", needs=("reference",))
def same_shape_as_the_reference(context: Context) -> None:
    """/stats and /info of both after the same history."""
    shapes = []
    for binary in (context.settings.reference, context.settings.binary):
        broker = context.broker(binary=binary)
        connections = populate(broker)
        found = {"/info": shape(broker.http("GET", "/info").json())}
        for query in ("", "&topic=s1", "&include_clients=false", "&include_mem=false", "&channel=b"):
            found[query] = shape(broker.stats(query))
        shapes.append(found)
        for connection in connections:
            connection.close()
    reference, tested = shapes
    for query, expected in reference.items():
        # Compared as text so that the order of keys counts.
        equal(repr(tested[query]), repr(expected), f"shape of {query or '/stats'}")
