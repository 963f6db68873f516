"""nsqlookupd: the process, and what it is for: nsqds, nsqadmin and consumers around it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import List, Tuple

import lookupd as programs
from harness import Broker, Context, Reply, case, equal, eventually
from lookupd import MAGIC, Lookupd

LINE = r"\[nsqlookupd\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} (DEBUG|INFO|WARNING|ERROR|FATAL): .*"


def idle(context: Context) -> List[Lookupd]:
    """Programs that are not started, for their command lines: ours and the reference's."""
    found = [Lookupd(context.settings.program("nsqlookupd"), context.ours, context.folder())]
    if context.ours and context.settings.reference is not None:
        binary = context.settings.reference.parent / "nsqlookupd"
        if binary.exists():
            found.append(Lookupd(binary, False, context.folder()))
    return found


def run(program: Lookupd, *flags: str) -> Tuple[int, str, str]:
    """Runs the binary until it ends by itself."""
    result = subprocess.run(program.command(*flags), capture_output=True, text=True, timeout=20)
    return result.returncode, result.stdout, result.stderr


@case("lookupd_process")
def version_and_usage(context: Context) -> None:
    usages = []
    for program in idle(context):
        status, out, _ = run(program, "-version")
        equal(status, 0, "exit status of -version")
        assert re.fullmatch(r"nsqlookupd v1\.3\.0\S* \(built w/[^)]+\)\n", out), out
        status, _, err = run(program, "-h")
        equal(status, 0, "exit status of -h")
        usages.append(err)
    equal(len(set(usages)), 1, "different usages")
    assert usages[0].startswith("Usage of nsqlookupd:\n  -broadcast-address string\n"), usages[0]


@case("lookupd_process")
def bad_flags_and_files(context: Context) -> None:
    for program in idle(context):
        for flag, text in (
            ("-bogus", "flag provided but not defined: -bogus"),
            ("-log-level=loud", 'invalid value "loud" for flag -log-level: '
                                "invalid log level 'loud' (debug, info, warn, error, fatal)"),
            ("-tombstone-lifetime=5", 'invalid value "5" for flag -tombstone-lifetime: parse error'),
        ):  # fmt: skip
            status, _, err = run(program, flag)
            equal((status, err.splitlines()[0]), (2, text), flag)
        folder = context.folder()
        for content, text in (
            (None, r"FATAL: failed to load config file \S+ - open \S+: no such file or directory"),
            ('log_level = "loud"', r"FATAL: failed parsing log_level loud"),
            ("log_level = ", r"FATAL: failed to load config file \S+ - toml: line \d.*"),
            ('tombstone_lifetime = "xx"', r"ERROR: Resolve failed to coerce value xx \(45s\) "
                                          r'for field TombstoneLifetime - time: invalid duration "?xx"?'),
        ):  # fmt: skip
            path = folder / "lookupd.toml"
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_text(content)
            status, _, err = run(program, f"-config={path}", "-log-prefix=other ")
            equal(status, 1, f"exit status with {content}")
            last = err.rstrip().splitlines()[-1]
            assert re.search(text + "$", last), f"{program.binary} with {content}: {last}"
            assert last.startswith("[nsqlookupd] " if "FATAL" in text else "2"), last


@case("lookupd_process")
def a_port_in_use_and_a_bad_address(context: Context) -> None:
    taken = programs.start(context)
    for program in idle(context):
        for flag in ("tcp", "http"):
            for address, reason in (
                (f"127.0.0.1:{taken.tcp_port}", f"listen tcp 127.0.0.1:{taken.tcp_port}: bind: address already in use"),
                ("nohost", "listen tcp: address nohost: missing port in address"),
            ):
                status, _, err = run(program, f"-{flag}-address={address}")
                equal(status, 1, "exit status")
                assert f"listen ({address}) failed - {reason}" in err, err
                if program.ours:
                    expected = f"FATAL: failed to instantiate nsqlookupd - listen ({address}) failed - {reason}\n"
                    assert err.endswith(expected), err


@case("lookupd_process")
def the_file_counts_and_the_command_line_more(context: Context) -> None:
    path = context.folder() / "lookupd.toml"
    path.write_text('log_prefix = "[file] "\nbroadcast_address = "from.file"\ntombstone_lifetime = 60000\n')
    for program in programs.start_both(context, f"--config={path}", "--tombstone-lifetime=1ms"):
        assert program.log_text().startswith("[file] "), program.log_text()
        with program.producer("a") as a:
            equal(a.identity["broadcast_address"], "127.0.0.1", "address of the command line")
            a.say("REGISTER t")
            program.post("/topic/tombstone?topic=t&node=a:4151")
            eventually(lambda: program.lookup("t") == ["a"], "lifetime of the command line")


@case("lookupd_process")
def signals_end_it_with_its_connections(context: Context) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        for program in programs.start_both(context):
            with program.producer() as p:
                p.say("REGISTER t c")
                assert program.process is not None
                program.process.send_signal(number)
                equal(program.process.wait(10), 0, f"exit status after {number.name}")
                p.closed()
            text = program.log_text()
            for door, port in (("TCP", program.tcp_port), ("HTTP", program.http_port)):
                assert f"INFO: {door}: closing 127.0.0.1:{port}\n" in text, text


