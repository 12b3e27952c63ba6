"""What a watch remembers on disk: one SQLite file for each folder or camera, used by one process at a time.

SQLite, not files of our own: that a picture was seen and that it waits to be asked about become true in one
transaction, and what was committed survives a power cut.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from secondglance.errors import UsageError
from secondglance.watching.clock import AgeClock, Uptime, read_uptime

_VERSION = 2
_MUCH_PAGES = 4096  # of 4 KiB
_PRAGMAS = ("auto_vacuum=INCREMENTAL", "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, name TEXT NOT NULL, taken_at REAL NOT NULL,
    added_age_s REAL NOT NULL, questions TEXT NOT NULL, answered INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL, picture BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS seen (
    path TEXT PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL, bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, sha256 TEXT, gone_age_s REAL,
    skipped INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (
    path TEXT PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS clock (
    one INTEGER PRIMARY KEY CHECK (one = 1), boot TEXT NOT NULL, uptime_s REAL NOT NULL, age_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, record TEXT NOT NULL,
    added_age_s REAL NOT NULL, due_age_s REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0);
"""
_FROM_VERSION_1 = """
ALTER TABLE waiting RENAME COLUMN added_at TO added_age_s;
UPDATE waiting SET added_age_s = 0;
ALTER TABLE seen RENAME COLUMN gone_at TO gone_age_s;
UPDATE seen SET gone_age_s = NULL;
ALTER TABLE seen ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
UPDATE seen SET skipped = sha256 IS NULL;
"""
"""Its ages were differences of the wall clock: what waits begins to age anew, which loses nothing."""


class WatchState:
    """Opens or creates the file at `path`. Raises UsageError if another process uses it.

    `age` tells how old the file is, in seconds that no step of the wall clock moves.
    """

    def __init__(self, path: Path, *, uptime: Callable[[], Uptime] = read_uptime) -> None:
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQL's own transactions, so that DDL and pragmas stay outside of them.
            self._sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
            path.chmod(0o600)  # pictures are private
            for pragma in _PRAGMAS:
                self._sql.execute(f"PRAGMA {pragma}").fetchall()
            self._version = int(self._sql.execute("PRAGMA user_version").fetchone()[0])
            if self._version <= _VERSION:
                former = _FROM_VERSION_1 if self._is_of_version_1() else ""
                self._sql.executescript(f"BEGIN IMMEDIATE; {former} {_SCHEMA} COMMIT;")
                self.age = self._age_clock(uptime)
        except (OSError, sqlite3.Error) as exc:
            reason = "another process uses it" if "locked" in str(exc) else str(exc)
            raise UsageError(f"cannot use {path}: {reason}") from exc
        if self._version > _VERSION:
            self.close()
            raise UsageError(f"cannot use {path}: it was written by a newer secondglance")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._sql.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on disk when it ends; nested ones join the outer one. Raises sqlite3.Error."""
        with self._lock:
            if self._sql.in_transaction:
                yield self._sql
                return
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                changes = self._sql.total_changes
                yield self._sql
                if self._sql.total_changes != changes:
                    self._save_age()
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise

    def _is_of_version_1(self) -> bool:
        """Whether it holds the first version's tables; a watch that never began left no number there."""
        columns = self._sql.execute("PRAGMA table_info(waiting)").fetchall()
        return "added_at" in {column[1] for column in columns}

    def _age_clock(self, uptime: Callable[[], Uptime]) -> AgeClock:
        saved = self._sql.execute("SELECT boot, uptime_s, age_s FROM clock").fetchone()
        if saved is None:
            return AgeClock(read=uptime)
        return AgeClock(Uptime(*saved[:2]), saved[2], read=uptime)

    def _save_age(self) -> None:
        now, age_s = self.age.now()
        row = (now.boot, now.seconds, age_s)
        self._sql.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?, ?)", row)

    @property
    def is_new(self) -> bool:
        """Whether no watch has begun with it yet."""
        return self._version == 0

    def begin(self) -> None:
        """It is not new any more."""
        with self._lock:
            self._sql.execute(f"PRAGMA user_version={_VERSION}")
        self._version = _VERSION

    def shrink(self) -> None:
        """Give unused space back to the disk, if it is much: after an outage, not after each picture."""
        with self._lock:
            if self._sql.in_transaction:
                return
            if self._sql.execute("PRAGMA freelist_count").fetchone()[0] >= _MUCH_PAGES:
                # `execute` would stop after one page.
                self._sql.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """For statements that change nothing."""
        with self._lock:
            yield self._sql


def state_path(folder: Path, source: str) -> Path:
    """Where the state of one source lies; the same for the same source."""
    return folder / f"watch-{hashlib.sha256(source.encode(errors='surrogateescape')).hexdigest()[:16]}.sqlite"
