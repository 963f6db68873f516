"""Transcripts: bytes to send, frames to expect. One row per rule of the protocol's validation tables.

In a row `$T` stands for a topic name of its own. A reply is `OK`, an exact error text, or a prefix ending in `*`.
`ours` replaces the replies where the reference is known to be wrong.
"""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Optional, Tuple

from harness import CASES, Case, Context, case, equal
from wire import ERROR, RESPONSE, Closed, Connection, bodies, fin, sized

OPEN, CLOSED = "open", "closed"
ID = b"0123456789abcdef"
MSG_MAX, BODY_MAX = 1048576, 5242880
LONG = b"n" * 65


@dataclass(frozen=True)
class Row:
    name: str
    send: bytes
    replies: Tuple[str, ...]
    after: str = CLOSED
    ours: Optional[Tuple[str, ...]] = None
    ours_after: Optional[str] = None
    # Ends our side of the stream after sending: the broker sees a truncated command.
    half_close: bool = False
    # The reference closes with unread input, so that a reset may swallow the error frame.
    reset_by_reference: bool = False


def size(n: int) -> bytes:
    return struct.pack(">i", n)


def identify(body: bytes) -> bytes:
    return b"IDENTIFY\n" + sized(body)


SUBSCRIBED = b"SUB $T ch\n"
INVALID = "E_INVALID "


def state_rows() -> list[Row]:
    """Commands in states where they are not allowed."""
    rows = []
    for command in (b"RDY 1", b"FIN " + ID, b"REQ " + ID + b" 0", b"TOUCH " + ID, b"CLS"):
        verb = command.split()[0].decode()
        text = f"E_INVALID cannot {verb} in current state"
        rows.append(Row(f"{verb}_before_sub", command + b"\n", (text,)))
    for command in (identify(b"{}"), b"AUTH\n" + sized(b"s"), b"SUB $T other\n"):
        verb = command.split()[0].decode()
        text = f"E_INVALID cannot {verb} in current state"
        rows.append(Row(f"{verb}_after_sub", SUBSCRIBED + command, ("OK", text), reset_by_reference=verb != "SUB"))
    closing = SUBSCRIBED + b"CLS\n"
    for command in (b"SUB $T ch\n", b"CLS\n"):
        verb = command.split()[0].decode()
        text = f"E_INVALID cannot {verb} in current state"
        rows.append(Row(f"{verb}_after_cls", closing + command, ("OK", "CLOSE_WAIT", text)))
    rows.append(Row("IDENTIFY_after_cls", closing + identify(b"{}"),
                    ("OK", "CLOSE_WAIT", "E_INVALID cannot IDENTIFY in current state"), reset_by_reference=True))
    rows.append(Row("rdy_after_cls_is_ignored", closing + b"RDY 5\nRDY nonsense\nRDY 99999\n", ("OK", "CLOSE_WAIT"), OPEN))
    rows.append(Row("fin_after_cls_still_works", closing + fin(ID),
                    ("OK", "CLOSE_WAIT", f"E_FIN_FAILED FIN {ID.decode()} failed ID not in flight"), OPEN))
    return rows


def line_rows() -> list[Row]:
    """How a command line is read."""
    overlong = b"NOP " + b"x" * 16384 + b"\n"
    return [
        Row("nop", b"NOP\nNOP\nNOP\n", (), OPEN),
        Row("nop_with_parameters", b"NOP a b\n", (), OPEN),
        Row("nop_with_carriage_return", b"NOP\r\n", (), OPEN),
        Row("two_carriage_returns", b"NOP\r\r\n", ("E_INVALID invalid command NOP\r",)),
        Row("empty_line", b"\n", ("E_INVALID invalid command ",)),
        Row("lower_case", b"nop\n", ("E_INVALID invalid command nop",)),
        Row("unknown_command", b"BOGUS a b\n", ("E_INVALID invalid command BOGUS",)),
        Row("leading_space", b" NOP\n", ("E_INVALID invalid command ",)),
        Row("pub_extra_parameters", b"PUB $T a b c\n" + sized(b"x"), ("OK",), OPEN),
        Row("sub_extra_parameters", b"SUB $T ch extra\n", ("OK",), OPEN),
        Row("longest_line", b"NOP " + b"x" * (16384 - 5) + b"\n", (), OPEN),
        Row("overlong_line", overlong, (), CLOSED, ours=("E_INVALID *",), reset_by_reference=True),
        Row("eof_inside_a_line", b"PUB $T", (), CLOSED, half_close=True),
        Row("eof_between_commands", b"NOP\n", (), CLOSED, half_close=True),
        Row("identify_twice_then_sub", identify(b"{}") * 2 + SUBSCRIBED, ("OK", "OK", "OK"), OPEN),
    ]


