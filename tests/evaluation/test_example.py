"""The plain metric, and pictures from files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from secondglance_eval.datasets.example import Example, ImageFile, exact_match


def example(*answers: str) -> Example:
    return Example("1/0", "1", "What?", answers, "read", ImageFile(Path("p.jpg")), 40, 30)


@pytest.mark.parametrize(
    ("said", "score"), [("K7", 1.0), (" k7 ", 1.0), ("K71", 0.0), ("", 0.0), ("seven", 1.0)]
)
def test_any_of_the_answers_is_right_and_nothing_else(said: str, score: float) -> None:
    assert exact_match(said, example("K7", "Seven")) == score


def test_an_example_travels_to_another_process_and_reads_its_picture_there(tmp_path: Path) -> None:
    path = tmp_path / "p.jpg"
    path.write_bytes(b"picture")
    copy = pickle.loads(pickle.dumps(Example("1/0", "1", "What?", ("a",), "read", ImageFile(path), 40, 30)))
    assert copy.image() == b"picture"
