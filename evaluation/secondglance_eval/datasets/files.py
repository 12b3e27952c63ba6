"""What all readers of files share: pictures with their questions, and errors that name file and field."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ValidationError

from secondglance.pictures.orientation import upright_size
from secondglance_eval.datasets.example import Example, ScoreRule
from secondglance_eval.errors import DatasetError

_ORIENTATION_TAG = 0x0112


@dataclass(frozen=True, slots=True)
class FileDataset:
    """Examples that were read from files, grouped by picture in the order of their first question."""

    name: str
    groups: tuple[tuple[Example, ...], ...]
    rule: ScoreRule

    def __iter__(self) -> Iterator[tuple[Example, ...]]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def score(self, prediction: str, example: Example) -> float:
        return self.rule(prediction, example)


def grouped(name: str, examples: Iterable[Example], rule: ScoreRule) -> FileDataset:
    """Return the examples grouped by picture. Raises DatasetError if two examples have one id."""
    groups: dict[str, list[Example]] = {}
    ids: set[str] = set()
    for example in examples:
        if example.id in ids:
            raise DatasetError(f"{name}: two questions have the id {example.id}")
        ids.add(example.id)
        groups.setdefault(example.image_id, []).append(example)
    if not groups:
        raise DatasetError(f"{name}: no questions")
    return FileDataset(name, tuple(map(tuple, groups.values())), rule)


RowT = TypeVar("RowT", bound=BaseModel)


def first_existing(*paths: Path) -> Path:
    """Return the first path that exists. Raises DatasetError naming all."""
    for path in paths:
        if path.exists():
            return path
    raise DatasetError(f"missing: {' or '.join(map(str, paths))}")


def json_rows(path: Path, key: str, row_type: type[RowT]) -> Iterator[tuple[str, RowT]]:
    """Yield the rows in the list under `key` of a JSON document, each with a name for complaints."""
    document = _json(path.read_bytes(), str(path))
    rows = document.get(key) if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise DatasetError(f"{path}: {key}: a list is needed")
    for index, row in enumerate(rows):
        where = f"{path}: {key}[{index}]"
        yield where, _checked(row, row_type, where)


def json_document(path: Path, row_type: type[RowT]) -> RowT:
    """Return the whole of a JSON document, checked. Raises DatasetError."""
    return _checked(_json(path.read_bytes(), str(path)), row_type, str(path))


def json_lines(path: Path, row_type: type[RowT]) -> Iterator[tuple[str, RowT]]:
    """Yield the rows of a file with a JSON object a line, each with a name for complaints."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if line.strip():
                yield where, _checked(_json(line, where), row_type, where)


def _json(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as exc:
        raise DatasetError(f"{where}: not JSON: {exc}") from exc


def _checked(row: Any, row_type: type[RowT], where: str) -> RowT:
    try:
        return row_type.model_validate(row)
    except ValidationError as exc:
        raise DatasetError("; ".join(f"{where}: {_complaint(e)}" for e in exc.errors())) from exc


def _complaint(error: Any) -> str:
    field = ".".join(str(part) for part in error["loc"])
    return f"{field}: {error['msg']}" if field else str(error["msg"])


def picture_size(path: Path, where: str) -> tuple[int, int]:
    """Return width and height as a viewer shows them, from the header. Raises DatasetError."""
    try:
        with Image.open(path) as image:
            return upright_size(image.size, image.getexif().get(_ORIENTATION_TAG, 1))
    except FileNotFoundError as exc:
        raise DatasetError(f"{where}: no such picture: {path}") from exc
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as exc:
        raise DatasetError(f"{where}: {path} is no picture: {exc}") from exc
