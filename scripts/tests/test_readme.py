"""The README's lines work as printed: its commands and its reader, with nothing but ports and folders changed."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path
from typing import List

from harness import Context, case, equal, eventually
from ports import kept_ports
from test_quickstart import link_programs, start_cluster
from utility import TOOLS

README = Path(__file__).resolve().parents[2] / "README.md"
READER_PATIENCE_S = 30
# The second message of the README is deferred by this much.
DEFERRED_S = 5.0


def blocks(language: str) -> List[str]:
    """The fenced code blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@case("readme", needs=("pynsq",), slow=True)
def first_steps(context: Context) -> None:
    broker = context.broker()

    def ported(text: str) -> str:
        return text.replace("127.0.0.1:4150", f"127.0.0.1:{broker.tcp_port}").replace(
            "127.0.0.1:4151", f"127.0.0.1:{broker.http_port}"
        )

    (block,) = (block for block in blocks("sh") if "defer=" in block)
    commands = [line for line in block.splitlines() if line.startswith("curl ")]
    equal(len(commands), 3, "curl commands in the README")
    started = time.monotonic()
    for command in commands[:2]:
        result = subprocess.run(["bash", "-c", ported(command)], capture_output=True, text=True, timeout=20)
        equal(result.stdout, "OK", command)
    stats = subprocess.run(["bash", "-c", ported(commands[2])], capture_output=True, text=True, timeout=20).stdout
    assert "[test           ] depth: 2" in stats, stats

    (reader,) = blocks("python")
    process = subprocess.Popen(
        [str(context.settings.pynsq_python), "-c", ported(reader)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    limit = threading.Timer(READER_PATIENCE_S, process.kill)
    limit.start()
    try:
        found = [process.stdout.readline().strip() for _ in range(2)]
    finally:
        limit.cancel()
        process.kill()
        process.wait()
    equal(found, ["1 hello world 1", "1 hello later"], "what the reader printed")
    waited = time.monotonic() - started
    assert waited >= DEFERRED_S - 0.5, f"the deferred message came after {waited:.1f} s"


@case("readme")
def a_cluster(context: Context) -> None:
    folder, base = context.folder(), kept_ports(12)
    link_programs(context, folder, "nsqlookupd", "nsqd", *TOOLS)

    def shell(line: str) -> subprocess.Popen:
        line = re.sub(r"127\.0\.0\.1:(41\d\d)", lambda port: f"127.0.0.1:{base + int(port[1]) - 4150}", line)
        line = line.replace("/tmp", str(folder)).replace("$PWD/target/release", str(folder / "bin"))
        script = ["bash", "-c", f"set -euo pipefail; {line}"]
        with (folder / "stderr").open("ab") as err:
            return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=err, text=True)

    def output(line: str) -> str:
        process = shell(line)
        out = process.communicate(timeout=30)[0]
        equal(process.returncode, 0, f"exit status of {line} (see {folder}/stderr)")
        return out

    (publish_and_keep,) = (block.splitlines() for block in blocks("sh") if "nsq_to_file --topic" in block)
    (count,) = (block.splitlines() for block in blocks("sh") if "wc -l" in block)
    path, *publishes, keep = publish_and_keep
    equal((count[0], len(publishes), len(count)), (path, 2, 4), "lines of the README")
    cluster = start_cluster(folder, base, folder / "cluster.out")
    to_file = None
    try:
        for line in publishes:
            equal(output(line), "OK", line)
        # Consumers look once a minute: what is not registered yet would be found late.
        directory = "curl -fs 'http://127.0.0.1:4161/lookup?topic=test'"
        eventually(lambda: output(directory).count('"tcp_port"') == 2, "both nsqds have registered the topic")
        to_file = shell(f"{path}; exec {keep}")
        eventually(lambda: list(folder.glob("test.*.log")), "a file")
        eventually(lambda: output(count[3]).strip() == "2", "the first messages in the file")
        for line in count[1:3]:
            output(f"{path}; {line}")
        eventually(lambda: output(count[3]).strip() == "100002", "all messages in the file", 30)
        to_file.terminate()
        equal(to_file.wait(20), 0, "exit status of nsq_to_file")
    finally:
        for process in (to_file, cluster):
            if process is not None:
                process.terminate()
                process.wait(30)
