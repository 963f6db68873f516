"""The quick start of NSQ, step by step: with our programs, and with some of the reference's among them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Callable, Dict, List

from harness import Broker, Context, case, equal, eventually
from lookupd import launch
from ports import kept_ports
from test_tools_file import contents
from utility import Running, http, publish, run, tcp

SCRIPT = Path(__file__).resolve().parents[1] / "run"
Finder = Callable[[str], Path]


def steps(context: Context, broker: Broker, sources: Dict[str, str], tool: Finder) -> None:
    """Publish, keep in files, tail, count: what the quick start of NSQ asks of its reader."""
    folder = context.folder()
    publish(broker, "test", b"hello world 1")
    with Running(tool("nsq_to_file"), folder, "--topic=test", "--output-dir=files", sources["consumer"]) as to_file:
        publish(broker, "test", b"hello world 2", b"hello world 3")
        eventually(lambda: kept(folder) == hello(1, 2, 3), f"messages in files:\n{to_file.stderr()}")
        ended = run(tool("nsq_stat"), "--topic=test", "--channel=nsq_to_file", "--interval=50ms", "--count=1", sources["stat"])
        equal((ended.status, ended.err), (0, ""), "nsq_stat")
        equal([int(cell) for cell in ended.out.decode().splitlines()[-1].replace("|", " ").split()][-2:], [3, 1], "messages, clients")
        equal(to_file.stop(), 0, "exit status of nsq_to_file")
    equal(kept(folder), hello(1, 2, 3), "messages in files")
    with Running(tool("nsq_tail"), folder, "--topic=test", "--channel=tail", sources["consumer"]) as tail:
        eventually(lambda: (broker.channel("test", "tail") or {}).get("clients"), "nsq_tail subscribed")
        text = b"hello world 4\nhello world 5\n"
        equal(run(tool("to_nsq"), "-topic=test", f"-nsqd-tcp-address={tcp(broker)}", stdin=text).status, 0, "to_nsq")
        eventually(lambda: sorted(tail.stdout().splitlines()) == hello(4, 5), "messages on the terminal")
        equal(tail.stop(), 0, "exit status of nsq_tail")


def hello(*numbers: int) -> List[bytes]:
    return [b"hello world %d" % number for number in numbers]


def kept(folder: Path) -> List[bytes]:
    return sorted(line for data in contents(folder / "files").values() for line in data.splitlines())


def by_lookup(context: Context, nsqlookupd: Path, nsqd: Path, tool: Finder) -> None:
    directory = launch(context, nsqlookupd, nsqlookupd == context.settings.program("nsqlookupd"))
    broker = context.broker(f"--lookupd-tcp-address={tcp(directory)}", binary=nsqd)
    publish(broker, "early", b"x")
    eventually(lambda: directory.http("GET", "/lookup?topic=early").status == 200, "nsqd has registered")
    flag = f"--lookupd-http-address={http(directory)}"
    steps(context, broker, {"consumer": flag, "stat": flag}, tool)


@case("quickstart")
def our_tools_with_our_daemons(context: Context) -> None:
    ours = context.settings.program
    by_lookup(context, ours("nsqlookupd"), context.settings.binary, ours)


@case("quickstart", needs=("reference",))
def our_tools_and_nsqd_with_the_references_nsqlookupd(context: Context) -> None:
    by_lookup(context, context.settings.reference_program("nsqlookupd"), context.settings.binary, context.settings.program)


@case("quickstart", needs=("reference",))
def our_tools_and_nsqlookupd_with_the_references_nsqd(context: Context) -> None:
    ours = context.settings.program
    by_lookup(context, ours("nsqlookupd"), context.settings.reference_program("nsqd"), ours)


@case("quickstart", needs=("reference",))
def our_tools_with_the_references_daemons(context: Context) -> None:
    reference = context.settings.reference_program
    by_lookup(context, reference("nsqlookupd"), reference("nsqd"), context.settings.program)


@case("quickstart", needs=("reference",))
def the_references_tools_with_our_daemons(context: Context) -> None:
    ours = context.settings.program
    by_lookup(context, ours("nsqlookupd"), context.settings.binary, context.settings.reference_program)


@case("quickstart", needs=("reference",))
def the_references_tools_with_our_nsqd_alone(context: Context) -> None:
    broker = context.broker()
    sources = {"consumer": f"--nsqd-tcp-address={tcp(broker)}", "stat": f"--nsqd-http-address={http(broker)}"}
    steps(context, broker, sources, context.settings.reference_program)


@case("quickstart")
def our_tools_with_our_nsqd_alone(context: Context) -> None:
    broker = context.broker()
    sources = {"consumer": f"--nsqd-tcp-address={tcp(broker)}", "stat": f"--nsqd-http-address={http(broker)}"}
    steps(context, broker, sources, context.settings.program)


def link_programs(context: Context, folder: Path, *names: str) -> None:
    """Our programs in `folder / "bin"`, where `start_cluster` looks for them."""
    (folder / "bin").mkdir()
    for name in names:
        (folder / "bin" / name).symlink_to(context.settings.program(name))


def start_cluster(folder: Path, base: int, output: Path) -> subprocess.Popen:
    """`scripts/run --cluster` on ports from `base`, when it is ready."""
    variables = {"RINGQ_BIN": folder / "bin", "RINGQ_PORT_BASE": base, "RINGQ_CLUSTER_DATA": folder / "data"}
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    with output.open("wb") as out:
        script = subprocess.Popen(
            [SCRIPT, "--cluster"], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        eventually(lambda: "Ctrl-C" in output.read_text(), f"ready:\n{output.read_text()}", 30)
    except BaseException:
        script.terminate()
        script.wait()
        raise
    return script


@case("quickstart")
def the_cluster_script_starts_and_stops_everything(context: Context) -> None:
    folder, base = context.folder(), kept_ports(12)
    link_programs(context, folder, "nsqlookupd", "nsqd", "nsq_tail")
    for number in (signal.SIGINT, signal.SIGTERM):
        output = folder / f"{number.name}.out"
        script = start_cluster(folder, base, output)
        try:
            pids = [int(line.split("process ")[1].split(",")[0]) for line in output.read_text().splitlines() if "process " in line]
            equal(len(pids), 3, "programs")
            script.send_signal(number)
            equal(script.wait(30), 0, f"exit status after {number.name}: {output.read_text()}")
            equal([pid for pid in pids if Path(f"/proc/{pid}").exists()], [], "left over")
        finally:
            script.kill()
            script.wait()
