"""nsqlookupds for tests: the reference's program, and one in Python that does as it is told."""

from __future__ import annotations

import http.server
import json
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from harness import Context, eventually
from wire import PATIENCE_S

LISTENING = re.compile(r"(TCP|HTTP): listening on 127\.0\.0\.1:(\d+)")


class Lookupd:
    """The reference's nsqlookupd as a child process; it keeps its ports over a restart."""

    def __init__(self, context: Context) -> None:
        self.program = context.settings.reference_program("nsqlookupd")
        self.log = context.folder() / "nsqlookupd.log"
        self.ports = {"TCP": 0, "HTTP": 0}
        self.process: Optional[subprocess.Popen] = None
        self.start()

    def __enter__(self) -> "Lookupd":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        flags = [f"--{name.lower()}-address=127.0.0.1:{port}" for name, port in self.ports.items()]
        offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [str(self.program), *flags, "--broadcast-address=127.0.0.1"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def listening() -> Dict[str, int]:
            found = {name: int(port) for name, port in LISTENING.findall(self.log.read_text()[offset:])}
            return found if len(found) == 2 else {}

        self.ports = eventually(listening, "nsqlookupd listens")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['TCP']}"

    def get(self, path: str, method: str = "GET") -> dict:
        url = f"http://127.0.0.1:{self.ports['HTTP']}{path}"
        request = urllib.request.Request(url, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            body = reply.read()
            return json.loads(body) if body else {}

    def producers(self, topic: str) -> List[int]:
        """TCP ports of the nsqds that have the topic."""
        try:
            found = self.get(f"/lookup?topic={urllib.parse.quote(topic)}")
        except urllib.error.HTTPError:
            return []
        return [producer["tcp_port"] for producer in found["producers"]]

    def holders(self, topic: str, channel: str) -> int:
        """How many nsqds have the channel; the name of one that was lasting stays known after the last."""
        return len(self.get("/debug").get(f"channel:{topic}:{channel}") or [])

    def channels(self, topic: str) -> List[str]:
        return sorted(self.get(f"/channels?topic={urllib.parse.quote(topic)}")["channels"])

    def topics(self) -> List[str]:
        return sorted(self.get("/topics")["topics"])


Replies = Callable[[bytes], Optional[bytes]]


class Scripted:
    """Accepts one nsqd after the other, writes down what it sends, and answers as `reply` says (None: not at all).

    Its HTTP door answers /channels with `channels` after `delay_s`.
    """

    def __init__(self, reply: Optional[Replies] = None, channels: Tuple[str, ...] = (), delay_s: float = 0) -> None:
        self.reply = reply or (lambda command: b"OK")
        self.channels, self.delay_s = list(channels), delay_s
        self.commands: List[bytes] = []
        self.questions: List[str] = []
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.web.daemon_threads = True
        for serve in (self.accept, self.web.serve_forever):
            threading.Thread(target=serve, daemon=True).start()

    def __enter__(self) -> "Scripted":
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()
        self.web.shutdown()
        self.web.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def handler(self) -> type:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.questions.append(self.path)
                time.sleep(owner.delay_s)
                body = json.dumps({"channels": owner.channels}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except OSError:
                    pass  # who asked has given up

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            self.commands.append(stream.read(4))
            for line in stream:
                command = line.rstrip(b"\n")
                answer: Optional[bytes]
                if command == b"IDENTIFY":
                    command += b" " + stream.read(struct.unpack(">I", stream.read(4))[0])
                    known = {"tcp_port": 1, "version": "1.3.0", "broadcast_address": "127.0.0.1"}
                    answer = json.dumps({**known, "http_port": self.web.server_address[1]}).encode()
                    answer = None if self.reply(command) is None else answer
                else:
                    answer = self.reply(command)
                self.commands.append(command)
                if answer is not None:
                    try:
                        connection.sendall(struct.pack(">I", len(answer)) + answer)
                    except OSError:
                        return
