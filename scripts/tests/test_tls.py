"""TLS, snappy and deflate on the TCP port, HTTPS, and what requires them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import time
import zlib
from typing import List, Optional, Tuple

import wire
from harness import Broker, Context, case, equal, eventually
from layers import IDENTIFIER, Certificates, Deflate, Layered, Snappy, Tls, certificates, masked_crc32c
from wire import RESPONSE, Closed, Frame, pub, sized

CODECS = ({}, {"snappy": True}, {"deflate": True, "deflate_level": 6})


def made(context: Context) -> Certificates:
    return certificates(context.settings.work)


def connect(broker: Broker, heartbeats: bool = True) -> Layered:
    return Layered(broker.address, heartbeats=heartbeats)


def round_trip(broker: Broker, connection: Layered, topic: str) -> None:
    """A big and a small message there and back, through whatever layers the connection has."""
    bodies = [b"small", bytes(range(256)) * 2000, b"z" * 900_000]
    connection.publish(topic, *bodies)
    connection.subscribe(topic, "ch", 10)
    got = connection.messages(len(bodies))
    equal([m.body for m in got], bodies, "bodies")
    connection.finish(*got)
    eventually(lambda: broker.channel(topic, "ch")["in_flight_count"] == 0, "all finished")


@case("tls")
def every_combination_carries_messages(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags())
    number = 0
    for tls in (None, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for fields in CODECS:
            number += 1
            with connect(broker) as connection:
                reply = connection.upgrade(tls and files.context(version=tls), **fields)
                equal(
                    (reply["tls_v1"], reply["snappy"], reply["deflate"], reply["deflate_level"]),
                    (tls is not None, "snappy" in fields, "deflate" in fields, 6), "what is granted",
                )  # fmt: skip
                round_trip(broker, connection, f"combination{number}")


@case("tls")
def stats_tell_the_layers(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags())
    expected = {ssl.TLSVersion.TLSv1_2: "TLS1.2", ssl.TLSVersion.TLSv1_3: "TLS1.3"}
    for version, shown in expected.items():
        with connect(broker) as connection:
            connection.upgrade(files.context(version=version), snappy=True)
            connection.subscribe("stats", shown, 1)
            client = broker.channel("stats", shown)["clients"][0]
            suite = connection.tls.object.cipher()[0]
            equal((client["tls"], client["snappy"], client["deflate"]), (True, True, False), "layers")
            equal(client["tls_version"], shown, "version")
            equal(client["tls_negotiated_protocol"], "", "protocol")
            equal(client["tls_negotiated_protocol_is_mutual"], True, "mutual")
            if version == ssl.TLSVersion.TLSv1_3 and not context.ours:
                assert client["tls_cipher_suite"].startswith("Unknown"), "K45"
            elif version == ssl.TLSVersion.TLSv1_3:
                equal(client["tls_cipher_suite"], suite, "OpenSSL, too, uses the IANA names here")
            else:
                assert client["tls_cipher_suite"].startswith("TLS_ECDHE_ECDSA_WITH_"), client["tls_cipher_suite"]


@case("tls")
def pieces_of_any_size_do(context: Context) -> None:
    """The broker sees the stream byte by byte, handshake included."""
    files = made(context)
    broker = context.broker(*files.flags())

    class Slow(Layered):
        def send_raw(self, data: bytes) -> None:
            for at in range(len(data)):
                self.socket.sendall(data[at : at + 1])

        def send(self, data: bytes) -> None:
            self.send_raw(self.encode(data))

    for number, fields in enumerate(CODECS):
        with Slow(broker.address) as connection:
            connection.upgrade(files.context(), **fields)
            connection.publish(f"pieces{number}", b"one", b"two" * 100)
            connection.subscribe(f"pieces{number}", "ch", 5)
            equal([m.body for m in connection.messages(2)], [b"one", b"two" * 100], "bodies")


@case("tls")
def failed_handshakes_are_told_in_plain_text(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags())
    with connect(broker) as good:
        good.upgrade(files.context())
        for garbage in (b"NOP\nNOP\n", pub("t", b"x"), b"\0" * 100):
            with connect(broker) as connection:
                equal(connection.identify(tls_v1=True)["tls_v1"], True, "granted")
                connection.send(garbage)
                expected = "E_IDENTIFY_FAILED IDENTIFY failed tls: first record does not look like a TLS handshake"
                equal(connection.error(), expected, "error")
                connection.closed()
        with connect(broker) as connection:  # a record, but of nonsense: an alert, and then the frame
            connection.identify(tls_v1=True)
            connection.send(b"\x16\x03\x01\x00\x10" + b"\xee" * 16)
            text = until_closed(connection)
            assert b"E_IDENTIFY_FAILED IDENTIFY failed " in text, text
        with connect(broker) as connection:  # it goes away in the middle
            connection.identify(tls_v1=True)
            connection.socket.shutdown(socket.SHUT_WR)
            assert b"E_IDENTIFY_FAILED IDENTIFY failed EOF" in until_closed(connection)
        good.publish("good", b"x")


def until_closed(connection: wire.Connection) -> bytes:
    connection.socket.settimeout(wire.PATIENCE_S)
    text = b""
    while True:
        try:
            data = connection.socket.recv(1 << 16)
        except ConnectionError:
            return text
        if not data:
            return text
        text += data


@case("tls")
def a_stalled_handshake_ends_after_five_seconds(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags())
    with connect(broker, heartbeats=False) as stalled, connect(broker) as good:
        stalled.identify(tls_v1=True, heartbeat_interval=1000)
        began = time.monotonic()
        stalled.send(b"\x16\x03\x01")
        good.upgrade(files.context())
        good.publish("beside", b"x")
        # No heartbeat comes between: the next thing is the end (K38).
        error = stalled.error()
        assert error.startswith("E_IDENTIFY_FAILED IDENTIFY failed "), error
        assert "i/o timeout" in error, error
        assert time.monotonic() - began > 4.9, "as long as it may take"
        stalled.closed()


@case("tls")
def required_of_tcp_or_of_all(context: Context) -> None:
    files = made(context)
    for value, http_too in (("tcp-https", False), ("true", True)):
        broker = context.broker(*files.flags(), f"--tls-required={value}")
        for command, name in ((b"NOP\n", "NOP"), (b"SUB t c\n", "SUB"), (b"BOGUS\n", "BOGUS")):
            with connect(broker) as connection:
                connection.send(command)
                equal(connection.error(), f"E_INVALID cannot {name} in current state (TLS required)", "error")
                connection.closed()
        with connect(broker) as connection:
            connection.identify()
            connection.send(pub("t", b"x"))
            equal(connection.error(), "E_INVALID cannot PUB in current state (TLS required)", "error")
        with connect(broker) as connection:
            connection.upgrade(files.context())
            connection.publish("t", b"x")
        reply = broker.http("GET", "/ping")
        if not http_too:
            equal((reply.status, reply.body), (200, b"OK"), "plain HTTP")
            continue
        for method, path in (("GET", "/ping"), ("POST", "/pub?topic=t"), ("GET", "/no/such/path")):
            reply = broker.http(method, path, b"body" if method == "POST" else None)
            expected = b'{"message": "TLS_REQUIRED", "https_port": %d}' % broker.https_port
            equal((reply.status, reply.body), (403, expected), path)
            equal(reply.header("Content-Type"), "application/json; charset=utf-8", "type")
            equal(reply.header("X-Nsq-Content-Type"), "nsq; version=1.0", "version header")
        equal(https(broker, files.context(), "GET", "/ping"), (200, b"OK"), "HTTPS")


def https(
    broker: Broker, context: ssl.SSLContext, method: str, path: str, body: Optional[bytes] = None
) -> Tuple[int, bytes]:
    connection = http.client.HTTPSConnection("127.0.0.1", broker.https_port, timeout=10, context=context)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@case("tls")
def https_is_the_whole_api(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags("rsa"))
    client = files.context()
    equal(https(broker, client, "GET", "/ping"), (200, b"OK"), "/ping")
    equal(https(broker, client, "POST", "/pub?topic=https", b"x" * 500_000), (200, b"OK"), "/pub")
    big = b"\n".join(b"%d" % i * 100 for i in range(5000))
    equal(https(broker, client, "POST", "/mpub?topic=https", big), (200, b"OK"), "/mpub")
    stats = json.loads(https(broker, client, "GET", "/stats?format=json")[1])
    equal(stats["topics"][0]["message_count"], 5001, "messages")
    connection = http.client.HTTPSConnection("127.0.0.1", broker.https_port, timeout=10, context=client)
    for _ in range(3):  # kept alive
        connection.request("GET", "/info")
        equal(connection.getresponse().read(), broker.http("GET", "/info").body, "/info")
    connection.close()
    with socket.create_connection(("127.0.0.1", broker.https_port), timeout=10) as plain:
        plain.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        text = b""
        while data := plain.recv(4096):
            text += data
    assert text.startswith(b"HTTP/1.0 400 Bad Request\r\n"), text
    equal(text.partition(b"\r\n\r\n")[2], b"Client sent an HTTP request to an HTTPS server.\n", "body")
    with socket.create_connection(("127.0.0.1", broker.https_port), timeout=10) as garbage:
        garbage.sendall(b"\0" * 1000)
        garbage.settimeout(10)
        try:
            while garbage.recv(4096):
                pass
        except ConnectionError:
            pass
    equal(https(broker, client, "GET", "/ping"), (200, b"OK"), "after garbage")


@case("tls")
def many_handshakes_at_once_all_come_to_an_end(context: Context) -> None:
    """More than a turn has steps for, all of them waiting for their turn at the same time."""
    files = made(context)
    broker = context.broker(*files.flags(), *(("--shards=1",) if context.ours else ()))
    client = files.context()
    sockets = [socket.create_connection(("127.0.0.1", broker.https_port), timeout=wire.PATIENCE_S) for _ in range(60)]
    layers = []
    for connection in sockets:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        layer = client.wrap_bio(incoming, outgoing, server_hostname="localhost")
        try:
            layer.do_handshake()
        except ssl.SSLWantReadError:
            layers.append((connection, layer, incoming, outgoing))
    for connection, _, _, outgoing in layers:
        connection.sendall(outgoing.read())
    for connection, layer, incoming, outgoing in layers:
        done = False
        while not done:
            incoming.write(connection.recv(1 << 16))
            try:
                layer.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
        layer.write(b"GET /ping HTTP/1.0\r\n\r\n")
        connection.sendall(outgoing.read())
    for connection, layer, incoming, _ in layers:
        answer = b""
        while not answer.endswith(b"OK"):
            received = connection.recv(1 << 16)
            assert received, f"the stream ended after {answer!r}"
            incoming.write(received)
            try:
                while not answer.endswith(b"OK"):
                    answer += layer.read(1 << 16)
            except ssl.SSLWantReadError:
                pass
        connection.close()
    equal(len(layers), len(sockets), "handshakes")


@case("tls")
def keys_of_every_form(context: Context) -> None:
    files = made(context)
    equal({"server": "EC", "rsa": "RSA", "pkcs8": ""}, {
        name: open(files.path(f"{name}.key")).read().rpartition("-----BEGIN ")[2].partition("PRIVATE")[0].strip()
        for name in ("server", "rsa", "pkcs8")
    }, "the forms of the keys")  # fmt: skip
    for name in ("server", "rsa", "pkcs8"):
        broker = context.broker(*files.flags(name))
        with connect(broker) as connection:
            connection.upgrade(files.context(version=ssl.TLSVersion.TLSv1_2))
            connection.publish("keys", b"x")


def can_upgrade(broker: Broker, client: ssl.SSLContext) -> bool:
    with connect(broker) as connection:
        try:
            connection.upgrade(client)
            connection.publish("policy", b"x")
            return True
        except (ssl.SSLError, Closed, ConnectionError, AssertionError):
            return False


@case("tls")
def client_certificates_are_asked_for_and_checked(context: Context) -> None:
    files = made(context)
    for policy, allowed in (("require", ("client", "stranger")), ("require-verify", ("client",))):
        broker = context.broker(
            *files.flags(), f"--tls-client-auth-policy={policy}", f"--tls-root-ca-file={files.path('ca.pem')}"
        )
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for name in ("", "client", "stranger"):
                equal(can_upgrade(broker, files.context(name, version)), name in allowed, f"{policy} {name} {version}")
        # The policy alone makes TLS required, of HTTP as well, and holds there, too.
        equal(broker.http("GET", "/ping").status, 403, "plain HTTP")
        equal(https(broker, files.context("client"), "GET", "/ping"), (200, b"OK"), "HTTPS")
        try:
            https(broker, files.context(), "GET", "/ping")
        except (ssl.SSLError, ConnectionError, http.client.HTTPException):
            continue
        raise AssertionError("HTTPS without a client certificate")


@case("tls")
def old_versions_are_refused(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags(), "--tls-min-version=tls1.3")
    equal(can_upgrade(broker, files.context(version=ssl.TLSVersion.TLSv1_2)), False, "TLS 1.2")
    equal(can_upgrade(broker, files.context(version=ssl.TLSVersion.TLSv1_3)), True, "TLS 1.3")
    equal(broker.http("GET", "/config/tls_min_version").body, b"772", "/config")


@case("tls", ours_only=True)
def the_oldest_version_is_said_in_the_log(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags(), "--tls-min-version=tls1.0")
    assert "TLS 1.2 is the oldest version spoken" in broker.log_text()
    equal(can_upgrade(broker, files.context(version=ssl.TLSVersion.TLSv1_2)), True, "TLS 1.2")
    equal(broker.http("GET", "/config/tls_min_version").body, b"769", "/config")


@case("tls", ours_only=True)
def certificates_are_read_again_on_sighup(context: Context) -> None:
    files = made(context)
    folder = context.folder()

    def install(name: str) -> None:
        for end in ("pem", "key"):
            text = open(files.path(f"{name}.{end}")).read()
            (folder / f"new.{end}").write_text(text)
            (folder / f"new.{end}").replace(folder / f"live.{end}")

    install("server")
    broker = context.broker(
        f"--tls-cert={folder}/live.pem", f"--tls-key={folder}/live.key", "--https-address=127.0.0.1:0"
    )

    def shown() -> str:
        with connect(broker) as connection:
            connection.upgrade(files.context())
            subject = dict(pair for part in connection.tls.object.getpeercert()["subject"] for pair in part)
            return subject["commonName"]

    with connect(broker) as old:
        old.upgrade(files.context())
        equal(shown(), "first server", "certificate")
        install("second")
        broker.process.send_signal(signal.SIGHUP)
        eventually(lambda: shown() == "second server", "the new certificate")
        equal(https(broker, files.context(), "GET", "/ping"), (200, b"OK"), "HTTPS")
        (folder / "live.pem").write_text("not a certificate")
        broker.process.send_signal(signal.SIGHUP)
        eventually(lambda: "certificates are kept as they are" in broker.log_text(), "a line about it")
        equal(shown(), "second server", "the certificate stays")
        old.publish("old", b"the connection stays, too")


@case("tls")
def start_errors(context: Context) -> None:
    files = made(context)
    cert, key = files.path("server.pem"), files.path("server.key")
    unreadable = "/nonexistent/file.pem"
    build = "failed to build TLS config - "
    rows = (
        (("--tls-required=true",), "cannot require TLS client connections without TLS key and cert"),
        ((f"--tls-cert={unreadable}", f"--tls-key={key}"), f"{build}open {unreadable}: no such file or directory"),
        ((f"--tls-cert={cert}",), f"{build}open : no such file or directory"),
        ((f"--tls-cert={cert}", f"--tls-key={files.path('rsa.key')}"), None),
        ((f"--tls-cert={cert}", f"--tls-key={files.path('second.key')}"),
         f"{build}tls: private key does not match public key"),
        ((f"--tls-cert={cert}", f"--tls-key={cert}"),
         f"{build}tls: found a certificate rather than a key in the PEM for the private key"),
        ((f"--tls-cert={key}", f"--tls-key={key}"),
         f'{build}tls: failed to find "CERTIFICATE" PEM block in certificate input after skipping PEM blocks of '
         "the following types: [EC PARAMETERS EC PRIVATE KEY]"),
        ((f"--tls-cert={files.path('rsa.key')}", f"--tls-key={key}"),
         f"{build}tls: failed to find certificate PEM data in certificate input, but did find a private key; "
         "PEM inputs may have been switched"),
        ((f"--tls-cert={cert}", f"--tls-key={key}", f"--tls-root-ca-file={key}"),
         f"{build}failed to append certificate to pool"),
        ((f"--tls-root-ca-file={key}",), "failed to build client TLS config - failed to append certificate to pool"),
        ((f"--tls-root-ca-file={unreadable}",),
         f"failed to build client TLS config - open {unreadable}: no such file or directory"),
    )  # fmt: skip
    for flags, expected in rows:
        command = [context.settings.binary, "--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0",
                   "--https-address=127.0.0.1:0", f"--data-path={context.folder()}", *flags]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
        equal(result.returncode, 1, f"exit status of {flags}")
        text = result.stdout + result.stderr
        assert "FATAL: failed to instantiate nsqd - " + (expected or build) in text, (flags, text)


@case("tls")
def compressions_alone_and_refused(context: Context) -> None:
    broker = context.broker("--max-deflate-level=4")
    with connect(broker) as connection:
        body = json.dumps({"feature_negotiation": True, "snappy": True, "deflate": True}).encode()
        connection.send(b"IDENTIFY\n" + sized(body))
        equal(connection.error(), "E_IDENTIFY_FAILED cannot enable both deflate and snappy compression", "error")
        connection.closed()
    for asked, granted in ((0, 4), (2, 2), (9, 4)):
        with connect(broker) as connection:
            reply = connection.upgrade(deflate=True, deflate_level=asked)
            equal((reply["deflate"], reply["deflate_level"], reply["max_deflate_level"]), (True, granted, 4), "level")
            round_trip(broker, connection, f"level{asked}")
    with connect(broker) as connection:  # nothing without negotiation
        connection.send(b"IDENTIFY\n" + sized(json.dumps({"snappy": True, "tls_v1": True}).encode()))
        connection.ok()
        connection.publish("plain", b"x")
    with connect(broker) as connection:
        equal(connection.identify(tls_v1=True)["tls_v1"], False, "no certificate, no TLS")
    off = context.broker("--snappy=false", "--deflate=false")
    with connect(off) as connection:
        reply = connection.identify(snappy=True, deflate=True)
        equal((reply["snappy"], reply["deflate"]), (False, False), "switched off")
        connection.publish("plain", b"x")


@case("tls")
def deflate_levels_are_cut_to_the_limits(context: Context) -> None:
    """What cannot be is no error: nothing, zero and less mean the usual level, and more than the limit the limit."""
    for limit, granted in ((6, {1: 1, 6: 6, 7: 6, 255: 6, 256: 6, 2**63 - 1: 6, 0: 6, -1: 6, -(2**63): 6, None: 6}),
                           (9, {9: 9, 10: 9, 257: 9, 0: 6, None: 6}), (1, {0: 1, 9: 1, -1: 1})):  # fmt: skip
        broker = context.broker(f"--max-deflate-level={limit}")
        for level, expected in granted.items():
            with connect(broker) as connection:
                reply = connection.upgrade(deflate=True, deflate_level=level)
                equal((reply["deflate"], reply["deflate_level"]), (True, expected), f"level {level} of {limit}")
                equal(reply["max_deflate_level"], limit, "limit")
                connection.publish("level", b"through the layer")


@case("tls")
def the_compressed_stream_has_the_right_form(context: Context) -> None:
    broker = context.broker()
    with connect(broker) as connection:
        connection.upgrade(snappy=True)
        codec = connection.layers[0]
        assert isinstance(codec, Snappy)
        connection.publish("form", b"compressible " * 10_000)
        connection.subscribe("form", "ch", 1)
        connection.message()
        equal(codec.kinds[0], 0xFF, "the stream identifier is first")
        equal(codec.kinds.count(0xFF), 1, "and comes once")
        assert 0 in codec.kinds, "what can be compressed is"
    with connect(broker) as connection:
        connection.identify(deflate=True)
        raw = bytes(connection.buffer) or connection.receive_raw()
        assert raw.endswith(b"\0\0\xff\xff"), "a sync flush ends what is sent"
        equal(zlib.decompressobj(-15).decompress(raw), b"\0\0\0\x06\0\0\0\0OK", "raw deflate")


@case("tls")
def corrupt_streams_end_their_connection_alone(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags())
    good_chunk = Snappy().send(pub("corrupt", b"x"))
    wrong_sum = good_chunk[:-1] + bytes([good_chunk[-1] ^ 1])
    rows: List[Tuple[dict, bytes]] = [
        ({"snappy": True}, b"NOP\n"), ({"snappy": True}, good_chunk[10:]), ({"snappy": True}, wrong_sum),
        ({"snappy": True}, IDENTIFIER + b"\x00\x0c\x00\x00\0\0\0\0\xff\xff\xff\xff\x0faaa"),
        ({"deflate": True}, b"\xff" * 50), ({"deflate": True}, b"NOP\nNOP\n"),
    ]  # fmt: skip
    with connect(broker) as bystander:
        bystander.upgrade(files.context(), snappy=True)
        for tls in (None, files.context()):
            for fields, garbage in rows:
                with connect(broker) as connection:
                    connection.upgrade(tls, **fields)
                    outer = connection.layers[0] if tls else None
                    connection.send_raw(outer.send(garbage) if isinstance(outer, Tls) else garbage)
                    connection.closed()
        with connect(broker) as connection:  # a record that was tampered with
            connection.upgrade(files.context())
            record = bytearray(connection.encode(pub("corrupt", b"tampered")))
            record[-1] ^= 1
            connection.send_raw(bytes(record))
            until_closed(connection)
        bystander.publish("corrupt", b"good")
    equal(broker.topic("corrupt")["message_count"], 1, "nothing corrupt was taken for a message")


@case("tls", ours_only=True)
def bombs_cost_no_memory(context: Context) -> None:
    """64 MiB of zeros, as a body that is too big and as commands: memory stays what it was."""
    broker = context.broker("--max-msg-size=1024", "--max-body-size=2048")
    with connect(broker) as connection:
        connection.upgrade(deflate=True)
        connection.publish("bomb", b"warm")
        before = broker.memory_kib("VmHWM")
        nops = connection.layers[0].send(b"NOP\n" * (16 << 20))
        assert len(nops) < 1 << 20, "a bomb"
        connection.send_raw(nops)
        connection.publish("bomb", b"the connection goes on behind it")
        body = connection.layers[0].send(b"PUB bomb\n" + struct.pack(">I", 64 << 20) + b"\0" * (64 << 20))
        connection.send_raw(body)
        error = connection.error()
        assert error.startswith("E_BAD_MESSAGE PUB message too big"), error
        grown = broker.memory_kib("VmHWM") - before
        assert grown < 8 << 10, f"grew by {grown} KiB"


@case("tls", ours_only=True)
def a_client_that_closes_its_stream_gets_its_answers(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags())
    with connect(broker) as connection:
        connection.upgrade(files.context())
        layer = connection.tls
        connection.send_raw(layer.send(pub("end", b"1") + pub("end", b"2")) + layer.close_notify())
        connection.ok()
        connection.ok()
        connection.closed()
        assert layer.ended, "the broker says that nothing follows"
    with connect(broker) as connection:  # half a command, then the end
        connection.upgrade(files.context())
        layer = connection.tls
        connection.send_raw(layer.send(pub("end", b"cut off")[:-2]) + layer.close_notify())
        equal(connection.error(), "E_BAD_MESSAGE PUB failed to read message body", "error")
        connection.closed()
    with connect(broker) as connection:  # a fatal error is followed by the end of the stream
        connection.upgrade(files.context(), snappy=True)
        connection.send(b"BOGUS\n")
        equal(connection.error(), "E_INVALID invalid command BOGUS", "error")
        connection.closed()
        assert connection.tls.ended
    equal(broker.topic("end")["message_count"], 2, "messages")


@case("tls", ours_only=True)
def a_second_identify_keeps_the_layers(context: Context) -> None:
    """K4. What is there already is not granted again; what is missing may still be had."""
    files = made(context)
    broker = context.broker(*files.flags())
    with connect(broker) as connection:
        connection.upgrade(files.context())
        reply = connection.upgrade(None, snappy=True, output_buffer_size=1024, client_id="second")
        equal((reply["tls_v1"], reply["snappy"]), (False, True), "TLS is there, snappy is new")
        reply = connection.identify(tls_v1=True, deflate=True)
        equal((reply["tls_v1"], reply["deflate"]), (False, False), "both places are taken")
        round_trip(broker, connection, "second")


@case("tls", ours_only=True)
def layers_move_with_their_connection(context: Context) -> None:
    """Topics of four shards: producers and consumers are moved after their upgrade."""
    files = made(context)
    broker = context.broker(*files.flags(), "--shards=4")
    for tls in (None, files.context()):
        for number, fields in enumerate(CODECS):
            for topic in range(8):
                name = f"move-{bool(tls)}-{number}-{topic}"
                with connect(broker) as producer, connect(broker) as consumer:
                    producer.upgrade(tls, **fields)
                    consumer.upgrade(tls, **fields)
                    # Everything at once: what follows the command that moves it is decoded elsewhere.
                    producer.send(b"".join(pub(name, b"%d" % i * 200) for i in range(50)))
                    consumer.send(b"SUB %s ch\n" % name.encode() + b"RDY 100\n")
                    for _ in range(50):
                        producer.ok()
                    consumer.ok()
                    got = consumer.messages(50)
                    equal([m.body for m in got], [b"%d" % i * 200 for i in range(50)], name)


@case("tls")
def a_slow_reader_gets_all_of_it(context: Context) -> None:
    """More than the sockets hold, so that encoding waits for room again and again."""
    files = made(context)
    broker = context.broker(*files.flags())
    bodies = [os.urandom(200_000) for _ in range(40)]
    for number, (tls, fields) in enumerate(((files.context(), {}), (files.context(), CODECS[1]), (None, CODECS[2]))):
        topic = f"slow{number}"
        with connect(broker) as producer, Layered(broker.address) as consumer:
            producer.publish(topic, *bodies)
            consumer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
            consumer.upgrade(tls, **fields)
            consumer.subscribe(topic, "ch", 100)
            eventually(lambda: broker.channel(topic, "ch")["in_flight_count"] > 4, "some under way")
            equal(sorted(m.body for m in consumer.messages(len(bodies), 20)), sorted(bodies), "bodies")


@case("tls")
def clients_that_come_and_go_leave_nothing_behind(context: Context) -> None:
    files = made(context)
    broker = context.broker(*files.flags())
    before = broker.descriptors()
    for number in range(60):
        connection = connect(broker)
        connection.identify(tls_v1=True, snappy=number % 2 == 0)
        if number % 3 == 0:
            connection.begin_tls(files.context())
        elif number % 3 == 1:
            connection.send_raw(b"\x16\x03\x01\x02\x00\x01")
        (connection.reset if number % 4 == 0 else connection.close)()
    eventually(lambda: broker.descriptors() <= before, "all sockets closed")
    with connect(broker) as connection:
        connection.upgrade(files.context(), snappy=True)
        round_trip(broker, connection, "after")


@case("tls", needs=("reference",), ours_only=True)
def upgrades_read_as_from_the_reference(context: Context) -> None:
    """The frames of an upgrade, of ours and of the reference, side by side."""
    files = made(context)
    seen = []
    for binary in (context.settings.binary, context.settings.reference):
        broker = context.broker(*files.flags(), binary=binary)
        frames: List[object] = []
        for tls in (None, files.context()):
            for fields in CODECS:
                with connect(broker) as connection:
                    reply = connection.upgrade(tls, **fields)
                    frames.append({k: v for k, v in reply.items() if k != "version"})
                    frames.append(list(reply))
                    connection.send(b"NOP\n" + pub("same", b"x"))
                    frames.append(connection.frame() == Frame(RESPONSE, b"OK"))
        seen.append(frames)
    equal(seen[0], seen[1], "what the reference sends")
    assert masked_crc32c(b"") == 0xA282EAD8 and Deflate().receive(b"") == b""
