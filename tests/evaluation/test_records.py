"""The file of records: what is written comes back, what was torn does not hurt, nothing is asked twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.records import Record, RecordsError, RecordWriter, StageCost, TokenUncertainty, read_records
from shared.wire import PixelBox


def record(example_id: str, method: str = "always", **changes: object) -> Record:
    values: dict[str, object] = {
        "example_id": example_id,
        "method": method,
        "answer": "K7",
        "score": 1.0,
        "stage": 2,
        "asked_again": True,
        "draft_answer": "K1",
        "draft_score": 0.0,
        "tokens": (TokenUncertainty(min_entropy=0.1, shannon=0.3, margin=0.2),),
        "roi": PixelBox(left=1, top=2, right=30, bottom=40),
        "first": StageCost(uplink_bytes=3000, downlink_bytes=900, elapsed_ms=41.5),
        "second": StageCost(uplink_bytes=7000, downlink_bytes=800, elapsed_ms=80.0),
        "original_bytes": 1_000_000,
        "image_id": example_id.partition("/")[0],
        "question": "What is written on the red sign?",
        "answers": ("K7",),
        "kind": "read",
        "width": 4000,
        "height": 3000,
    }
    return Record.model_validate(values | changes)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    written = [record("1/0"), record("1/1", second=None, roi=None, stage=1, text_height_px=4.5)]
    with RecordWriter(path) as writer:
        writer.add(written[0])
        writer.add(written[1])
    assert list(read_records(path)) == written
    assert len(path.read_bytes().splitlines()) == 2


def test_bytes_are_those_of_both_stages() -> None:
    assert (record("1/0").uplink_bytes, record("1/0").downlink_bytes) == (10_000, 1_700)
    assert record("1/0", second=None).uplink_bytes == 3000


def test_a_torn_last_line_is_skipped_and_written_anew(tmp_path: Path) -> None:
    """A run was killed in the middle of a line: the next one must neither fail nor glue lines together."""
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.add(record("1/0"), record("1/1"))
    path.write_bytes(path.read_bytes()[:-20])
    assert [r.example_id for r in read_records(path)] == ["1/0"]
    with RecordWriter(path) as writer:
        assert writer.done == {("1/0", "always")}
        writer.add(record("1/1"))
    assert list(read_records(path)) == [record("1/0"), record("1/1")]


def test_a_whole_line_without_its_end_is_torn_too(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.add(record("1/0"))
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_records(path)) == []


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.add(record("1/0"))
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(RecordsError, match=r"records.jsonl, line 1"):
        list(read_records(path))


def test_keys_tell_methods_apart(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.add(record("1/0", "always"))
        assert ("1/0", "always") in writer.done
        assert ("1/0", "random_crop") not in writer.done
