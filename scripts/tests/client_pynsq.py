"""The scenario of gonsq/scenario.go through the public client pynsq; prints the same JSON.

Run by a Python that has pynsq: `client_pynsq.py HOST:PORT PREFIX`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections import Counter
from typing import Any, Callable, Dict, List

import nsq

PATIENCE_S = 30.0


class Recorder:
    """Counts deliveries and tells when the expected number has been reached."""

    def __init__(self, want: int) -> None:
        self.want = want
        self.deliveries = self.early = 0
        self.bodies: set[bytes] = set()
        self.attempts: Counter[str] = Counter()
        self.due: Dict[bytes, float] = {}
        self.done = asyncio.Event()

    def record(self, message: Any) -> None:
        self.deliveries += 1
        self.bodies.add(message.body)
        self.attempts[str(message.attempts)] += 1
        # Deadlines are whole milliseconds; two clocks are compared.
        if time.monotonic() < self.due.get(message.body, 0.0) - 0.005:
            self.early += 1
        if self.deliveries == self.want:
            self.done.set()

    async def tally(self, what: str) -> Dict[str, Any]:
        """Waits for the expected number, and a moment longer for what should not come."""
        try:
            await asyncio.wait_for(self.done.wait(), PATIENCE_S)
        except asyncio.TimeoutError:
            raise SystemExit(f"{what}: {self.deliveries} of {self.want} deliveries")
        await asyncio.sleep(0.2)
        return {"deliveries": self.deliveries, "distinct": len(self.bodies), "attempts": dict(self.attempts),
                "early": self.early}  # fmt: skip


class Scenario:
    def __init__(self, address: str, prefix: str) -> None:
        self.address, self.prefix = address, prefix
        self.readers: List[nsq.Reader] = []
        self.writer = nsq.Writer([address])

    def consume(self, topic: str, channel: str, in_flight: int, handler: Callable, msg_timeout_s: int = 1) -> None:
        reader = nsq.Reader(
            self.prefix + topic, channel, message_handler=handler, nsqd_tcp_addresses=[self.address],
            max_in_flight=in_flight, max_tries=0, msg_timeout=msg_timeout_s, max_backoff_duration=0.001,
        )  # fmt: skip
        self.readers.append(reader)

    async def sent(self, send: Callable, *arguments: Any) -> None:
        """Calls a method of the writer and waits for its OK; retries while the writer is connecting."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            answer: asyncio.Future = asyncio.get_running_loop().create_future()
            send(*arguments, callback=lambda _, data: answer.done() or answer.set_result(data))
            data = await asyncio.wait_for(answer, PATIENCE_S)
            if data == b"OK":
                return
            if not isinstance(data, nsq.Error):
                raise SystemExit(f"publish answered {data!r}")
            await asyncio.sleep(0.05)
        raise SystemExit("could not publish")

    async def publish(self, topic: str, body: bytes) -> None:
        await self.sent(self.writer.pub, self.prefix + topic, body)

    async def fanout(self) -> Dict[str, Any]:
        recorders = {"a": Recorder(520), "b": Recorder(520)}
        for channel, consumers in (("a", 3), ("b", 2)):
            for _ in range(consumers):
                self.consume("fanout", channel, 20, lambda m, r=recorders[channel]: r.record(m) or True)
        topic = self.prefix + "fanout"
        for i in range(20):
            body = b"deferred %d" % i
            for recorder in recorders.values():
                recorder.due[body] = time.monotonic() + 0.7
            await self.sent(self.writer.dpub, topic, 700, body)
        for i in range(200):
            await self.publish("fanout", b"single %d" % i)
        for i in range(6):
            await self.sent(self.writer.mpub, topic, [b"multi %d %d" % (i, j) for j in range(50)])
        return {channel: await recorder.tally(f"fanout {channel}") for channel, recorder in recorders.items()}

    async def requeue(self) -> Dict[str, Any]:
        recorder = Recorder(100)

        def handler(message: Any) -> bool:
            recorder.record(message)
            if message.attempts > 1:
                return True
            recorder.due[message.body] = time.monotonic() + 0.3
            message.enable_async()
            message.requeue(backoff=False, time_ms=300)
            return True

        self.consume("requeue", "ch", 10, handler)
        for i in range(50):
            await self.publish("requeue", b"%d" % i)
        return await recorder.tally("requeue")

    async def touch(self) -> Dict[str, Any]:
        recorder = Recorder(1)

        async def hold(message: Any) -> None:
            for _ in range(6):
                await asyncio.sleep(0.4)
                message.touch()
            recorder.record(message)
            message.finish()

        def handler(message: Any) -> None:
            message.enable_async()
            asyncio.ensure_future(hold(message))

        self.consume("touch", "ch", 1, handler)
        await self.publish("touch", b"x")
        return await recorder.tally("touch")

    async def timeout(self) -> Dict[str, Any]:
        recorder = Recorder(2)

        def handler(message: Any) -> bool:
            recorder.record(message)
            if message.attempts == 1:
                # Sent a moment ago by the broker, which counts from then.
                recorder.due[message.body] = time.monotonic() + 0.95
                message.enable_async()
            return True

        self.consume("timeout", "ch", 1, handler)
        await self.publish("timeout", b"x")
        return await recorder.tally("timeout")

    async def in_flight(self) -> Dict[str, Any]:
        recorder = Recorder(20)
        held: List[Any] = []
        peak = 0
        full = asyncio.Event()

        async def hold(message: Any) -> None:
            nonlocal peak
            held.append(message)
            peak = max(peak, len(held))
            if len(held) == 5:
                full.set()
            await asyncio.wait_for(full.wait(), PATIENCE_S / 3)
            recorder.record(message)
            held.remove(message)
            message.finish()

        def handler(message: Any) -> None:
            message.enable_async()
            asyncio.ensure_future(hold(message))

        for i in range(20):
            await self.publish("inflight", b"%d" % i)
        self.consume("inflight", "ch", 5, handler, 20)
        tally = await recorder.tally("in_flight")
        return {"tally": tally, "peak": peak}

    async def run(self) -> Dict[str, Any]:
        parts = (self.fanout, self.requeue, self.touch, self.timeout, self.in_flight)
        result = {part.__name__: await part() for part in parts}
        for reader in self.readers:
            reader.close()
        return result


async def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    print(json.dumps(await Scenario(sys.argv[1], sys.argv[2]).run()))


if __name__ == "__main__":
    asyncio.run(main())
