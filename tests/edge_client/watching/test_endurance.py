"""A year in an hour: thousands of things that disks, clocks, links and people do, from a seeded script.

A short version runs with the other tests; `make endurance` plays 10,000 events (ENDURANCE_EVENTS).
"""

from __future__ import annotations

import itertools
import os
import random
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from secondglance.watching.camera import frames
from tests.edge_client.counting_engine import CountingEngine
from tests.edge_client.watching.dialects import DIALECTS, OddCamera, stream_of
from tests.edge_client.watching.year import Year

EVENTS = int(os.environ.get("ENDURANCE_EVENTS", "100"))
SEED = int(os.environ.get("ENDURANCE_SEED", "23"))

if sys.platform.startswith("linux"):

    @pytest.mark.timeout(300 + 2 * EVENTS)
    def test_every_picture_is_answered_once_whatever_a_year_brings(
        serve: Any, pictures: Any, tmp_path: Path
    ) -> None:
        """No traceback, no picture lost or asked twice, no child left, no growth of files and memory."""
        dice, engine = random.Random(SEED), CountingEngine()
        photos = [pictures.photo((48, 36), seed=seed) for seed in range(3)]

        def camera(dice: random.Random) -> None:
            with OddCamera(stream_of(dice.choice(list(DIALECTS)), itertools.cycle(photos))) as odd:
                seen = list(itertools.islice(frames(f"http://{odd.address}/", every_s=0), 6))
            assert set(seen) == set(photos)

        port = int(serve(engine).url.rpartition(":")[2])
        year = Year(tmp_path, port, lambda seed: pictures.photo((48, 36), seed=seed), camera)
        try:
            for number in range(EVENTS):
                year.play(dice, number)
            year.settle()
            assert year.children() == []
        finally:
            year.close()
        print(f"{EVENTS} events: {dict(year.events)}; {year.expected.total()} pictures, {year.kills} kills")
        assert "Traceback" not in year.said
        assert Counter(year.hook.taken.values()) == year.expected, "each version once, and no other"
        assert year.hook.posts <= len(year.hook.taken) + year.kills, "handed on twice only around a kill"
        assert len(engine.asked) == year.expected.total()
        assert engine.asked.total() <= len(engine.asked) + year.kills + year.aways
        _check_growth(year)


def _check_growth(year: Year) -> None:
    """Compare the first quarter with the last."""
    quarter = max(1, len(year.open_files) // 4)
    for measured, room in ((year.open_files, 4.0), (year.memory_bytes, 25e6)):
        first, last = statistics.median(measured[:quarter]), statistics.median(measured[-quarter:])
        print(f"first quarter {first:.0f}, last quarter {last:.0f}")
        assert last <= first + room
