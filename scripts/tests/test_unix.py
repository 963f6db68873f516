"""Unix sockets in place of TCP ports, for clients and for HTTP."""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
from pathlib import Path
from typing import Tuple

from harness import Broker, Context, case, equal, eventually
from wire import Connection


class Sockets:
    """A broker that listens on two paths. They are short: a path has room for 107 bytes."""

    def __init__(self, context: Context, *flags: str) -> None:
        folder = context.folder()
        self.tcp, self.http = folder / "t.sock", folder / "h.sock"
        addresses = (f"--tcp-address={self.tcp}", f"--http-address={self.http}")
        self.broker = Broker(context.settings.binary, folder / "data", folder / "nsqd.log", (*addresses, *flags))
        context.own.append(self.broker)

    def start(self) -> "Sockets":
        offset = self.broker.launch()

        def listening() -> bool:
            text = self.broker.log_text(offset)
            assert self.broker.running(), f"the broker exited at start: {text[-2000:]}"
            return f"TCP: listening on {self.tcp}" in text and f"HTTP: listening on {self.http}" in text

        eventually(listening, "listeners announced")
        return self

    def request(self, method: str, path: str, body: bytes = b"") -> Tuple[int, bytes]:
        connection = http.client.HTTPConnection("unix", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(self.http))
        connection.request(method, path, body)
        reply = connection.getresponse()
        try:
            return reply.status, reply.read()
        finally:
            connection.close()

    def stats(self) -> dict:
        return json.loads(self.request("GET", "/stats?format=json")[1])


@case("unix")
def clients_and_http_over_paths(context: Context) -> None:
    sockets = Sockets(context).start()
    for path in (sockets.tcp, sockets.http):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode), path
        umask = os.umask(0o022)
        os.umask(umask)
        equal(stat.S_IMODE(mode), 0o777 & ~umask, "the file's rights")
    with Connection(sockets.tcp) as client:
        client.subscribe("t", "c", 1)
        equal(sockets.request("POST", "/pub?topic=t", b"over http"), (200, b"OK"), "a publish")
        message = client.message()
        equal(message.body, b"over http", "the message")
        client.finish(message)
        client.publish("t", b"over tcp")
        equal(client.message().body, b"over tcp", "the message")
        entry = sockets.stats()["topics"][0]["channels"][0]["clients"][0]
        equal((entry["remote_address"], entry["hostname"], entry["client_id"]), ("@", "", ""), "the client")
    info = json.loads(sockets.request("GET", "/info")[1])
    equal((info["tcp_port"], info["http_port"]), (-1, -1), "ports of /info")
    for port in ("broadcast_tcp_port", "broadcast_http_port"):
        equal(sockets.request("GET", f"/config/{port}"), (200, b"0"), port)
    text = sockets.broker.log_text()
    assert "TCP: new client(@)" in text and "200 GET /info (@) " in text, text


@case("unix")
def files_go_with_a_clean_stop(context: Context) -> None:
    sockets = Sockets(context).start()
    equal(sockets.broker.terminate(), 0, "exit status")
    equal((sockets.tcp.exists(), sockets.http.exists()), (False, False), "files left")
    sockets.start()


@case("unix", ours_only=True)
def a_killed_broker_leaves_nothing_in_the_way(context: Context) -> None:
    sockets = Sockets(context).start()
    sockets.broker.kill()
    equal((sockets.tcp.exists(), sockets.http.exists()), (True, True), "files left")
    sockets.start()
    with Connection(sockets.tcp) as client:
        client.alive()


def refusal(context: Context, path: Path) -> str:
    """What a broker says that is to listen on a path that is taken."""
    other = Sockets(context, f"--tcp-address={path}").broker
    other.launch()
    assert other.process is not None
    equal(other.process.wait(30), 1, "exit status")
    return other.log_text()


@case("unix")
def what_is_in_use_or_no_socket_is_left_alone(context: Context) -> None:
    sockets = Sockets(context).start()
    words = f"FATAL: failed to instantiate nsqd - listen ({{}}) failed - {context.pick('listen unix {}: ', '')}"
    expected = words + "bind: address already in use"
    text = refusal(context, sockets.tcp)
    assert expected.format(sockets.tcp, sockets.tcp) in text, text
    with Connection(sockets.tcp) as client:
        client.alive()
    precious = context.folder() / "precious"
    precious.write_bytes(b"precious")
    text = refusal(context, precious)
    assert expected.format(precious, precious) in text, text
    equal(precious.read_bytes(), b"precious", "the file in the way")
