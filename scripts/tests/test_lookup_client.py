"""The broker as a client of nsqlookupd: registration, peers that fail, channels made ahead."""

from __future__ import annotations

import json
import threading
import time

from harness import Context, case, equal, eventually
from lookup_peers import Scripted
from lookupd import references
from ports import silent_port
from utility import tcp
from wire import RESPONSE, pub


@case("lookup")
def names_are_registered_as_they_come_and_go(context: Context) -> None:
    one, two = references(context), references(context)
    peers = [f"--lookupd-tcp-address={tcp(peer)}" for peer in (one, two)]
    broker = context.broker(*peers)
    broker.post("/topic/create?topic=orders")
    broker.post("/channel/create?topic=orders&channel=billing")
    with broker.connect() as consumer:
        consumer.send(b"SUB live#ephemeral watch#ephemeral\n")
        equal(consumer.frame().data, b"OK", "answer of SUB")
        for peer in (one, two):
            eventually(lambda: peer.producers("orders") == [broker.tcp_port], "the topic is registered")
            eventually(lambda: peer.channels("orders") == ["billing"], "the channel is registered")
            eventually(lambda: peer.channels("live#ephemeral") == ["watch#ephemeral"], "ephemeral ones are too")
    for peer in (one, two):
        eventually(lambda: peer.producers("live#ephemeral") == [], "an ephemeral topic goes with its consumer")
    broker.post("/channel/delete?topic=orders&channel=billing")
    for peer in (one, two):
        eventually(lambda: peer.holders("orders", "billing") == 0, "the channel is unregistered")
        equal(peer.producers("orders"), [broker.tcp_port], "the topic stays")
    broker.post("/topic/delete?topic=orders")
    for peer in (one, two):
        eventually(lambda: peer.producers("orders") == [], "the topic is unregistered")


@case("lookup")
def what_is_said_is_what_the_reference_says(context: Context) -> None:
    with Scripted() as peer:
        broker = context.broker(f"--lookupd-tcp-address={peer.address}", "--topology-zone=z", "--topology-region=r")
        # What is made before it is connected would be told in one go.
        eventually(lambda: "peer info" in broker.log_text(), "the peer is known")
        broker.post("/topic/create?topic=bare")
        broker.post("/channel/create?topic=bare&channel=c")
        broker.post("/channel/delete?topic=bare&channel=c")
        broker.post("/topic/delete?topic=bare")
        eventually(lambda: len(peer.commands) >= 6, "six commands")
        equal(peer.commands[0], b"  V1", "magic")
        verb, body = peer.commands[1].split(b" ", 1)
        equal(verb, b"IDENTIFY", "first command")
        identity = json.loads(body)
        keys = ["broadcast_address", "hostname", "http_port", "tcp_port", "topology_region", "topology_zone", "version"]
        equal(list(identity), keys, "keys of IDENTIFY")
        equal((identity["tcp_port"], identity["http_port"]), (broker.tcp_port, broker.http_port), "ports")
        equal((identity["topology_region"], identity["topology_zone"]), ("r", "z"), "topology")
        names = [b"REGISTER bare", b"REGISTER bare c", b"UNREGISTER bare c", b"UNREGISTER bare"]
        equal(peer.commands[2:6], names, "registrations")
        log = broker.log_text()
        for line in (
            f"LOOKUP({peer.address}): adding peer",
            f"LOOKUP connecting to {peer.address}",
            f"LOOKUPD({peer.address}): peer info {{TCPPort:1 HTTPPort:{peer.web.server_address[1]} Version:1.3.0 "
            "BroadcastAddress:127.0.0.1}",
            f"LOOKUPD({peer.address}): topic REGISTER bare",
            f"LOOKUPD({peer.address}): channel UNREGISTER bare c",
        ):
            assert f"INFO: {line}\n" in log, line


