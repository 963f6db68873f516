"""Log lines that operators search for, to the letter."""

from __future__ import annotations

import re
import socket

from harness import Context, case, eventually
from wire import PATIENCE_S, req


@case("logs")
def lines_that_operators_search_for(context: Context) -> None:
    broker = context.broker("--max-req-timeout=100s")
    with broker.connect() as client:
        client.identify(client_id="me")
        client.subscribe("t", "c", 1)
        client.publish("t", b"1", b"2")
        message = client.message()
        client.send(req(message.id, 500_000) + b"FIN 0123456789abcdef\n")
        client.error()
        client.message()
        address = "{}:{}".format(*client.socket.getsockname())
    probe = socket.create_connection(broker.address, PATIENCE_S)
    probe.close()
    with broker.connect(b"QUIT") as stranger:
        stranger.error()
        other = "{}:{}".format(*stranger.socket.getsockname())
    broker.post("/channel/create?topic=t&channel=gone")
    broker.post("/channel/delete?topic=t&channel=gone")
    broker.post("/topic/create?topic=gone")
    broker.post("/topic/delete?topic=gone")
    eventually(lambda: "failed to read protocol version" in broker.log_text(), "the probe is noticed")
    eventually(lambda: f"[{address}] exiting ioloop" in broker.log_text(), "the client is gone")
    broker.terminate()
    text = broker.log_text()
    for line in (
        f"INFO: TCP: new client({address})",
        f"INFO: CLIENT({address}): desired protocol magic '  V2'",
        f"INFO: [{address}] IDENTIFY: {{",
        "INFO: TOPIC(t): created",
        "INFO: TOPIC(t): new channel(c)",
        f"INFO: PROTOCOL(V2): [{address}] REQ timeout 500000000000 out of range 0-100000000000. Setting to 100000000000",
        f"ERROR: [{address}] - E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight",
        f"INFO: PROTOCOL(V2): [{address}] exiting ioloop",
        f"INFO: PROTOCOL(V2): [{address}] exiting messagePump",
        "ERROR: failed to read protocol version - EOF",
        f"INFO: CLIENT({other}): desired protocol magic 'QUIT'",
        f"ERROR: client({other}) bad protocol magic 'QUIT'",
        "INFO: TOPIC(t): deleting channel gone",
        "INFO: CHANNEL(gone): deleting",
        "INFO: TOPIC(gone): deleting",
        f"INFO: NSQ: persisting topic/channel metadata to {broker.data}/nsqd.dat",
        "INFO: NSQ: closing topics",
        "INFO: TOPIC(t): closing",
        "INFO: CHANNEL(c): closing",
        "INFO: CHANNEL(c): flushing 0 memory 1 in-flight 1 deferred messages to backend",
        "INFO: NSQ: stopping subsystems",
        "INFO: NSQ: bye",
    ):
        assert line in text, f"{line!r} is not in\n{text}"
    access = r"INFO: 200 POST /topic/create\?topic=gone \(127\.0\.0\.1:\d+\) [\d.]+(ns|µs|ms|s)\n"
    assert re.search(access, text), f"no access line in\n{text}"
