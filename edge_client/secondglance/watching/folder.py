"""Files of a folder as they become complete: each version of each file once.

Polling, not the kernel's notifications: those do not come from network folders and container mounts, where
cameras put their files, and every file has to be looked at again anyway until it has settled. A file counts
as complete when size and time of change have stayed the same for `settle_s` and its format's end is there;
without that end it is believed after `patience_s`. Not covered: two processes watching with one state.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secondglance.pictures.files import is_picture_name
from secondglance.watching.sightings import Sightings, Stamp
from secondglance.watching.wholeness import looks_whole


@dataclass(frozen=True, slots=True)
class Arrival:
    """A complete file; `modified_at` is in epoch seconds."""

    path: str
    stamp: Stamp
    sha256: str
    picture: bytes

    @property
    def modified_at(self) -> float:
        return self.stamp.mtime_ns / 1e9


@dataclass(frozen=True, slots=True)
class _Pending:
    stamp: Stamp
    since: float


class Folder:
    """Looks at `root`, to the bottom, whenever `scan` is called; `clock` is monotonic."""

    def __init__(
        self,
        root: Path,
        sightings: Sightings,
        *,
        settle_s: float = 1.0,
        patience_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._sightings = sightings
        self._settle_s = settle_s
        self._patience_s = max(patience_s, settle_s)
        self._clock = clock
        self._pending: dict[str, _Pending] = {}

    @property
    def is_settled(self) -> bool:
        """Whether the last scan left nothing to wait for."""
        return not self._pending

    def skip_present(self) -> None:
        """Call everything seen that is there now, without looking into it."""
        for path, stamp in self._files():
            self._sightings.add(path, stamp, None)

    def scan(self) -> Iterator[Arrival]:
        """What has become complete, oldest first. The caller adds each to the sightings, or gets it again."""
        now = self._clock()
        present = dict(self._files())
        unknown = {path: stamp for path, stamp in present.items() if not self._sightings.knows(path, stamp)}
        self._pending = {
            path: pending
            if (pending := self._pending.get(path)) is not None and pending.stamp == stamp
            else _Pending(stamp, now)
            for path, stamp in unknown.items()
        }
        settled = [path for path, pending in self._pending.items() if now - pending.since >= self._settle_s]
        for path in sorted(settled, key=lambda path: (self._pending[path].stamp.mtime_ns, path)):
            arrival = self._read(path, self._pending[path], now)
            if arrival is None:
                continue
            del self._pending[path]
            if self._sightings.knows_content(path, arrival.stamp, arrival.sha256):
                self._sightings.add(path, arrival.stamp, arrival.sha256)  # touched, not changed
            else:
                yield arrival

    def forget_vanished(self) -> None:
        self._sightings.forget_vanished({path for path, _ in self._files()})

    def _files(self) -> Iterator[tuple[str, Stamp]]:
        folders = [str(self._root)]
        while folders:
            try:
                entries = list(os.scandir(folders.pop()))
            except OSError:  # removed or unmounted between two looks
                continue
            for entry in entries:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            folders.append(entry.path)
                    elif is_picture_name(entry.name) and entry.is_file():
                        yield entry.path, Stamp.of(os.stat(entry.path))
                except OSError:
                    continue

    def _read(self, path: str, pending: _Pending, now: float) -> Arrival | None:
        """The file, if it is what was pending from the first byte to the last and whole."""
        try:
            with open(path, "rb") as file:
                before = Stamp.of(os.fstat(file.fileno()))
                data = file.read()
                after = Stamp.of(os.fstat(file.fileno()))
        except OSError:
            return None
        if not before == after == pending.stamp or len(data) != after.bytes:
            return None
        if not looks_whole(data) and now - pending.since < self._patience_s:
            return None
        return Arrival(path, after, hashlib.sha256(data).hexdigest(), data)
