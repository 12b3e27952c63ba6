"""A run asks what is missing and nothing else, and writes down what came before it was cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from secondglance.errors import ServerUnavailableError
from secondglance_eval.asking.methods import Method
from secondglance_eval.asking.records import Record, RecordWriter, read_records
from secondglance_eval.asking.run import Pace, run, tasks_of
from secondglance_eval.datasets.example import Example, ImageFile, exact_match
from secondglance_protocol.wire import PixelBox

MakeRecord = Callable[..., Record]


@dataclass
class Pictures:
    """Three questions about each of some files."""

    folder: Path
    count: int
    name: str = "pictures"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Example, ...]]:
        box = PixelBox(left=0, top=0, right=4, bottom=4)
        for picture in range(self.count):
            path = self.folder / f"{picture}.bin"
            path.write_bytes(str(picture).encode())
            yield tuple(
                Example(
                    f"{picture}/{n}",
                    str(picture),
                    "?",
                    ("a",),
                    "read",
                    ImageFile(path),
                    8,
                    8,
                    box if n else None,
                )
                for n in range(3)
            )

    def score(self, prediction: str, example: Example) -> float:
        return exact_match(prediction, example)


@dataclass
class Asked:
    """A method that remembers what it was asked, and fails at one picture."""

    make_record: MakeRecord
    fails_at: str | None = None
    seen: list[tuple[str, bytes]] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def __call__(self, asker: Any, photo: Any, example: Example) -> Record:
        if example.image_id == self.fails_at:
            raise ServerUnavailableError("gone")
        with self.lock:
            self.seen.append((example.id, photo.data))
        return self.make_record(example.id, "m", image_id=example.image_id)


class Server:
    model = None


ONE = Pace(parallel=2, workers=1)


def test_every_question_is_asked_once_with_its_own_picture(make_record: MakeRecord, tmp_path: Path) -> None:
    asked = Asked(make_record)
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        run(Pictures(tmp_path, 5), [Method("m", asked)], Server(), writer, pace=ONE)  # type: ignore[arg-type]
    assert sorted(asked.seen) == [(f"{i}/{n}", str(i).encode()) for i in range(5) for n in range(3)]
    assert len(list(read_records(tmp_path / "r.jsonl"))) == 15


def test_a_run_that_failed_goes_on_where_it_was(make_record: MakeRecord, tmp_path: Path) -> None:
    failing, later = Asked(make_record, fails_at="3"), Asked(make_record)
    dataset, path = Pictures(tmp_path, 5), tmp_path / "r.jsonl"
    with RecordWriter(path) as writer, pytest.raises(ServerUnavailableError):
        run(dataset, [Method("m", failing)], Server(), writer, pace=Pace(parallel=1, workers=1))  # type: ignore[arg-type]
    done = {record.example_id for record in read_records(path)}
    assert {"0/0", "1/2"} <= done
    with RecordWriter(path) as writer:
        run(dataset, [Method("m", later)], Server(), writer, pace=ONE)  # type: ignore[arg-type]
    assert {example_id for example_id, _ in later.seen} == {
        f"{i}/{n}" for i in range(5) for n in range(3)
    } - done
    assert len(list(read_records(path))) == 15


def test_nothing_is_read_or_asked_where_all_is_on_file(make_record: MakeRecord, tmp_path: Path) -> None:
    asked = Asked(make_record)
    with RecordWriter(tmp_path / "r.jsonl") as writer:
        writer.add(*(make_record(f"0/{n}", "m") for n in range(3)))
        run(Pictures(tmp_path, 1), [Method("m", asked)], Server(), writer, pace=ONE)  # type: ignore[arg-type]
    assert asked.seen == []


def test_a_method_is_put_to_the_pictures_and_questions_that_it_applies_to(tmp_path: Path) -> None:
    def never(*_: Any) -> Record:
        raise AssertionError

    groups = list(Pictures(tmp_path, 5))
    rare, placed = Method("rare", never, every=4), Method("placed", never, needs_box=True)
    asked = [
        (method.name, example.id)
        for number, group in enumerate(groups)
        for method, example in tasks_of(group, number, [rare, placed], {("0/1", "placed")}, pictures=1000)
    ]
    assert [example_id for name, example_id in asked if name == "rare"] == [
        "0/0", "0/1", "0/2", "4/0", "4/1", "4/2",
    ]  # fmt: skip
    assert [i for name, i in asked if name == "placed"] == [
        "0/2",
        *(f"{p}/{n}" for p in range(1, 5) for n in (1, 2)),
    ]


@pytest.mark.parametrize(("pictures", "asked"), [(2, 2), (8, 8), (39, 39), (40, 20), (79, 27), (100, 25)])
def test_a_sampled_method_gets_every_picture_where_they_are_few(
    pictures: int, asked: int, tmp_path: Path
) -> None:
    """Of eight pictures a baseline that is put to each fifth was measured on two (U10)."""
    (example, *_), *_ = Pictures(tmp_path, 1)
    rare = Method("rare", lambda *_: pytest.fail("nobody asks"), every=4)
    assert sum(rare.applies_to(example, number, pictures) for number in range(pictures)) == asked
