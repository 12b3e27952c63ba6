"""Where a model should look: found from maps alone, by layer, and kept unless something is clearly better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secondglance_eval.judging.window_choice import (
    FINALISTS,
    HELD,
    Looked,
    Setting,
    choose_setting,
    finalists,
    held_share,
    merit,
)
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import AttentionMap, LocalizationDefaults

GRID, CELL = 12, 100
SIZE = ImageSize(width=GRID * CELL, height=GRID * CELL)
SINK = (0, 0)
OWN = Setting((0,), LocalizationDefaults(attention="plain", window="vicrop", base_side=224))


def a_map(*peaks: tuple[int, int], weight: float = 1.0) -> AttentionMap:
    weights = np.full((GRID, GRID), 1e-3, np.float32)
    for row, col in peaks:
        weights[row, col] += weight
    return AttentionMap(weights)


def looked(row: int, col: int, *, layers: int = 4, right: int = 2, has_sink: bool = False) -> Looked:
    """Layer `right` looks at the answer, which fills a cell; the others look elsewhere. With a sink, every
    prompt looks at one corner, more than at the answer."""
    rng = np.random.default_rng([row, col])
    asked, neutral = {}, {}
    for layer in range(layers):
        place = (row, col) if layer == right else tuple(rng.integers(0, GRID, 2))
        asked[layer] = a_map((int(place[0]), int(place[1])))
        neutral[layer] = a_map()
        if has_sink:
            asked[layer].weights[SINK] = neutral[layer].weights[SINK] = 5.0
    left, top = col * CELL, row * CELL
    box = PixelBox(left=left + 10, top=top + 10, right=left + CELL - 10, bottom=top + CELL - 10)
    return Looked(f"{row}/{col}", str(row), box, SIZE, asked, neutral)


QUESTIONS = [(2, 3), (5, 9), (8, 4), (10, 7), (6, 6), (3, 10)]


@pytest.mark.parametrize("right", [0, 1, 3])
def test_the_layer_that_looks_at_the_answer_is_found(right: int) -> None:
    found = finalists([looked(*place, right=right) for place in QUESTIONS], OWN)
    assert found[0] == OWN
    assert len(found) == 1 + FINALISTS
    assert found[1].layers == (right,) or right == 0
    assert OWN not in found[1:]


def test_a_corner_that_every_prompt_looks_at_calls_for_relative_attention() -> None:
    questions = [looked(*place, has_sink=True) for place in QUESTIONS]
    best = finalists(questions, OWN)[1]
    assert (best.layers, best.how.attention) == ((2,), "relative")
    plain = replace(best, how=replace(best.how, attention="plain"))
    assert merit(questions, plain) < 0.1 < merit(questions, best)


def test_a_tighter_crop_is_better_and_one_without_the_answer_is_nothing() -> None:
    questions = [looked(*place) for place in QUESTIONS]
    tight = Setting((2,), replace(OWN.how, window="mass", min_side_cells=1.6, pad_cells=0.0))
    wide = replace(tight, how=replace(tight.how, pad_cells=1.0))
    narrow = replace(tight, how=replace(tight.how, min_side_cells=0.5))
    assert merit(questions, tight) > merit(questions, wide) > 0.5
    assert merit(questions, replace(tight, layers=(1,))) < 0.5
    for each in questions:
        assert held_share(each.box, each.region(tight)) >= HELD
        assert each.region(narrow).width <= each.region(tight).width


@pytest.mark.parametrize(
    ("box", "region", "share"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 20, 10), 0.5),
        ((0, 0, 10, 10), (5, 5, 6, 6), 0.01),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
    ],
)
def test_the_share_of_a_box_that_a_region_holds(
    box: tuple[int, ...], region: tuple[int, ...], share: float
) -> None:
    def as_box(corners: tuple[int, ...]) -> PixelBox:
        return PixelBox(left=corners[0], top=corners[1], right=corners[2], bottom=corners[3])

    assert held_share(as_box(box), as_box(region)) == pytest.approx(share)


def test_what_is_not_clearly_better_changes_nothing() -> None:
    """Many settings are compared, and one is always lucky."""
    other = replace(OWN, layers=(3,))
    lucky = [0.0, 1.0, 1.0] + [1.0] * 9 + [0.0] * 8  # loses one question and gains two
    assert choose_setting({OWN: [1.0, 0.0, 0.0, *lucky[3:]], other: lucky}, OWN) == OWN
    assert choose_setting({OWN: [0.0] * 20, other: lucky}, OWN) == other
    assert choose_setting({OWN: lucky, other: [0.0] * 20}, OWN) == OWN
    assert choose_setting({OWN: [0.0], other: [1.0]}, OWN) == OWN
