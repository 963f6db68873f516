"""What a consumer may rely on: RDY, FIN, REQ, TOUCH, ownership, fan-out, fairness, flushing, sampling."""

from __future__ import annotations

import time

from harness import Broker, Context, case, equal, eventually
from wire import Connection, Message, Silent, dpub, fin, mpub, pub, req


def drain(broker: Broker, connection: Connection, topic: str, channel: str) -> list[Message]:
    """Everything that the channel has for the connection; each is finished."""
    found: list[Message] = []
    while True:
        try:
            found.append(connection.message(0.2))
            connection.finish(found[-1])
        except Silent:
            entry = broker.channel(topic, channel)
            if entry and not entry["depth"] and not entry["in_flight_count"]:
                return found


@case("consumer")
def ready_count_bounds_what_is_in_flight(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c:
        c.subscribe("rdy", "ch", 2)
        with broker.connect() as p:
            p.publish("rdy", *[b"%d" % i for i in range(5)])
        first, second = c.messages(2)
        c.nothing(0.3)
        c.finish(first)
        third = c.message()
        c.nothing(0.3)
        c.ready(0)
        c.finish(second, third)
        c.nothing(0.3)
        c.send(b"CLS\n")
        equal(c.response(), b"CLOSE_WAIT", "answer to CLS")
        c.ready(5)
        c.nothing(0.3)
        equal(broker.depth("rdy", "ch"), 2, "depth")


@case("consumer")
def no_delivery_before_rdy(context: Context) -> None:
    with context.shared_broker().connect() as c:
        c.subscribe("norday", "ch")
        c.publish("norday", b"x")
        c.nothing(0.4)
        c.ready(1)
        equal(c.message().body, b"x", "body")


@case("consumer")
def finish_twice(context: Context) -> None:
    with context.shared_broker().connect() as c:
        c.subscribe("fintwice", "ch", 1)
        c.publish("fintwice", b"x")
        m = c.message()
        c.finish(m, m)
        equal(c.error(), f"E_FIN_FAILED FIN {m.id.decode()} failed ID not in flight", "second FIN")
        c.alive()


@case("consumer")
def finish_many_and_a_stray_one_among_them(context: Context) -> None:
    stray = b"0123456789abcdef"
    with context.shared_broker().connect() as c:
        c.subscribe("finmany", "ch", 10)
        c.send(mpub("finmany", [b"a", b"b", b"c", b"d"]))
        equal(c.response(), b"OK", "answer to MPUB")
        a, b, d, e = (c.message().id for _ in range(4))
        # In one piece, and in another form in between.
        c.send(fin(a) + fin(b) + fin(stray) + fin(d) + b"FIN " + e + b"\r\n" + pub("finmany", b"last"))
        equal(c.error(), f"E_FIN_FAILED FIN {stray.decode()} failed ID not in flight", "stray FIN")
        equal(c.response(), b"OK", "answer to PUB")
        equal(c.message().body, b"last", "body")
        for settled in (b, d, e):
            c.send(fin(settled))
            equal(c.error(), f"E_FIN_FAILED FIN {settled.decode()} failed ID not in flight", "second FIN")


@case("consumer")
def only_the_owner_may_answer(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as owner, broker.connect() as other:
        owner.subscribe("owner", "ch", 1)
        other.subscribe("owner", "ch")
        owner.publish("owner", b"x")
        m = owner.message()
        text = f"{m.id.decode()} failed client does not own message"
        other.send(fin(m.id))
        equal(other.error(), f"E_FIN_FAILED FIN {text}", "FIN")
        other.send(req(m.id, 0))
        equal(other.error(), f"E_REQ_FAILED REQ {text}", "REQ")
        other.send(b"TOUCH " + m.id + b"\n")
        equal(other.error(), f"E_TOUCH_FAILED TOUCH {text}", "TOUCH")
        other.alive()
        owner.finish(m)
        owner.alive()
        equal(broker.channel("owner", "ch")["in_flight_count"], 0, "in flight")


@case("consumer")
def requeue_at_once(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c:
        c.subscribe("req0", "ch", 1)
        c.publish("req0", b"x")
        first = c.message()
        equal(first.attempts, 1, "attempts at first")
        for attempts in (2, 3):
            c.send(req(first.id, 0))
            again = c.message()
            equal((again.id, again.timestamp_ns, again.body), (first.id, first.timestamp_ns, b"x"), "message")
            equal(again.attempts, attempts, "attempts")
        c.send(req(first.id, 60000))
        entry = eventually(lambda: (e := broker.channel("req0", "ch"))["deferred_count"] and e, "deferred")
        equal(entry["requeue_count"], 3, "requeue_count")
        equal(entry["in_flight_count"], 0, "in_flight_count")
        equal(entry["timeout_count"], 0, "timeout_count")
        c.send(fin(first.id))
        equal(c.error(), f"E_FIN_FAILED FIN {first.id.decode()} failed ID not in flight", "FIN of a deferred message")


@case("consumer")
def every_channel_gets_a_copy(context: Context) -> None:
    """Same id and timestamp in each channel; ids increase strictly within the topic."""
    broker = context.shared_broker()
    with broker.connect() as a, broker.connect() as b, broker.connect() as p:
        a.subscribe("copies", "a", 100)
        b.subscribe("copies", "b", 100)
        before = time.time_ns()
        p.publish("copies", *[b"%d" % i for i in range(50)])
        p.send(mpub("copies", [b"%d" % i for i in range(50, 80)]))
        p.ok()
        after = time.time_ns()
        at_a, at_b = (sorted(c.messages(80), key=lambda m: m.id) for c in (a, b))
        equal(at_a, at_b, "messages of both channels")
        equal([m.body for m in at_a], [b"%d" % i for i in range(80)], "bodies in order of ids")
        equal(len({m.id for m in at_a}), 80, "distinct ids")
        for m in at_a:
            assert before <= m.timestamp_ns <= after, "the timestamp is the moment of acceptance"
            assert len(m.id) == 16 and m.id.isalnum(), f"id {m.id!r}"
            equal(m.attempts, 1, "attempts")


@case("consumer")
def consumers_of_a_channel_share(context: Context) -> None:
    """Each message goes to one of them; all with room get some; a RDY 1 consumer is not starved."""
    broker = context.shared_broker()
    counts, seen = [0, 0, 0], []
    with broker.connect() as fast, broker.connect() as slow, broker.connect() as middle, broker.connect() as p:
        consumers = (fast, slow, middle)
        for c, ready in zip(consumers, (500, 1, 20)):
            c.subscribe("share", "ch", ready)
        for batch in range(20):
            p.send(mpub("share", [b"%d" % i for i in range(batch * 100, batch * 100 + 100)]))
        deadline = time.monotonic() + 30
        while len(seen) < 2000 and time.monotonic() < deadline:
            for index, c in enumerate(consumers):
                try:
                    m = c.message(0.002)
                except Silent:
                    continue
                counts[index] += 1
                seen.append(m.body)
                c.finish(m)
    equal(sorted(seen, key=int), [b"%d" % i for i in range(2000)], "every message exactly once")
    assert min(counts) >= 5, f"a consumer was starved: {counts}"


@case("consumer")
def one_ready_message_is_delivered_at_once(context: Context) -> None:
    """With RDY 1 nothing waits for a buffer to fill or for the flush timer."""
    with context.shared_broker().connect() as c, context.shared_broker().connect() as p:
        c.identify(output_buffer_timeout=5000)
        c.subscribe("prompt", "ch", 1)
        times = []
        for _ in range(20):
            began = time.monotonic()
            p.publish("prompt", b"x")
            c.finish(c.message())
            times.append(time.monotonic() - began)
        assert sorted(times)[10] < 0.1, f"median delay {sorted(times)[10]:.3f} s"


@case("consumer")
def disabled_flush_timer_does_not_hold_messages(context: Context) -> None:
    """output_buffer_timeout -1: the reference may hold a message until the next heartbeat."""
    with context.shared_broker().connect() as c, context.shared_broker().connect() as p:
        c.identify(output_buffer_timeout=-1)
        c.subscribe("noflush", "ch", 100)
        p.publish("noflush", b"x")
        if context.ours:
            equal(c.message(1.0).body, b"x", "body")
        else:
            c.ready(0)  # a change of RDY makes the reference flush
            equal(c.message(3.0).body, b"x", "body")


@case("consumer")
def no_output_buffer_holds_a_message(context: Context) -> None:
    """However large a client asks for it. The reference promises so only for a connection without a buffer."""
    asked = [dict(output_buffer_size=-1), dict(output_buffer_size=-1, output_buffer_timeout=-1)]
    asked += [
        dict(output_buffer_size=size, output_buffer_timeout=timeout)
        for size in ((64, 65536) if context.ours else ())
        for timeout in (-1, 25, 30000)
    ]
    broker = context.shared_broker()
    for number, fields in enumerate(asked):
        topic = f"buffered{number}"
        with broker.connect() as c, broker.connect() as p:
            c.identify(**fields)
            c.subscribe(topic, "ch", 100)
            for body in (b"one", b"two"):
                p.publish(topic, body)
                equal(c.message(1.0).body, body, f"body with {fields}")


@case("consumer")
def sampling_discards_the_rest(context: Context) -> None:
    """About S percent arrive, nothing stays behind."""
    broker = context.shared_broker()
    with broker.connect() as c, broker.connect() as p:
        equal(c.identify(sample_rate=20)["sample_rate"], 20, "granted rate")
        c.subscribe("sample", "ch", 500)
        for _ in range(20):
            p.send(mpub("sample", [b"x"] * 200))
            p.ok()
        arrived = len(drain(broker, c, "sample", "ch"))
    # Binomial with n = 4000 and p = 0.20 (the reference: 0.21): five standard deviations are 126.
    expected = context.pick(840, 800)
    assert abs(arrived - expected) < 130, f"{arrived} of 4000 arrived, expected about {expected}"
    entry = broker.channel("sample", "ch")
    equal((entry["depth"], entry["in_flight_count"], entry["message_count"]), (0, 0, 4000), "depth, in flight, count")


@case("consumer")
def sizes_from_one_byte_to_the_limit(context: Context) -> None:
    sizes = [1, 2, 100, 4095, 4096, 4097, 16384, 65535, 65536, 262144, 262145, 1048575, 1048576]
    with context.shared_broker().connect() as c, context.shared_broker().connect() as p:
        c.subscribe("sizes", "ch", 5)
        payloads = [bytes((i + size) % 251 for i in range(min(size, 997))) * (size // 997 + 1) for size in sizes]
        payloads = [payload[:size] for payload, size in zip(payloads, sizes)]
        for payload in payloads:
            p.publish("sizes", payload)
        got = []
        for _ in payloads:
            m = c.message()
            got.append(m.body)
            c.finish(m)
        assert sorted(got) == sorted(payloads), f"sizes {sorted(map(len, got))}"


@case("consumer")
def backlog_larger_than_memory(context: Context) -> None:
    """30,000 messages with room for 100 in memory arrive exactly once, also the deferred and requeued ones."""
    broker = context.broker("--mem-queue-size=100", "--max-bytes-per-file=1048576")
    broker.post("/topic/create?topic=big")
    broker.post("/channel/create?topic=big&channel=ch")
    with broker.connect() as p:
        for batch in range(150):
            p.send(mpub("big", [b"%06d" % i + b"x" * 200 for i in range(batch * 200, batch * 200 + 200)]))
        for _ in range(150):
            p.ok()
    eventually(lambda: broker.depth("big", "ch") == 30000, "depth 30000")
    entry = broker.channel("big", "ch")
    assert entry["backend_depth"] >= 29000, f"backend_depth {entry['backend_depth']}"
    seen: dict[bytes, int] = {}
    with broker.connect() as c:
        c.subscribe("big", "ch", 1000)
        while len(seen) < 30000 or sum(seen.values()) < 30300:
            m = c.message()
            key = m.body[:6]
            seen[key] = seen.get(key, 0) + 1
            equal(m.attempts, seen[key], f"attempts of {key!r}")
            again = int(key) % 100 == 0 and m.attempts == 1
            c.send(req(m.id, 0) if again else fin(m.id))
        c.nothing(0.3)
    equal(len(seen), 30000, "distinct messages")
    assert all(count == (2 if int(key) % 100 == 0 else 1) for key, count in seen.items()), "deliveries per message"
    entry = broker.channel("big", "ch")
    equal([entry[k] for k in ("depth", "in_flight_count", "deferred_count")], [0, 0, 0], "what is left")
    equal(entry["message_count"], 30000, "message_count")


@case("consumer")
def backlog_is_first_in_first_out(context: Context) -> None:
    """Not promised by NSQ when memory and disk mix, but a log gives it and nothing may scramble it."""
    if not context.ours:
        return  # the reference interleaves memory and disk arbitrarily
    broker = context.broker("--mem-queue-size=50")
    with broker.connect() as p, broker.connect() as c:
        p.publish("fifo", *[b"%d" % i for i in range(2000)])
        c.subscribe("fifo", "ch", 2500)
        equal([m.body for m in c.messages(2000)], [b"%d" % i for i in range(2000)], "order")


@case("consumer")
def pipelined_mixture_answers_in_order(context: Context) -> None:
    """Replies come in the order of the commands, whatever their kind."""
    with context.shared_broker().connect() as c:
        script, want = b"", []
        for i in range(300):
            topic = f"mix{i % 7}"
            script += (pub(topic, b"p"), mpub(topic, [b"a", b"b"]), dpub(topic, 10, b"d"), b"NOP\n")[i % 4]
            if i % 4 != 3:
                want.append(b"OK")
        c.send(script + b"SUB mix0 ch\nCLS\n")
        equal([c.response() for _ in want], want, "replies to publishes")
        equal([c.response(), c.response()], [b"OK", b"CLOSE_WAIT"], "replies to SUB and CLS")


@case("consumer", ours_only=True, slow=True)
def attempts_saturate(context: Context) -> None:
    """After 65,535 attempts the count stays; in the reference it starts again at 0."""
    with context.shared_broker().connect() as c:
        c.subscribe("saturate", "ch", 1)
        c.publish("saturate", b"x")
        m = c.message()
        for _ in range(65540):
            c.send(req(m.id, 0))
            m = c.message()
        equal(m.attempts, 65535, "attempts")
        c.finish(m)
