"""Files of a folder as they become complete: each version of each file once.

Polling, not the kernel's notifications: those do not come from network folders and container mounts, where
cameras put their files, and every file has to be looked at again anyway until it has settled. A file counts
as complete when size and time of change have stayed the same for `settle_s` and its format's end is there;
without that end it is believed after `patience_s`. Not covered: two processes watching with one state.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secondglance.pictures.files import is_picture_name
from secondglance.watching.sightings import Sightings, Stamp, parents_of
from secondglance.watching.wholeness import looks_whole

LARGEST_FILE_BYTES = 512 * 1024 * 1024  # what SQLite and a small board can hold
_DIGEST_S = 2.0  # of each scan, until what was skipped at the first start is known by content


@dataclass(frozen=True, slots=True)
class Arrival:
    """A complete file; `modified_at` is in epoch seconds, as far as 64 bits of nanoseconds reach."""

    path: str
    stamp: Stamp
    sha256: str
    picture: bytes

    @property
    def modified_at(self) -> float:
        return self.stamp.mtime_ns / 1e9


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A file that cannot be taken; `is_too_large` for its size, else for `reason`."""

    path: str
    stamp: Stamp
    reason: str
    is_too_large: bool = False


@dataclass(frozen=True, slots=True)
class _Pending:
    stamp: Stamp
    since: float


class _TooLargeError(Exception):
    """The file exceeds what may be read."""


