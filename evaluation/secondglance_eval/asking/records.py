"""What came of one question under one method, as a line of JSON; and the file of such lines.

The file is only ever appended to. A run that was cut off leaves at most one torn last line, which readers
skip and the next writer cuts off; what is in the file is not asked again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from secondglance.batch.results_file import JsonLinesFile
from secondglance.errors import UsageError
from secondglance_eval.errors import RecordsError
from secondglance_protocol.wire import PixelBox


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenUncertainty(_Frozen):
    """Of one token; higher means less certain. Nats, `margin` in [0, 1]."""

    min_entropy: float
    shannon: float
    margin: float


class StageCost(_Frozen):
    """What one stage put on the socket, headers included, and how long it took at the edge."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    elapsed_ms: float = 0.0


class Record(_Frozen):
    """One question x one method.

    `stage` is the stage that gave `answer`; `asked_again` whether the server wanted a patch. `tokens` are the
    draft's, `final_tokens` the second answer's, so that every gate and doubt threshold can be judged
    afterwards; older records lack the latter. `second` is None where no second stage took place.
    Bytes are those of the question asked alone and plainly: nothing is saved by an earlier question about the
    picture, and what the evaluation itself adds to a request and gets for it is taken off. `offer_bytes` of
    the first downlink are the offer to send a patch, which an answer of the first stage comes without.
    What the example is (`image_id` to `box`) is repeated here, so that a report needs no dataset.
    """

    example_id: str
    method: str
    answer: str
    score: float
    stage: int
    asked_again: bool
    draft_answer: str
    draft_score: float
    tokens: tuple[TokenUncertainty, ...]
    roi: PixelBox | None
    first: StageCost
    second: StageCost | None
    original_bytes: int
    image_id: str
    question: str
    answers: tuple[str, ...]
    kind: str
    width: int
    height: int
    text_height_px: float | None = None
    box: PixelBox | None = None
    offer_bytes: int = 0
    degraded: str | None = None
    final_tokens: tuple[TokenUncertainty, ...] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Return what a run that goes on skips by."""
        return self.example_id, self.method

    @property
    def uplink_bytes(self) -> int:
        """Return the bytes that both stages sent."""
        return self.first.uplink_bytes + (self.second.uplink_bytes if self.second else 0)

    @property
    def downlink_bytes(self) -> int:
        """Return the bytes that both stages received."""
        return self.first.downlink_bytes + (self.second.downlink_bytes if self.second else 0)


def read_records(path: Path) -> Iterator[Record]:
    """Yield the file's records in order, without a torn last line. Raises RecordsError for other damage."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return  # the writer was cut off here
            try:
                yield Record.model_validate_json(line)
            except ValidationError as exc:
                raise RecordsError(f"{path}, line {number}: {exc}") from exc


class RecordWriter:
    """A file that records are appended to; `done` holds the keys of those that it holds.

    Opening it cuts off a torn last line. Raises RecordsError for any other damage, and where another process
    writes to the file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done: set[tuple[str, str]] = set()
        try:
            self._file = JsonLinesFile(path, learn=self._learn)
        except UsageError as exc:
            raise RecordsError(str(exc)) from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others write to it."""
        self._file.close()

    def add(self, *records: Record) -> None:
        """Append the records: all are on disk when this returns, or none is kept. Raises UsageError."""
        self._file.append(*(record.model_dump(mode="json", exclude_defaults=True) for record in records))
        self.done.update(record.key for record in records)

    def _learn(self, stored: object) -> None:
        self.done.add(Record.model_validate(stored).key)
