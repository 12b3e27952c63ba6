"""Hands waiting answers on, at least once each. What is not taken waits, through restarts, for another try.

A target that is away (refused connections, 5xx, 429, a program that hangs) pauses as a whole; an answer that
a target refuses by itself waits alone and lets the others pass. What has waited longer than `max_age_s` is
written to a file of dead letters, which is said.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secondglance.conversation.failures import wait_s
from secondglance.retry import RetryPolicy
from secondglance.watching.answers.delivery import Delivery, DeliveryError
from secondglance.watching.answers.outbox import Outbox, Parcel

MAX_DEAD_BYTES = 16 * 1024 * 1024
_LOOK_EVERY_S = 0.5
_LONGEST_PAUSE_S = 3600.0  # whatever a hook's Retry-After says
_LONGEST_REFUSAL_S = 600.0  # between attempts at an answer that its target refuses although it takes others


@dataclass(slots=True)
class _Target:
    """Where answers go, until when it is left alone (age in seconds), and what was said of it."""

    delivery: Delivery
    failures: int = 0
    paused_until: float = 0.0
    said: str | None = None


class Courier:
    """Delivers what `outbox` holds to `targets`; `warn` is told of trouble once, and of its end.

    `given_up` counts answers that became dead letters. Wake its thread with `arrived.set()`.
    """

    def __init__(
        self,
        outbox: Outbox,
        targets: Mapping[str, Delivery],
        *,
        policy: RetryPolicy,
        max_age_s: float,
        dead_letters: Path,
        warn: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self.arrived = threading.Event()
        self.given_up = 0
        self._outbox = outbox
        self._targets = {name: _Target(delivery) for name, delivery in targets.items()}
        self._policy = policy
        self._max_age_s = max_age_s
        self._dead_letters = dead_letters
        self._warn = warn
        self._now = now

    def start(self) -> None:
        """Make everything due that waits from before, and say what waits for a target that is not given."""
        self._outbox.hurry()
        for name, count in self._outbox.others(self._targets).items():
            self._warn(f"{count} answers wait for --{name}, which is not given")

    def run(self, stopping: threading.Event) -> None:
        """Deliver until told to stop; the thread of its own that a slow target needs."""
        said = False
        while not stopping.is_set():
            self.arrived.clear()
            try:
                self.deliver_due(stopping.is_set)
                said = False
            except sqlite3.Error as exc:
                if not said and not stopping.is_set():
                    self._warn(f"cannot note what was handed on: {exc}; trying again")
                said = True
            self.arrived.wait(_LOOK_EVERY_S)

    def put(self, record: Mapping[str, Any]) -> None:
        """Let an answer wait for every target; call it in the transaction that settles its question."""
        for name in self._targets:
            self._outbox.put(name, record)

    def deliver_due(self, stopping: Callable[[], bool] = lambda: False) -> int:
        """Try everything that is due, and return how many answers were taken. Raises sqlite3.Error."""
        taken = 0
        self._bury_expired()
        for name, target in self._targets.items():
            while not stopping() and self._now() >= target.paused_until:
                parcel = self._outbox.next(name)
                if parcel is None:
                    break
                taken += self._hand_on(parcel, target)
        return taken

    def _hand_on(self, parcel: Parcel, target: _Target) -> bool:
        try:
            target.delivery.deliver(parcel.record)
        except DeliveryError as exc:
            self._not_taken(parcel, target, exc)
            return False
        except Exception as exc:  # one answer's trouble is not another's
            reason = DeliveryError(f"unexpected {type(exc).__name__}: {exc}", concerns_all=False)
            self._not_taken(parcel, target, reason)
            return False
        self._outbox.remove(parcel)
        if target.said is not None:
            waiting = self._outbox.waiting_for(parcel.target)
            self._warn(f"{target.delivery.name} takes answers again; {waiting} more wait")
        target.failures, target.said = 0, None
        return True

    def _not_taken(self, parcel: Parcel, target: _Target, error: DeliveryError) -> None:
        if error.concerns_all:
            pause_s = wait_s(self._policy, target.failures)
        else:
            pause_s = min(_LONGEST_REFUSAL_S, self._policy.first_wait_s * 2.0 ** min(parcel.attempts, 30))
        if error.retry_after_s is not None:
            pause_s = max(pause_s, min(error.retry_after_s, _LONGEST_PAUSE_S))
        if error.concerns_all:
            target.failures += 1
            target.paused_until = self._now() + pause_s
        self._outbox.postpone(parcel, pause_s)
        if target.said is None or (not error.concerns_all and parcel.attempts == 0):
            self._warn(f"{parcel.record.get('name')}: not handed on: {error}; it waits and is tried again")
            target.said = str(error)

    def _bury_expired(self) -> None:
        while expired := self._outbox.expired(self._max_age_s):
            for parcel in expired:
                self._bury(parcel, f"not taken in {parcel.age_s:.0f} s")

    def _bury(self, parcel: Parcel, reason: str) -> None:
        """Take an answer out of the way, into a file that is kept within bounds."""
        line = json.dumps({"target": parcel.target, "reason": reason, **parcel.record}) + "\n"
        where = f"it lies in {self._dead_letters}"
        try:
            if self._dead_letters.exists() and self._dead_letters.stat().st_size > MAX_DEAD_BYTES:
                self._dead_letters.replace(self._dead_letters.with_suffix(".old.jsonl"))
            with open(self._dead_letters, "a", opener=_open_private) as file:
                file.write(line)
        except OSError as exc:
            where = f"it is lost, for the dead letters cannot be written: {exc.strerror}"
        self._outbox.remove(parcel)
        self.given_up += 1
        self._warn(f"{parcel.record.get('name')}: given up, {reason}; {where}")


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
