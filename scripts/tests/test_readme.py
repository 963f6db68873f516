"""The README's lines work as printed: its curl commands and its reader, with nothing but the ports changed."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path
from typing import List

from harness import Context, case, equal

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

    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("curl ")]
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