@case("lookup")
def everything_is_registered_at_start_and_again_after_a_loss(context: Context) -> None:
    peer = references(context)
    broker = context.broker(f"--lookupd-tcp-address={tcp(peer)}")
    for channel in "ab":
        broker.post("/topic/create?topic=kept")
        broker.post(f"/channel/create?topic=kept&channel={channel}")
    peer.kill()
    # What changes while it is away is not lost on it.
    broker.post("/channel/delete?topic=kept&channel=a")
    broker.post("/topic/create?topic=meanwhile")
    peer.start()
    eventually(lambda: peer.topics() == ["kept", "meanwhile"], "registered again", 40)
    eventually(lambda: peer.channels("kept") == ["b"], "as things are now")
    equal(broker.terminate(), 0, "exit status")
    eventually(lambda: peer.producers("kept") == [], "the peer forgets a broker that stopped")
    broker.start()
    eventually(lambda: peer.producers("meanwhile") == [broker.tcp_port], "registered at start")
    eventually(lambda: peer.producers("kept") == [broker.tcp_port], "registered at start")


@case("lookup", ours_only=True)
def peers_that_are_stuck_dead_or_rude_delay_nobody(context: Context) -> None:
    with Scripted(lambda command: None) as stuck, Scripted(lambda command: b"E_INVALID no") as rude:
        good = references(context)
        addresses = [stuck.address, f"127.0.0.1:{silent_port()}", rude.address, "no-port", tcp(good)]
        broker = context.broker(*(f"--lookupd-tcp-address={address}" for address in addresses))
        eventually(lambda: "peer info" in broker.log_text(), "the good peer is known")
        took = []
        for number in range(20):
            began = time.monotonic()
            broker.post(f"/topic/create?topic=t{number}")
            eventually(lambda: good.producers(f"t{number}") != [], "the good peer knows")
            took.append(time.monotonic() - began)
        # Whoever waited for one of the others would wait for a second each time.
        assert sorted(took)[10] < 0.5, f"seconds from a topic's creation to its registration: {took}"
        eventually(lambda: stuck.connections > 1, "a peer that does not answer is tried again", 20)


@case("lookup")
def peers_change_at_run_time(context: Context) -> None:
    old, new = references(context), references(context)
    broker = context.broker(f"--lookupd-tcp-address={tcp(old)}")
    broker.post("/topic/create?topic=t")
    eventually(lambda: old.producers("t") == [broker.tcp_port], "registered with the first")
    body = json.dumps([tcp(new)] * 2).encode()
    reply = broker.http("PUT", "/config/nsqlookupd_tcp_addresses", body)
    equal((reply.status, reply.json()), (200, [tcp(new)] * 2), "answer of PUT")
    eventually(lambda: new.producers("t") == [broker.tcp_port], "registered with the second")
    eventually(lambda: old.producers("t") == [], "the first has forgotten")
    equal(broker.log_text().count("adding peer"), 2, "peers added: each once")
    assert f"LOOKUP({tcp(old)}): removing peer" in broker.log_text()
    equal(broker.http("PUT", "/config/nsqlookupd_tcp_addresses", b"[1]").status, 400, "status of a bad value")
    equal(broker.http("PUT", "/config/nsqlookupd_tcp_addresses", b"null").body, b"null", "none")
    eventually(lambda: new.producers("t") == [], "the second has forgotten")


@case("lookup")
def known_channels_are_made_before_the_first_message_flows(context: Context) -> None:
    peer = references(context)
    broker = context.broker(f"--lookupd-tcp-address={tcp(peer)}")
    eventually(lambda: "peer info" in broker.log_text(), "the peer is known")
    peer.post("/topic/create?topic=t")
    for channel in ("a", "b", "gone%23ephemeral"):
        peer.post(f"/channel/create?topic=t&channel={channel}")
    broker.post("/pub?topic=t", b"first")
    eventually(lambda: [c["channel_name"] for c in broker.topic("t")["channels"]] == ["a", "b"], "channels")
    for channel in "ab":
        eventually(lambda: broker.depth("t", channel) == 1, "the message is in each")
    # Nobody was promised the channels yet: they are written soon after they are made.
    saved = broker.data / "nsqd.dat"
    eventually(lambda: all(f'"name":"{name}"' in saved.read_text() for name in "ab"), "the channels are saved")
    broker.kill()
    broker.start()
    for channel in "ab":
        equal(broker.depth("t", channel), context.pick(0, 1), "depth after a kill")


