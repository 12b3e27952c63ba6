"""A stream of frames while no server is there: they wait on disk and are answered in order afterwards.

The short version runs with the other tests; `make edge-endurance` keeps the server away for a minute.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from secondglance.client import EdgeClient
from secondglance.errors import EdgeError
from secondglance.settings import EdgeSettings
from secondglance.watching import camera
from secondglance.watching.spool import SpoolCaps, Waiting
from secondglance.watching.watch import Watch, WatchPlan
from tests.edge_client.counting_engine import CountingEngine

DEADLINE_S = 120.0


class Listener:
    """Keeps what the pipeline says."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.answers: list[str] = []
        self.failures: list[EdgeError] = []
        self.was_away = threading.Event()

    def answered(self, waiting: Waiting, question: str, reply: Any) -> None:
        self.numbers.append(waiting.number)
        self.answers.append(reply.answer)

    def failed(self, waiting: Waiting, error: EdgeError) -> None:
        self.failures.append(error)

    def away(self, error: EdgeError, pause_s: float) -> None:
        self.was_away.set()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.005)


@pytest.mark.timeout(600)
def test_frames_of_an_outage_are_answered_in_order_within_the_cap(
    serve: Any, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    n_frames, down_s = (600, 60.0) if is_full else (60, 0.0)
    room_for = n_frames * 2 // 3
    frames: queue.Queue[bytes | None] = queue.Queue()

    def stream(spec: str, **options: Any) -> Iterator[bytes]:
        yield from iter(frames.get, None)

    monkeypatch.setattr(camera, "frames", stream)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    photos = [pictures.photo((96, 64), seed=number) for number in range(n_frames)]
    settings = EdgeSettings(
        url=f"http://127.0.0.1:{port}", retries=0, retry_wait_s=0.02, max_retry_wait_s=0.5
    )
    cap = SpoolCaps(max_bytes=sum(map(len, photos[-room_for:])))
    told, engine = Listener(), CountingEngine()
    plan = WatchPlan(("What?",), camera="test", caps=cap)
    with (
        EdgeClient(settings=settings) as client,
        Watch(plan, tmp_path, settings, warn=lambda text: None) as watch,
    ):
        running = threading.Thread(target=watch.run, args=(client.ask, told), daemon=True)
        running.start()
        began = time.monotonic()
        for number, photo in enumerate(photos, start=1):
            frames.put(photo)
            until(lambda number=number: len(watch.spool) + watch.spool.dropped == number)  # type: ignore[misc]
            assert watch.spool.waiting_bytes <= cap.max_bytes + len(photos[0]) * 2, "the cap holds"
            time.sleep(max(0.0, began + number * down_s / n_frames - time.monotonic()))
        assert told.was_away.wait(DEADLINE_S)
        dropped = watch.spool.dropped
        serve(engine, port=port)
        until(lambda: len(watch.spool) == 0)
        frames.put(None)
        watch.stop()
        running.join(DEADLINE_S)
        assert told.failures == []
        assert told.numbers == sorted(told.numbers)
        assert watch.spool.count("dropped_for_size") == watch.spool.dropped == dropped
        assert len(told.numbers) == n_frames - dropped
        assert n_frames // 4 < dropped < n_frames // 2, "a third of them, give or take how frames compress"
        left_out = set(range(1, n_frames + 1)) - set(told.numbers)
        in_flight = set(range(1, max(left_out) + 1)) - left_out
        assert len(in_flight) <= 1, "the oldest are dropped first, but for the one that is being asked about"
        assert engine.order == told.answers, "asked in the order in which they are answered"
        assert set(engine.asked.values()) == {1}, "nothing is asked about twice"
        print(f"{n_frames} frames while the server was away: {len(told.numbers)} answered, {dropped} dropped")
