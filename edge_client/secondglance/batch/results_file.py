"""Results on disk, one JSON object a line: each line is there whole or not at all, and survives a power cut.

The file is its own memory: what it holds need not be asked again. A last line that a killed process left
torn is taken off when the file is opened to go on. One process at a time writes to it.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from secondglance.errors import UsageError

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # Windows has text files


@dataclass(frozen=True, slots=True)
class Version:
    """One state of one file: a picture that was replaced since is another version."""

    path: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """Of the file as it is now. Raises OSError."""
        status = path.stat()
        return cls(os.path.abspath(path), status.st_size, status.st_mtime_ns)


class ResultsFile:
    """Opens `path` for appending; `resume` goes on with what is there, else it must be new or empty.

    `run` names all that was ever appended, across restarts. Raises UsageError.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._asked: set[tuple[Version, str]] = set()
        self.run = uuid.uuid4().hex
        try:
            self._file = os.open(path, _FLAGS, 0o644)
        except OSError as exc:
            raise UsageError(f"cannot write {path}: {exc}") from exc
        try:
            self._claim()
            if not resume and os.fstat(self._file).st_size:
                raise UsageError(f"{path} holds results already; --resume goes on with it")
            self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others write to it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def holds(self, version: Version, question: str) -> bool:
        return (version, question) in self._asked

    def append(self, version: Version, question: str, shown_path: Path, result: Mapping[str, Any]) -> None:
        """Add one line; it is on disk when this returns. Any thread may. Raises UsageError."""
        record = {
            "path": str(shown_path),
            "bytes": version.bytes,
            "mtime_ns": version.mtime_ns,
            "question": question,
            "run": self.run,
            **result,
        }
        line = json.dumps(record).encode() + b"\n"
        with self._lock:
            end = os.fstat(self._file).st_size
            try:
                _write_whole(self._file, line)
                os.fsync(self._file)
            except OSError as exc:
                os.ftruncate(self._file, end)  # no torn line stays in the middle
                raise UsageError(f"cannot write {self._path}: {exc}") from exc
            self._asked.add((version, question))

    def _claim(self) -> None:
        try:
            import fcntl
        except ImportError:
            return  # Windows: two writers are not noticed
        with suppress(PermissionError):  # some network file systems have no locks
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise UsageError(f"another process writes to {self._path}") from exc

    def _read(self) -> None:
        """Learn what was asked, and cut off a last line that is not whole."""
        end = 0
        for number, line in enumerate(self._lines(), start=1):
            if not line.endswith(b"\n"):
                os.ftruncate(self._file, end)
                break
            end += len(line)
            try:
                self._learn(json.loads(line))
            except (ValueError, KeyError, TypeError) as exc:
                raise UsageError(f"{self._path}, line {number}: not a result of this command") from exc

    def _lines(self) -> Iterator[bytes]:
        with open(os.dup(self._file), "rb") as reader:
            yield from reader

    def _learn(self, record: Mapping[str, Any]) -> None:
        path = os.path.abspath(str(record["path"]))
        version = Version(path, int(record["bytes"]), int(record["mtime_ns"]))
        self._asked.add((version, str(record["question"])))
        self.run = str(record["run"])


def _write_whole(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
