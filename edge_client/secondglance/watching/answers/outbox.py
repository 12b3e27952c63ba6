"""Answers that wait on disk until a program or a web hook has taken them, in the pictures' state file.

An answer enters in the transaction that settles its question: neither can be lost without the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from secondglance.watching.state import WatchState


@dataclass(frozen=True, slots=True)
class Parcel:
    """One answer for one target; `attempts` failed so far, `age_s` since it was put here."""

    number: int
    target: str
    record: dict[str, Any]
    attempts: int
    age_s: float


class Outbox:
    """The `outbox` table; any thread may use it. `now` is the state's age in seconds."""

    def __init__(self, state: WatchState, *, now: Callable[[], float] | None = None) -> None:
        self._state = state
        self._now = now or state.age

    def put(self, target: str, record: Mapping[str, Any]) -> None:
        """Put an answer last. Raises sqlite3.Error."""
        now = self._now()
        with self._state.transaction() as sql:
            sql.execute(
                "INSERT INTO outbox (target, record, added_age_s, due_age_s) VALUES (?, ?, ?, ?)",
                (target, json.dumps(dict(record)), now, now),
            )

    def next(self, target: str) -> Parcel | None:
        """Return the oldest answer for a target that is due."""
        now = self._now()
        with self._state.reading() as sql:
            row = sql.execute(
                "SELECT number, target, record, attempts, added_age_s FROM outbox"
                " WHERE target = ? AND due_age_s <= ? ORDER BY number LIMIT 1",
                (target, now),
            ).fetchone()
        return None if row is None else Parcel(row[0], row[1], json.loads(row[2]), row[3], now - row[4])

    def expired(self, max_age_s: float) -> list[Parcel]:
        """Return some of the answers that have waited longer, whomever they are for."""
        now = self._now()
        with self._state.reading() as sql:
            rows = sql.execute(
                "SELECT number, target, record, attempts, added_age_s FROM outbox WHERE added_age_s < ?"
                " ORDER BY number LIMIT 100",
                (now - max_age_s,),
            ).fetchall()
        return [Parcel(row[0], row[1], json.loads(row[2]), row[3], now - row[4]) for row in rows]

    def remove(self, parcel: Parcel) -> None:
        """The answer was taken, or is given up."""
        with self._state.transaction() as sql:
            sql.execute("DELETE FROM outbox WHERE number = ?", (parcel.number,))

    def postpone(self, parcel: Parcel, pause_s: float) -> None:
        """Note a failed attempt; the next is in `pause_s`."""
        with self._state.transaction() as sql:
            sql.execute(
                "UPDATE outbox SET attempts = attempts + 1, due_age_s = ? WHERE number = ?",
                (self._now() + pause_s, parcel.number),
            )

    def hurry(self) -> None:
        """Make everything due: a new start tries it at once."""
        with self._state.transaction() as sql:
            sql.execute("UPDATE outbox SET due_age_s = added_age_s WHERE due_age_s > added_age_s")

    def __len__(self) -> int:
        with self._state.reading() as sql:
            return int(sql.execute("SELECT COUNT(*) FROM outbox").fetchone()[0])

    def untried(self, target: str) -> bool:
        """Whether an answer waits that this target was never offered, or is due again."""
        with self._state.reading() as sql:
            found = sql.execute(
                "SELECT 1 FROM outbox WHERE target = ? AND (attempts = 0 OR due_age_s <= ?) LIMIT 1",
                (target, self._now()),
            ).fetchone()
        return found is not None

    def others(self, targets: Collection[str]) -> dict[str, int]:
        """Return how many answers wait for targets that are not among these."""
        with self._state.reading() as sql:
            rows = sql.execute("SELECT target, COUNT(*) FROM outbox GROUP BY target").fetchall()
        return {name: int(count) for name, count in rows if name not in targets}

    def waiting_for(self, target: str) -> int:
        """Return how many answers wait for a target."""
        with self._state.reading() as sql:
            found = sql.execute("SELECT COUNT(*) FROM outbox WHERE target = ?", (target,)).fetchone()
        return int(found[0])
