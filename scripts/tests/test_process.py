"""The process: start-up errors, signals, clean stop and restart, the lock, connections at shutdown."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from typing import List, Tuple

from harness import Broker, Context, case, equal, eventually
from wire import Message, dpub, fin, req


def run(broker: Broker, *flags: str) -> Tuple[int, str, str]:
    """Runs the binary with the broker's flags and more until it ends by itself."""
    broker.data.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(broker.command(*flags), capture_output=True, text=True, timeout=20)
    return result.returncode, result.stdout, result.stderr


def idle(context: Context) -> Broker:
    """A broker that is not started; for its command line and folder."""
    folder = context.folder()
    return Broker(context.settings.binary, folder / "data", folder / "nsqd.log")


@case("process")
def version_and_usage(context: Context) -> None:
    status, out, _ = run(idle(context), "-version")
    equal(status, 0, "exit status of -version")
    assert re.fullmatch(r"nsqd v1\.3\.0\S* \(built w/[^)]+\)\n", out), out
    status, _, err = run(idle(context), "-h")
    equal(status, 0, "exit status of -h")
    assert err.startswith("Usage of nsqd:\n"), err[:200]


@case("process")
def bad_flags(context: Context) -> None:
    broker = idle(context)
    for flag, text in (
        ("--nope", "flag provided but not defined: -nope"),
        ("--node-id=abc", 'invalid value "abc" for flag -node-id: parse error'),
        ("--deflate=5", 'invalid boolean value "5" for -deflate: parse error'),
    ):
        status, _, err = run(broker, flag)
        equal(status, 2, f"exit status of {flag}")
        equal(err.splitlines()[0], text, f"first line for {flag}")
    for flag, text in (
        ("--node-id=1024", "--node-id must be [0,1024)"),
        ("--max-deflate-level=10", "--max-deflate-level must be [1,9]"),
        ("--data-path=/nonexistent/ringq", "failed to lock data-path: open /nonexistent/ringq: no such file or directory"),
    ):
        status, _, err = run(broker, flag)
        equal(status, 1, f"exit status of {flag}")
        assert err.rstrip().endswith(f"FATAL: failed to instantiate nsqd - {text}"), err[-400:]


@case("process")
def data_path_is_locked(context: Context) -> None:
    broker = context.broker()
    status, _, err = run(broker)
    equal(status, 1, "exit status of the second")
    assert "failed to lock data-path: cannot flock directory" in err and "possibly in use by another instance" in err, err
    broker.kill()
    broker.start()  # the lock goes with the process


@case("process")
def port_in_use(context: Context) -> None:
    broker = context.broker()
    status, _, err = run(idle(context), f"--tcp-address=127.0.0.1:{broker.tcp_port}")
    equal(status, 1, "exit status")
    assert f"listen (127.0.0.1:{broker.tcp_port}) failed" in err and "address already in use" in err, err


@case("process")
def stop_signals(context: Context) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        broker = context.broker()
        with broker.connect() as client:
            client.publish("stop", b"x")
            assert broker.process is not None
            broker.process.send_signal(number)
            equal(broker.process.wait(10), 0, f"exit status after {number.name}")
            client.closed()
        assert "NSQ: bye" in broker.log_text(), "the last log line"


@case("process", ours_only=True)
def hangup_and_user_signals_do_not_end_it(context: Context) -> None:
    broker = context.broker()
    assert broker.process is not None
    for number in (signal.SIGHUP, signal.SIGUSR1):
        broker.process.send_signal(number)
        equal(broker.http("GET", "/ping").body, b"OK", f"ping after {number.name}")
    equal(broker.terminate(), 0, "exit status")


@case("process", ours_only=True)
def silent_connection_does_not_delay_the_stop(context: Context) -> None:
    """A connection that never sent the magic keeps the reference from ever ending."""
    broker = context.broker()
    with broker.connect(b""), broker.connect(b" "), broker.connect():
        began = time.monotonic()
        equal(broker.terminate(10), 0, "exit status")
        assert time.monotonic() - began < 8, "slow to stop"