@case("lookupd_process", ours_only=True)
def silent_peers_and_hang_ups_do_not_matter(context: Context) -> None:
    """A connection that never sent the magic keeps the reference from ever ending."""
    program = programs.start(context)
    assert program.process is not None
    program.process.send_signal(signal.SIGHUP)
    equal(program.http("GET", "/ping").body, b"OK", "ping after a hang-up")
    with program.connect(b""), program.connect(b" "), program.connect(MAGIC + b"PI"), program.producer():
        began = time.monotonic()
        equal(program.terminate(10), 0, "exit status")
        assert time.monotonic() - began < 5, "slow to stop"


@case("lookupd_process")
def log_lines(context: Context) -> None:
    for program in programs.start_both(context, "--log-level=debug"):
        with program.producer("b1") as p:
            who = p.id
            p.say("REGISTER t c", "PING", "UNREGISTER t c")
        program.talk(b"  V2")
        program.talk(b" ")
        program.talk(MAGIC + b"BOGUS\n")
        for path in ("/topic/create?topic=a", "/channel/create?topic=a&channel=b", "/channel/delete?topic=a&channel=b",
                     "/topic/tombstone?topic=a&node=n:1", "/topic/delete?topic=a"):  # fmt: skip
            program.post(path)
        program.http("GET", "/nope?x=y")
        for expected in (
            r"INFO: nsqlookupd v1\.3\.0\S* \(built w/\S+\)",
            rf"INFO: TCP: new client\({who}\)",
            rf"INFO: CLIENT\({who}\): desired protocol magic '  V1'",
            rf"INFO: CLIENT\({who}\): IDENTIFY Address:b1 TCP:4150 HTTP:4151 Version:1\.3\.0",
            rf"INFO: DB: client\({who}\) REGISTER category:client key: subkey:",
            rf"INFO: DB: client\({who}\) REGISTER category:channel key:t subkey:c",
            rf"INFO: DB: client\({who}\) REGISTER category:topic key:t subkey:",
            rf"(INFO|DEBUG): CLIENT\({who}\): pinged \(last ping [0-9.]+[nµm]?s\)",
            rf"INFO: DB: client\({who}\) UNREGISTER category:channel key:t subkey:c",
            rf"INFO: PROTOCOL\(V1\): \[{who}\] exiting ioloop",
            rf"INFO: DB: client\({who}\) UNREGISTER category:client key: subkey:",
            rf"INFO: DB: client\({who}\) UNREGISTER category:topic key:t subkey:",
            rf"(INFO|ERROR): client\({who}\) - EOF",
            r"ERROR: client\(127\.0\.0\.1:\d+\) bad protocol magic '  V2'",
            r"ERROR: failed to read protocol version - unexpected EOF",
            r"ERROR: \[127\.0\.0\.1:\d+\] - E_INVALID invalid command BOGUS",
            r"INFO: DB: adding topic\(a\)",
            r"INFO: DB: adding channel\(b\) in topic\(a\)",
            r"INFO: DB: removing channel\(b\) from topic\(a\)",
            r"INFO: DB: setting tombstone for producer@n:1 of topic\(a\)",
            r"INFO: DB: removing topic\(a\)",
            r"INFO: 200 POST /topic/create\?topic=a \(127\.0\.0\.1:\d+\) [0-9.]+[nµm]?s",
            r"INFO: 404 GET /nope\?x=y \(127\.0\.0\.1:\d+\) [0-9.]+[nµm]?s",
        ):
            # The end of a connection is noticed beside all else.
            line = re.compile(expected + r"\n")
            eventually(lambda: line.search(program.log_text()), f"a line {expected}:\n{program.log_text()}")
        for line in program.log_text().splitlines():
            assert re.fullmatch(LINE, line), line


def nsqds(context: Context) -> List[Path]:
    """Ours, and the reference's where there is one."""
    found = [context.settings.program("nsqd")]
    if context.settings.reference is not None:
        found.append(context.settings.reference)
    return found


def registered(context: Context, nsqd: Path, *lookupds: Lookupd) -> Broker:
    """An nsqd that all of them know."""
    flags = [f"--lookupd-tcp-address=127.0.0.1:{program.tcp_port}" for program in lookupds]
    broker = context.broker(*flags, binary=nsqd)
    eventually(lambda: broker.log_text().count("peer info") == len(lookupds), "answered by all")
    return broker


@case("lookupd_process")
def an_nsqd_registers_with_several(context: Context) -> None:
    for nsqd in nsqds(context):
        register_with_several(context, nsqd)


