"""Topics and channels: backlog of the first channel, pause, empty, delete, ephemeral ones."""

from __future__ import annotations

from harness import Context, case, equal, eventually
from wire import dpub, fin


@case("lifecycle")
def first_channel_inherits_the_backlog(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as p:
        p.publish("inherit", b"1", b"2")
        equal(broker.topic("inherit")["depth"], 2, "depth of the topic before it has a channel")
        broker.post("/channel/create?topic=inherit&channel=c1")
        eventually(lambda: broker.depth("inherit", "c1") == 2, "c1 has the backlog")
        broker.post("/channel/create?topic=inherit&channel=c2")
        p.publish("inherit", b"3")
        eventually(lambda: broker.depth("inherit", "c1") == 3, "c1 has 3")
        eventually(lambda: broker.depth("inherit", "c2") == 1, "c2 has 1")
        broker.post("/channel/delete?topic=inherit&channel=c1")
        broker.post("/channel/delete?topic=inherit&channel=c2")
        p.publish("inherit", b"4")
        eventually(lambda: broker.topic("inherit")["depth"] == 1, "the topic gathers again")
        equal(broker.topic("inherit")["message_count"], 4, "message_count")


@case("lifecycle")
def paused_channel_holds_messages(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c:
        c.subscribe("pausech", "ch", 10)
        broker.post("/channel/pause?topic=pausech&channel=ch")
        equal(broker.channel("pausech", "ch")["paused"], True, "paused")
        c.publish("pausech", b"x")
        c.nothing(0.4)
        equal(broker.depth("pausech", "ch"), 1, "depth")
        broker.post("/channel/unpause?topic=pausech&channel=ch")
        equal(c.message().body, b"x", "body")


@case("lifecycle")
def paused_topic_holds_messages(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c:
        c.subscribe("pauset", "ch", 10)
        broker.post("/topic/pause?topic=pauset")
        equal(broker.topic("pauset")["paused"], True, "paused")
        c.publish("pauset", b"x")
        c.nothing(0.4)
        equal((broker.topic("pauset")["depth"], broker.depth("pauset", "ch")), (1, 0), "depths")
        broker.post("/topic/unpause?topic=pauset")
        equal(c.message().body, b"x", "body")


@case("lifecycle")
def emptied_channel_forgets_everything(context: Context) -> None:
    """Waiting, in-flight and deferred messages go; the consumer has room again; counters stay."""
    broker = context.shared_broker()
    with broker.connect() as c:
        c.subscribe("emptych", "ch", 2)
        c.publish("emptych", *[b"%d" % i for i in range(5)])
        c.send(dpub("emptych", 50000, b"later"))
        c.ok()
        first, _ = c.messages(2)
        entry = eventually(lambda: (e := broker.channel("emptych", "ch"))["deferred_count"] and e, "deferred")
        equal((entry["depth"], entry["in_flight_count"], entry["deferred_count"]), (3, 2, 1), "before")
        broker.post("/channel/empty?topic=emptych&channel=ch")
        entry = broker.channel("emptych", "ch")
        equal((entry["depth"], entry["in_flight_count"], entry["deferred_count"]), (0, 0, 0), "after")
        equal(entry["message_count"], 6, "message_count")
        c.send(fin(first.id))
        equal(c.error(), f"E_FIN_FAILED FIN {first.id.decode()} failed ID not in flight", "FIN")
        c.publish("emptych", b"a", b"b")
        equal(sorted(m.body for m in c.messages(2)), [b"a", b"b"], "there is room again")


@case("lifecycle")
def emptied_topic_leaves_its_channels_alone(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as p:
        broker.post("/topic/create?topic=emptyt")
        broker.post("/channel/create?topic=emptyt&channel=ch")
        p.publish("emptyt", b"1")
        eventually(lambda: broker.depth("emptyt", "ch") == 1, "handed over")
        broker.post("/topic/pause?topic=emptyt")
        p.publish("emptyt", b"2", b"3")
        equal(broker.topic("emptyt")["depth"], 2, "depth before")
        broker.post("/topic/empty?topic=emptyt")
        equal((broker.topic("emptyt")["depth"], broker.depth("emptyt", "ch")), (0, 1), "depths after")


@case("lifecycle")
def deleting_disconnects_consumers(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as a, broker.connect() as b, broker.connect() as p:
        a.subscribe("del", "a", 1)
        b.subscribe("del", "b", 1)
        p.publish("del", b"x")
        for c in (a, b):
            c.message()
        broker.post("/channel/delete?topic=del&channel=a")
        a.closed()
        equal([c["channel_name"] for c in broker.topic("del")["channels"]], ["b"], "channels left")
        broker.post("/topic/delete?topic=del")
        b.closed()
        equal(broker.topic("del"), None, "the topic")
        p.publish("del", b"y")
        entry = broker.topic("del")
        equal((entry["message_count"], entry["depth"], entry["channels"]), (1, 1, []), "a fresh topic")


@case("lifecycle")
def recreated_channel_has_no_old_messages(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as p:
        for round_number in range(3):
            broker.post("/topic/create?topic=recreate")
            broker.post("/channel/create?topic=recreate&channel=ch")
            p.publish("recreate", b"%d" % round_number)
            eventually(lambda: broker.depth("recreate", "ch") == 1, "one message")
            broker.post("/topic/delete?topic=recreate" if round_number == 1 else "/channel/delete?topic=recreate&channel=ch")
        broker.post("/channel/create?topic=recreate&channel=ch")
        equal(broker.depth("recreate", "ch"), 0, "depth")


@case("lifecycle")
def ephemeral_channel_goes_with_its_last_consumer(context: Context) -> None:
    broker = context.shared_broker()
    name = "%23ephemeral"
    with broker.connect() as p:
        p.publish("ephch", b"x")
        with broker.connect() as one, broker.connect() as two:
            one.subscribe("ephch", "e#ephemeral", 1)
            two.subscribe("ephch", "e#ephemeral")
            equal(one.message().body, b"x", "the first channel gets the backlog, also an ephemeral one")
            one.close()
            eventually(lambda: broker.channel("ephch", "e#ephemeral")["client_count"] == 1, "one consumer left")
        eventually(lambda: broker.channel("ephch", "e#ephemeral") is None, "the channel is gone")
        assert broker.topic("ephch") is not None, "an ordinary topic stays"
        broker.post(f"/channel/create?topic=ephch&channel=http{name}")
        assert broker.channel("ephch", "http#ephemeral") is not None, "created over HTTP and never used: stays"


@case("lifecycle")
def ephemeral_topic_goes_with_its_last_channel(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as p:
        p.publish("never#ephemeral", b"x")
        p.publish("et#ephemeral", b"x")
        with broker.connect() as c:
            c.subscribe("et#ephemeral", "c#ephemeral", 1)
            equal(c.message().body, b"x", "body")
        eventually(lambda: broker.topic("et#ephemeral") is None, "the topic is gone")
        p.publish("et#ephemeral", b"x")
        broker.post("/channel/create?topic=et%23ephemeral&channel=plain")
        broker.post("/channel/delete?topic=et%23ephemeral&channel=plain")
        eventually(lambda: broker.topic("et#ephemeral") is None, "gone with its last channel of any kind")
        equal(broker.topic("never#ephemeral")["depth"], 1, "a topic that never had a channel stays")


@case("lifecycle")
def ephemeral_queues_drop_what_exceeds_memory(context: Context) -> None:
    broker = context.broker("--mem-queue-size=2")
    with broker.connect() as p:
        broker.post("/topic/create?topic=drop")
        broker.post("/channel/create?topic=drop&channel=e%23ephemeral")
        broker.post("/channel/create?topic=drop&channel=plain")
        p.publish("drop", *[b"%d" % i for i in range(6)])
        eventually(lambda: broker.depth("drop", "plain") == 6, "the ordinary channel has all")
        entry = eventually(lambda: (e := broker.channel("drop", "e#ephemeral"))["message_count"] == 6 and e, "all counted")
        equal(entry["depth"], 2, "depth of the ephemeral channel")
        p.publish("dropt#ephemeral", *[b"%d" % i for i in range(6)])
        entry = broker.topic("dropt#ephemeral")
        equal((entry["depth"], entry["message_count"]), (2, 6), "depth and count of the ephemeral topic")


@case("lifecycle")
def too_many_consumers(context: Context) -> None:
    broker = context.broker("--max-channel-consumers=2")
    with broker.connect() as a, broker.connect() as b, broker.connect() as c, broker.connect() as d:
        a.subscribe("limit", "ch")
        b.subscribe("limit", "ch")
        c.send(b"SUB limit ch\n")
        equal(c.error(), "E_SUB_FAILED SUB failed consumers for limit:ch exceeds limit of 2", "third consumer")
        c.closed()
        d.subscribe("limit", "other")
        a.close()
        eventually(lambda: broker.channel("limit", "ch")["client_count"] == 1, "room again")
        with broker.connect() as e:
            e.subscribe("limit", "ch")
