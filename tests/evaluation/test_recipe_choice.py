"""Which encodings are chosen, on outcomes made by hand; and what is written where edges find it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secondglance import EdgeSettings
from secondglance_eval.asking.in_process import Edge, edge_budget
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.recipe_choice import (
    EDGES_OWN,
    Outcomes,
    compare,
    fewest_bytes,
    name_of,
    parse_recipe,
)
from secondglance_eval.recipes import recipes_of, write_recipes
from secondglance_protocol.wire import EncodingRecipe, PixelBox, Recipes
from secondglance_server.engine.fake import FAKE_INFO, FakeEngine
from secondglance_server.engine.model_defaults import read_model_defaults

SMALLER = EDGES_OWN.model_copy(update={"patch": EncodingRecipe(format="webp", quality=50)})
SMALLEST = EDGES_OWN.model_copy(update={"image": EncodingRecipe(format="webp", quality=20, scale=0.5)})
TRIED = [EDGES_OWN, SMALLER, SMALLEST]


def outcomes(name: str, wrong: dict[Recipes, int], sent: dict[Recipes, float]) -> Outcomes:
    """200 questions about 20 pictures; the first so many are wrong."""
    scores = {each: np.where(np.arange(200) < wrong.get(each, 0), 0.0, 1.0) for each in TRIED}
    uplink = {each: np.full(200, sent[each]) for each in TRIED}
    return Outcomes(name, [str(number // 10) for number in range(200)], scores, uplink)


def bytes_of(own: float, smaller: float, smallest: float) -> dict[Recipes, float]:
    return {EDGES_OWN: own, SMALLER: smaller, SMALLEST: smallest}


def test_the_fewest_bytes_win_where_next_to_nothing_is_lost() -> None:
    one = outcomes("a", {SMALLEST: 1}, bytes_of(4000, 3000, 2000))
    assert fewest_bytes([one], TRIED, max_points_lost=0.5) == SMALLEST
    assert fewest_bytes([one], TRIED, max_points_lost=0.4) == SMALLER


def test_a_loss_on_one_set_is_not_made_good_on_another() -> None:
    gains = outcomes("a", {EDGES_OWN: 20}, bytes_of(4000, 3000, 2000))
    loses = outcomes("b", {SMALLEST: 2}, bytes_of(4000, 3000, 2000))
    assert fewest_bytes([gains, loses], TRIED, max_points_lost=0.5) == SMALLER


def test_sets_count_alike_whatever_their_pictures_weigh() -> None:
    light = outcomes("a", {}, bytes_of(1000, 500, 900))
    heavy = outcomes("b", {}, bytes_of(10_000, 9_000, 8_000))
    assert fewest_bytes([light, heavy], TRIED, max_points_lost=0.5) == SMALLER  # 0.70 against 0.85


def test_the_edges_own_stays_where_everything_else_loses() -> None:
    one = outcomes("a", {SMALLER: 9, SMALLEST: 9}, bytes_of(4000, 3000, 2000))
    assert fewest_bytes([one], TRIED, max_points_lost=0.5) == EDGES_OWN


def test_lines_are_paired_with_the_edges_own() -> None:
    one = outcomes("a", {EDGES_OWN: 10, SMALLER: 14}, bytes_of(4000, 3000, 2000))
    own, smaller, smallest = compare(one, TRIED)
    assert (own.lost.value, own.ratio.value, own.questions) == (0, 1, 200)
    assert (smaller.lost.value, smallest.lost.value) == (pytest.approx(2), pytest.approx(-5))
    assert smaller.lost.low < 2 < smaller.lost.high
    assert (smaller.ratio.value, smaller.ratio.low, smaller.ratio.high) == (0.75, 0.75, 0.75)


def test_what_others_are_compared_with_is_what_an_edge_sends_by_itself() -> None:
    settings = EdgeSettings.model_construct()
    for ours, theirs in ((EDGES_OWN.image, settings.image_recipe), (EDGES_OWN.patch, settings.patch_recipe)):
        assert ours is not None
        assert (ours.format, ours.quality, ours.scale) == (theirs.format, theirs.quality, 1.0)
    assert settings.image_scale == 1


def test_recipes_are_read_as_they_are_named() -> None:
    assert parse_recipe("jpeg:50") == EncodingRecipe(format="jpeg", quality=50)
    assert parse_recipe("webp:30:0.7") == EncodingRecipe(format="webp", quality=30, scale=0.7)
    assert name_of(SMALLEST) == "webp 20 at 0.5, region webp 85"
    for text in ("webp", "webp:0", "gif:40", "webp:40:2", "webp:40:0.5:1", "webp:x"):
        with pytest.raises(CalibrationError):
            recipes_of([text], ())


def test_the_other_keys_of_a_models_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "secondglance.json"
    path.write_text(json.dumps({"domain": "signs — drawn", "gate": {"threshold": 0.3}}))
    write_recipes(SMALLEST, path)
    written = read_model_defaults(tmp_path)
    assert (written.recipes, written.domain, written.gate.threshold) == (SMALLEST, "signs — drawn", 0.3)
    write_recipes(SMALLER, tmp_path / "new" / "secondglance.json")
    assert read_model_defaults(tmp_path / "new").recipes == SMALLER
    path.write_text('{"gate": {"thresholt": 1}}')
    with pytest.raises(CalibrationError, match="thresholt"):
        write_recipes(SMALLER, path)


def test_the_pair_in_process_follows_the_models_recipes_as_an_edge_does() -> None:
    """In-process studies sent the edge's own encodings whatever the model named."""
    patch = EncodingRecipe(format="webp", quality=50, scale=0.25)
    named = Recipes(image=EncodingRecipe(format="jpeg", quality=20, scale=0.5), patch=patch)
    buffer = io.BytesIO()
    Image.new("RGB", (1200, 900), "teal").save(buffer, "JPEG")
    photo, box = buffer.getvalue(), PixelBox(left=0, top=0, right=800, bottom=800)
    side = edge_budget(FAKE_INFO.image).max_width
    shapes = {}
    for recipes in (None, named):
        engine = FakeEngine(info=replace(FAKE_INFO, recipes=recipes))
        edge = Edge(engine, EdgeSettings.model_construct(), photo)
        shapes[recipes] = edge.whole.rgb.shape, edge.crop(box).rgb.shape
    assert shapes[None] == ((side * 3 // 4, side, 3), (side, side, 3))
    assert shapes[named] == ((side * 3 // 8, side // 2, 3), (side // 4, side // 4, 3))
    told = EdgeSettings(image_quality=40)
    engine = FakeEngine(info=replace(FAKE_INFO, recipes=named))
    assert Edge(engine, told, photo).whole.rgb.shape == shapes[None][0]
