"""An nsqlookupd in Python that does as it is told."""

from __future__ import annotations

import http.server
import json
import socket
import struct
import threading
from typing import Callable, List, Optional, Tuple

Replies = Callable[[bytes], Optional[bytes]]


class Scripted:
    """Accepts one nsqd after the other, writes down what it sends, and answers as `reply` says (None: not at all).

    Its HTTP door answers /channels with `channels`, unless `at_once` only after `answer_questions`.
    """

    def __init__(self, reply: Optional[Replies] = None, channels: Tuple[str, ...] = (), at_once: bool = True) -> None:
        self.reply = reply or (lambda command: b"OK")
        self.channels, self.answering = list(channels), threading.Event()
        if at_once:
            self.answer_questions()
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
        self.answer_questions()
        self.web.shutdown()
        self.web.server_close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.getsockname()[1]}"

    def answer_questions(self) -> None:
        self.answering.set()

    def handler(self) -> type:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.questions.append(self.path)
                owner.answering.wait()
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
