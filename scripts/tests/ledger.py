"""The book kept beside a broker that is stopped again and again: what was promised, and what became of it.

Every message has a key that is the start of its body. For each channel the ledger knows the last delivery and the
last answer. From that it says, at each delivery, whether the broker may deliver this message now; and after all has
been drained, whether anything acknowledged is missing. Times are those of time.monotonic().
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

from wire import Message

# A deadline in whole milliseconds may round, and two clocks are compared.
EARLY_S = 0.005
VIOLATIONS_KEPT = 10
PATTERN = bytes(range(32, 127)) * 400


def make_body(key: str, length: int) -> bytes:
    """The key, then filling that depends on the length, so that a cut or mixed body shows."""
    start = key.encode() + b" "
    offset = length % 95
    return start + PATTERN[offset : offset + max(0, length - len(start))]


@dataclass
class Sent:
    topic: str
    length: int
    channels: Tuple[str, ...]
    due: float = 0.0
    acknowledged: bool = False


@dataclass
class Fate:
    """A message on one channel."""

    deliveries: int = 0
    attempts: int = 0
    delivered_at: float = 0.0
    # The process (numbered) that made the last delivery.
    incarnation: int = -1
    finished_at: Optional[float] = None
    finished_in: int = -1
    ever_finished: bool = False
    # The FIN was sent long enough before a stop: the message must not come back.
    settled: bool = False
    requeued_at: float = 0.0
    not_before: float = 0.0
    # Whether the attempts of the last delivery must have outlived the last stop.
    attempts_certain: bool = True


@dataclass
class Ledger:
    """`slack_s`: an answer or a delivery younger than this at a stop may be forgotten by the broker."""

    slack_s: float
    deferrals_survive: bool
    strict_attempts: bool
    incarnation: int = 0
    sent: Dict[str, Sent] = field(default_factory=dict)
    fates: Dict[Tuple[str, str, str], Fate] = field(default_factory=dict)
    violations: List[str] = field(default_factory=list)
    violations_total: int = 0
    deliveries: int = 0
    low_attempts: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def violation(self, text: str) -> None:
        self.violations_total += 1
        if len(self.violations) < VIOLATIONS_KEPT:
            self.violations.append(text)

    def announce(self, key: str, sent: Sent) -> None:
        """Before the message is sent."""
        with self.lock:
            self.sent[key] = sent

    def acknowledge(self, keys: List[str]) -> None:
        with self.lock:
            for key in keys:
                self.sent[key].acknowledged = True

    def delivered(self, topic: str, channel: str, message: Message, now: float) -> str:
        """Judges a delivery; returns the key."""
        key = message.body.split(b" ", 1)[0].decode("ascii", "replace")
        with self.lock:
            self.deliveries += 1
            sent = self.sent.get(key)
            if sent is None or message.body != make_body(key, sent.length) or sent.topic != topic:
                self.violation(f"{topic}:{channel}: a body that was never sent there: {message.body[:60]!r}")
                return key
            fate = self.fates.setdefault((topic, channel, key), Fate())
            self.judge(f"{topic}:{channel} {key}", sent, fate, message, now)
            fate.deliveries += 1
            fate.attempts, fate.delivered_at, fate.incarnation = message.attempts, now, self.incarnation
            fate.finished_at, fate.not_before, fate.attempts_certain = None, 0.0, True
            return key

    def judge(self, name: str, sent: Sent, fate: Fate, message: Message, now: float) -> None:
        if fate.settled:
            self.violation(f"{name} came back after its FIN of an earlier process")
        if fate.finished_at is not None and fate.finished_in == self.incarnation:
            self.violation(f"{name} came back after its FIN in the same process")
        due = max(sent.due, fate.not_before)
        if now < due - EARLY_S and (self.deferrals_survive or self.incarnation == 0):
            self.violation(f"{name} came {due - now:.3f} s early")
        if fate.deliveries and fate.incarnation == self.incarnation:
            if message.attempts != fate.attempts + 1:
                self.violation(f"{name}: attempts {message.attempts} after {fate.attempts}")
        elif fate.deliveries and fate.attempts_certain and message.attempts <= fate.attempts:
            self.low_attempts += 1
            if self.strict_attempts:
                self.violation(f"{name}: attempts {message.attempts} after {fate.attempts} before the restart")
        elif message.attempts < 1:
            self.violation(f"{name}: attempts {message.attempts}")

    def finishing(self, topic: str, channel: str, key: str, now: float) -> None:
        """Before FIN is sent."""
        with self.lock:
            fate = self.fates.get((topic, channel, key))
            if fate is not None:
                fate.finished_at, fate.finished_in, fate.ever_finished = now, self.incarnation, True

    def requeueing(self, topic: str, channel: str, key: str, now: float, delay_s: float) -> None:
        """Before REQ is sent."""
        with self.lock:
            fate = self.fates.get((topic, channel, key))
            if fate is not None:
                fate.requeued_at, fate.not_before = now, now + delay_s

    def stopped(self, at: float) -> None:
        """The process was stopped at that time: what was too young to be certain becomes uncertain."""
        with self.lock:
            certain = at - self.slack_s
            for fate in self.fates.values():
                if fate.incarnation != self.incarnation and fate.finished_in != self.incarnation:
                    continue  # settled by an earlier stop
                if fate.finished_at is not None and fate.finished_at < certain:
                    fate.settled = True
                if fate.requeued_at >= certain:
                    fate.not_before = 0.0
                if fate.delivered_at >= certain:
                    fate.attempts_certain = False
            self.incarnation += 1

    def missing(self) -> List[str]:
        """Acknowledged messages that some channel has never finished. Only meaningful after a drain."""
        with self.lock:
            return [
                f"{sent.topic}:{channel} {key}"
                for key, sent in self.sent.items()
                if sent.acknowledged
                for channel in sent.channels
                if not (fate := self.fates.get((sent.topic, channel, key))) or not fate.ever_finished
            ]

    def check(self) -> None:
        with self.lock:
            assert not self.violations_total, f"{self.violations_total} violations, first: " + "; ".join(self.violations)
