"""Pictures that wait on disk to be asked about: first in, first out, within caps of size and age.

What exceeds a cap is dropped, oldest first, and counted; the one that is being asked about is not.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from secondglance.watching.state import WatchState


@dataclass(frozen=True, slots=True)
class SpoolCaps:
    """`max_bytes` of pictures in all; after waiting for `max_age_s` nobody wants an answer any more."""

    max_bytes: int = 256 * 1024 * 1024
    max_age_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """One picture; `questions` are those not answered yet. `id` is the same through all restarts."""

    number: int
    id: str
    name: str
    taken_at: float
    questions: tuple[str, ...]
    picture: bytes


class Spool:
    """The waiting pictures of one state file; any thread adds, one takes. `now` is the state's age in s."""

    def __init__(
        self, state: WatchState, caps: SpoolCaps | None = None, *, now: Callable[[], float] | None = None
    ) -> None:
        self._state = state
        self._caps = caps or SpoolCaps()
        self._now = now or state.age
        self._taken = -1

    def add(self, name: str, picture: bytes, questions: Iterable[str], *, taken_at: float) -> None:
        """Put a picture last. It is on disk when this returns."""
        if len(picture) > self._caps.max_bytes:
            self._count("dropped_for_size")
            return
        asked = json.dumps(list(questions))
        row = (uuid.uuid4().hex, name, taken_at, self._now(), asked, len(picture), picture)
        with self._state.transaction() as sql:
            sql.execute(
                "INSERT INTO waiting (id, name, taken_at, added_age_s, questions, bytes, picture)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            self._drop()

    def take(self) -> Waiting | None:
        """The oldest picture, which stays and is not dropped until `answered`, `fail` or `put_back`."""
        with self._state.transaction() as sql:
            self._drop()
            row = sql.execute(
                "SELECT number, id, name, taken_at, questions, answered, picture FROM waiting"
                " ORDER BY number LIMIT 1"
            ).fetchone()
            self._taken = -1 if row is None else row[0]
        if row is None:
            self._state.shrink()
            return None
        number, key, name, taken_at, questions, answered, picture = row
        return Waiting(number, key, name, taken_at, tuple(json.loads(questions)[answered:]), picture)

    def answered(self, taken: Waiting, question: str) -> None:
        """The question is settled; after its last one the picture leaves."""
        with self._state.transaction() as sql:
            if question == taken.questions[-1]:
                self._remove(taken.number)
                self._count("answered")
            else:
                sql.execute("UPDATE waiting SET answered = answered + 1 WHERE number = ?", (taken.number,))

    def settling(self) -> AbstractContextManager[object]:
        """Return a transaction in which a question is settled and its answer put where it waits next."""
        return self._state.transaction()

    def fail(self, taken: Waiting) -> None:
        """The picture leaves without an answer."""
        with self._state.transaction():
            self._remove(taken.number)
            self._count("failed")

    def put_back(self, *, taken: Waiting, counts: bool) -> int:
        """It keeps its place; returns how often that `counts` has been said of this picture."""
        with self._state.transaction() as sql:
            sql.execute(
                "UPDATE waiting SET attempts = attempts + ? WHERE number = ?", (int(counts), taken.number)
            )
            self._taken = -1
            return int(self._value("SELECT attempts FROM waiting WHERE number = ?", taken.number) or 0)

    def note(self, name: str, by: int = 1) -> None:
        """Count what happened to pictures elsewhere: those too large to be read, and the drops told."""
        self._count(name, by)

    def __len__(self) -> int:
        with self._state.reading():
            return int(self._value("SELECT COUNT(*) FROM waiting"))

    @property
    def waiting_bytes(self) -> int:
        with self._state.reading():
            return int(self._value("SELECT COALESCE(SUM(bytes), 0) FROM waiting"))

    def count(self, name: str) -> int:
        """How many pictures were `answered`, `failed`, `dropped_for_size`, `dropped_for_age` in all."""
        with self._state.reading():
            return int(self._value("SELECT count FROM counts WHERE name = ?", name) or 0)

    @property
    def dropped(self) -> int:
        return self.count("dropped_for_size") + self.count("dropped_for_age")

    def _drop(self) -> None:
        with self._state.transaction() as sql:
            too_old = self._now() - self._caps.max_age_s
            old = sql.execute(
                "DELETE FROM waiting WHERE added_age_s < ? AND number != ?", (too_old, self._taken)
            ).rowcount
            self._count("dropped_for_age", old)
            excess = self.waiting_bytes - self._caps.max_bytes
            oldest = sql.execute(
                "SELECT number, bytes FROM waiting WHERE number != ? ORDER BY number", (self._taken,)
            )
            for number, size in oldest.fetchall() if excess > 0 else ():
                self._remove(number)
                self._count("dropped_for_size")
                excess -= size
                if excess <= 0:
                    break

    def _remove(self, number: int) -> None:
        with self._state.transaction() as sql:
            sql.execute("DELETE FROM waiting WHERE number = ?", (number,))
            if number == self._taken:
                self._taken = -1

    def _count(self, name: str, by: int = 1) -> None:
        if by:
            with self._state.transaction() as sql:
                sql.execute(
                    "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET count = count + ?",
                    (name, by, by),
                )

    def _value(self, query: str, *arguments: Any) -> Any:
        with self._state.reading() as sql:
            row = sql.execute(query, arguments).fetchone()
        return row[0] if row else None