def name_rows() -> list[Row]:
    """Names, and how a bad one is quoted."""
    rows = []
    for label, name, quoted in (
        ("colon", b"a:b", '"a:b"'),
        ("empty", b"", '""'),
        ("too_long", LONG, '"' + "n" * 65 + '"'),
        ("suffix_only", b"#ephemeral", '"#ephemeral"'),
        ("quote", b'a"b', '"a\\"b"'),
        ("backslash", b"a\\b", '"a\\\\b"'),
        ("tab", b"a\tb", '"a\\tb"'),
        ("control", b"a\x01b", '"a\\x01b"'),
        ("not_utf8", b"a\xffb", '"a\\xffb"'),
        ("utf8", "ä".encode(), '"ä"'),
    ):
        text = f"E_BAD_TOPIC %s topic name {quoted} is not valid"
        rows.append(Row(f"pub_bad_topic_{label}", b"PUB " + name + b"\n", (text % "PUB",)))
        rows.append(Row(f"sub_bad_topic_{label}", b"SUB " + name + b" ch\n", (text % "SUB",)))
        rows.append(Row(f"dpub_bad_topic_{label}", b"DPUB " + name + b" 0\n", (text % "DPUB",)))
        rows.append(Row(f"mpub_bad_topic_{label}", b"MPUB " + name + b"\n",
                        ("E_BAD_TOPIC " + text % "MPUB",), ours=(text % "MPUB",)))
        channel = f"E_BAD_CHANNEL SUB channel name {quoted} is not valid"
        rows.append(Row(f"sub_bad_channel_{label}", b"SUB $T " + name + b"\n", (channel,)))
    for name in (b"..", b"a.b-c_D9", b"x" * 64):
        rows.append(Row(f"legal_channel_name_{name.decode()[:8]}", b"SUB $T " + name + b"\n", ("OK",), OPEN))
    rows.append(Row("ephemeral_names", b"SUB $T#ephemeral ch#ephemeral\n", ("OK",), OPEN))
    return rows


def publish_rows() -> list[Row]:
    """PUB and DPUB: sizes, truncation, deferral."""
    rows = []
    for verb, line in (("PUB", b"PUB $T\n"), ("DPUB", b"DPUB $T 0\n")):
        bad = f"E_BAD_MESSAGE {verb} "
        rows += [
            Row(f"{verb}_no_size", line + b"\0\0", (bad + "failed to read message body size",), half_close=True),
            Row(f"{verb}_zero", line + size(0), (bad + "invalid message body size 0",)),
            Row(f"{verb}_negative", line + size(-1), (bad + "invalid message body size -1",)),
            Row(f"{verb}_too_big", line + size(MSG_MAX + 1), (bad + f"message too big {MSG_MAX + 1} > {MSG_MAX}",)),
            Row(f"{verb}_too_big_with_body", line + sized(b"x" * (MSG_MAX + 1)),
                (bad + f"message too big {MSG_MAX + 1} > {MSG_MAX}",), reset_by_reference=True),
            Row(f"{verb}_largest", line + sized(b"x" * MSG_MAX), ("OK",), OPEN),
            Row(f"{verb}_short_body", line + size(5) + b"abc", (bad + "failed to read message body",), half_close=True),
            Row(f"{verb}_pipelined", (line + sized(b"x")) * 100, ("OK",) * 100, OPEN),
        ]
    could_not = "E_INVALID DPUB could not parse timeout "
    out_of = "E_INVALID DPUB timeout %s out of range 0-3600000"
    rows += [
        Row("pub_no_parameter", b"PUB\n", ("E_INVALID PUB insufficient number of parameters",)),
        Row("dpub_no_parameter", b"DPUB\n", ("E_INVALID DPUB insufficient number of parameters",)),
        Row("dpub_one_parameter", b"DPUB $T\n", ("E_INVALID DPUB insufficient number of parameters",)),
        Row("dpub_not_a_number", b"DPUB $T x1\n", (could_not + "x1",)),
        Row("dpub_negative", b"DPUB $T -1\n", (could_not + "-1",)),
        Row("dpub_over_the_limit", b"DPUB $T 3600001\n", (out_of % 3600001,)),
        Row("dpub_at_the_limit", b"DPUB $T 3600000\n" + sized(b"x"), ("OK",), OPEN),
        Row("dpub_overflow", b"DPUB $T 18446744073709551617\n" + sized(b"x"), ("OK",), OPEN,
            ours=(could_not + "18446744073709551617",), ours_after=CLOSED),
    ]  # fmt: skip
    return rows


