"""Scenes: the same everywhere, within the stated ranges, and described by what is painted."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from scenes.generator import (
    LEAST_SIGN_VIEW_PX,
    LEAST_TEXT_PX,
    TEXT_HEIGHT_VIEW_PX,
    VIEW_SIDE_PX,
    Box,
    Scene,
    encode_jpeg,
    make_scene,
    render,
)
from scenes.signs import CHARACTERS, COLORS

SMALL = (1200, 900)


def pixels(scene: Scene, box: Box | None = None) -> NDArray[np.int16]:
    return np.asarray(render(scene, box)).astype(np.int16)


def small_scene(seed: int, *, blur: float = 0.0) -> Scene:
    """Without the noise, which belongs to a view and not to the scene."""
    return replace(make_scene(seed, split="test", size=SMALL), noise=0.0, blur=blur)


def fingerprint(seed: int) -> str:
    scene = make_scene(seed, split="test")
    facts = repr((scene.width, scene.height, scene.signs, scene.questions, scene.noise, scene.blur))
    return hashlib.sha256(facts.encode() + render(scene, size=(300, 200)).tobytes()).hexdigest()


def test_the_same_seed_gives_the_same_scene_and_pixels_in_another_process_without_torch() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_generator import fingerprint\n"
        "print(fingerprint(11), 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": "7"}
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root, env=environment
    )
    assert ran.stdout.split() == [fingerprint(11), "False", "False"]


def test_other_seeds_give_other_scenes() -> None:
    assert len({fingerprint(seed) for seed in range(4)}) == 4


def test_no_module_of_scenes_imports_torch() -> None:
    sources = (Path(__file__).parents[2] / "scenes").glob("*.py")
    assert [path.name for path in sources if "import torch" in path.read_text()] == []


def test_sides_and_aspect_stay_within_their_ranges(scenes: list[Scene]) -> None:
    for scene in scenes:
        longer, shorter = max(scene.width, scene.height), min(scene.width, scene.height)
        assert 1000 <= longer <= 4000
        assert longer / shorter <= 2.005  # half a pixel of rounding
        assert shorter >= 1000 or longer < 2000
    portrait = sum(scene.height > scene.width for scene in scenes) / len(scenes)
    assert 0.25 < portrait < 0.75


def test_text_heights_stay_within_the_stated_range_and_fill_it(scenes: list[Scene]) -> None:
    heights = np.array([scene.text_height_in_view(sign) for scene in scenes for sign in scene.signs])
    low, high = TEXT_HEIGHT_VIEW_PX
    assert heights.min() >= low
    assert heights.max() <= high
    # log-uniform, if for the few scenes whose own pixels limit it
    assert np.median(heights) == pytest.approx((low * high) ** 0.5, rel=0.35)
    assert min(s.text_height for scene in scenes for s in scene.signs) >= LEAST_TEXT_PX * (1 - 1e-9)


def test_every_sign_can_be_seen_in_the_global_view(scenes: list[Scene]) -> None:
    for scene in scenes:
        px = max(scene.width, scene.height) / VIEW_SIDE_PX
        assert all(min(s.width, s.height) >= LEAST_SIGN_VIEW_PX * px * (1 - 1e-9) for s in scene.signs)


def test_two_to_five_signs_of_distinct_colors_and_texts(scenes: list[Scene]) -> None:
    assert {len(scene.signs) for scene in scenes} == {2, 3, 4, 5}
    for scene in scenes:
        assert len({sign.color for sign in scene.signs}) == len(scene.signs)
        assert len({sign.text for sign in scene.signs}) == len(scene.signs)
        assert all(sign.color in COLORS for sign in scene.signs)
        assert all(1 <= len(sign.text) <= 4 and set(sign.text) <= set(CHARACTERS) for sign in scene.signs)
    assert {sign.color for scene in scenes for sign in scene.signs} == set(COLORS)


def test_signs_lie_in_the_photo_and_do_not_touch(scenes: list[Scene]) -> None:
    for scene in scenes:
        boxes = [sign.box for sign in scene.signs]
        assert all(
            x0 >= 0 and y0 >= 0 and x1 <= scene.width and y1 <= scene.height for x0, y0, x1, y1 in boxes
        )
        for i, (a, b, c, d) in enumerate(boxes):
            assert all(c < x0 or x1 < a or d < y0 or y1 < b for x0, y0, x1, y1 in boxes[i + 1 :])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_signs_box_is_where_its_pixels_are(seed: int) -> None:
    """Painted with and without one sign, nothing changes outside its box, and what changes fills the box."""
    scene = small_scene(seed)
    whole = pixels(scene)
    for index, sign in enumerate(scene.signs):
        without = replace(scene, signs=(*scene.signs[:index], *scene.signs[index + 1 :]))
        rows, cols = np.nonzero((whole != pixels(without)).any(axis=-1))
        painted = (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
        left, top, right, bottom = np.subtract(painted, sign.box)
        assert min(left, top) >= -2
        assert max(right, bottom) <= 2
        rounding = 0.06 * sign.corner_radius * sign.height  # what a tilted round corner leaves of its box
        assert np.abs((left, top, right, bottom)).max() <= 2 + rounding


BOXES = ((100, 200, 500, 600), (37, 11, 411, 333), (600, 500, 1200, 900))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("blur", [0.0, 0.9])
def test_a_rendered_crop_is_the_same_region_of_the_whole(seed: int, blur: float) -> None:
    """But for the rim, where blur sees no neighbours, and single pixels on the edges of clutter."""
    scene = small_scene(seed, blur=blur)
    whole = pixels(scene)

    def differences(box: tuple[int, int, int, int], shift: int = 0) -> NDArray[np.int16]:
        left, top, right, bottom = box
        region = whole[top + shift : bottom + shift, left + shift : right + shift]
        crop = pixels(scene, (left, top, right, bottom))[: len(region), : region.shape[1]]
        apart: NDArray[np.int16] = np.abs(crop - region)[8:-8, 8:-8]
        return apart

    for box in BOXES:
        same, moved = differences(box), differences(box, shift=-1)
        assert same.mean() < 0.15
        assert (same > 2).mean() < 0.01
        assert moved.mean() > 4 * same.mean()  # one pixel off is seen


def test_a_crop_at_half_size_is_the_crop_made_small() -> None:
    scene = small_scene(2)
    box = (100.0, 100.0, 700.0, 500.0)
    fine = render(scene, box).resize((300, 200), Image.Resampling.BOX)
    coarse = render(scene, box, (300, 200))
    assert np.abs(np.asarray(fine).astype(int) - np.asarray(coarse)).mean() < 3


def test_nothing_is_painted_finer_than_the_original() -> None:
    scene = small_scene(0)
    box = (100.0, 100.0, 200.0, 180.0)
    enlarged = render(scene, box).resize((400, 320), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(render(scene, box, (400, 320))), np.asarray(enlarged))


def test_the_original_is_as_large_as_the_scene_says_and_its_jpeg_opens() -> None:
    scene = make_scene(5, split="test")
    photo = render(scene)
    assert photo.size == (scene.width, scene.height)
    with Image.open(io.BytesIO(encode_jpeg(photo, scene.jpeg_quality))) as opened:
        assert (opened.format, opened.size) == ("JPEG", photo.size)
        error = np.asarray(opened).astype(int) - np.asarray(photo)
    assert np.abs(error).mean() < 8
