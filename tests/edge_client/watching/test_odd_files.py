"""Files as disks hold them: no name, time, size or kind of one file ends the watch of all others."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secondglance.errors import ServerUnavailableError
from secondglance.text import shown_path
from secondglance.watching import folder as folder_module
from secondglance.watching.folder import Folder, Unreadable
from secondglance.watching.sightings import Sightings, Stamp
from secondglance.watching.spool import SpoolCaps
from secondglance.watching.state import WatchState
from secondglance.watching.watch import WatchPlan
from tests.edge_client.watching.running import RunningWatch, until


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def plan(inbox: Path, **options: Any) -> WatchPlan:
    return WatchPlan(("What?",), inbox, settle_s=0.01, takes_existing=True, **options)


NAMES = [b"caf\xe9.jpg", b"\xff\xfe.jpg", b"new\nline.jpg", b"\x1b[2J.jpg", b"tab\t.jpg", b"\xe2\x80\xae.jpg"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems take UTF-8 names only")
def test_e1_names_of_any_bytes_are_answered_and_a_restart_knows_them(
    inbox: Path, tmp_path: Path, pictures: Any
) -> None:
    """E1: a file or folder name that is no UTF-8 ended the watch, at every start; later files never came."""
    sub = os.path.join(os.fsencode(inbox), b"fol\xf6der")
    os.mkdir(sub)
    for number, name in enumerate(NAMES):
        for folder in (os.fsencode(inbox), sub):
            Path(os.fsdecode(os.path.join(folder, name))).write_bytes(pictures.photo((32, 24), seed=number))
    expected = len(NAMES) * 2
    with RunningWatch(plan(inbox), tmp_path / "state") as running:
        until(lambda: len(running.answered_names) == expected)
        assert all(name == name.encode().decode() for name in running.answered_names)
        assert str(inbox / "caf") + "\\xe9.jpg" in running.answered_names
        assert running.said == []
    with RunningWatch(plan(inbox), tmp_path / "state") as running:
        (inbox / "later.jpg").write_bytes(pictures.photo((32, 24), seed=99))
        until(lambda: running.answered_names == [str(inbox / "later.jpg")])


@given(name=st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name and b"/" not in name))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_e1_every_name_that_a_disk_can_hold_is_remembered(name: bytes, state: WatchState) -> None:
    """E1: whatever the bytes, the state file holds the path and gives it back, and people see plain text."""
    path = os.fsdecode(b"/" + name)
    stamp = Stamp(1, 2, 3, 4)
    Sightings(state).add(path, stamp, "abc")
    assert Sightings(state).knows(path, stamp)
    assert shown_path(path).encode().decode() == shown_path(path)


@pytest.mark.parametrize(
    "seconds", [2**62, 10_413_792_000, 253_402_300_800, -70_000_000_000, -(2**62), 0, -1]
)
def test_e2_times_of_any_century_are_taken(
    inbox: Path, tmp_path: Path, pictures: Any, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """E2: a time of change in 2300, 10000 or -249 is more than SQLite holds: OverflowError at every start.

    The file system of the test may hold less than others do, so that the time comes from `stat` itself.
    """
    of = Stamp.of

    class Status:
        def __init__(self, status: os.stat_result) -> None:
            self.st_dev, self.st_ino, self.st_size = status.st_dev, status.st_ino, status.st_size
            self.st_mtime_ns = seconds * 10**9 + 5

    monkeypatch.setattr(Stamp, "of", lambda status: of(Status(status)))  # type: ignore[arg-type]
    (inbox / "a.jpg").write_bytes(pictures.photo((32, 24)))
    with RunningWatch(plan(inbox, once=True), tmp_path / "state") as running:
        until(lambda: not running.thread.is_alive())
        assert (running.error, running.said) == (None, [])
        assert running.answered_names == [str(inbox / "a.jpg")]


@given(
    mtime_ns=st.integers(-(2**80), 2**80),
    inode=st.integers(0, 2**64 - 1),
    device=st.integers(0, 2**64 - 1),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_e2_numbers_of_any_file_system_fit_the_state(
    mtime_ns: int, inode: int, device: int, state: WatchState
) -> None:
    """E2: every number that `stat` may give is clamped or folded to what SQLite holds."""

    class Status:
        st_dev, st_ino, st_size, st_mtime_ns = device, inode, 1, mtime_ns

    stamp = Stamp.of(Status())  # type: ignore[arg-type]  # what `stat` gives
    Sightings(state).add("/a.jpg", stamp, "abc")
    assert Sightings(state).knows("/a.jpg", stamp)


def test_e14_a_huge_sparse_file_is_refused_by_its_size_and_the_others_are_asked_about(
    inbox: Path, tmp_path: Path, pictures: Any
) -> None:
    """E14: 3 GB of zeros called a.jpg ended in MemoryError; the size is looked at before reading."""
    with (inbox / "a.jpg").open("wb") as file:
        file.truncate(3 * 2**30)
    os.utime(inbox / "a.jpg", ns=(1, 1))
    (inbox / "b.jpg").write_bytes(pictures.photo((32, 24)))
    with RunningWatch(plan(inbox, once=True), tmp_path / "state") as running:
        until(lambda: not running.thread.is_alive())
        assert running.answered_names == [str(inbox / "b.jpg")]
        assert any("a.jpg: 3221225472 bytes are more than" in line for line in running.said)
        assert running.watch.spool.dropped == running.watch.failures == 1
    with RunningWatch(plan(inbox, once=True), tmp_path / "state") as running:
        until(lambda: not running.thread.is_alive())
        assert running.said == [], "it is refused once"


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("a decoder's"), OverflowError("too large"), OSError(5, "I/O")]
)
def test_e14_whatever_reading_one_file_raises_concerns_that_file(
    state: WatchState,
    inbox: Path,
    clock: Any,
    pictures: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """E1, E14: it is told once, after a while, because a network folder may only be slow."""
    for name in ("a.jpg", "b.jpg"):
        (inbox / name).write_bytes(pictures.photo((32, 24)))
    read = folder_module.Folder._read

    def failing(self: Folder, path: str, *arguments: Any) -> Any:
        if path.endswith("a.jpg"):
            raise error
        return read(self, path, *arguments)

    monkeypatch.setattr(Folder, "_read", failing)
    folder = Folder(inbox, Sightings(state, now=clock), settle_s=1, patience_s=10, clock=clock)
    found = []
    for _ in range(30):
        found += [
            (type(each), Path(each.path).name) for each in folder.scan() if isinstance(each, Unreadable)
        ]
        clock.now += 1
    assert found == [(Unreadable, "a.jpg")]


def test_i1_an_error_that_nobody_expected_is_recorded_with_its_picture(
    inbox: Path, tmp_path: Path, pictures: Any
) -> None:
    """I1: a RuntimeError of a decoder ended the watch, at every start."""
    for number in range(3):
        (inbox / f"{number}.jpg").write_bytes(pictures.photo((32, 24), seed=number))
        os.utime(inbox / f"{number}.jpg", ns=(number, number))
    with RunningWatch(plan(inbox, once=True, min_change_percent=1), tmp_path / "state") as running:
        bad = (inbox / "1.jpg").read_bytes()

        def ask(picture: bytes, question: str) -> str:
            if picture == bad:
                raise RuntimeError("Failed to decode")
            return "yes"

        running.ask = ask
        until(lambda: not running.thread.is_alive())
        assert running.error is None
        assert running.answered_names == [str(inbox / "0.jpg"), str(inbox / "2.jpg")]
        assert running.failed_names == [str(inbox / "1.jpg")]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in its folders")
def test_e11_pipes_and_links_to_devices_are_no_pictures(inbox: Path, tmp_path: Path, pictures: Any) -> None:
    """E11: a FIFO in the folder hung the watch; so may one that takes a file's place just then."""
    os.mkfifo(inbox / "a.jpg")
    (inbox / "b.jpg").symlink_to("/dev/zero")
    (inbox / "c.jpg").symlink_to(inbox / "nowhere")
    (inbox / "d.jpg").symlink_to(inbox)
    (inbox / "e.jpg").write_bytes(pictures.photo((32, 24)))
    with RunningWatch(plan(inbox, once=True), tmp_path / "state") as running:
        until(lambda: not running.thread.is_alive())
        assert running.answered_names == [str(inbox / "e.jpg")]
    with pytest.raises(OSError, match="no regular file"):
        folder_module._open_quickly(str(inbox / "a.jpg"), os.O_RDONLY)


