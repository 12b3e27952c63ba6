"""Large scenes: signs as small as is said, on originals as wide, and the same everywhere."""

from __future__ import annotations

import pytest

from scenes.generator import VIEW_SIDE_PX, render
from scenes.large import CELL_VIEW_PX, SIGN_CELLS, SIZE, make_large_scene


@pytest.mark.parametrize("seed", range(8))
def test_signs_are_a_quarter_of_a_cell_to_a_cell_and_inside(seed: int) -> None:
    scene = make_large_scene(seed)
    assert (scene.width, scene.height) == SIZE
    cell = CELL_VIEW_PX * SIZE[0] / VIEW_SIDE_PX
    for sign in scene.signs:
        assert SIGN_CELLS[0] * cell * 0.999 <= max(sign.width, sign.height) <= SIGN_CELLS[1] * cell * 1.001
        left, top, right, bottom = sign.box
        assert 0 <= left < right <= SIZE[0]
        assert 0 <= top < bottom <= SIZE[1]


def test_a_seed_gives_one_scene_and_other_seeds_others() -> None:
    assert make_large_scene(1).questions == make_large_scene(1).questions
    assert make_large_scene(1).questions != make_large_scene(2).questions


def test_each_sign_is_painted_in_its_colour_where_its_box_is() -> None:
    """Signs were scaled from another size: the text must have been scaled with the panel."""
    scene = make_large_scene(3)
    for sign in scene.signs:
        left, top, right, bottom = sign.box
        height = max(8, round(64 * (bottom - top) / (right - left)))
        view = render(scene, (left, top, right, bottom), (64, height))
        colours = view.convert("RGB").getcolors(64 * 64 * 8)
        assert colours is not None
        assert len(colours) > 8, "panel and ink"
