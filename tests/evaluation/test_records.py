"""The file of records: what is written comes back, what was torn does not hurt, nothing is asked twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from secondglance_eval.asking.records import Record, RecordWriter, read_records
from secondglance_eval.errors import RecordsError

MakeRecord = Callable[..., Record]


def test_what_is_written_is_read_back(make_record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    written = [make_record("1/0"), make_record("1/1", second=None, roi=None, stage=1, text_height_px=4.5)]
    with RecordWriter(path) as writer:
        writer.add(written[0])
        writer.add(written[1])
    assert list(read_records(path)) == written
    assert len(path.read_bytes().splitlines()) == 2


def test_bytes_are_those_of_both_stages(make_record: MakeRecord) -> None:
    assert (make_record("1/0").uplink_bytes, make_record("1/0").downlink_bytes) == (10_000, 1_700)
    assert make_record("1/0", second=None).uplink_bytes == 3000


def test_a_torn_last_line_is_skipped_and_written_anew(make_record: MakeRecord, tmp_path: Path) -> None:
    """A run was killed in the middle of a line: the next one must neither fail nor glue lines together."""
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.add(make_record("1/0"), make_record("1/1"))
    path.write_bytes(path.read_bytes()[:-20])
    assert [r.example_id for r in read_records(path)] == ["1/0"]
    with RecordWriter(path) as writer:
        assert writer.done == {("1/0", "always")}
        writer.add(make_record("1/1"))
    assert list(read_records(path)) == [make_record("1/0"), make_record("1/1")]


def test_a_whole_line_without_its_end_is_torn_too(make_record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.add(make_record("1/0"))
    path.write_bytes(path.read_bytes()[:-1])
    assert list(read_records(path)) == []


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        writer.add(make_record("1/0"))
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(RecordsError, match=r"records.jsonl, line 1"):
        list(read_records(path))
    with pytest.raises(RecordsError, match=r"records.jsonl, line 1"):
        RecordWriter(path)


def test_two_runs_never_write_to_one_file(make_record: MakeRecord, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with RecordWriter(path) as writer:
        with pytest.raises(RecordsError, match="another process writes to"):
            RecordWriter(path)
        writer.add(make_record("1/0"))
    with RecordWriter(path) as writer:
        assert writer.done == {("1/0", "always")}


def test_keys_tell_methods_apart(make_record: MakeRecord, tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.add(make_record("1/0", "always"))
        assert ("1/0", "always") in writer.done
        assert ("1/0", "random_crop") not in writer.done
