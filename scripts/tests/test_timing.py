"""Deadlines: message timeout, TOUCH, deferral, heartbeats. Nothing may ever be early; lateness is bounded.

The reference looks at a channel created at run time only every 5 s, so it gets that much more patience.
"""

from __future__ import annotations

import random
import time

from harness import Context, case, equal, eventually
from wire import HEARTBEAT, RESPONSE, Closed, Frame, dpub, req, sized

# A deadline in whole milliseconds may round, and two clocks are compared.
EARLY_S = 0.005


def lateness(context: Context) -> float:
    return context.pick(6.5, 2.0)


def within(context: Context, began: float, delay: float, what: str) -> None:
    took = time.monotonic() - began
    assert took >= delay - EARLY_S, f"{what} came after {took:.3f} s, too early for {delay} s"
    assert took <= delay + lateness(context), f"{what} came after {took:.3f} s, too late for {delay} s"


@case("timing")
def message_timeout(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c:
        equal(c.identify(msg_timeout=1000)["msg_timeout"], 1000, "granted timeout")
        c.subscribe("timeout", "ch", 1)
        began = time.monotonic()
        c.publish("timeout", b"x")
        first = c.message()
        again = c.message(1.0 + lateness(context))
        within(context, began, 1.0, "the redelivery")
        equal((again.id, again.attempts), (first.id, 2), "id and attempts")
        entry = broker.channel("timeout", "ch")
        equal((entry["timeout_count"], entry["requeue_count"]), (1, 0), "timeout_count, requeue_count")
        c.finish(again)


@case("timing")
def late_answer_is_refused(context: Context) -> None:
    with context.shared_broker().connect() as c:
        c.identify(msg_timeout=1000)
        c.subscribe("late", "ch", 1)
        c.publish("late", b"x")
        first = c.message()
        c.ready(0)
        broker = context.shared_broker()
        eventually(lambda: broker.depth("late", "ch") == 1, "timed out", 1.0 + lateness(context))
        c.finish(first)
        equal(c.error(), f"E_FIN_FAILED FIN {first.id.decode()} failed ID not in flight", "FIN after the timeout")


@case("timing")
def touch_extends_up_to_the_maximum(context: Context) -> None:
    broker = context.broker("--msg-timeout=2s", "--max-msg-timeout=6s")
    with broker.connect() as c:
        c.subscribe("touch", "ch", 1)
        began = time.monotonic()
        c.publish("touch", b"x")
        first = c.message()
        again = None
        while again is None and time.monotonic() - began < 6.0 + lateness(context):
            c.send(b"TOUCH " + first.id + b"\n")
            try:
                again = c.message(0.5)
            except Exception as silent:  # Silent: keep touching
                assert "no frame" in str(silent), silent
        assert again is not None, "never redelivered"
        within(context, began, 6.0, "the redelivery")
        equal(again.attempts, 2, "attempts")


@case("timing")
def vanished_consumer(context: Context) -> None:
    """Its message waits for the timeout and is then delivered to another."""
    broker = context.shared_broker()
    with broker.connect() as gone, broker.connect() as stays:
        gone.identify(msg_timeout=1500)
        gone.subscribe("vanish", "ch", 1)
        began = time.monotonic()
        gone.publish("vanish", b"x")
        gone.message()
        stays.subscribe("vanish", "ch", 1)
        gone.close()
        eventually(lambda: broker.channel("vanish", "ch")["client_count"] == 1, "one consumer left")
        entry = broker.channel("vanish", "ch")
        equal((entry["in_flight_count"], entry["depth"]), (1, 0), "in flight and depth")
        again = stays.message(1.5 + lateness(context))
        within(context, began, 1.5, "the redelivery")
        equal(again.attempts, 2, "attempts")
        equal(broker.channel("vanish", "ch")["timeout_count"], 1, "timeout_count")
        stays.finish(again)


@case("timing")
def timeouts_while_paused(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c:
        c.identify(msg_timeout=1000)
        c.subscribe("pausedtimeout", "ch", 1)
        c.publish("pausedtimeout", b"x")
        c.message()
        broker.post("/channel/pause?topic=pausedtimeout&channel=ch")
        eventually(lambda: broker.depth("pausedtimeout", "ch") == 1, "timed out into depth", 1.0 + lateness(context))
        c.nothing(0.2)
        broker.post("/channel/unpause?topic=pausedtimeout&channel=ch")
        equal(c.message().attempts, 2, "attempts")


@case("timing")
def deferred_publish_and_requeue(context: Context) -> None:
    """A mixture of delays by DPUB, /pub?defer and REQ: none early, none much too late, each once."""
    broker = context.shared_broker()
    rng = random.Random(context.settings.seed)
    due: dict[bytes, float] = {}
    with broker.connect() as c, broker.connect() as p:
        c.subscribe("defer", "ch", 200)
        for i in range(60):
            body, delay = b"d%d" % i, rng.randrange(0, 2500)
            due[body] = time.monotonic() + delay / 1000
            if i % 4 == 0:
                broker.post(f"/pub?topic=defer&defer={delay}", body)
            else:
                p.send(dpub("defer", delay, body))
                p.ok()
        requeued: set[bytes] = set()
        done: set[bytes] = set()
        worst = 0.0
        while len(done) < 60:
            m = c.message(3.0 + lateness(context))
            now = time.monotonic()
            assert m.body not in done, f"{m.body!r} came again after FIN"
            assert now >= due[m.body] - EARLY_S, f"{m.body!r} came {due[m.body] - now:.3f} s early"
            worst = max(worst, now - due[m.body])
            if m.body not in requeued and rng.random() < 0.5:
                delay = rng.randrange(1, 1500)
                due[m.body] = time.monotonic() + delay / 1000
                requeued.add(m.body)
                c.send(req(m.id, delay))
            else:
                equal(m.attempts, 2 if m.body in requeued else 1, "attempts")
                done.add(m.body)
                c.finish(m)
        c.nothing(0.2)
    assert worst <= lateness(context), f"{worst:.3f} s late"


@case("timing")
def deferred_count_and_order(context: Context) -> None:
    broker = context.shared_broker()
    with broker.connect() as c, broker.connect() as p:
        c.subscribe("order", "ch", 10)
        # At once, so that they are due in this order however busy the machine is.
        p.send(b"".join(dpub("order", delay, b"%d" % delay) for delay in (2000, 1000, 1500)))
        for _ in range(3):
            p.ok()
        equal(broker.channel("order", "ch")["deferred_count"], 3, "deferred_count")
        equal(broker.channel("order", "ch")["depth"], 0, "depth")
        if context.ours:
            equal([m.body for m in c.messages(3)], [b"1000", b"1500", b"2000"], "order of due times")
        else:
            equal({m.body for m in c.messages(3)}, {b"1000", b"1500", b"2000"}, "bodies")


@case("timing")
def requeue_delay_is_clamped(context: Context) -> None:
    broker = context.broker("--max-req-timeout=1s")
    with broker.connect() as c:
        c.subscribe("clamp", "ch", 1)
        c.publish("clamp", b"x")
        m = c.message()
        began = time.monotonic()
        c.send(req(m.id, 3_600_000))
        equal(c.message(1.0 + lateness(context)).attempts, 2, "attempts")
        within(context, began, 1.0, "the requeued message")


@case("timing")
def silent_client_is_dropped(context: Context) -> None:
    """Heartbeat interval 1 s: heartbeats, then the end after two intervals."""
    with context.shared_broker().connect(heartbeats=False) as c:
        began = time.monotonic()
        c.identify(heartbeat_interval=1000)
        beats = 0
        try:
            while True:
                equal(c.frame(5.0), Frame(RESPONSE, HEARTBEAT), "frame")
                beats += 1
        except Closed:
            pass
        took = time.monotonic() - began
        assert 1 <= beats <= 2, f"{beats} heartbeats"
        assert 1.9 <= took <= 5, f"closed after {took:.2f} s"


@case("timing")
def answering_client_is_kept(context: Context) -> None:
    with context.shared_broker().connect() as producer, context.shared_broker().connect() as consumer:
        producer.identify(heartbeat_interval=1000)
        consumer.identify(heartbeat_interval=1000)
        consumer.subscribe("beats", "ch", 1)
        began = time.monotonic()
        while time.monotonic() - began < 3.2:
            producer.nothing(0.2)
            consumer.nothing(0.2)
        producer.publish("beats", b"x")
        equal(consumer.message().body, b"x", "body")


@case("timing")
def body_slower_than_the_deadline(context: Context) -> None:
    with context.shared_broker().connect(heartbeats=False) as c:
        c.identify(heartbeat_interval=1000)
        began = time.monotonic()
        c.send(b"PUB slow\n" + sized(b"x" * 100)[:50])
        frame = c.frame(5.0)
        while frame == Frame(RESPONSE, HEARTBEAT):
            frame = c.frame(5.0)
        equal(frame.data, b"E_BAD_MESSAGE PUB failed to read message body", "error")
        took = time.monotonic() - began
        assert 1.8 <= took <= 5, f"after {took:.2f} s"
        c.closed()


@case("timing")
def heartbeats_can_be_switched_off(context: Context) -> None:
    with context.shared_broker().connect(heartbeats=False) as c:
        c.identify(heartbeat_interval=-1)
        c.nothing(2.5)
        c.alive()
