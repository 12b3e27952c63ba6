"""What looks like the last frame is skipped; what differs in a corner is not."""

from __future__ import annotations

import random
from typing import Any

import pytest
from PIL import Image

from secondglance.watching.changes import ChangeFilter


def changes(percent: float) -> ChangeFilter:
    return ChangeFilter(percent, max_pixels=10**8)


@pytest.fixture
def scene(pictures: Any) -> Image.Image:
    return pictures.noise((640, 480))


def test_sensor_noise_is_no_change(pictures: Any, scene: Image.Image) -> None:
    noise = random.Random(1).randbytes(640 * 480 * 3)
    noisy = Image.blend(scene, Image.frombytes("RGB", scene.size, noise), 0.1)
    seen = changes(5)
    assert seen.passes(pictures.encode(scene))
    assert not seen.passes(pictures.encode(noisy))


def test_something_small_in_a_corner_is_a_change(pictures: Any, scene: Image.Image) -> None:
    seen = changes(5)
    assert seen.passes(pictures.encode(scene))
    changed = scene.copy()
    changed.paste((0, 0, 0), (0, 0, 40, 30))
    assert seen.passes(pictures.encode(changed))


def test_a_slow_drift_is_compared_with_the_last_that_passed(pictures: Any) -> None:
    """Each step is below the limit, their sum is not."""
    seen = changes(5)
    passed = [seen.passes(pictures.encode(Image.new("L", (64, 64), 100 + 4 * step))) for step in range(9)]
    assert passed == [True, False, False, False, True, False, False, False, True]


def test_zero_lets_everything_pass_and_what_is_no_picture_passes(pictures: Any, scene: Image.Image) -> None:
    data = pictures.encode(scene)
    seen = changes(0)
    assert [seen.passes(data), seen.passes(data)] == [True, True]
    assert changes(5).passes(b"no picture")
