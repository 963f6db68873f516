"""What an `OK` of one topic means, chosen when it is created: `POST /topic/create?topic=T&sync=always`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

from harness import Broker, Context, case, equal, eventually

# By default nothing is synced while a test runs.
LAZY = ("--shards=1", "--sync-timeout=1h", "--sync-every=1000000")
PUBLISHES = 20


def chosen(broker: Broker, topic: str) -> Optional[str]:
    entry = broker.topic(topic)
    assert entry is not None, f"no topic {topic}"
    return entry.get("sync")


def kept(broker: Broker) -> dict:
    text = (broker.data / "nsqd.dat").read_text()
    return {entry["name"]: entry.get("sync") for entry in json.loads(text)["topics"]}


def worker_switches(broker: Broker) -> int:
    """How often the kernel's workers of the broker's rings have done something and waited again. An fdatasync
    through a ring is always left to one; a small write to the page cache never is."""
    total = 0
    for task in Path(f"/proc/{broker.pid}/task").iterdir():
        try:
            if (task / "comm").read_text().startswith("iou-wrk"):
                status = (task / "status").read_text()
                total += int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
        except FileNotFoundError:
            continue  # an idle worker has ended
    return total


def switches_of_publishes(broker: Broker, topic: str) -> int:
    with broker.connect() as producer:
        producer.publish(topic, b"the log's files are there now")
        before = worker_switches(broker)
        for _ in range(PUBLISHES):
            producer.publish(topic, b"x")
        return worker_switches(broker) - before


@case("topic_sync", ours_only=True)
def always_waits_for_the_disk(context: Context) -> None:
    broker = context.broker(*LAZY)
    broker.post("/topic/create?topic=lazy")
    broker.post("/topic/create?topic=safe&sync=always")
    equal(switches_of_publishes(broker, "lazy"), 0, "syncs for publishes to a topic without a choice")
    counted = switches_of_publishes(broker, "safe")
    assert counted >= PUBLISHES - 1, f"{counted} syncs for {PUBLISHES} publishes, one after the other"
    broker.post("/topic/create?topic=lazy&sync=always")
    counted = switches_of_publishes(broker, "lazy")
    assert counted >= PUBLISHES - 1, f"{counted} syncs after the topic was changed"
    equal(broker.terminate(), 0, "exit status")
    broker.start()
    counted = switches_of_publishes(broker, "safe")
    assert counted >= PUBLISHES - 1, f"{counted} syncs after a restart"


@case("topic_sync", ours_only=True)
def interval_where_always_is_the_default(context: Context) -> None:
    broker = context.broker(*LAZY, "--sync=always")
    broker.post("/topic/create?topic=fast&sync=interval")
    equal(switches_of_publishes(broker, "fast"), 0, "syncs")
    assert switches_of_publishes(broker, "other") >= PUBLISHES - 1, "the flag goes for the others"


@case("topic_sync", ours_only=True)
def the_choice_is_shown_kept_and_changed(context: Context) -> None:
    broker = context.broker()
    broker.post("/topic/create?topic=plain")
    broker.post("/topic/create?topic=safe&sync=always")
    equal((chosen(broker, "plain"), chosen(broker, "safe")), (None, "always"), "sync in /stats")
    eventually(lambda: kept(broker) == {"plain": None, "safe": "always"}, "sync in nsqd.dat")
    broker.post("/topic/create?topic=safe")
    equal(chosen(broker, "safe"), "always", "a creation without a choice changes nothing")
    broker.post("/pub?topic=safe", b"1")
    broker.kill()
    broker.start()
    equal((chosen(broker, "plain"), chosen(broker, "safe")), (None, "always"), "after a kill")
    broker.post("/topic/create?topic=safe&sync=interval")
    broker.post("/channel/create?topic=safe&channel=c")
    equal(broker.terminate(), 0, "exit status")
    equal(kept(broker), {"plain": None, "safe": "interval"}, "changed")
    broker.start()
    equal(chosen(broker, "safe"), "interval", "after a clean stop")
    equal(broker.depth("safe", "c"), 1, "messages")
    broker.post("/topic/delete?topic=safe")
    broker.post("/topic/create?topic=safe")
    equal(chosen(broker, "safe"), None, "a new topic of that name has no choice")


@case("topic_sync", ours_only=True)
def other_words_are_refused(context: Context) -> None:
    broker = context.shared_broker()
    for query in ("topic=word&sync=", "topic=word&sync=never", "topic=word%23ephemeral&sync=always"):
        reply = broker.http("POST", f"/topic/create?{query}")
        equal((reply.status, reply.json()), (400, {"message": "INVALID_SYNC"}), query)
    equal(broker.topic("word"), None, "no topic was made")


@case("topic_sync", ours_only=True)
def the_reference_reads_past_it(context: Context) -> None:
    ours = context.broker()
    ours.post("/topic/create?topic=safe&sync=always")
    ours.post("/channel/create?topic=safe&channel=c")
    equal(ours.terminate(), 0, "exit status")
    theirs = Broker(context.settings.reference_program("nsqd"), ours.data, ours.log.with_name("reference.log"))
    context.own.append(theirs)
    theirs.start()
    eventually(lambda: theirs.channel("safe", "c") is not None, "the reference has the channel")
    equal(theirs.terminate(), 0, "exit status of the reference")
    ours.start()
    equal(chosen(ours, "safe"), None, "the reference wrote the file without it")
