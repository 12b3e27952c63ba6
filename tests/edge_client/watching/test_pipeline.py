"""The order of asking, outages, and pictures that are in the way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from secondglance.errors import (
    BadImageError,
    BusyError,
    EdgeError,
    NotAllowedError,
    ServerUnavailableError,
    TimedOutError,
)
from secondglance.retry import RetryPolicy
from secondglance.watching.pipeline import MAX_ATTEMPTS, Pipeline
from secondglance.watching.spool import Spool, SpoolCaps, Waiting
from secondglance.watching.state import WatchState

QUICK = RetryPolicy(first_wait_s=0.001, max_wait_s=0.002)
DOWN = ServerUnavailableError("cannot connect")


class World:
    """A scripted server, and what it and the listener saw. `script` maps a picture to its next failures."""

    def __init__(self) -> None:
        self.script: dict[str, list[EdgeError]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.told: list[tuple[str, str]] = []

    def ask(self, picture: bytes, question: str, *, idempotency_key: str) -> Any:
        name = picture.decode()
        self.asked.append((name, question, idempotency_key))
        if self.script.get(name):
            raise self.script[name].pop(0)
        return f"{name}!"

    def answered(self, waiting: Waiting, question: str, reply: Any) -> None:
        self.told.append((waiting.name, reply))

    def failed(self, waiting: Waiting, error: EdgeError) -> None:
        self.told.append((waiting.name, f"failed: {error}"))

    def away(self, error: EdgeError, pause_s: float) -> None:
        self.told.append(("away", str(error)))


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def spool(state: WatchState, clock: Any) -> Spool:
    spool = Spool(state, now=clock)
    for name in ("a", "b", "c"):
        spool.add(name, name.encode(), ["What?"], taken_at=clock.now)
    return spool


def pipeline(spool: Spool, world: World, **options: Any) -> Pipeline:
    options = {"policy": QUICK, "more_to_come": lambda: False} | options
    return Pipeline(spool, world.ask, world, **options)


def names(world: World) -> list[str]:
    return [name for name, _, _ in world.asked]


def test_all_are_answered_in_order(spool: Spool, world: World) -> None:
    pipeline(spool, world).run()
    assert world.told == [("a", "a!"), ("b", "b!"), ("c", "c!")]
    assert (len(spool), spool.count("answered")) == (0, 3)


@pytest.mark.parametrize(
    "error", [DOWN, BusyError("full", code="busy"), NotAllowedError("key"), BusyError("proxy")], ids=str
)
def test_an_outage_is_waited_out_and_changes_no_order(spool: Spool, world: World, error: EdgeError) -> None:
    world.script["b"] = [error] * 3 * MAX_ATTEMPTS
    pipeline(spool, world).run()
    assert names(world) == ["a", *["b"] * (3 * MAX_ATTEMPTS + 1), "c"]
    assert [told for told in world.told if told[0] != "away"] == [("a", "a!"), ("b", "b!"), ("c", "c!")]
    assert spool.count("failed") == 0


def test_every_attempt_at_a_picture_carries_the_same_key(spool: Spool, world: World) -> None:
    world.script["b"] = [DOWN, DOWN]
    pipeline(spool, world).run()
    keys = {name: {key for asked, _, key in world.asked if asked == name} for name in "abc"}
    assert {len(of_one) for of_one in keys.values()} == {1}
    assert len(set().union(*keys.values())) == 3


def test_a_bad_picture_is_given_up_at_once(spool: Spool, world: World) -> None:
    world.script["b"] = [BadImageError("broken")]
    pipeline(spool, world).run()
    assert world.told == [("a", "a!"), ("b", "failed: broken"), ("c", "c!")]
    assert (spool.count("answered"), spool.count("failed")) == (2, 1)


@pytest.mark.parametrize("error", [BusyError("model", code="engine_failed"), TimedOutError("slow")], ids=str)
def test_a_picture_that_the_server_always_fails_on_is_given_up_in_the_end(
    spool: Spool, world: World, error: EdgeError
) -> None:
    world.script["a"] = [error] * 100
    pipeline(spool, world).run()
    assert names(world) == [*["a"] * MAX_ATTEMPTS, "b", "c"]
    assert spool.count("failed") == 1


def test_an_outage_without_patience_is_raised_and_leaves_everything_there(spool: Spool, world: World) -> None:
    world.script["b"] = [DOWN]
    with pytest.raises(ServerUnavailableError):
        pipeline(spool, world, waits_for_server=False).run()
    assert (len(spool), spool.count("answered")) == (2, 1)


def test_what_arrives_while_it_waits_is_asked_about(spool: Spool, world: World, clock: Any) -> None:
    more = threading.Event()
    more.set()
    running = pipeline(spool, world, more_to_come=more.is_set)
    thread = threading.Thread(target=running.run)
    thread.start()
    spool.add("d", b"d", ["What?"], taken_at=clock.now)
    running.arrived.set()
    more.clear()
    running.arrived.set()
    thread.join(10)
    assert not thread.is_alive()
    assert names(world) == ["a", "b", "c", "d"]


def test_stop_ends_a_long_wait(spool: Spool, world: World) -> None:
    world.script["a"] = [DOWN] * 10**6
    running = pipeline(spool, world, policy=RetryPolicy(first_wait_s=1000, max_wait_s=1000))
    thread = threading.Thread(target=running.run)
    thread.start()
    running.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert len(spool) == 3


def test_a_question_that_was_answered_is_not_asked_again_after_a_failure(
    state: WatchState, world: World, clock: Any
) -> None:
    spool = Spool(state, now=clock)
    spool.add("a", b"a", ["What?", "Where?"], taken_at=clock.now)
    seen: list[str] = []

    def ask(picture: bytes, question: str, *, idempotency_key: str) -> Any:
        seen.append(question)
        if len(seen) == 2:
            raise DOWN
        return "x"

    Pipeline(spool, ask, world, policy=QUICK, more_to_come=lambda: False).run()
    assert seen == ["What?", "Where?", "Where?"]


def test_frames_of_an_outage_are_answered_in_order_within_the_cap_through_a_restart(
    world: World, clock: Any, tmp_path: Path
) -> None:
    """30 frames while nobody answers, room for 20: ten are dropped and counted, the rest come in order."""
    path, down = tmp_path / "other.sqlite", [DOWN] * 30
    with WatchState(path) as state:
        spool = Spool(state, SpoolCaps(max_bytes=40), now=clock)
        for number in range(30):
            world.script[f"{number:02}"] = list(down)
            spool.add(f"{number:02}", f"{number:02}".encode(), ["What?"], taken_at=clock.now)
            if number % 7 == 0:
                with pytest.raises(ServerUnavailableError):
                    pipeline(spool, world, waits_for_server=False).run()
    world.script.clear()
    with WatchState(path) as state:
        spool = Spool(state, SpoolCaps(max_bytes=40), now=clock)
        pipeline(spool, world).run()
        assert [name for name, _ in world.told] == [f"{number:02}" for number in range(10, 30)]
        assert (spool.dropped, len(spool)) == (10, 0)