@case("process")
def a_log_line(context: Context) -> None:
    broker = context.shared_broker()
    pattern = r"\[nsqd\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} (DEBUG|INFO|WARNING|ERROR|FATAL): .*"
    lines = broker.log_text().splitlines()
    assert lines, "no log"
    for line in lines:
        assert re.fullmatch(pattern, line), line
    broker.http("GET", "/nosuchpath")
    access = re.compile(r"INFO: 404 GET /nosuchpath \(127\.0\.0\.1:\d+\) [0-9.]+[nµm]?s\n")
    eventually(lambda: access.search(broker.log_text()), "access log")


def restart_history(broker: Broker) -> List[Message]:
    """Leaves 2 in flight, 2 waiting and 1 deferred by REQ, 1 deferred by DPUB; returns the in-flight ones."""
    broker.post("/topic/create?topic=keep")
    broker.post("/channel/create?topic=keep&channel=paused")
    broker.post("/channel/pause?topic=keep&channel=paused")
    with broker.connect() as c, broker.connect() as p:
        c.subscribe("keep", "ch", 4)
        p.publish("keep", b"0", b"1", b"2", b"3", b"4", b"5")
        done, later, *held = sorted(c.messages(4), key=lambda m: m.id)
        c.ready(0)
        c.send(fin(done.id) + req(later.id, 4000))
        p.send(dpub("keep", 4000, b"deferred"))
        p.ok()
        eventually(lambda: broker.channel("keep", "ch")["deferred_count"] == 2, "two deferred", 15)
        return held


@case("process")
def clean_restart_keeps_everything(context: Context) -> None:
    """Waiting, in-flight with attempts, deferred, and pause flags; with us also the time of a deferral."""
    broker = context.broker()
    began = time.monotonic()
    held = restart_history(broker)
    equal(broker.terminate(), 0, "exit status")
    broker.start()
    equal(broker.channel("keep", "paused")["paused"], True, "pause flag")
    equal(broker.depth("keep", "paused"), 6 if context.ours else 7, "depth of the paused channel")
    with broker.connect() as c:
        c.subscribe("keep", "ch", 100)
        ready = c.messages(context.pick(6, 4))
        attempts = {m.body: m.attempts for m in ready}
        for m in held:
            equal(attempts[m.body], 2, "attempts of a message that was in flight")
        for body in (b"4", b"5"):
            equal(attempts[body], 1, "attempts of a waiting message")
        if context.ours:
            equal(broker.channel("keep", "ch")["deferred_count"], 2, "still deferred")
            late = c.messages(2)
            assert time.monotonic() - began >= 3.995, "a deferral ended early"
            equal({m.body: m.attempts for m in late}, {b"1": 2, b"deferred": 1}, "the deferred ones")
        c.nothing(0.2)


@case("process")
def restart_without_anything(context: Context) -> None:
    broker = context.broker()
    for _ in range(3):
        equal(broker.terminate(), 0, "exit status")
        broker.start()
    equal(broker.stats()["topics"], [], "topics")


@case("process")
def legal_but_awkward_names(context: Context) -> None:
    """Names that would be paths elsewhere."""
    broker = context.broker("--mem-queue-size=0")
    names = ("..", ".", "...", "-", "a.b", "x" * 64)
    with broker.connect() as p:
        for name in names:
            broker.post(f"/topic/create?topic={name}")
            broker.post(f"/channel/create?topic={name}&channel={name}")
            p.publish(name, b"x")
            eventually(lambda: broker.depth(name, name) == 1, f"one message in {name}")
    outside = {path.name for path in broker.data.parent.iterdir()}
    equal(outside, {"data", "nsqd.log"}, "files beside the data folder")
    equal(broker.terminate(), 0, "exit status")
    broker.start()
    for name in names:
        equal(broker.depth(name, name), 1, f"depth of {name} after a restart")
