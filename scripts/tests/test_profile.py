"""CPU profiles over HTTP: while the broker works, one at a time, in the format of pprof."""

from __future__ import annotations

import shutil
import subprocess
import threading
from typing import List

from harness import Context, Reply, case, equal, eventually
from wire import mpub

PATH = "/debug/pprof/profile?seconds=1"
BATCH = [b"x" * 200] * 100


@case("profile", ours_only=True)
def a_profile_of_a_working_broker(context: Context) -> None:
    broker = context.broker()
    replies: List[Reply] = []
    thread = threading.Thread(target=lambda: replies.append(broker.http("GET", PATH)))
    with broker.connect() as producer, broker.connect() as consumer:
        consumer.subscribe("t", "c", 2500)
        thread.start()
        batches = 0
        while not replies:
            producer.send(mpub("t", BATCH))
            producer.ok()
            consumer.finish(*consumer.messages(len(BATCH)))
            batches += 1
        thread.join()
        eventually(lambda: broker.channel("t", "c")["in_flight_count"] == 0, "everything is finished")
        equal(broker.topic("t")["message_count"], batches * len(BATCH), "messages while the profile was taken")
    equal(replies[0].status, 200, "status")
    equal(replies[0].header("content-type"), "application/octet-stream", "content type")
    go = shutil.which("go")
    if go is None:
        context.note("Go is not installed: the profile was not read")
        return
    file = context.folder() / "profile"
    file.write_bytes(replies[0].body)
    command = [go, "tool", "pprof", "-top", "-cum", "-nodefraction=0", str(file)]
    top = subprocess.run(command, capture_output=True, text=True, timeout=120)
    equal(top.returncode, 0, f"go tool pprof: {top.stderr}")
    for text in ("Type: cpu", "Total samples", "drive_shard"):
        assert text in top.stdout, f"{text!r} is not in {top.stdout[:2000]}"


@case("profile")
def one_profile_at_a_time(context: Context) -> None:
    broker = context.broker()
    replies: List[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(broker.http("GET", PATH))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(sorted(reply.status for reply in replies), [200, 500, 500], "statuses")
    refused = [reply.body for reply in replies if reply.status == 500]
    equal(refused, [b"Could not enable CPU profiling: cpu profiling already in use\n"] * 2, "refusals")
    equal(broker.http("GET", PATH).status, 200, "the next one")
    equal(broker.terminate(), 0, "exit status")


@case("profile", ours_only=True)
def a_profile_is_not_taken_for_ever(context: Context) -> None:
    broker = context.shared_broker()
    reply = broker.http("GET", "/debug/pprof/profile?seconds=1000000")
    equal((reply.status, reply.body), (400, b"A profile takes at most 90 seconds.\n"), "the answer")