def mpub_rows() -> list[Row]:
    line = b"MPUB $T\n"
    two = bodies([b"a", b"bc"])
    count_max = (BODY_MAX - 4) // 5
    bad_body, bad_message = "E_BAD_BODY MPUB ", "E_BAD_MESSAGE MPUB "
    rows = [
        Row("mpub_no_parameter", b"MPUB\n", ("E_INVALID MPUB insufficient number of parameters",)),
        Row("mpub_no_size", line + b"\0", (bad_body + "failed to read body size",), half_close=True),
        Row("mpub_zero_size", line + size(0), (bad_body + "invalid body size 0",)),
        Row("mpub_negative_size", line + size(-7), (bad_body + "invalid body size -7",)),
        Row("mpub_too_big", line + size(BODY_MAX + 1), (bad_body + f"body too big {BODY_MAX + 1} > {BODY_MAX}",)),
        Row("mpub_no_count", line + size(8) + b"\0", (bad_body + "failed to read message count",), half_close=True),
        Row("mpub_zero_count", line + size(4) + size(0), (bad_body + "invalid message count 0",)),
        Row("mpub_negative_count", line + size(4) + size(-1), (bad_body + "invalid message count -1",)),
        Row("mpub_count_too_big", line + size(100) + size(count_max + 1),
            (bad_body + f"invalid message count {count_max + 1}",)),
        Row("mpub_no_message_size", line + size(13) + size(2) + sized(b"a"),
            (bad_message + "failed to read message(1) body size",), half_close=True),
        Row("mpub_zero_message", line + size(12) + size(1) + size(0), (bad_message + "invalid message(0) body size 0",)),
        Row("mpub_second_message_negative", line + size(14) + size(2) + sized(b"ab") + size(-2),
            (bad_message + "invalid message(1) body size -2",)),
        Row("mpub_message_too_big", line + size(BODY_MAX) + size(1) + size(MSG_MAX + 1),
            (bad_message + f"message too big {MSG_MAX + 1} > {MSG_MAX}",)),
        Row("mpub_short_message", line + size(13) + size(1) + size(5) + b"ab",
            (bad_message + "failed to read message body",), half_close=True),
        Row("mpub_two", line + sized(two), ("OK",), OPEN),
        Row("mpub_pipelined", (line + sized(two)) * 100, ("OK",) * 100, OPEN),
        Row("mpub_declared_size_too_small", line + size(9) + two, ("OK",), OPEN, ours=("E_BAD_*",), ours_after=CLOSED),
        Row("mpub_surplus_bytes_are_not_commands", line + sized(two + b"NOP\n"), ("OK",), OPEN,
            ours=("E_BAD_*",), ours_after=CLOSED),
    ]
    return rows


