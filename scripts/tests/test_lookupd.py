"""nsqlookupd: its protocol and its HTTP API. The same rows run against ours and against the reference."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Dict, Optional, Tuple

import lookupd as programs
from harness import Context, case, equal, eventually
from lookupd import MAGIC, Lookupd, announcement, identify
from wire import PATIENCE_S, sized

V1 = "nsq; version=1.0"
JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
WHO = identify(announcement())
IDENTITY = b"$IDENTITY"
OK = b"OK"


def bad(verb: str, kind: str, name: str) -> bytes:
    return f"E_BAD_{kind.upper()} {verb} {kind} name '{name}' is not valid".encode()


@dataclass(frozen=True)
class Row:
    """What is sent after the magic, and every answer until the end of the stream."""

    name: str
    send: bytes
    answers: Tuple[bytes, ...]
    ours: Optional[Tuple[bytes, ...]] = None
    magic: bytes = MAGIC
    # The reference does not survive this, or answers nobody knows when.
    ours_only: bool = False


MUST_IDENTIFY = b"E_INVALID client must IDENTIFY"
UNREADABLE = b"E_BAD_BODY IDENTIFY failed to decode JSON body"
MISSING = b"E_BAD_BODY IDENTIFY missing fields"
NO_BODY = b"E_BAD_BODY IDENTIFY failed to read body"
LONG = "n" * 65

ROWS = (
    Row("nothing", b"", ()),
    Row("ping_before_identify", b"PING\nPING a b\n", (OK, OK)),
    Row("wrong_magic", b"", (b"E_BAD_PROTOCOL",), magic=b"  V2"),
    Row("magic_cut_short", b"", (), magic=b"  V"),
    Row("line_without_end", b"PING", ()),
    Row("white_space", b"  \tPING \r\n", (OK,)),
    Row("unknown", b"BOGUS x\nPING\n", (b"E_INVALID invalid command BOGUS",)),
    Row("lower_case", b"ping\n", (b"E_INVALID invalid command ping",)),
    Row("empty_line", b"\n", (b"E_INVALID invalid command ",)),
    Row("not_text", b"\xff\x80 x\n", (b"E_INVALID invalid command \xff\x80",)),
    Row("answers_before_a_mistake", b"PING\nPING\nBOGUS\nPING\n", (OK, OK, b"E_INVALID invalid command BOGUS")),
    Row("identify", WHO, (IDENTITY,)),
    Row("identify_with_words", WHO.replace(b"IDENTIFY", b"IDENTIFY a b"), (IDENTITY,)),
    Row("identify_twice", WHO + WHO, (IDENTITY, b"E_INVALID cannot IDENTIFY again")),
    Row("identify_without_size", b"IDENTIFY\n", (b"E_BAD_BODY IDENTIFY failed to read body size",)),
    Row("identify_with_half_a_size", b"IDENTIFY\n\0\0", (b"E_BAD_BODY IDENTIFY failed to read body size",)),
    Row("identify_without_body", b"IDENTIFY\n\0\0\0\x05", (NO_BODY,)),
    Row("identify_with_half_a_body", b"IDENTIFY\n\0\0\0\x05{}", (NO_BODY,)),
    Row("identify_empty", identify(b""), (UNREADABLE,)),
    Row("identify_no_object", identify(b"[]"), (UNREADABLE,)),
    Row("identify_text_for_a_port", identify(announcement().replace(b"4150", b'"4150"')), (UNREADABLE,)),
    Row("identify_fraction_for_a_port", identify(announcement().replace(b"4150", b"4150.5")), (UNREADABLE,)),
    Row("identify_null", identify(b"null"), (MISSING,)),
    Row("identify_nothing", identify(b"{}"), (MISSING,)),
    Row("identify_port_zero", identify(announcement(tcp_port=0)), (MISSING,)),
    Row("identify_no_address", identify(announcement(address="")), (MISSING,)),
    Row("identify_any_case", identify(announcement().replace(b"tcp_port", b"TCP_Port")), (IDENTITY,)),
    Row("identify_unknown_keys", identify(announcement()[:-1] + b',"x":[{}],"remote_address":"me"}'), (IDENTITY,)),
    Row("register_first", b"REGISTER t c\n", (MUST_IDENTIFY,)),
    Row("unregister_first", b"UNREGISTER\n", (MUST_IDENTIFY,)),
    Row("register", WHO + b"REGISTER t\nREGISTER t c\nREGISTER t c\nREGISTER t d more\n", (IDENTITY, OK, OK, OK, OK)),
    Row("unregister", WHO + b"UNREGISTER t\nUNREGISTER t c\nREGISTER t c\nUNREGISTER t\n", (IDENTITY, OK, OK, OK, OK)),
    Row("register_nothing", WHO + b"REGISTER\n", (IDENTITY, b"E_INVALID REGISTER insufficient number of params")),
    Row("unregister_blank", WHO + b"UNREGISTER \n", (IDENTITY, b"E_INVALID UNREGISTER insufficient number of params")),
    Row("register_two_blanks", WHO + b"REGISTER  a\n", (IDENTITY, bad("REGISTER", "topic", ""))),
    Row("register_empty_channel", WHO + b"REGISTER t  c\n", (IDENTITY, OK)),
    Row("register_bad_topic", WHO + b"REGISTER a$b c$d\n", (IDENTITY, bad("REGISTER", "topic", "a$b"))),
    Row("register_bad_channel", WHO + b"REGISTER t c$d\n", (IDENTITY, bad("REGISTER", "channel", "c$d"))),
    Row("register_wildcard", WHO + b"REGISTER *\n", (IDENTITY, bad("REGISTER", "topic", "*"))),
    Row("register_long", WHO + f"REGISTER {LONG}\n".encode(), (IDENTITY, bad("REGISTER", "topic", LONG))),
    Row("register_longest", WHO + f"REGISTER {LONG[1:]} {LONG[1:]}\n".encode(), (IDENTITY, OK)),
    Row("unregister_bad_channel", WHO + b"UNREGISTER t *\n", (IDENTITY, bad("UNREGISTER", "channel", "*"))),
    Row("negative_size", b"IDENTIFY\n\xff\xff\xff\xff", (b"E_BAD_BODY IDENTIFY invalid body size -1",), ours_only=True),
    Row("huge_size", b"IDENTIFY\n\x7f\xff\xff\xff", (b"E_BAD_BODY IDENTIFY body too big 2147483647 > 65536",), ours_only=True),
    Row("long_line", b"x" * 20000, (b"E_INVALID command line too long (max 16384 bytes)",), ours_only=True),
)  # fmt: skip


@case("lookupd")
def transcripts(context: Context) -> None:
    for program in programs.start_both(context):
        for row in ROWS:
            if row.ours_only and not program.ours:
                continue
            sent = program.talk(row.magic + row.send)
            answers = row.ours if program.ours and row.ours is not None else row.answers
            expected = b"".join(sized(identity(program) if answer == IDENTITY else answer) for answer in answers)
            equal(sent, expected, f"{row.name} ({program.binary})")
        program.talk(MAGIC + b"PING\n")


def identity(program: Lookupd) -> bytes:
    """The whole answer to IDENTIFY, as it must be to the letter."""
    fields = {
        "broadcast_address": "127.0.0.1", "hostname": socket.gethostname(), "http_port": program.http_port,
        "tcp_port": program.tcp_port, "version": program.get("/info")["version"],
    }  # fmt: skip
    return json.dumps(fields, separators=(",", ":")).encode()


def refusal(code: str) -> bytes:
    return json.dumps({"message": code}, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    status: int
    body: bytes
    kind: Optional[str] = JSON
    headers: Tuple[Tuple[str, str], ...] = ()
    versioned: bool = True
    # Where the reference is wrong.
    reference: Optional[bytes] = None


def refused(method: str, path: str, status: int, code: str) -> Request:
    return Request(method, path, status, refusal(code))


def done(path: str) -> Request:
    return Request("POST", path, 200, b"", None)


GET_ONLY = (("Allow", "GET, OPTIONS"),)
POST_ONLY = (("Allow", "OPTIONS, POST"),)

# In this order, on an empty directory.
REQUESTS = (
    Request("GET", "/ping", 200, b"OK", TEXT, versioned=False),
    Request("GET", "/topics", 200, b'{"topics":[]}'),
    Request("GET", "/nodes", 200, b'{"producers":[]}'),
    Request("GET", "/debug", 200, b"{}"),
    refused("GET", "/channels", 400, "MISSING_ARG_TOPIC"),
    refused("GET", "/channels?topic=a%", 400, "INVALID_REQUEST"),
    refused("GET", "/channels?topic=a;b", 400, "INVALID_REQUEST"),
    Request("GET", "/channels?topic=t", 200, b'{"channels":[]}'),
    Request("GET", "/channels?topic=", 200, b'{"channels":[]}'),
    refused("GET", "/lookup", 400, "MISSING_ARG_TOPIC"),
    refused("GET", "/lookup?topic=t", 404, "TOPIC_NOT_FOUND"),
    refused("GET", "/lookup?topic=", 404, "TOPIC_NOT_FOUND"),
    refused("GET", "/lookup?topic=a$b", 404, "TOPIC_NOT_FOUND"),
    refused("POST", "/topic/create", 400, "MISSING_ARG_TOPIC"),
    refused("POST", "/topic/create?topic=a$b", 400, "INVALID_ARG_TOPIC"),
    done("/topic/create?topic=t"),
    done("/topic/create?topic=t&topic=u"),
    Request("GET", "/topics", 200, b'{"topics":["t"]}'),
    Request("GET", "/lookup?topic=t", 200, b'{"channels":[],"producers":[]}'),
    refused("POST", "/channel/create", 400, "MISSING_ARG_TOPIC"),
    refused("POST", "/channel/create?topic=a$b", 400, "INVALID_ARG_TOPIC"),
    refused("POST", "/channel/create?topic=t", 400, "MISSING_ARG_CHANNEL"),
    refused("POST", "/channel/create?topic=t&channel=a$b", 400, "INVALID_ARG_CHANNEL"),
    done("/channel/create?topic=%74&channel=c"),
    done("/channel/create?channel=d%23ephemeral&topic=u%23ephemeral"),
    Request("GET", "/channels?topic=t", 200, b'{"channels":["c"]}'),
    Request("GET", "/channels?topic=u%23ephemeral", 200, b'{"channels":["d#ephemeral"]}'),
    # The wildcard of the reference.
    Request("GET", "/channels?topic=*", 200, b'{"channels":[]}', reference=b""),
    refused("POST", "/channel/delete?topic=t", 400, "MISSING_ARG_CHANNEL"),
    refused("POST", "/channel/delete?topic=t&channel=none", 404, "CHANNEL_NOT_FOUND"),
    refused("POST", "/channel/delete?topic=none&channel=c", 404, "CHANNEL_NOT_FOUND"),
    done("/channel/delete?topic=t&channel=c"),
    Request("GET", "/lookup?topic=t", 200, b'{"channels":[],"producers":[]}'),
    refused("POST", "/topic/delete", 400, "MISSING_ARG_TOPIC"),
    done("/topic/delete?topic=none"),
    done("/topic/delete?topic=a$b"),
    done("/topic/delete?topic=u%23ephemeral"),
    Request("GET", "/topics", 200, b'{"topics":["t"]}'),
    refused("POST", "/topic/tombstone", 400, "MISSING_ARG_TOPIC"),
    refused("POST", "/topic/tombstone?topic=t", 400, "MISSING_ARG_NODE"),
    done("/topic/tombstone?topic=t&node=nobody:4151"),
    done("/topic/tombstone?topic=none&node=x"),
    Request("HEAD", "/ping", 405, b"", headers=GET_ONLY),
    Request("DELETE", "/topics", 405, refusal("METHOD_NOT_ALLOWED"), headers=GET_ONLY),
    Request("GET", "/topic/create?topic=x", 405, refusal("METHOD_NOT_ALLOWED"), headers=POST_ONLY),
    Request("OPTIONS", "/lookup", 200, b"", None, GET_ONLY, versioned=False),
    Request("OPTIONS", "/topic/create", 200, b"", None, POST_ONLY, versioned=False),
    Request("GET", "/PING/", 301, b'<a href="/ping">Moved Permanently</a>.\n\n', "text/html; charset=utf-8",
            (("Location", "/ping"),), versioned=False),
    refused("GET", "/", 404, "NOT_FOUND"),
    refused("GET", "/nope", 404, "NOT_FOUND"),
    refused("GET", "/create_topic?topic=x", 404, "NOT_FOUND"),
    refused("POST", "/delete_topic?topic=t", 404, "NOT_FOUND"),
    refused("POST", "/tombstone_topic_producer?topic=t&node=n", 404, "NOT_FOUND"),
    refused("GET", "/debug/pprof/mutex", 404, "NOT_FOUND"),
)  # fmt: skip


@case("lookupd")
def requests(context: Context) -> None:
    for program in programs.start_both(context):
        for row in REQUESTS:
            reply = program.http(row.method, row.path)
            what = f"{row.method} {row.path} ({program.binary})"
            equal(reply.status, row.status, f"status of {what}")
            if program.ours or row.reference is None:
                equal(reply.body, row.body, f"body of {what}")
            equal(reply.header("content-type"), row.kind, f"content type of {what}")
            equal(reply.headers.get("X-Nsq-Content-Type"), V1 if row.versioned else None, f"version header of {what}")
            for name, value in row.headers:
                equal(reply.headers.get(name), value, f"{name} of {what}")
        for path in ("/topic/create/", "/Topic//create"):
            equal(program.http("POST", f"{path}?topic=x").headers.get("Location"), "/topic/create?topic=x", path)
        equal(program.http("GET", "/debug/pprof").status, 200, "profiler")
        equal(program.http("GET", "/debug/pprof/cmdline").status, 200, "command line")


@case("lookupd", ours_only=True)
def a_wildcard_deletes_nothing(context: Context) -> None:
    program = programs.start(context)
    program.post("/channel/create?topic=t&channel=c")
    program.post("/topic/delete?topic=*")
    equal((program.topics(), program.channels("t")), (["t"], ["c"]), "what is left")
    equal(program.http("POST", "/channel/delete?topic=t&channel=*").status, 400, "a channel that cannot be")
    equal(program.lookup("*"), None, "lookup")


def without_topology(value: object) -> object:
    """The release of the reference does not have these keys yet; its master has."""
    if isinstance(value, dict):
        return {k: without_topology(v) for k, v in value.items() if not k.startswith("topology_")}
    return [without_topology(v) for v in value] if isinstance(value, list) else value


@case("lookupd")
def registrations_are_listed(context: Context) -> None:
    for program in programs.start_both(context):
        with program.producer("<a&b>") as a, program.producer("b", 5150, 5151) as b:
            a.say("REGISTER t c", "REGISTER u")
            b.say("REGISTER t d", "PING")
            entries = {
                p.id: {
                    "remote_address": p.id, "hostname": "h", "broadcast_address": address, "tcp_port": port,
                    "http_port": port + 1, "version": "1.3.0",
                }
                for p, address, port in ((a, "<a&b>", 4150), (b, "b", 5150))
            }  # fmt: skip
            found = without_topology(program.get("/lookup?topic=t"))
            equal(list(found), ["channels", "producers"], "keys")
            equal(sorted(found["channels"]), ["c", "d"], "channels")
            equal({p["remote_address"]: p for p in found["producers"]}, entries, "producers")
            equal(list(found["producers"][0]), list(entries[a.id]), "order of keys")
            nodes = {p["remote_address"]: p for p in without_topology(program.get("/nodes"))["producers"]}
            equal(nodes[b.id], {**entries[b.id], "tombstones": [False], "topics": ["t"]}, "node")
            equal(sorted(nodes[a.id]["topics"]), ["t", "u"], "topics of a node")
            body = program.http("GET", "/lookup?topic=u").body
            assert b'"broadcast_address":"\\u003ca\\u0026b\\u003e"' in body, body
            debug(program, a.id, b.id)


def debug(program: Lookupd, a: str, b: str) -> None:
    value = without_topology(program.get("/debug"))
    assert isinstance(value, dict)
    keys = {key: sorted(entry["id"] for entry in entries) for key, entries in value.items()}
    expected = {"client::": [a, b], "topic:t:": [a, b], "topic:u:": [a], "channel:t:c": [a], "channel:t:d": [b]}
    equal(keys, {key: sorted(ids) for key, ids in expected.items()}, "keys of /debug")
    entry = value["topic:u:"][0]
    last_update = entry.pop("last_update")
    assert 1.7e18 < last_update < 2.5e18, last_update
    expected_entry = {
        "broadcast_address": "<a&b>", "hostname": "h", "http_port": 4151, "id": a, "tcp_port": 4150,
        "tombstoned": False, "tombstoned_at": -6795364578871345152, "version": "1.3.0",
    }  # fmt: skip
    equal(entry, expected_entry, "an entry of /debug")


@case("lookupd")
def a_disconnect_takes_registrations_and_leaves_names(context: Context) -> None:
    for program in programs.start_both(context):
        with program.producer() as p:
            p.say("REGISTER t c", "REGISTER t e#ephemeral", "REGISTER x#ephemeral c", "REGISTER y#ephemeral")
            p.say("UNREGISTER t e#ephemeral", "REGISTER t f#ephemeral", "UNREGISTER y#ephemeral")
        eventually(lambda: program.lookup("t") == [], "the producer is gone")
        eventually(lambda: program.get("/debug") == {}, "all its registrations are gone")
        equal(program.get("/nodes"), {"producers": []}, "nodes")
        equal(program.channels("t"), program.pick(["c", "f#ephemeral"], ["c"]), "channels")
        equal(program.topics(), program.pick(["t", "x#ephemeral"], ["t"]), "topics")


@case("lookupd")
def unregistering_a_topic_takes_its_channels(context: Context) -> None:
    for program in programs.start_both(context):
        with program.producer("a") as a, program.producer("b") as b:
            a.say("REGISTER t c", "REGISTER t d")
            b.say("REGISTER t c")
            a.say("UNREGISTER t")
            equal(program.lookup("t"), ["b"], "who is left")
            equal(program.channels("t"), ["c", "d"], "channels")
            equal(sorted(program.get("/debug")), ["channel:t:c", "client::", "topic:t:"], "registrations")
            b.say("UNREGISTER t c")
            equal(program.lookup("t"), ["b"], "the topic stays")
            text = f"WARNING: client({a.id}) unexpected UNREGISTER category:channel key:t subkey:d"
            assert text in program.log_text(), program.log_text()


@case("lookupd")
def deleting_over_http_is_not_undone_by_a_ping(context: Context) -> None:
    for program in programs.start_both(context):
        with program.producer("a") as a:
            a.say("REGISTER t c", "REGISTER t d", "REGISTER u")
            program.post("/channel/delete?topic=t&channel=c")
            equal(program.channels("t"), ["d"], "channels")
            program.post("/topic/delete?topic=t")
            a.say("PING")
            equal((program.lookup("t"), program.lookup("u")), (None, ["a"]), "lookups")
            a.say("REGISTER t c")
            equal((program.lookup("t"), program.channels("t")), (["a"], ["c"]), "registered again")


@case("lookupd")
def a_tombstone_hides_for_its_time(context: Context) -> None:
    for program in programs.start_both(context, "--tombstone-lifetime=700ms"):
        with program.producer("a") as a, program.producer("b") as b:
            for p in (a, b):
                p.say("REGISTER t", "REGISTER u")
            program.post("/topic/tombstone?topic=t&node=a:4151")
            equal((program.lookup("t"), program.lookup("u")), (["b"], ["a", "b"]), "lookups")
            a.say("REGISTER t", "PING")
            equal(tombstones(program, "a"), {"t": True, "u": False}, "of the node")
            eventually(lambda: program.lookup("t") == ["a", "b"], "the tombstone expires")
            equal(tombstones(program, "a"), {"t": False, "u": False}, "of the node afterwards")
            program.post("/topic/tombstone?topic=t&node=a:4151")
            a.say("UNREGISTER t", "REGISTER t")
            equal(program.lookup("t"), ["a", "b"], "a registration that starts clean")


def tombstones(program: Lookupd, address: str) -> Dict[str, bool]:
    (node,) = [p for p in program.get("/nodes")["producers"] if p["broadcast_address"] == address]
    equal(len(node["tombstones"]), len(node["topics"]), "length of tombstones")
    return dict(zip(node["topics"], node["tombstones"]))


@case("lookupd", ours_only=True)
def tombstones_match_ipv6_nodes_in_brackets(context: Context) -> None:
    program = programs.start(context)
    with program.producer("fe80::1") as p:
        for topic, node in (("t", "[fe80::1]:4151"), ("u", "fe80::1:4151")):
            p.say(f"REGISTER {topic}")
            program.post(f"/topic/tombstone?topic={topic}&node={node}")
            equal(program.lookup(topic), [], node)


@case("lookupd")
def a_silent_producer_is_hidden_until_it_pings(context: Context) -> None:
    for program in programs.start_both(context, "--inactive-producer-timeout=400ms"):
        with program.producer("a") as a:
            a.say("REGISTER t c")
            eventually(lambda: program.lookup("t") == [], "hidden")
            equal(program.get("/nodes"), {"producers": []}, "nodes")
            equal(program.channels("t"), ["c"], "channels")
            assert "topic:t:" in program.get("/debug"), "nothing is forgotten"
            a.say("REGISTER u")
            equal(program.lookup("u"), [], "a registration is no sign of life")

            def shown() -> bool:
                a.say("PING")
                return program.lookup("t") == program.lookup("u") == ["a"]

            eventually(shown, "shown again")


@case("lookupd")
def a_long_answer_is_whole(context: Context) -> None:
    """More topics than fit into one slice, with the longest names, and a producer that has them all."""
    names = [f"{number:064d}" for number in range(4000)]
    for program in programs.start_both(context):
        with program.producer("a") as a:
            a.say(*(f"REGISTER {name}" for name in names))
            equal(program.topics(), names, "topics")
            (node,) = program.get("/nodes")["producers"]
            equal((sorted(node["topics"]), len(node["tombstones"])), (names, len(names)), "node")
            equal(len(program.get("/debug")), len(names) + 1, "registrations")
            a.say(*(f"REGISTER t {name}" for name in names))
            found = program.get("/lookup?topic=t")
            equal((sorted(found["channels"]), len(found["producers"])), (names, 1), "channels")
            program.post("/topic/delete?topic=t")
            equal(program.lookup("t"), None, "deleted with all its channels")


@case("lookupd", ours_only=True)
def nobody_waits_for_a_reader_that_stalls(context: Context) -> None:
    """Answers of a megabyte that nobody reads keep neither registrations nor lookups waiting."""
    program = programs.start(context)
    with program.producer("a") as a:
        a.say(*(f"REGISTER {number:064d}" for number in range(15000)))
        stalled = []
        for _ in range(20):
            s = socket.create_connection(("127.0.0.1", program.http_port), timeout=PATIENCE_S)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.sendall(b"GET /topics HTTP/1.1\r\nHost: x\r\n\r\n")
            stalled.append(s)
        a.say("REGISTER t c", "UNREGISTER t c", "PING")
        equal(program.lookup("t"), ["a"], "lookup")
        equal(len(program.topics()), 15001, "topics")
        for s in stalled:
            s.close()


@case("lookupd", ours_only=True)
def too_many_registrations_are_refused_and_the_rest_stays(context: Context) -> None:
    program = programs.start(context)
    with program.producer("a") as a:
        for thousand in range(0, 65536, 1024):
            a.say(*(f"REGISTER {number}" for number in range(thousand, thousand + 1024)))
        a.socket.sendall(b"REGISTER more\nREGISTER 5\nPING\n")
        equal(a.read(), b"E_INVALID REGISTER too many registrations (max 65536 per client)", "refusal")
        equal((a.read(), a.read()), (OK, OK), "the connection goes on")
        a.say("UNREGISTER 5", "REGISTER more")
        equal(program.lookup("more"), ["a"], "room again")
    eventually(lambda: program.lookup("more") == [], "hidden at once")
    eventually(lambda: program.get("/debug") == {}, "forgotten")


@case("lookupd", ours_only=True)
def hostile_peers_cost_nobody_else_anything(context: Context) -> None:
    program = programs.start(context)
    with program.producer("good") as good:
        good.say("REGISTER t c")
        memory = program.memory_kib("VmRSS")
        for junk in (b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff", b"\0\1\0\1"):
            for _ in range(25):
                program.talk(MAGIC + b"IDENTIFY\n" + junk)
        deep = b'{"a":' * 10000
        equal(program.talk(MAGIC + identify(deep)), sized(UNREADABLE), "a deep body")
        held = [socket.create_connection(program.address) for _ in range(50)]
        for number, s in enumerate(held):
            s.sendall((MAGIC + b"REGISTER")[: number % 12])
        with socket.create_connection(("127.0.0.1", program.http_port)) as s:
            s.sendall(b"POST /topic/create?topic=half HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx")
        equal(program.http("POST", "/topic/create?topic=x", b"y" * (64 << 20)).status, 200, "a body that means nothing")
        equal((program.lookup("x"), program.lookup("half")), ([], None), "what was created")
        good.say("PING", "REGISTER u")
        equal(program.lookup("u"), ["good"], "lookup")
        assert program.memory_kib("VmRSS") < memory + 20000, "memory grew"
        for s in held:
            s.close()


@case("lookupd")
def http_connections_are_kept_and_pipelined(context: Context) -> None:
    for program in programs.start_both(context):
        with socket.create_connection(("127.0.0.1", program.http_port), timeout=PATIENCE_S) as s:
            request = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
            s.sendall(request * 3 + b"GET /topics HTTP/1.0\r\n\r\n")
            data = b"".join(iter(lambda: s.recv(65536), b""))
        equal(data.count(b"HTTP/1.1 200 OK\r\n"), 3, "answers")
        equal(data.count(b"HTTP/1.0 200 OK\r\n"), 1, "answers to an old request")
        assert data.endswith(b'{"topics":[]}'), data
