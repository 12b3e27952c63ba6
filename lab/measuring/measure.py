"""Runs a method over a folder of images from where the edge is, and reads its interface around each answer.

Runs inside the edge's namespace or container and writes one JSON object a line; who started it adds what can
only be seen from outside. A cold answer pays for the connection and for learning what the server takes; a
warm one finds both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from lab.measuring.methods import Asker, Cost, Method, asker
from lab.places.counters import Counters, Idle, read_at_rest

Warmth: TypeAlias = Literal["cold", "warm"]


@dataclass(frozen=True, slots=True)
class Photo:
    """An original and a question about it."""

    name: str
    jpeg: bytes
    question: str

    @classmethod
    def in_folder(cls, folder: Path) -> list[Photo]:
        """Return the JPEGs that `questions.json` (file name -> question) names."""
        questions: dict[str, str] = json.loads((folder / "questions.json").read_text())
        return [cls(name, (folder / name).read_bytes(), question) for name, question in questions.items()]


@dataclass(frozen=True, slots=True)
class Plan:
    """`quiet_s`: how long the interface must be still before it is read."""

    url: str
    interface: str
    method: Method
    warmth: Warmth
    idle: Idle
    quiet_s: float = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer at the layers that the edge itself can see; `wire_*` have the idle traffic subtracted."""

    method: Method
    warmth: Warmth
    photo: str
    original_bytes: int
    cost: Cost
    handshakes: int
    wire_up: float
    wire_down: float
    packets_up: int
    packets_down: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def run(plan: Plan, photos: list[Photo]) -> Iterator[Sample]:
    """Ask about each photo once. The window of a cold sample includes the connection's end."""
    make = asker(plan.method)
    if plan.warmth == "cold":
        for photo in photos:
            with _reading(plan) as window, make(plan.url) as client:
                cost = client.ask(photo.jpeg, photo.question)
            yield _sample(plan, photo, cost, window)
        return
    with make(plan.url) as client:
        for photo in photos:
            client.open()
            yield _warm_sample(plan, client, photo)


def _warm_sample(plan: Plan, client: Asker, photo: Photo) -> Sample:
    with _reading(plan) as window:
        cost = client.ask(photo.jpeg, photo.question)
    return _sample(plan, photo, cost, window)


@dataclass(slots=True)
class _Window:
    moved: Counters
    seconds: float


@contextmanager
def _reading(plan: Plan) -> Iterator[_Window]:
    window = _Window(Counters(), 0.0)
    before, started = read_at_rest(plan.interface, plan.quiet_s), time.monotonic()
    yield window
    window.moved = read_at_rest(plan.interface, plan.quiet_s) - before
    window.seconds = time.monotonic() - started


def _sample(plan: Plan, photo: Photo, cost: Cost, window: _Window) -> Sample:
    moved, idle = window.moved, plan.idle
    return Sample(
        method=plan.method,
        warmth=plan.warmth,
        photo=photo.name,
        original_bytes=len(photo.jpeg),
        cost=cost,
        handshakes=1 if plan.warmth == "cold" else 0,
        wire_up=moved.tx_bytes - idle.tx_bytes_per_s * window.seconds,
        wire_down=moved.rx_bytes - idle.rx_bytes_per_s * window.seconds,
        packets_up=moved.tx_packets,
        packets_down=moved.rx_packets,
    )