def consumer_rows() -> list[Row]:
    failed = "failed ID not in flight"
    name = ID.decode()
    rows = [
        Row("sub_no_parameter", b"SUB\n", ("E_INVALID SUB insufficient number of parameters",)),
        Row("sub_one_parameter", b"SUB $T\n", ("E_INVALID SUB insufficient number of parameters",)),
        Row("sub_without_heartbeats", identify(b'{"heartbeat_interval":-1}') + SUBSCRIBED,
            ("OK", "E_INVALID cannot SUB with heartbeats disabled")),
        Row("rdy_default", SUBSCRIBED + b"RDY\n", ("OK",), OPEN),
        Row("rdy_empty_is_zero", SUBSCRIBED + b"RDY \n", ("OK",), OPEN),
        Row("rdy_largest", SUBSCRIBED + b"RDY 2500\n", ("OK",), OPEN),
        Row("rdy_too_big", SUBSCRIBED + b"RDY 2501\n", ("OK", "E_INVALID RDY count 2501 out of range 0-2500")),
        Row("rdy_negative", SUBSCRIBED + b"RDY -1\n", ("OK", "E_INVALID RDY could not parse count -1")),
        Row("rdy_not_a_number", SUBSCRIBED + b"RDY x\n", ("OK", "E_INVALID RDY could not parse count x")),
        Row("rdy_overflow", SUBSCRIBED + b"RDY 18446744073709551617\n", ("OK",), OPEN,
            ours=("OK", "E_INVALID RDY could not parse count 18446744073709551617"), ours_after=CLOSED),
        Row("cls", SUBSCRIBED + b"CLS\n", ("OK", "CLOSE_WAIT"), OPEN),
        Row("req_one_parameter", SUBSCRIBED + b"REQ " + ID + b"\n", ("OK", "E_INVALID REQ insufficient number of params")),
        Row("req_not_a_number", SUBSCRIBED + b"REQ " + ID + b" x\n", ("OK", "E_INVALID REQ could not parse timeout x")),
        Row("req_negative", SUBSCRIBED + b"REQ " + ID + b" -1\n", ("OK", "E_INVALID REQ could not parse timeout -1")),
        Row("req_bad_id", SUBSCRIBED + b"REQ short 0\n", ("OK", "E_INVALID invalid message ID")),
        Row("req_unknown", SUBSCRIBED + b"REQ " + ID + b" 0\n", ("OK", f"E_REQ_FAILED REQ {name} {failed}"), OPEN),
        Row("req_above_the_limit_is_clamped", SUBSCRIBED + b"REQ " + ID + b" 99999999999\n",
            ("OK", f"E_REQ_FAILED REQ {name} {failed}"), OPEN),
    ]  # fmt: skip
    for verb in ("FIN", "TOUCH"):
        line = SUBSCRIBED + verb.encode()
        rows += [
            Row(f"{verb}_no_parameter", line + b"\n", ("OK", f"E_INVALID {verb} insufficient number of params")),
            Row(f"{verb}_short_id", line + b" 0123456789abcde\n", ("OK", "E_INVALID invalid message ID")),
            Row(f"{verb}_long_id", line + b" 0123456789abcdef0\n", ("OK", "E_INVALID invalid message ID")),
            Row(f"{verb}_empty_id", line + b" \n", ("OK", "E_INVALID invalid message ID")),
            Row(f"{verb}_unknown", line + b" " + ID + b"\n", ("OK", f"E_{verb}_FAILED {verb} {name} {failed}"), OPEN),
        ]
    return rows


