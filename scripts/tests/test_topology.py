"""Topology-aware consumption: who is served first, and what is counted.

The reference prefers a close consumer only if its goroutine happens to wait at that instant, and counts nothing per
client; so most of this is ours only.
"""

from __future__ import annotations

from typing import Dict, Tuple

from harness import Broker, Context, case, equal, eventually
from wire import Connection

EXPERIMENT = "--enable-experiment=topology-aware-consumption"
PLACE = ("--topology-region=r1", "--topology-zone=z1")
COUNTS = ("zone_local_msg_count", "region_local_msg_count", "global_msg_count")


def consumer(broker: Broker, region: str, zone: str, ready: int = 3) -> Connection:
    connection = broker.connect()
    reply = connection.identify(client_id=f"{region}/{zone}", topology_region=region, topology_zone=zone)
    equal((reply["topology_region"], reply["topology_zone"]), place_of(broker), "the server's place")
    connection.subscribe("t", "c", ready)
    eventually(lambda: any(c["client_id"] == f"{region}/{zone}" and c["ready_count"] == ready
                           for c in broker.channel("t", "c")["clients"]), "the consumer is ready")  # fmt: skip
    return connection


def place_of(broker: Broker) -> Tuple[str, str]:
    info = broker.http("GET", "/info").json()
    return info["topology_region"], info["topology_zone"]


def counts(entry: Dict[str, object]) -> Tuple[object, ...]:
    return tuple(entry.get(key, 0) for key in COUNTS)


@case("topology", ours_only=True)
def the_closest_consumers_are_served_first(context: Context) -> None:
    broker = context.broker(EXPERIMENT, *PLACE)
    with consumer(broker, "r2", "z9") as far, consumer(broker, "r1", "z2") as near, consumer(broker, "r1", "z1") as here:
        with broker.connect() as producer:
            for connection in (here, near, far):
                for body in (b"1", b"2", b"3"):
                    producer.publish("t", body)
                    equal(connection.message().body, body, "what the closest that has room gets")
        channel = broker.channel("t", "c")
        equal(counts(channel), (3, 3, 3), "deliveries of the channel")
        clients = {client["client_id"]: client for client in channel["clients"]}
        for name, region, zone, expected in (
            ("r1/z1", "r1", "z1", (3, 0, 0)),
            ("r1/z2", "r1", "z2", (0, 3, 0)),
            ("r2/z9", "r2", "z9", (0, 0, 3)),
        ):
            client = clients[name]
            equal((client["topology_region"], client["topology_zone"]), (region, zone), "place of a client")
            equal(counts(client), expected, f"deliveries of {name}")


@case("topology", ours_only=True)
def an_unnamed_zone_is_nowhere(context: Context) -> None:
    broker = context.broker(EXPERIMENT)
    with consumer(broker, "", "") as anyone:
        broker.post("/pub?topic=t", b"x")
        anyone.message()
        equal(counts(broker.channel("t", "c")), (0, 0, 1), "deliveries")


@case("topology")
def without_the_experiment_everybody_is_global(context: Context) -> None:
    broker = context.broker(*PLACE)
    with consumer(broker, "r1", "z1") as here:
        broker.post("/pub?topic=t", b"x")
        here.message()
        equal(counts(broker.channel("t", "c")), (0, 0, 1), "deliveries")
