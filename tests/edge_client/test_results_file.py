"""Lines are whole or absent, and what they hold is not asked again."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from secondglance.batch import results_file
from secondglance.batch.results_file import JsonLinesFile, ResultsFile, Version
from secondglance.errors import UsageError

ONE, TWO = Version("/p/1.jpg", 10, 100), Version("/p/2.jpg", 20, 200)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def add(results: ResultsFile, version: Version, question: str = "What?") -> None:
    results.add(version, question, Path(version.path), {"answer": "42"})


def test_what_was_appended_is_held_after_reopening_by_version_and_question(path: Path) -> None:
    with ResultsFile(path, resume=False) as results:
        add(results, ONE)
        run = results.run
    with ResultsFile(path, resume=True) as results:
        assert results.run == run
        assert results.holds(ONE, "What?")
        assert not results.holds(ONE, "Where?")
        assert not results.holds(TWO, "What?")
        assert not results.holds(Version(ONE.path, 10, 101), "What?"), "a replaced file is another version"
    assert json.loads(path.read_text())["answer"] == "42"


@pytest.mark.parametrize("torn", [b'{"path": "/p/2.jp', b"{}", b"\0\0\0\0"])
def test_a_torn_last_line_is_taken_off(path: Path, torn: bytes) -> None:
    with ResultsFile(path, resume=False) as results:
        add(results, ONE)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with ResultsFile(path, resume=True) as results:
        assert path.read_bytes() == whole
        add(results, TWO)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


def test_a_file_of_something_else_is_not_touched(path: Path) -> None:
    path.write_text('{"path": "x"}\nnonsense')
    with pytest.raises(UsageError, match="line 1: not a result"):
        ResultsFile(path, resume=True)
    assert path.read_text() == '{"path": "x"}\nnonsense'


def test_results_are_not_written_over(path: Path) -> None:
    with ResultsFile(path, resume=False) as results:
        add(results, ONE)
    with pytest.raises(UsageError, match="--resume"):
        ResultsFile(path, resume=False)


def test_only_one_process_writes(path: Path) -> None:
    with ResultsFile(path, resume=False), pytest.raises(UsageError, match="another process"):
        ResultsFile(path, resume=True)
    ResultsFile(path, resume=True).close()


def test_a_full_disk_leaves_no_torn_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the line fits; it is taken back, and the next line stands on its own."""
    with ResultsFile(path, resume=False) as results:
        add(results, ONE)
        whole = path.read_bytes()

        def fill_up(file: int, data: bytes) -> None:
            os.write(file, data[: len(data) // 2])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(results_file, "_write_whole", fill_up)
            with pytest.raises(UsageError, match="No space left"):
                add(results, TWO)
        assert path.read_bytes() == whole
        assert not results.holds(TWO, "What?")
        add(results, TWO)
    with ResultsFile(path, resume=True) as results:
        assert results.holds(TWO, "What?")


def test_a_path_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        ResultsFile(tmp_path / "nowhere" / "results.jsonl", resume=False)


def test_any_records_can_be_kept_several_at_a_time(path: Path) -> None:
    """What the evaluation keeps in such a file is no result of `batch`."""
    with JsonLinesFile(path) as file:
        file.append({"id": 1}, {"id": 2})
    path.write_bytes(path.read_bytes() + b'{"id": 3')
    seen: list[object] = []
    with JsonLinesFile(path, learn=seen.append) as file:
        file.append({"id": 4})
    assert seen == [{"id": 1}, {"id": 2}]
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == [1, 2, 4]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EIO])
def test_a_file_system_without_locks_is_written_to_all_the_same(
    path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E11: only "somebody else has the lock" ends the run; every other answer was a traceback."""

    def fail(file: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with ResultsFile(path, resume=False) as results:
        add(results, ONE)
    assert json.loads(path.read_text())["answer"] == "42"


@pytest.mark.parametrize("kind", ["fifo", "/dev/null", "/dev/full"])
def test_what_is_no_regular_file_is_refused_at_once(path: Path, kind: str) -> None:
    """E11: reading a FIFO that nobody writes to never ended, and a device was a traceback."""
    target = Path(kind) if kind.startswith("/") else path
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(UsageError, match="not a regular file"):
        ResultsFile(target, resume=True)