@case("lookup", ours_only=True)
def a_new_topic_takes_messages_while_its_channels_are_looked_up(context: Context) -> None:
    with Scripted(channels=("late", "bad:name", "e#ephemeral"), at_once=False) as slow:
        broker = context.broker(f"--lookupd-tcp-address={slow.address}")
        eventually(lambda: "peer info" in broker.log_text(), "the peer is known")
        with broker.connect() as producer, broker.connect() as consumer:
            producer.send(pub("t", b"one"))
            equal(producer.frame().data, b"OK", "answer of PUB")
            consumer.send(b"SUB t mine\nRDY 9\n")
            equal(consumer.frame().data, b"OK", "answer of SUB")
            producer.send(pub("t", b"two") + pub("other", b"x"))
            equal([producer.frame().data for _ in range(2)], [b"OK"] * 2, "answers")
            equal((broker.topic("t") or {})["depth"], 2, "messages that wait in the topic")
            consumer.nothing(0.3)
            slow.answer_questions()
            received = [consumer.frame().data[26:] for _ in range(2)]
            equal(received, [b"one", b"two"], "messages, once the channels are there")
        eventually(lambda: broker.channel("t", "late"), "the channel that was known")
        equal([c["channel_name"] for c in broker.topic("t")["channels"]], ["late", "mine"], "legal, lasting channels")
        equal(broker.depth("t", "late"), 2, "it missed nothing")
        assert 'invalid channel "bad:name"' in broker.log_text()


@case("lookup", ours_only=True)
def a_topic_made_at_once_after_the_start_waits_for_the_peers(context: Context) -> None:
    def unhurried(command: bytes) -> bytes:
        time.sleep(0.5 if command.startswith(b"IDENTIFY") else 0)
        return b"OK"

    with Scripted(unhurried, channels=("known",)) as peer:
        broker = context.broker(f"--lookupd-tcp-address={peer.address}")
        broker.post("/pub?topic=t", b"first")
        eventually(lambda: broker.channel("t", "known"), "the channel")
        eventually(lambda: broker.depth("t", "known") == 1, "the message is in it")


@case("lookup", ours_only=True)
def messages_flow_when_no_peer_answers(context: Context) -> None:
    with Scripted(channels=("never",), at_once=False) as silent:
        dead = f"--lookupd-tcp-address=127.0.0.1:{silent_port()}"
        broker = context.broker(f"--lookupd-tcp-address={silent.address}", dead, "--http-client-request-timeout=1s")
        with broker.connect() as consumer:
            consumer.send(b"SUB t c\nRDY 1\n" + pub("t", b"m"))
            equal([consumer.frame().data for _ in range(2)], [b"OK"] * 2, "answers")
            equal(consumer.frame().data[26:], b"m", "message")
        warning = "WARNING: failed to query nsqlookupd for channels to pre-create for topic t - "
        assert warning in broker.log_text()
        broker.http("PUT", "/config/nsqlookupd_tcp_addresses", json.dumps([dead.split("=")[1]]).encode())
        broker.post("/topic/create?topic=u")
        text = "ERROR: no available nsqlookupd to query for channels to pre-create for topic u"
        eventually(lambda: text in broker.log_text(), "the error")
        # An ephemeral topic lives by its consumers: nobody is asked for channels that would outlive them.
        equal([q for q in silent.questions if "ephemeral" in q], [], "questions about ephemeral topics")


@case("lookup", ours_only=True)
def a_peer_that_falls_behind_is_told_everything_again(context: Context) -> None:
    behind = threading.Event()

    def slow(command: bytes) -> bytes:
        time.sleep(0 if behind.is_set() else 0.005)
        return b"OK"

    count = 7000
    with Scripted(slow) as peer:
        broker = context.broker(f"--lookupd-tcp-address={peer.address}")
        eventually(lambda: len(peer.commands) >= 2, "the peer is known")
        with broker.connect() as producer:
            producer.send(b"".join(pub(f"t{number}#ephemeral", b"m") for number in range(count)))
            for _ in range(count):
                equal(producer.frame().kind, RESPONSE, "kind of answer")
        eventually(lambda: "too slow for the changes" in broker.log_text(), "it falls behind", 30)
        behind.set()
        names = {b"REGISTER t%d#ephemeral" % number for number in range(count)}
        eventually(lambda: peer.connections > 1 and names <= set(peer.commands), "all are registered", 30)
