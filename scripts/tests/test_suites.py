"""The client libraries' own test suites, unmodified, against the broker under test.

Their ports are fixed, so a case is skipped when one of them is taken. Sources are kept in `.cache/suites`; what
cannot be fetched or installed skips its case. `RINGQ_PYNSQ_SOURCE` names a git repository of pynsq to use instead
of the public one (its package on PyPI has no tests).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterable, List

from harness import PANIC, Context, Skip, case, equal, eventually
from lookupd import Lookupd
from ports import claimed, is_free

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "suites"
INSTALL_PATIENCE_S = 240
SUITE_PATIENCE_S = 150
PORT_PATIENCE_S = 3.0
OTHER_RUN_PATIENCE_S = 150.0
NSQD_PORTS = (4150, 4151)
LOOKUPD_PORTS = (4160, 4161)
# nsqjs moves both ports of nsqd by 50 for each of its brokers: 18 integration tests and one failure test.
NSQJS_PORTS = tuple(port + 50 * step for step in range(19) for port in NSQD_PORTS)

PYNSQ = "v0.9.1"
PYNSQ_SOURCE = "https://github.com/nsqio/pynsq"
PYTEST = ("pytest==8.3.4", "mock==5.1.0")
GO_NSQ = "github.com/nsqio/go-nsq@v1.1.0"
NSQJS = "nsqjs@0.13.0"

NO_LOOP = "needs the event loop that Python made unasked up to 3.9; talks to no broker"
PYNSQ_CANNOT_PASS = {
    f"tests.test_backoff.{name}": NO_LOOP
    for name in ("test_backoff_hard", "test_backoff_many_conns", "test_backoff_conns_disconnect")
}
# What pytest's report puts into a test that did not pass.
NOT_PASSED = ("failure", "error", "skipped")


@dataclass(frozen=True)
class Suite:
    """What a suite holds, so that one that runs fewer tests than it has does not pass."""

    tests: int
    cannot_pass: Dict[str, str] = field(default_factory=dict)

    def judge(self, context: Context, passed: Dict[str, bool], output: str) -> None:
        """All pass but the listed ones; a listed one that does pass is told."""
        failed = sorted(name for name, good in passed.items() if not good and name not in self.cannot_pass)
        assert not failed, f"{len(failed)} of {len(passed)} failed: {failed}\n{output[-6000:]}"
        equal(len(passed), self.tests, f"tests that ran\n{output[-2000:]}\n")
        for name, reason in self.cannot_pass.items():
            verdict = "passes although it is listed as one that cannot" if passed[name] else "cannot pass"
            context.note(f"{name} {verdict}: {reason}")


def require_ports(ports: Iterable[int]) -> None:
    """Skips the case unless the ports are free soon: the kernel closes the sockets of a killed ring a little later.

    Another run that uses them is waited for.
    """
    try:
        eventually(lambda: claimed("suites"), "the other run's end", OTHER_RUN_PATIENCE_S)
    except AssertionError:
        raise Skip("another run uses the ports that the suites fix") from None
    for port in ports:
        try:
            eventually(lambda: is_free(port), "a free port", PORT_PATIENCE_S)
        except AssertionError:
            raise Skip(f"port {port}, which the suite fixes, is taken") from None


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Skip(f"{name} is not installed")
    return path


def install(command: List[str], folder: Path) -> str:
    """Runs a step of an installation and returns its output; a failure skips the case."""
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        result = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=INSTALL_PATIENCE_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Skip(f"not within {INSTALL_PATIENCE_S} s: {' '.join(command)}") from None
    if result.returncode != 0:
        last = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()[-1]
        raise Skip(f"could not be installed: {' '.join(command)}: {last}")
    return result.stdout


def cached(name: str, fill: Callable[[Path], object]) -> Path:
    """A folder of the cache; it appears whole or not at all."""
    folder = CACHE / name
    if not folder.exists():
        part = CACHE / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        fill(part)
        part.rename(folder)
    return folder


def on_path(context: Context, folder: Path) -> Dict[str, str]:
    """An environment whose PATH begins with our programs, on the loopback interface unless told otherwise."""
    addresses = {
        "nsqd": "--tcp-address=127.0.0.1:4150 --http-address=127.0.0.1:4151 --https-address=127.0.0.1:0",
        "nsqlookupd": "--tcp-address=127.0.0.1:4160 --http-address=127.0.0.1:4161",
    }
    programs = folder / "bin"
    programs.mkdir()
    for name, flags in addresses.items():
        script = programs / name
        binary, log = context.settings.program(name), folder / "programs.log"
        script.write_text(f"#!/bin/sh\nexec '{binary}' {flags} \"$@\" 2>>'{log}'\n")
        script.chmod(0o755)
    return {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}


def run_suite(command: List[str], folder: Path, work: Path, environment: Dict[str, str]) -> str:
    """Runs the suite and returns its output; whatever it started ends with it."""
    output = work / "suite.log"
    with output.open("wb") as sink:
        suite = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        suite.wait(SUITE_PATIENCE_S)
    except subprocess.TimeoutExpired:
        tail = output.read_text(errors="replace")[-6000:]
        raise AssertionError(f"the suite did not end within {SUITE_PATIENCE_S} s:\n{tail}") from None
    finally:
        try:
            os.killpg(suite.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # Nothing of it is left, as it should be.
        suite.wait()
    return output.read_text(errors="replace")


def check_programs(work: Path) -> None:
    """The suites did start our programs, and none of them panicked."""
    log = work / "programs.log"
    assert log.exists(), "the suite started none of our programs"
    text = log.read_text(errors="replace")
    found = PANIC.search(text)
    assert not found, f"panic: {text[found.start():][:2000] if found else ''}"


def writable_copy(source: Path, target: Path) -> None:
    """Go's module cache is read-only, its copy is not."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder, _, _ in os.walk(target):
        os.chmod(folder, 0o755)


