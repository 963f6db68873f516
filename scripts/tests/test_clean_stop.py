"""A clean stop under load: what was taken is answered, what was not answered was not taken."""

from __future__ import annotations

import http.client
import threading
from typing import Dict, List, Optional, Set

import wire
from harness import Broker, Context, case, equal, eventually

STOPS = 10
CLIENTS = 8
TOPIC = "stopped"


class Client(threading.Thread):
    """Publishes one message after the other until it is refused or its connection ends."""

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(daemon=True)
        self.broker, self.label = broker, name
        self.answered: Set[str] = set()
        self.refused: Optional[str] = None
        self.unanswered: Optional[str] = None

    def run(self) -> None:
        for number in range(1_000_000):
            message = f"{self.label}.{number}"
            try:
                taken = self.publish(message.encode())
            except (OSError, wire.Closed, http.client.HTTPException):
                self.unanswered = message
                return
            if not taken:
                self.refused = message
                return
            self.answered.add(message)

    def publish(self, body: bytes) -> bool:
        raise NotImplementedError


class TcpClient(Client):
    connection: Optional[wire.Connection] = None

    def publish(self, body: bytes) -> bool:
        if self.connection is None:
            self.connection = self.broker.connect(heartbeats=False)
        self.connection.send(wire.pub(TOPIC, body))
        answer = self.connection.frame()
        if answer.data == b"OK":
            return True
        equal(answer.data, b"E_PUB_FAILED PUB failed exiting", "a refusal")
        self.connection.closed()
        self.connection.close()
        return False


class HttpClient(Client):
    connection: Optional[http.client.HTTPConnection] = None
    was_told = False

    def publish(self, body: bytes) -> bool:
        if self.was_told:
            return False
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.broker.http_port, timeout=wire.PATIENCE_S)
            # By itself it would connect anew after an answer that ends the connection.
            self.connection.auto_open = 0
            self.connection.connect()
        self.connection.request("POST", f"/pub?topic={TOPIC}", body)
        reply = self.connection.getresponse()
        text = reply.read()
        if reply.status == 200:
            # With the last answer it is told not to ask again.
            self.was_told = reply.will_close
            return True
        equal((reply.status, text), (503, b'{"message":"EXITING"}'), "a refusal")
        self.connection.close()
        return False


def drained(broker: Broker) -> Dict[str, int]:
    """Every message of the topic, and how often it came."""
    found: Dict[str, int] = {}
    count = broker.depth(TOPIC, "all")
    with broker.connect() as consumer:
        consumer.subscribe(TOPIC, "all", 1000)
        for _ in range(count):
            message = consumer.message()
            found[message.body.decode()] = found.get(message.body.decode(), 0) + 1
            consumer.finish(message)
        entry = eventually(lambda: (e := broker.channel(TOPIC, "all"))["in_flight_count"] == 0 and e, "all finished")
        equal(entry["depth"], 0, "left over")
    return found


def stop_under_load(context: Context, flags: tuple) -> None:
    broker = context.broker(*flags)
    broker.post(f"/topic/create?topic={TOPIC}")
    broker.post(f"/channel/create?topic={TOPIC}&channel=all")
    refused = unanswered = 0
    for stop in range(STOPS):
        clients: List[Client] = [
            (TcpClient if number % 2 else HttpClient)(broker, f"{stop}.{number}") for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        eventually(lambda: all(len(client.answered) >= 20 for client in clients), "every client publishes")
        equal(broker.terminate(8), 0, "exit status")
        for client in clients:
            client.join(wire.PATIENCE_S)
            assert not client.is_alive(), "a client waits for a broker that is gone"
        broker.start()
        found = drained(broker)
        answered = set().union(*(client.answered for client in clients))
        equal(answered - found.keys(), set(), "answered with OK and lost")
        equal(found.keys() - answered, set(), "kept, and never answered with OK")
        equal([message for message, count in found.items() if count > 1], [], "delivered twice")
        refused += sum(client.refused is not None for client in clients)
        unanswered += sum(client.unanswered is not None for client in clients)
    equal(refused + unanswered, STOPS * CLIENTS, "clients that a stop ended")
    context.note(f"of {STOPS * CLIENTS} clients {refused} were told of the stop, {unanswered} got no answer")


@case("clean_stop", ours_only=True)
def what_is_taken_is_answered(context: Context) -> None:
    stop_under_load(context, ("--shards=1",))


@case("clean_stop", ours_only=True)
def what_is_taken_is_answered_across_shards(context: Context) -> None:
    stop_under_load(context, ("--shards=2", "--sync=always"))


@case("clean_stop", ours_only=True)
def pipelined_publishes_get_their_answers(context: Context) -> None:
    """A client that sends on and reads late loses no `OK` to a reset."""
    broker = context.broker()
    broker.post(f"/topic/create?topic={TOPIC}")
    broker.post(f"/channel/create?topic={TOPIC}&channel=all")
    connection = broker.connect(heartbeats=False)
    sent = 0
    while sent < 5000:
        connection.send(b"".join(wire.pub(TOPIC, b"%d" % number) for number in range(sent, sent + 500)))
        sent += 500
    eventually(lambda: broker.topic(TOPIC)["message_count"] >= 500, "some are taken")
    stopper = threading.Thread(target=broker.terminate)
    stopper.start()
    answers = 0
    try:
        while connection.frame().data == b"OK":
            answers += 1
        connection.closed()
    except wire.Closed:
        pass
    connection.close()
    stopper.join()
    broker.start()
    equal(broker.depth(TOPIC, "all"), answers, "messages kept, and answers read")


@case("clean_stop", ours_only=True)
def idle_connections_do_not_hold_a_stop_up(context: Context) -> None:
    """Neither do those that do not close their side: the stop is bounded."""
    broker = context.broker()
    with broker.connect() as publisher, broker.connect() as consumer, broker.connect():
        publisher.publish("idle", b"x")
        consumer.subscribe("idle", "c", 0)
        keep_alive = http.client.HTTPConnection("127.0.0.1", broker.http_port)
        keep_alive.request("GET", "/ping")
        keep_alive.getresponse().read()
        half = http.client.HTTPConnection("127.0.0.1", broker.http_port)
        half.connect()
        half.send(b"POST /pub?topic=idle HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        equal(broker.terminate(8), 0, "exit status")
    broker.start()
    equal(broker.depth("idle", "c"), 1, "half a publish is none")
