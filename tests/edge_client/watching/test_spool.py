"""Pictures wait in order, within caps, and survive restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from secondglance.errors import UsageError
from secondglance.watching.spool import Spool, SpoolCaps
from secondglance.watching.state import WatchState

Q = ("What?",)


def fill(spool: Spool, clock: Any, *names: str, size: int = 100) -> None:
    for name in names:
        spool.add(name, bytes(size), Q, taken_at=0)


def drain(spool: Spool) -> list[str]:
    names = []
    while (waiting := spool.take()) is not None:
        names.append(waiting.name)
        for question in waiting.questions:
            spool.answered(waiting, question)
    return names


def test_first_in_first_out_through_a_restart(state: WatchState, clock: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with WatchState(path) as first:
        spool = Spool(first, now=clock)
        fill(spool, clock, "a", "b", "c")
        taken = spool.take()
        assert taken is not None
        spool.answered(taken, Q[0])
        key = spool.take()
    with WatchState(path) as second:
        spool = Spool(second, now=clock)
        again = spool.take()
        assert again == key, "the one that was being asked about comes first, under the same id"
        fill(spool, clock, "d")
        assert drain(spool) == ["b", "c", "d"]
        assert (len(spool), spool.count("answered")) == (0, 4)


def test_what_exceeds_the_size_is_dropped_oldest_first_and_counted(state: WatchState, clock: Any) -> None:
    spool = Spool(state, SpoolCaps(max_bytes=350), now=clock)
    fill(spool, clock, "a", "b", "c", "d", "e")
    assert spool.waiting_bytes <= 350
    assert spool.count("dropped_for_size") == 2
    assert drain(spool) == ["c", "d", "e"]


def test_what_is_being_asked_about_is_not_dropped(state: WatchState, clock: Any) -> None:
    spool = Spool(state, SpoolCaps(max_bytes=250, max_age_s=60), now=clock)
    fill(spool, clock, "a", "b")
    taken = spool.take()
    fill(spool, clock, "c")
    clock.now += 100
    fill(spool, clock, "d")
    assert taken is not None
    spool.put_back(taken=taken, counts=False)
    clock.now -= 100
    assert drain(spool) == ["a", "d"]
    assert (spool.count("dropped_for_size"), spool.count("dropped_for_age")) == (1, 1)


def test_what_is_too_large_by_itself_drops_nothing_else(state: WatchState, clock: Any) -> None:
    spool = Spool(state, SpoolCaps(max_bytes=250), now=clock)
    fill(spool, clock, "a", "b")
    fill(spool, clock, "huge", size=251)
    assert drain(spool) == ["a", "b"]
    assert spool.dropped == 1


def test_what_is_too_old_is_dropped_and_counted_even_if_nothing_comes(state: WatchState, clock: Any) -> None:
    spool = Spool(state, SpoolCaps(max_age_s=60), now=clock)
    fill(spool, clock, "a")
    clock.now += 59
    fill(spool, clock, "b")
    clock.now += 2
    assert drain(spool) == ["b"]
    assert spool.count("dropped_for_age") == 1


def test_questions_that_were_answered_are_not_asked_again(clock: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with WatchState(path) as first:
        spool = Spool(first, now=clock)
        spool.add("a", b"x", ["What?", "Where?", "Who?"], taken_at=clock.now)
        waiting = spool.take()
        assert waiting is not None
        spool.answered(waiting, "What?")
    with WatchState(path) as second:
        waiting = Spool(second, now=clock).take()
        assert waiting is not None
        assert waiting.questions == ("Where?", "Who?")


def test_attempts_are_counted_through_a_restart(clock: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    for attempts in (1, 2):
        with WatchState(path) as state:
            spool = Spool(state, now=clock)
            if attempts == 1:
                fill(spool, clock, "a")
            waiting = spool.take()
            assert waiting is not None
            assert spool.put_back(taken=waiting, counts=True) == attempts
            assert spool.put_back(taken=waiting, counts=False) == attempts


def test_the_file_shrinks_when_nothing_waits(clock: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with WatchState(path) as state:
        spool = Spool(state, now=clock)
        fill(spool, clock, *map(str, range(20)), size=1_000_000)
        full = path.stat().st_size
        drain(spool)
        assert path.stat().st_size < full / 10


def test_the_pictures_are_for_the_user_alone(state: WatchState, tmp_path: Path) -> None:
    assert (tmp_path / "state" / "watch.sqlite").stat().st_mode & 0o077 == 0


def test_one_process_uses_a_state(state: WatchState, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another process"):
        WatchState(tmp_path / "state" / "watch.sqlite")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(UsageError, match="cannot use"):
        WatchState(path)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with WatchState(path) as state, state.reading() as sql:
        assert state.is_new
        sql.execute("PRAGMA user_version=99")
    with pytest.raises(UsageError, match="newer"):
        WatchState(path)
