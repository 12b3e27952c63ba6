"""What a watch remembers on disk: one SQLite file for each folder or camera, used by one process at a time.

SQLite, not files of our own: that a picture was seen and that it waits to be asked about become true in one
transaction, and what was committed survives a power cut.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from secondglance.errors import UsageError

_VERSION = 1
_MUCH_PAGES = 4096  # of 4 KiB
_PRAGMAS = ("auto_vacuum=INCREMENTAL", "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, name TEXT NOT NULL, taken_at REAL NOT NULL,
    added_at REAL NOT NULL, questions TEXT NOT NULL, answered INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL, picture BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS seen (
    path TEXT PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL, bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, sha256 TEXT, gone_at REAL) WITHOUT ROWID;
"""


class WatchState:
    """Opens or creates the file at `path`. Raises UsageError if another process uses it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # SQL's own transactions, so that DDL and pragmas stay outside of them.
            self._sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
            path.chmod(0o600)  # pictures are private
            for pragma in _PRAGMAS:
                self._sql.execute(f"PRAGMA {pragma}").fetchall()
            self._sql.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            self._version = int(self._sql.execute("PRAGMA user_version").fetchone()[0])
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
                yield self._sql
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                raise

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