def identify_rows() -> list[Row]:
    bad = "E_BAD_BODY IDENTIFY "
    decode = bad + "failed to decode JSON body"
    line = b"IDENTIFY\n"
    rows = [
        Row("identify_no_size", line + b"\0", (bad + "failed to read body size",), half_close=True),
        Row("identify_too_big", line + size(BODY_MAX + 1), (bad + f"body too big {BODY_MAX + 1} > {BODY_MAX}",)),
        Row("identify_zero", line + size(0), (bad + "invalid body size 0",)),
        Row("identify_negative", line + size(-3), (bad + "invalid body size -3",)),
        Row("identify_short", line + size(10) + b"{}", (bad + "failed to read body",), half_close=True),
    ]
    for label, body in (
        ("array", b"[]"), ("string", b'"x"'), ("number", b"5"), ("garbage", b"{"), ("trailing", b"{} x"),
        ("float", b'{"heartbeat_interval":1000.5}'), ("exponent", b'{"heartbeat_interval":1e3}'),
        ("quoted_number", b'{"heartbeat_interval":"1000"}'), ("bool_as_number", b'{"feature_negotiation":1}'),
        ("wide_sample_rate", b'{"sample_rate":4294967296}'), ("id_as_number", b'{"client_id":5}'),
    ):  # fmt: skip
        rows.append(Row(f"identify_json_{label}", identify(body), (decode,)))
    for body in (b"{}", b"null", b'{"unknown":[1,2]}', b'{"client_id":null}', b'{"HEARTBEAT_INTERVAL":1000}', b" {} "):
        label = "".join(chr(c) if chr(c).isalnum() else "_" for c in body)
        rows.append(Row(f"identify_accepts_{label}", identify(body), ("OK",), OPEN))
    ranges = (
        ("heartbeat_interval", "heartbeat interval", (999, 0 - 2, 60001), (1000, 60000, -1)),
        ("output_buffer_timeout", "output buffer timeout", (24, -2, 30001), (25, 30000, -1)),
        ("output_buffer_size", "output buffer size", (63, -2, 65537), (64, 65536, -1)),
        ("sample_rate", "sample rate", (-1, 100), (0, 99)),
        ("msg_timeout", "msg timeout", (999, -1, 900001), (1000, 900000, 0)),
    )
    for key, words, refused, accepted in ranges:
        for value in refused:
            body = json.dumps({key: value}).encode()
            rows.append(Row(f"identify_{key}_{value}", identify(body), (bad + f"{words} ({value}) is invalid",)))
        for value in accepted:
            rows.append(Row(f"identify_{key}_{value}", identify(json.dumps({key: value}).encode()), ("OK",), OPEN))
    both_bad = b'{"msg_timeout":1,"heartbeat_interval":1}'
    rows.append(Row("identify_order_of_checks", identify(both_bad), (bad + "heartbeat interval (1) is invalid",)))
    return rows


def auth_rows() -> list[Row]:
    bad = "E_BAD_BODY AUTH "
    line = b"AUTH\n"
    return [
        Row("auth_parameter", b"AUTH x\n", ("E_INVALID AUTH invalid number of parameters",)),
        Row("auth_no_size", line + b"\0", (bad + "failed to read body size",), half_close=True),
        Row("auth_too_big", line + size(BODY_MAX + 1), (bad + f"body too big {BODY_MAX + 1} > {BODY_MAX}",)),
        Row("auth_zero", line + size(0), (bad + "invalid body size 0",)),
        Row("auth_short", line + size(9) + b"x", (bad + "failed to read body",), half_close=True),
        Row("auth_disabled", line + sized(b"secret"), ("E_AUTH_DISABLED AUTH disabled",)),
    ]


def reply_text(kind: int, data: bytes) -> str:
    assert kind in (RESPONSE, ERROR), f"unexpected frame type {kind}: {data[:100]!r}"
    return data.decode("utf-8", "backslashreplace")


def check_reply(connection: Connection, expected: str) -> None:
    frame = connection.frame()
    text = reply_text(frame.kind, frame.data)
    kind = ERROR if expected.startswith("E_") else RESPONSE
    matches = text.startswith(expected[:-1]) if expected.endswith("*") else text == expected
    assert matches and frame.kind == kind, f"expected {expected!r}, got {frame}"


def play(context: Context, row: Row) -> None:
    """Plays one row on a connection of its own."""
    replies = row.ours if context.ours and row.ours is not None else row.replies
    after = row.ours_after if context.ours and row.ours_after is not None else row.after
    topic = context.name.replace(".", "-")[-40:].replace("#", "-").encode()
    topic = bytes(c for c in topic if chr(c).isalnum() or c == ord("-"))
    with context.shared_broker().connect() as connection:
        forgiving = row.reset_by_reference and not context.ours
        try:
            try:
                connection.send(row.send.replace(b"$T", topic))
            except ConnectionError:
                pass  # closed before all was sent: the reply is what counts
            if row.half_close:
                connection.socket.shutdown(socket.SHUT_WR)
            for expected in replies:
                check_reply(connection, expected)
        except (Closed, ConnectionError):
            if forgiving:
                return
            raise
        if after == OPEN:
            connection.alive()
        else:
            connection.closed()


