"""The exchange of gonsq/exchange.go through the public client pynsq; prints the same JSON.

Run by a Python that has pynsq (and python-snappy): `exchange_pynsq.py HOST:PORT TOPIC COUNT OPTIONS`, where OPTIONS
is JSON for the connections of pynsq.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import sys
from typing import Any, Dict

import nsq

PATIENCE_S = 60.0
BATCH = 500


def numbered(i: int) -> bytes:
    """The body of message i: its number, and bytes that follow from it."""
    return struct.pack(">I", i) + (b"%d," % (i * 2654435761)) * (i % 30)


class Exchange:
    def __init__(self, address: str, topic: str, count: int, options: Dict[str, Any]) -> None:
        self.address, self.topic, self.count, self.options = address, topic, count, options
        self.seen: set[int] = set()
        self.repeated = self.wrong = 0
        self.done = asyncio.Event()

    def take(self, message: Any) -> bool:
        number = struct.unpack(">I", message.body[:4])[0]
        if number >= self.count or message.body != numbered(number):
            self.wrong += 1
        elif number in self.seen:
            self.repeated += 1
        else:
            self.seen.add(number)
        if len(self.seen) == self.count:
            self.done.set()
        return True

    async def publish(self, writer: nsq.Writer, first: int) -> None:
        """One MPUB and its OK; retries while the writer is connecting."""
        batch = [numbered(i) for i in range(first, min(first + BATCH, self.count))]
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < deadline:
            answer: asyncio.Future = asyncio.get_running_loop().create_future()
            writer.mpub(self.topic, batch, callback=lambda _, data: answer.done() or answer.set_result(data))
            data = await asyncio.wait_for(answer, PATIENCE_S)
            if data == b"OK":
                return
            if not isinstance(data, nsq.Error):
                raise SystemExit(f"MPUB answered {data!r}")
            await asyncio.sleep(0.02)
        raise SystemExit("could not publish")

    async def run(self) -> Dict[str, int]:
        reader = nsq.Reader(
            self.topic, "ch", message_handler=self.take, nsqd_tcp_addresses=[self.address], max_in_flight=500,
            **self.options,
        )  # fmt: skip
        writer = nsq.Writer([self.address], **self.options)
        for first in range(0, self.count, BATCH):
            await self.publish(writer, first)
        try:
            await asyncio.wait_for(self.done.wait(), PATIENCE_S)
        except asyncio.TimeoutError:
            raise SystemExit(f"{len(self.seen)} of {self.count} messages")
        reader.close()
        return {"messages": len(self.seen), "repeated": self.repeated, "wrong": self.wrong}


async def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    address, topic, count, options = sys.argv[1:]
    print(json.dumps(await Exchange(address, topic, int(count), json.loads(options)).run()))


if __name__ == "__main__":
    asyncio.run(main())