def register_with_several(context: Context, binary: Path) -> None:
    lookupds = [programs.start(context) for _ in range(3)]
    lookupds[0].post("/channel/create?topic=made&channel=before")
    lookupds[0].post("/channel/create?topic=made&channel=gone%23ephemeral")
    nsqd = registered(context, binary, *lookupds)
    nsqd.post("/topic/create?topic=t")
    nsqd.post("/channel/create?topic=t&channel=c")
    nsqd.post("/topic/create?topic=made")
    eventually(lambda: nsqd.channel("made", "before"), "channels are made ahead")
    assert nsqd.channel("made", "gone#ephemeral") is None, "ephemeral ones are not"
    for program in lookupds:
        eventually(lambda: program.lookup("t") == ["127.0.0.1"] and program.channels("t") == ["c"], "registered")
        (node,) = program.get("/nodes")["producers"]
        equal((node["tcp_port"], node["http_port"]), (nsqd.tcp_port, nsqd.http_port), "ports")
    nsqd.post("/channel/delete?topic=t&channel=c")
    nsqd.post("/topic/delete?topic=t")
    for program in lookupds:
        eventually(lambda: program.lookup("t") == [], "unregistered")
    # One is gone for a while; the others go on, and it knows everything again when it is back.
    lookupds[1].post("/topic/create?topic=lost")
    lookupds[1].kill()
    nsqd.post("/topic/create?topic=u")
    eventually(lambda: lookupds[2].lookup("u") == ["127.0.0.1"], "the others are told")
    lookupds[1].start()
    nsqd.post("/channel/create?topic=u&channel=c")
    eventually(lambda: lookupds[1].topics() == ["made", "u"], "only what is announced again")
    equal(lookupds[1].channels("made"), ["before"], "channels too")
    nsqd.terminate()
    for program in lookupds:
        eventually(lambda: program.lookup("u") == [], "gone with its connection")


@case("lookupd_process", needs=("reference",))
def a_reference_consumer_finds_its_messages(context: Context) -> None:
    for nsqd in nsqds(context):
        consume_by_lookup(context, nsqd)


def consume_by_lookup(context: Context, binary: Path) -> None:
    program = programs.start(context)
    nsqd = registered(context, binary, program)
    nsqd.post("/pub?topic=t", b"found")
    eventually(lambda: program.lookup("t") == ["127.0.0.1"], "registered")
    tail = context.settings.reference_program("nsq_tail")
    address = f"--lookupd-http-address=127.0.0.1:{program.http_port}"
    command = [str(tail), address, "--topic=t", "-n=1", "--channel=c"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    equal(result.stdout, "found\n", result.stderr[-500:])


@case("lookupd_process", needs=("reference",))
def a_reference_nsqadmin_reads_and_tombstones(context: Context) -> None:
    for nsqd in nsqds(context):
        read_and_tombstone(context, nsqd)


def read_and_tombstone(context: Context, binary: Path) -> None:
    program = programs.start(context)
    nsqd = registered(context, binary, program)
    nsqd.post("/topic/create?topic=t")
    nsqd.post("/channel/create?topic=t&channel=c")
    eventually(lambda: program.channels("t") == ["c"], "registered")
    admin = Admin(context, program)
    equal(admin.get("/api/topics")["topics"], ["t"], "topics")
    (node,) = admin.get("/api/nodes")["nodes"]
    equal((node["broadcast_address"], node["topics"]), ("127.0.0.1", [{"topic": "t", "tombstoned": False}]), "node")
    body = json.dumps({"topic": "t"}).encode()
    equal(admin.http("DELETE", f"/api/nodes/127.0.0.1:{nsqd.http_port}", body).status, 200, "tombstone")
    # nsqadmin goes on to delete the topic on that node, which then unregisters it.
    eventually(lambda: nsqd.topic("t") is None and program.lookup("t") == [], "gone from the node")
    assert f"setting tombstone for producer@127.0.0.1:{nsqd.http_port} of topic(t)" in program.log_text(), "tombstone"
    equal(admin.http("DELETE", "/api/topics/t").status, 200, "delete")
    equal((program.lookup("t"), admin.get("/api/topics")["topics"] or []), (None, []), "the topic is gone")


class Admin(Broker):
    """The reference's nsqadmin over one nsqlookupd."""

    def __init__(self, context: Context, program: Lookupd) -> None:
        folder = context.folder()
        binary = context.settings.reference_program("nsqadmin")
        super().__init__(binary, folder / "data", folder / "nsqadmin.log")
        self.lookupd = program
        context.own.append(self)
        self.launch()
        found = re.compile(r"HTTP: listening on 127\.0\.0\.1:(\d+)")
        self.http_port = int(eventually(lambda: found.search(self.log_text()), "listener announced")[1])

    def command(self, *more: str) -> List[str]:
        address = f"--lookupd-http-address=127.0.0.1:{self.lookupd.http_port}"
        return [str(self.binary), "--http-address=127.0.0.1:0", address, *more]

    def get(self, path: str) -> dict:
        reply: Reply = self.http("GET", path)
        equal(reply.status, 200, f"status of {path}: {reply.body!r}")
        value = reply.json()
        assert isinstance(value, dict)
        return value