def full_disk(running: RunningWatch) -> Any:
    """No page more for the state file, until the caller lifts that."""
    sql = running.watch._state._sql
    pages = sql.execute("PRAGMA page_count").fetchone()[0]
    sql.execute(f"PRAGMA max_page_count={pages}")
    return sql


def test_e14_a_full_disk_is_said_at_once_and_the_source_goes_on_when_there_is_room(
    inbox: Path, tmp_path: Path, pictures: Any
) -> None:
    """E14: the source's thread died while the server was away: alive and deaf, without a word."""
    with RunningWatch(plan(inbox), tmp_path / "state") as running:

        def away(picture: bytes, question: str) -> str:
            raise ServerUnavailableError("nobody there")

        running.ask = away
        until(lambda: running.watch._supervisor.health.state == "up")
        with running.watch._state.transaction():
            sql = full_disk(running)
        for number in range(3):
            (inbox / f"{number}.jpg").write_bytes(pictures.photo((400, 300), seed=number))
        until(lambda: any("full" in line for line in running.said), 10)
        until(lambda: running.watch._supervisor.health.restarts > 3)
        assert len([line for line in running.said if "full" in line]) == 1, "once, not at each turn"
        assert running.watch._supervisor.health.state == "failing"
        with running.watch._state.transaction():
            sql.execute("PRAGMA max_page_count=1000000")
        running.ask = lambda picture, question: "yes"
        until(lambda: len(running.answered_names) == 3)
        assert len(set(running.answered_names)) == 3