def register() -> None:
    rows = [
        *state_rows(), *line_rows(), *name_rows(), *publish_rows(), *mpub_rows(), *consumer_rows(), *identify_rows(),
        *auth_rows(),
    ]  # fmt: skip
    for row in rows:
        CASES.append(Case(f"protocol.{row.name}", lambda context, row=row: play(context, row)))


register()


@case("protocol")
def bad_magic(context: Context) -> None:
    """Also the magic of nsqlookupd: one error frame, then the end."""
    for magic in (b"  V1", b"  V3", b"GET ", b"\0\0\0\0", b"    "):
        with context.shared_broker().connect(magic) as connection:
            equal(connection.error(), "E_BAD_PROTOCOL", f"answer to the magic {magic!r}")
            connection.closed()


@case("protocol")
def one_byte_at_a_time(context: Context) -> None:
    """Segmentation never matters."""
    with context.shared_broker().connect(b"") as connection:
        script = b"  V2" + b"PUB one-byte\n" + sized(b"x") + b"MPUB one-byte\n" + sized(bodies([b"a", b"bc"]))
        for byte in script + b"DPUB one-byte 5\n" + sized(b"y") + b"SUB one-byte ch\nRDY 10\n":
            connection.send(bytes([byte]))
        for _ in range(4):
            connection.ok()
        found = sorted(m.body for m in connection.messages(4))
        equal(found, [b"a", b"bc", b"x", b"y"], "bodies")


@case("protocol")
def identify_reply(context: Context) -> None:
    """Key order, types and values of the negotiated reply."""
    with context.shared_broker().connect() as connection:
        reply = connection.identify(heartbeat_interval=5000, msg_timeout=2000, sample_rate=7)
    keys = (
        "max_rdy_count version max_msg_timeout msg_timeout tls_v1 deflate deflate_level max_deflate_level snappy "
        "sample_rate auth_required output_buffer_size output_buffer_timeout topology_region topology_zone"
    ).split()
    equal(list(reply), keys, "keys in order")
    values = dict(max_rdy_count=2500, max_msg_timeout=900000, msg_timeout=2000, tls_v1=False, deflate=False,
                  deflate_level=6, max_deflate_level=6, snappy=False, sample_rate=7, auth_required=False,
                  output_buffer_size=16384, output_buffer_timeout=250, topology_region="", topology_zone="")  # fmt: skip
    for key, value in values.items():
        equal(reply[key], value, key)
    assert reply["version"].startswith("1.3.0"), reply["version"]


@case("protocol")
def identify_reply_when_disabled(context: Context) -> None:
    """-1 for the buffer size shows as 1 and no timeout, -1 for the timeout shows as 0."""
    broker = context.shared_broker()
    with broker.connect() as connection:
        reply = connection.identify(output_buffer_size=-1)
        equal((reply["output_buffer_size"], reply["output_buffer_timeout"]), (1, 0), "unbuffered")
    with broker.connect() as connection:
        reply = connection.identify(output_buffer_timeout=-1)
        equal((reply["output_buffer_size"], reply["output_buffer_timeout"]), (16384, 0), "no timed flush")


@case("protocol")
def identify_both_compressions(context: Context) -> None:
    """Both granted is an error; a broker without them grants neither. One alone of the two is always wrong."""
    with context.shared_broker().connect() as connection:
        connection.send(identify(b'{"feature_negotiation":true,"deflate":true,"snappy":true}'))
        frame = connection.frame()
        if frame.kind == ERROR:
            equal(frame.data, b"E_IDENTIFY_FAILED cannot enable both deflate and snappy compression", "error")
            connection.closed()
        else:
            reply = json.loads(frame.data)
            equal((reply["deflate"], reply["snappy"]), (False, False), "granted")
            assert context.ours, "the reference supports both"
            connection.alive()
