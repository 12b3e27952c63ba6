"""Which files were seen already. What a file holds decides; where it lies and what numbers it are hints.

A share that is mounted again has another device number, a restored copy other inodes and other times: neither
is new. Two files that hold the same at the same time are two files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Self

from secondglance.watching.state import WatchState

_FORGET_AFTER_S = 24 * 3600.0
_FORMERS = 8  # paths that are looked at for one content: a thousand black frames cost no thousand looks
_LARGEST = 2**63 - 1  # SQLite holds signed 64-bit numbers

_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Stamp:
    """Changes whenever a file is replaced or written to."""

    device: int
    inode: int
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the stamp; times beyond 1677 and 2262 become the nearest that 64 bits hold."""
        mtime_ns = max(-_LARGEST, min(status.st_mtime_ns, _LARGEST))
        return cls(_signed(status.st_dev), _signed(status.st_ino), status.st_size, mtime_ns)


@dataclass(slots=True)
class _Seen:
    """One file; `sha256` is None until its content is known, `skipped` if nobody asked about it."""

    stamp: Stamp
    sha256: str | None
    gone_age_s: float | None = None
    skipped: bool = False


class Sightings:
    """The `seen` table of a state file, all of it in memory as well. `now` is the state's age in seconds."""

    def __init__(self, state: WatchState, *, now: Callable[[], float] | None = None) -> None:
        self._state = state
        self._now = now or state.age
        with state.reading() as sql:
            rows = sql.execute(
                "SELECT path, device, inode, bytes, mtime_ns, sha256, gone_age_s, skipped FROM seen"
            ).fetchall()
            folders = sql.execute("SELECT path, device, inode FROM folders").fetchall()
        self._seen: dict[str, _Seen] = {}
        self._by_inode: dict[_Inode, str] = {}
        self._by_content: dict[str, dict[str, None]] = {}
        self._folders = {_path(row[0]): (row[1], row[2]) for row in folders}
        for row in rows:
            self._keep(_path(row[0]), _Seen(Stamp(*row[1:5]), row[5], row[6], bool(row[7])))

    def __len__(self) -> int:
        return len(self._seen)

    def knows(self, path: str, stamp: Stamp) -> bool:
        """Whether this very file was seen, under this path or under one that it was renamed from."""
        seen = self._seen.get(path)
        if seen is not None and _looks_same(seen, stamp):
            if seen.stamp != stamp:
                self._note(path, stamp, seen)
            return True
        former = self._renamed_from(stamp)
        if former is None or self._seen[former].stamp != stamp:
            return False
        self._note(path, stamp, self._seen[former])
        return True

    def knows_content(self, path: str, stamp: Stamp, sha256: str) -> bool:
        """Whether this path, or a vanished one that it was moved from, held just that when last seen."""
        seen = self._seen.get(path)
        if seen is not None and seen.sha256 == sha256:
            return True
        formers = islice(reversed(self._by_content.get(sha256, {})), _FORMERS)
        return any(not os.path.lexists(former) for former in formers)

    def add(self, path: str, stamp: Stamp, sha256: str | None, *, skipped: bool = False) -> None:
        """Remember a file; what was known of this path is replaced."""
        seen = _Seen(stamp, sha256, skipped=skipped)
        with self._state.transaction() as sql:
            row = (_key(path), stamp.device, stamp.inode, stamp.bytes, stamp.mtime_ns, sha256, int(skipped))
            sql.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, NULL, ?)", row)
        self._drop(path)
        self._keep(path, seen)

    def add_skipped(self, files: Iterable[tuple[str, Stamp]]) -> None:
        """Call files seen without a look into them, all in one transaction."""
        with self._state.transaction():
            for path, stamp in files:
                self.add(path, stamp, None, skipped=True)

    def without_content(self) -> list[tuple[str, Stamp]]:
        """Return what was called seen and never read; `learn` tells what it holds."""
        return [(path, seen.stamp) for path, seen in self._seen.items() if seen.sha256 is None]

    def learn(self, contents: Iterable[tuple[str, Stamp, str]]) -> None:
        """Remember what skipped files hold, in one transaction."""
        with self._state.transaction():
            for path, stamp, sha256 in contents:
                self.add(path, stamp, sha256, skipped=True)

    def forget_skipped(self) -> None:
        """Files that nobody asked about are new again."""
        with self._state.transaction() as sql:
            sql.execute("DELETE FROM seen WHERE skipped")
        for path in [path for path, seen in self._seen.items() if seen.skipped]:
            self._drop(path)

    def forget_vanished(self, present: Collection[str], is_gone: Callable[[str, Stamp], bool]) -> None:
        """Note what `is_gone`, and forget what has been gone for a day."""
        now, present = self._now(), set(present)
        old: list[str] = []
        changed: list[tuple[str, float | None]] = []
        for path, seen in self._seen.items():
            gone = path not in present and is_gone(path, seen.stamp)
            if not gone and seen.gone_age_s is not None:
                changed.append((path, None))
            elif gone and seen.gone_age_s is None:
                changed.append((path, now))
            elif gone and seen.gone_age_s is not None and seen.gone_age_s < now - _FORGET_AFTER_S:
                old.append(path)
        with self._state.transaction() as sql:
            rows = [(age_s, _key(path)) for path, age_s in changed]
            sql.executemany("UPDATE seen SET gone_age_s = ? WHERE path = ?", rows)
            sql.executemany("DELETE FROM seen WHERE path = ?", [(_key(path),) for path in old])
        for path, age_s in changed:
            self._seen[path].gone_age_s = age_s
        for path in old:
            self._drop(path)

    def folder(self, path: str) -> _Inode | None:
        """Return device and inode of a folder when it last held what is known."""
        return self._folders.get(path)

    def place(self, folders: dict[str, _Inode]) -> None:
        """Remember where folders lie that hold what is known; forget folders that hold nothing known."""
        used = {parent for path in self._seen for parent in parents_of(path)}
        changed = {path: at for path, at in folders.items() if self._folders.get(path) != at}
        unused = [path for path in self._folders if path not in used and path not in folders]
        with self._state.transaction() as sql:
            rows = [(_key(path), *at) for path, at in changed.items()]
            sql.executemany("INSERT OR REPLACE INTO folders VALUES (?, ?, ?)", rows)
            sql.executemany("DELETE FROM folders WHERE path = ?", [(_key(path),) for path in unused])
        self._folders |= changed
        for path in unused:
            del self._folders[path]

    def _renamed_from(self, stamp: Stamp) -> str | None:
        former = self._by_inode.get((stamp.device, stamp.inode))
        return None if former is None or os.path.lexists(former) else former

    def _note(self, path: str, stamp: Stamp, seen: _Seen) -> None:
        self.add(path, stamp, seen.sha256, skipped=seen.skipped)

    def _keep(self, path: str, seen: _Seen) -> None:
        self._seen[path] = seen
        self._by_inode[seen.stamp.device, seen.stamp.inode] = path
        if seen.sha256 is not None:
            self._by_content.setdefault(seen.sha256, {})[path] = None

    def _drop(self, path: str) -> None:
        seen = self._seen.pop(path, None)
        if seen is None:
            return
        inode = (seen.stamp.device, seen.stamp.inode)
        if self._by_inode.get(inode) == path:
            del self._by_inode[inode]
        if seen.sha256 is not None:
            paths = self._by_content[seen.sha256]
            paths.pop(path, None)
            if not paths:
                del self._by_content[seen.sha256]


def parents_of(path: str) -> Iterable[str]:
    """Return the folders above a path, the nearest first."""
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _looks_same(seen: _Seen, stamp: Stamp) -> bool:
    """Whether nothing but the device's number changed; without known content, inodes are not asked."""
    was = seen.stamp
    same = (was.bytes, was.mtime_ns) == (stamp.bytes, stamp.mtime_ns)
    return same and (was.inode == stamp.inode or seen.sha256 is None)


def _signed(number: int) -> int:
    """Return the number in 64 bits with a sign; some file systems use the upper half."""
    return number - 2**64 if number >= 2**63 else number


def _key(path: str) -> str | bytes:
    """Return what the database holds: text, or bytes for a name that is no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _path(key: str | bytes) -> str:
    return key if isinstance(key, str) else os.fsdecode(key)