def test_e14_an_error_of_the_source_that_nobody_expected_is_said_and_the_source_started_again(
    inbox: Path, tmp_path: Path, pictures: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E14: any death of the source's thread; a picture that comes afterwards is asked about."""
    errors = [KeyError("x"), MemoryError(), KeyError("x"), KeyError("x")]
    scan = Folder.scan

    def failing(self: Folder) -> Any:
        if errors:
            raise errors.pop()
        return scan(self)

    monkeypatch.setattr(Folder, "scan", failing)
    with RunningWatch(plan(inbox), tmp_path / "state") as running:
        (inbox / "a.jpg").write_bytes(pictures.photo((32, 24)))
        until(lambda: running.answered_names == [str(inbox / "a.jpg")])
        assert len(running.said) == 2, running.said
        assert {event["event"] for event in running.events} == {"source"}


def test_e14_with_once_the_error_is_raised(
    inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E14: `--once` has nobody who would come again; its exit code tells."""
    monkeypatch.setattr(Folder, "scan", lambda self: 1 / 0)
    with RunningWatch(plan(inbox, once=True), tmp_path / "state") as running:
        until(lambda: not running.thread.is_alive())
        assert "ZeroDivisionError" in str(running.error)


def test_e15_the_first_start_on_a_full_folder_is_one_transaction(
    state: WatchState, inbox: Path, clock: Any, pictures: Any
) -> None:
    """E15: one fsync for each of 3,000 files took minutes on an SD card."""
    photo = pictures.photo((32, 24))
    for number in range(300):
        (inbox / f"{number}.jpg").write_bytes(photo)
    statements: list[str] = []
    with state.reading() as sql:
        sql.set_trace_callback(statements.append)
    sightings = Sightings(state)
    folder = Folder(inbox, sightings, settle_s=1, clock=clock)
    folder.skip_present()
    assert len(sightings) == 300
    assert list(folder.scan()) == []
    assert statements.count("COMMIT") <= 4, "and a few for what they hold and where the folder lies"


def test_e16_a_folder_that_disappears_is_said_once_and_its_return_too(
    inbox: Path, tmp_path: Path, pictures: Any
) -> None:
    """E16: nothing was said."""
    with RunningWatch(plan(inbox), tmp_path / "state") as running:
        running.watch._supervisor.steady_s = 0.2
        until(lambda: running.watch._supervisor.health.state == "up")
        inbox.rename(tmp_path / "away")
        until(lambda: running.said != [], 10)
        assert "not there" in running.said[0]
        assert running.watch._pulse.status()["is_well"] is False
        (tmp_path / "away").rename(inbox)
        (inbox / "a.jpg").write_bytes(pictures.photo((32, 24)))
        until(lambda: len(running.said) == 2 and running.answered_names != [])
        assert "is back" in running.said[1]


def test_e11_locks_that_a_file_system_does_not_have_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E11: ENOLCK and its like come out of SQLite as one of its errors: wrong usage, in one line."""
    from secondglance.errors import UsageError

    class Connection(sqlite3.Connection):
        def execute(self, *arguments: Any) -> Any:
            raise sqlite3.OperationalError("locking protocol")

    connect = sqlite3.connect
    opened = []

    def refusing(*arguments: Any, **options: Any) -> Any:
        opened.append(connect(*arguments, factory=Connection, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", refusing)
    with pytest.raises(UsageError, match="locking protocol"):
        WatchState(tmp_path / "x.sqlite")
    for connection in opened:
        with contextlib.suppress(sqlite3.Error):
            connection.close()


def test_a_spool_that_cannot_hold_a_file_says_which(inbox: Path, tmp_path: Path, pictures: Any) -> None:
    """E14: the cap is known before the file is read."""
    (inbox / "a.jpg").write_bytes(pictures.photo((400, 300)))
    caps = SpoolCaps(max_bytes=100)
    with RunningWatch(plan(inbox, once=True, caps=caps), tmp_path / "state") as running:
        until(lambda: not running.thread.is_alive())
        assert any("a.jpg" in line and "100" in line for line in running.said)
