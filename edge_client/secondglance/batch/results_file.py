"""Results on disk, one JSON object a line: each line is there whole or not at all, and survives a power cut.

`JsonLinesFile` is such a file of any records; `ResultsFile` is that of `batch`, which need not ask again what
its file holds. A last line that a killed process left torn is taken off when the file is opened to go on. One
process at a time writes to a file.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import uuid
from collections.abc import Callable, Mapping
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


class JsonLinesFile:
    """A file of JSON objects, one a line, that is only ever appended to.

    Opening it makes it if need be, locks it for this process, hands every record that it holds to `learn` and
    then cuts off a torn last line. `refusal` is the complaint about a file that is not empty; None goes on
    with it. Raises UsageError, with the path, for a file that is not regular, cannot be read, written or
    locked, or holds a line that is no JSON or that `learn` refuses with ValueError, KeyError or TypeError.

    >>> with JsonLinesFile(folder / "records.jsonl") as file:
    ...     file.append({"id": 1}, {"id": 2})
    >>> seen = []
    >>> JsonLinesFile(folder / "records.jsonl", learn=seen.append).close()
    >>> seen
    [{'id': 1}, {'id': 2}]
    """

    def __init__(
        self, path: Path, *, learn: Callable[[Any], None] = lambda record: None, refusal: str | None = None
    ) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._file = os.open(path, _FLAGS, 0o644)
        except OSError as exc:
            raise UsageError(f"cannot write {path}: {exc}") from exc
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise UsageError(f"cannot write {path}: not a regular file")
            self._claim()
            if refusal is not None and os.fstat(self._file).st_size:
                raise UsageError(f"{path} {refusal}")
            self._read(learn)
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

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add a line for each record; all of them are on disk when this returns, or none is kept."""
        data = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        with self._lock:
            end = os.fstat(self._file).st_size
            try:
                _write_whole(self._file, data)
                os.fsync(self._file)
            except OSError as exc:
                os.ftruncate(self._file, end)  # no torn line stays in the middle
                raise UsageError(f"cannot write {self._path}: {exc}") from exc

    def _claim(self) -> None:
        try:
            import fcntl
        except ImportError:
            return  # Windows: two writers are not noticed
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise UsageError(f"another process writes to {self._path}") from exc
        except OSError:
            return  # some network file systems have no locks, and say so in many ways

    def _read(self, learn: Callable[[Any], None]) -> None:
        """Hand on every whole line, and cut off a last one that is not whole."""
        end = 0
        with open(os.dup(self._file), "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    os.ftruncate(self._file, end)
                    break
                end += len(line)
                try:
                    learn(json.loads(line))
                except (ValueError, KeyError, TypeError) as exc:
                    raise UsageError(f"{self._path}, line {number}: not a result of this command") from exc


class ResultsFile(JsonLinesFile):
    """The results of `batch`: `resume` goes on with what is there, else the file must be new or empty.

    `run` names all that was ever appended, across restarts.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._asked: set[tuple[Version, str]] = set()
        self.run = uuid.uuid4().hex
        refusal = None if resume else "holds results already; --resume goes on with it"
        super().__init__(path, learn=self._learn, refusal=refusal)

    def holds(self, version: Version, question: str) -> bool:
        """Return whether `question` about that version of a picture has its answer here."""
        return (version, question) in self._asked

    def add(self, version: Version, question: str, shown_path: Path, result: Mapping[str, Any]) -> None:
        """Append an answer; it is on disk when this returns."""
        record = {
            "path": str(shown_path),
            "bytes": version.bytes,
            "mtime_ns": version.mtime_ns,
            "question": question,
            "run": self.run,
            **result,
        }
        self.append(record)
        self._asked.add((version, question))

    def _learn(self, record: Mapping[str, Any]) -> None:
        path = os.path.abspath(str(record["path"]))
        version = Version(path, int(record["bytes"]), int(record["mtime_ns"]))
        self._asked.add((version, str(record["question"])))
        self.run = str(record["run"])


def _write_whole(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]
