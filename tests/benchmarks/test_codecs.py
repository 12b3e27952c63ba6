"""The codec study's arithmetic, and that every encoding is really looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.codecs import LOSSLESS, Codec, cheapest, difference, merged, study_scene, summarize
from scenes.photos import original_of
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError


class SeeingEngine(FakeEngine):
    """Remembers what it was shown under which name."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[str, bytes]] = []

    def answer(self, requests: Any) -> list[AnswerResult | EngineError]:
        for request in requests:
            assert isinstance(request, AnswerRequest)
            picture = request.patch or request.picture
            self.shown.append((picture.key, np.asarray(picture.rgb).tobytes()))
        return super().answer(requests)


@pytest.mark.parametrize("part", ["global", "patch"])
def test_no_two_encodings_share_a_name(part: str) -> None:
    """Pictures of one name share what the engine computed for the first: the study's first run compared
    every global image with itself and found that quality 5 costs nothing."""
    engine = SeeingEngine()
    scene, jpeg = original_of(400_000)
    study_scene(engine, scene, jpeg, part, [Codec(LOSSLESS), Codec("JPEG", 30, "4:2:0"), Codec("WEBP", 30)])
    assert len({key for key, _ in engine.shown}) == len(set(engine.shown))


def row(seed: int, **right: list[bool]) -> dict[str, Any]:
    codecs = {name: {"bytes": [1000 * len(name)], "right": flags} for name, flags in right.items()}
    return {"seed": seed, "part": "patch", "kinds": ["read", "read", "color"], "codecs": codecs}


ROWS = [
    row(1, PNG=[True, True, True], GOOD=[True, True, True], BAD=[True, False, True]),
    row(2, PNG=[True, False, True], GOOD=[True, False, True], BAD=[False, False, True]),
]


def test_points_are_paired_and_scenes_are_the_clusters() -> None:
    assert difference(ROWS, "GOOD", "read") == (0.0, 0.0)
    points, half = difference(ROWS, "BAD", "read")
    assert points == pytest.approx(-50)  # one of two, in both scenes: no spread between them
    assert half == pytest.approx(0)


def test_the_cheapest_is_the_smallest_that_loses_nothing() -> None:
    entries = summarize(ROWS, "patch")
    assert [entry["codec"] for entry in entries] == ["PNG", "BAD", "GOOD"]
    assert cheapest(entries, "patch", "B") is None
    assert cheapest([entry for entry in entries if entry["codec"] != "PNG"], "patch") == "GOOD"


def test_encodings_asked_about_later_join_their_scene() -> None:
    found = merged([row(1, PNG=[True] * 3), row(1, GOOD=[True] * 3)])
    assert list(found[1, "patch"]["codecs"]) == ["PNG", "GOOD"]
