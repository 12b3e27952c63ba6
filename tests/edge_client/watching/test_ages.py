"""Ages by a clock that no step moves; what was dropped is said."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from secondglance.watching.clock import AgeClock, Uptime
from secondglance.watching.spool import Spool, SpoolCaps
from secondglance.watching.state import WatchState
from secondglance.watching.watch import WatchPlan
from tests.edge_client.watching.running import RunningWatch, until


class Board:
    """A computer with an uptime and a wall clock that has nothing to do with it."""

    def __init__(self) -> None:
        self.boot, self.up_s, self.wall_s = 0, 50.0, 0.0

    def __call__(self) -> Uptime:
        return Uptime(f"boot-{self.boot}", self.up_s)

    def pass_time(self, seconds: float) -> None:
        self.up_s += seconds
        self.wall_s += seconds

    def reboot(self) -> None:
        self.boot, self.up_s, self.wall_s = self.boot + 1, 20.0, 0.0


@pytest.mark.parametrize("step_days", [30, -30, 20_000, -20_000])
def test_e7_a_step_of_the_wall_clock_drops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_days: float
) -> None:
    """E7: a board without a clock found the time, and everything that waited was dropped without a word."""
    import time

    with WatchState(tmp_path / "x.sqlite") as state:
        spool = Spool(state, SpoolCaps(max_age_s=3600))
        for number in range(5):
            spool.add(str(number), b"x", ["What?"], taken_at=0)
        wall = time.time
        monkeypatch.setattr(time, "time", lambda: wall() + step_days * 86_400)
        assert spool.take() is not None
        assert (len(spool), spool.dropped) == (5, 0)


@pytest.mark.parametrize("seed", range(20))
def test_e7_what_has_waited_longer_than_the_cap_is_dropped_and_nothing_else(
    tmp_path: Path, seed: int
) -> None:
    """E7: over restarts, reboots and steps, an age is the time that the board was on."""
    dice, board, was_on_s = random.Random(seed), Board(), 0.0
    added: dict[str, float] = {}
    path = tmp_path / "x.sqlite"
    state = WatchState(path, uptime=board)
    for number in range(120):
        spool = Spool(state, SpoolCaps(max_age_s=1000))
        what = dice.choice(["add", "pass", "step", "restart", "reboot"])
        if what == "add":
            spool.add(str(number), b"x", ["What?"], taken_at=0)
            added[str(number)] = was_on_s
        elif what == "pass":
            seconds = dice.uniform(1, 200)
            board.pass_time(seconds)
            was_on_s += seconds
        elif what == "step":
            board.wall_s = dice.uniform(-1e10, 1e10)
        else:
            spool.note("restarts")  # something is written, and with it the age
            state.close()
            if what == "reboot":
                board.reboot()
                was_on_s += 20
            state = WatchState(path, uptime=board)
            spool = Spool(state, SpoolCaps(max_age_s=1000))
        spool.take()
        with state.reading() as sql:
            waiting = {name for (name,) in sql.execute("SELECT name FROM waiting")}
        young = {name for name, at in added.items() if was_on_s - at < 999}
        old = {name for name, at in added.items() if was_on_s - at > 1001}
        assert young <= waiting
        assert len(waiting & old) <= 1, "but for the one that is being asked about"
    state.close()


def test_e7_an_uptime_that_goes_back_is_another_start() -> None:
    """E7: systems whose starts have no names; and ages never shrink."""
    uptimes = iter([100.0, 150.0, 10.0, 30.0])
    clock = AgeClock(read=lambda: Uptime("", next(uptimes)))
    assert [clock(), clock(), clock()] == [50, 60, 80]


@pytest.mark.parametrize("caps", [SpoolCaps(max_bytes=900), SpoolCaps(max_age_s=0.2)], ids=["size", "age"])
def test_e7_every_drop_is_said_at_once_and_not_again_after_a_restart(
    tmp_path: Path, pictures: Any, caps: SpoolCaps
) -> None:
    """E7: drops were said after the next answer, which an outage keeps away."""
    from secondglance.errors import ServerUnavailableError

    inbox = tmp_path / "inbox"
    inbox.mkdir()
    plan = WatchPlan(("What?",), inbox, settle_s=0.01, takes_existing=True, caps=caps)
    for number in range(4):
        (inbox / f"{number}.jpg").write_bytes(pictures.photo((16, 12), seed=number))

    def away(picture: bytes, question: str) -> str:
        raise ServerUnavailableError("nobody there")

    with RunningWatch(plan, tmp_path / "state") as running:
        running.ask = away
        until(lambda: any("dropped" in line for line in running.said), 5)
        until(lambda: running.watch.spool.dropped >= 2)
    assert str(running.said).count("dropped so far") >= 1
    with WatchState(next((tmp_path / "state").glob("*.sqlite"))) as state:
        spool = Spool(state)
        assert spool.count("drops_told") == spool.dropped, "what was dropped last was said at the end"


VERSION_1 = """
CREATE TABLE waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, name TEXT NOT NULL, taken_at REAL NOT NULL,
    added_at REAL NOT NULL, questions TEXT NOT NULL, answered INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL, picture BLOB NOT NULL);
CREATE TABLE counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE seen (
    path TEXT PRIMARY KEY, device INTEGER NOT NULL, inode INTEGER NOT NULL, bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, sha256 TEXT, gone_at REAL) WITHOUT ROWID;
INSERT INTO waiting VALUES (7, 'abc', '/a.jpg', 1e9, 1.6e9, '["What?", "Where?"]', 1, 2, 1, x'00');
INSERT INTO counts VALUES ('answered', 41);
INSERT INTO seen VALUES ('/b.jpg', 1, 2, 3, 4, 'digest', 1.6e9), ('/c.jpg', 1, 5, 3, 4, NULL, NULL);
"""


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_state_file_of_the_first_version_still_opens(tmp_path: Path, has_begun: bool) -> None:
    """What waits is asked about under its id, what was seen is known; opened again it is the same."""
    from secondglance.watching.sightings import Sightings, Stamp

    path = tmp_path / "x.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(VERSION_1 + ("PRAGMA user_version=1;" if has_begun else ""))
    connection.close()
    for _ in range(2):
        with WatchState(path) as state:
            assert state.is_new is not has_begun
            spool, sightings = Spool(state, SpoolCaps(max_age_s=3600)), Sightings(state)
            waiting = spool.take()
            assert waiting is not None
            assert (waiting.number, waiting.id, waiting.questions) == (7, "abc", ("Where?",))
            assert (spool.dropped, spool.count("answered")) == (0, 41)
            assert sightings.knows_content("/b.jpg", Stamp(9, 9, 3, 9), "digest")
            assert [path for path, _ in sightings.without_content()] == ["/c.jpg"]
    with WatchState(path) as state:
        sightings = Sightings(state)
        sightings.forget_skipped()
        assert len(sightings) == 1