@case("suites")
def go_nsq(context: Context) -> None:
    go = tool("go")
    require_ports(NSQD_PORTS + LOOKUPD_PORTS)
    work = context.folder()
    module = json.loads(install([go, "mod", "download", "-json", GO_NSQ], work))
    sources = work / "go-nsq"
    writable_copy(Path(module["Dir"]), sources)
    tcp, http = (f"--{name}-address=127.0.0.1:{{}}" for name in ("tcp", "http"))
    lookupd = Lookupd(
        context.settings.program("nsqlookupd"), context.ours, work, (tcp.format(4160), http.format(4161))
    )  # fmt: skip
    context.own.append(lookupd)
    lookupd.start()
    context.broker(
        tcp.format(4150), http.format(4151), "--https-address=127.0.0.1:0", "--lookupd-tcp-address=127.0.0.1:4160",
        f"--tls-cert={sources}/test/server.pem", f"--tls-key={sources}/test/server.key",
        f"--tls-root-ca-file={sources}/test/ca.pem",
    )  # fmt: skip
    # Without a count Go would repeat the result of an earlier run.
    output = run_suite([go, "test", "-mod=mod", "-count=1", "-json"], sources, work, dict(os.environ))
    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    ends = ("pass", "fail", "skip")
    passed = {e["Test"]: e["Action"] == "pass" for e in events if "Test" in e and e["Action"] in ends}
    Suite(24).judge(context, passed, "".join(e.get("Output", "") for e in events) or output)


@case("suites", needs=("pynsq",))
def pynsq(context: Context) -> None:
    require_ports(NSQD_PORTS + LOOKUPD_PORTS)
    python, git = str(context.settings.pynsq_python), tool("git")
    origin = os.environ.get("RINGQ_PYNSQ_SOURCE", PYNSQ_SOURCE)
    clone = [git, "clone", "--quiet", "--depth=1", f"--branch={PYNSQ}", origin, "."]
    sources = cached(f"pynsq-{PYNSQ}", lambda part: install(clone, part))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target=.", *PYTEST]
    tools = cached("pytest", lambda part: install(pip, part))
    work = context.folder()
    environment = {**on_path(context, work), "PYTHONPATH": str(tools), "PYTHONDONTWRITEBYTECODE": "1"}
    report = work / "report.xml"
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", f"--junitxml={report}"]
    output = run_suite([*command, str(sources / "tests")], work, work, environment)
    assert report.exists(), output[-6000:]
    passed = {
        f"{entry.get('classname')}.{entry.get('name')}": not any(entry.find(kind) is not None for kind in NOT_PASSED)
        for entry in ElementTree.parse(report).getroot().iter("testcase")
    }
    Suite(75, PYNSQ_CANNOT_PASS).judge(context, passed, output)
    check_programs(work)


def install_nsqjs(part: Path) -> None:
    npm = tool("npm")
    name = install([npm, "pack", NSQJS], part).strip().splitlines()[-1]
    with tarfile.open(part / name) as archive:
        for member in archive.getmembers():
            member.name = member.name.split("/", 1)[1]
        archive.extractall(part)
    install([npm, "install", "--no-audit", "--no-fund"], part)
    if not (part / "node_modules" / "snappystream").exists():
        raise Skip("nsqjs's optional snappystream could not be installed, its tests need it")


@case("suites")
def nsqjs(context: Context) -> None:
    node = tool("node")
    require_ports(NSQJS_PORTS)
    sources = cached(NSQJS, install_nsqjs)
    work = context.folder()
    report = work / "report.json"
    command = [node, "node_modules/mocha/bin/mocha", "-R", "json", "--reporter-option", f"output={report}"]
    output = run_suite(command, sources, work, on_path(context, work))
    assert report.exists(), output[-6000:]
    results = json.loads(report.read_text())
    equal(results["stats"]["tests"], 171, "tests of nsqjs")
    # Two titles occur twice: such a test passes when each of its kind does.
    passed = {test["fullTitle"]: True for test in results["tests"]}
    passed.update({test["fullTitle"]: False for test in results["failures"] + results["pending"]})
    failures = "\n".join(f"{test['fullTitle']}: {test['err'].get('stack')}" for test in results["failures"])
    Suite(169).judge(context, passed, failures + output)
    check_programs(work)