class Folder:
    """Looks at `root`, to the bottom, whenever `scan` is called; `clock` is monotonic.

    `trouble` says why the last look proved nothing: the folder is gone, or something is not mounted.
    """

    def __init__(
        self,
        root: Path,
        sightings: Sightings,
        *,
        settle_s: float = 1.0,
        patience_s: float = 30.0,
        max_bytes: int = LARGEST_FILE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = str(root)
        self._sightings = sightings
        self._settle_s = settle_s
        self._patience_s = max(patience_s, settle_s)
        self._max_bytes = min(max_bytes, LARGEST_FILE_BYTES)
        self._clock = clock
        self._pending: dict[str, _Pending] = {}
        self._refused: dict[str, Stamp] = {}
        self._at: dict[str, tuple[int, int] | None] = {}
        self._is_placed = False
        self._tried: set[tuple[str, Stamp]] = set()
        self.trouble: str | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the last scan left nothing to wait for."""
        return not (self._pending.keys() - self._refused.keys())

    def skip_present(self) -> None:
        """Call everything seen that is there now, in one transaction; what it holds is learnt soon."""
        self._sightings.add_skipped(self._files())
        self._learn_skipped()

    def scan(self) -> Iterator[Arrival | Unreadable]:
        """Yield what has become complete, oldest first.

        The caller adds each to the sightings, or gets it again; of unreadable files only those too large.
        """
        self._learn_skipped()
        now = self._clock()
        present = dict(self._files())
        self._look_for_trouble(present)
        unknown = {path: stamp for path, stamp in present.items() if not self._sightings.knows(path, stamp)}
        self._pending = {
            path: pending
            if (pending := self._pending.get(path)) is not None and pending.stamp == stamp
            else _Pending(stamp, now)
            for path, stamp in unknown.items()
        }
        self._refused = {path: at for path, at in self._refused.items() if unknown.get(path) == at}
        settled = [path for path, pending in self._pending.items() if now - pending.since >= self._settle_s]
        for path in sorted(settled, key=lambda path: (self._pending[path].stamp.mtime_ns, path)):
            yield from self._take(path, now)
        if not self._is_placed:
            self._place(present)

    def forget_vanished(self) -> None:
        """Note which files are gone for good, and forget those that have been for a day.

        A file is not called gone where its folder cannot be read or is another than it was: nothing may be
        mounted there now.
        """
        present = dict(self._files())
        self._sightings.forget_vanished(present, self._is_gone)
        self._place(present)

    def _take(self, path: str, now: float) -> Iterator[Arrival | Unreadable]:
        """Yield the file if it is there, whole and new. Whatever goes wrong concerns this file alone."""
        pending = self._pending[path]
        try:
            arrival = self._read(path, pending, now)
        except _TooLargeError:
            del self._pending[path]
            reason = f"{pending.stamp.bytes} bytes are more than the {self._max_bytes} that may wait"
            yield Unreadable(path, pending.stamp, reason, is_too_large=True)
            return
        except FileNotFoundError:
            return
        except Exception as exc:  # a file cannot end its source
            if now - pending.since >= self._patience_s and path not in self._refused:
                self._refused[path] = pending.stamp
                yield Unreadable(path, pending.stamp, _reason(exc))
            return
        if arrival is None:
            return
        del self._pending[path]
        if self._sightings.knows_content(path, arrival.stamp, arrival.sha256):
            self._sightings.add(path, arrival.stamp, arrival.sha256)  # touched or moved, not changed
        else:
            yield arrival

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield pictures, and note in `_at` where their folders lie: None for one that cannot be read."""
        self._at = {}
        folders = [self._root]
        while folders:
            folder = folders.pop()
            try:
                status = os.stat(folder)
                entries = list(os.scandir(folder))
            except OSError as exc:  # removed or unmounted between two looks
                if folder == self._root or not isinstance(exc, FileNotFoundError):
                    self._at[folder] = None
                continue
            self._at[folder] = _place_of(status)
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            folders.append(entry.path)
                    elif is_picture_name(entry.name) and entry.is_file():
                        yield entry.path, Stamp.of(os.stat(entry.path))
                except OSError:
                    continue

    def _look_for_trouble(self, present: dict[str, Stamp]) -> None:
        at, was = self._at.get(self._root), self._sightings.folder(self._root)
        if at is None:
            self.trouble = "the folder is not there or cannot be read"
        elif not present and was is not None and was != at:
            self.trouble = "the folder is empty and not the one that it was: is something not mounted?"
        else:
            self.trouble = None

    def _is_gone(self, path: str, stamp: Stamp) -> bool:
        """Whether the nearest folder above that is still there proves it: it lies where it lay."""
        for parent in parents_of(path):
            if parent in self._at:
                at = self._at[parent]
                was = self._sightings.folder(parent)
                return at is not None and (at == was if was is not None else at[0] == stamp.device)
        return False

    def _place(self, present: dict[str, Stamp]) -> None:
        """Remember where the folders lie that hold files which are known by now."""
        known = {path for path, stamp in present.items() if self._sightings.knows(path, stamp)}
        above = {parent for path in known for parent in parents_of(path)}
        places = {folder: at for folder in above if (at := self._at.get(folder)) is not None}
        self._sightings.place(places)
        self._is_placed = bool(places)

    def _learn_skipped(self) -> None:
        """Read for a while what was called seen without a look into it."""
        deadline = time.monotonic() + _DIGEST_S
        learnt = []
        for path, stamp in self._sightings.without_content():
            if time.monotonic() > deadline:
                break
            if (path, stamp) in self._tried:
                continue
            self._tried.add((path, stamp))
            sha256 = _digest(path, stamp)
            if sha256 is not None:
                learnt.append((path, stamp, sha256))
        if learnt:
            self._sightings.learn(learnt)

    def _read(self, path: str, pending: _Pending, now: float) -> Arrival | None:
        """Return the file if it is what was pending from the first byte to the last, and whole."""
        if pending.stamp.bytes > self._max_bytes:
            raise _TooLargeError
        with open(path, "rb", opener=_open_quickly) as file:
            before = Stamp.of(os.fstat(file.fileno()))
            if before != pending.stamp:
                return None
            data = file.read(before.bytes + 1)
            after = Stamp.of(os.fstat(file.fileno()))
        if before != after or len(data) != after.bytes:
            return None
        if not looks_whole(data) and now - pending.since < self._patience_s:
            return None
        return Arrival(path, after, hashlib.sha256(data).hexdigest(), data)


def _digest(path: str, stamp: Stamp) -> str | None:
    """Return the digest of what a file holds, if it is still the file of that stamp."""
    try:
        with open(path, "rb", opener=_open_quickly) as file:
            if Stamp.of(os.fstat(file.fileno())) != stamp:
                return None
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return sha256 if Stamp.of(os.fstat(file.fileno())) == stamp else None
    except OSError:
        return None


def _open_quickly(path: str, flags: int) -> int:
    """Open a regular file; what has become a pipe meanwhile neither blocks nor is read. Raises OSError."""
    file = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"{path!r} is no regular file")
    return file


def _place_of(status: os.stat_result) -> tuple[int, int]:
    stamp = Stamp.of(status)
    return stamp.device, stamp.inode


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
