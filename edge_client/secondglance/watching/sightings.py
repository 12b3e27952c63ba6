"""Which files were seen already, by what names them, where they lie and what they hold."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Self

from secondglance.watching.state import WatchState

_FORGET_AFTER_S = 24 * 3600.0  # a network folder that is away for an hour must not look new afterwards


@dataclass(frozen=True, slots=True)
class Stamp:
    """Changes whenever a file is replaced or written to."""

    device: int
    inode: int
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_dev, _signed(status.st_ino), status.st_size, status.st_mtime_ns)


class Sightings:
    """The `seen` table of a state file, all of it in memory as well. `now` is in epoch seconds."""

    def __init__(self, state: WatchState, *, now: Callable[[], float] = time.time) -> None:
        self._state = state
        self._now = now
        with state.reading() as sql:
            rows = sql.execute(
                "SELECT path, device, inode, bytes, mtime_ns, sha256, gone_at FROM seen"
            ).fetchall()
        self._stamps = {row[0]: Stamp(*row[1:5]) for row in rows}
        self._sha256 = {row[0]: row[5] for row in rows}
        self._gone_at = {row[0]: row[6] for row in rows if row[6] is not None}
        self._by_inode = {_inode(stamp): path for path, stamp in self._stamps.items()}

    def __len__(self) -> int:
        return len(self._stamps)

    def knows(self, path: str, stamp: Stamp) -> bool:
        """Whether this very file was seen, under this path or under one that it was renamed from."""
        if self._stamps.get(path) == stamp:
            return True
        former = self._by_inode.get(_inode(stamp))
        if former is None or self._stamps[former] != stamp or os.path.lexists(former):
            return False
        self.add(path, stamp, self._sha256[former])
        return True

    def knows_content(self, path: str, stamp: Stamp, sha256: str) -> bool:
        """Whether this file, or the vanished one that it was renamed from, held just that when last seen."""
        if self._sha256.get(path) == sha256:
            return True
        former = self._by_inode.get(_inode(stamp))
        if former is None or os.path.lexists(former):
            return False
        return self._sha256.get(former) == sha256

    def add(self, path: str, stamp: Stamp, sha256: str | None) -> None:
        """Remember a file; what was known of this path is replaced."""
        with self._state.transaction() as sql:
            sql.execute(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (path, stamp.device, stamp.inode, stamp.bytes, stamp.mtime_ns, sha256),
            )
        self._stamps[path] = stamp
        self._sha256[path] = sha256
        self._gone_at.pop(path, None)
        self._by_inode[_inode(stamp)] = path

    def forget_skipped(self) -> None:
        """Files that were called seen without a look into them are new again."""
        skipped = [path for path, sha256 in self._sha256.items() if sha256 is None]
        with self._state.transaction() as sql:
            sql.execute("DELETE FROM seen WHERE sha256 IS NULL")
        for path in skipped:
            self._drop(path)

    def forget_vanished(self, present: Collection[str]) -> None:
        """Note what is gone, and forget what has been gone for a day."""
        now = self._now()
        gone = self._stamps.keys() - present
        back = self._gone_at.keys() & present
        lately = gone - self._gone_at.keys()
        old = [path for path, at in self._gone_at.items() if path in gone and at < now - _FORGET_AFTER_S]
        with self._state.transaction() as sql:
            sql.executemany("UPDATE seen SET gone_at = ? WHERE path = ?", [(now, path) for path in lately])
            sql.executemany("UPDATE seen SET gone_at = NULL WHERE path = ?", [(path,) for path in back])
            sql.executemany("DELETE FROM seen WHERE path = ?", [(path,) for path in old])
        self._gone_at |= dict.fromkeys(lately, now)
        for path in back:
            del self._gone_at[path]
        for path in old:
            self._drop(path)

    def _drop(self, path: str) -> None:
        inode = _inode(self._stamps.pop(path))
        if self._by_inode.get(inode) == path:
            del self._by_inode[inode]
        del self._sha256[path]
        self._gone_at.pop(path, None)


def _inode(stamp: Stamp) -> tuple[int, int]:
    return stamp.device, stamp.inode


def _signed(number: int) -> int:
    """SQLite holds signed 64-bit numbers; some file systems use the upper half."""
    return number - 2**64 if number >= 2**63 else number
