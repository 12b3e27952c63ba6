"""Which encodings of picture and region are best: the fewest bytes that lose next to nothing.

All pairs of encodings answered the same questions, so differences are paired. Knows nothing of servers,
pictures or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secondglance_eval.judging.intervals import Estimate, Floats, Resamples
from secondglance_protocol.wire import EncodingRecipe, Recipes

EDGES_OWN = Recipes(
    image=EncodingRecipe(format="webp", quality=40), patch=EncodingRecipe(format="webp", quality=85)
)
"""What an edge sends for a model that names no recipes: what others are compared with."""

IMAGES = tuple(
    EncodingRecipe(format="webp", quality=quality, scale=scale)
    for quality, scale in ((30, 1.0), (20, 1.0), (12, 1.0), (40, 0.8), (25, 0.8), (40, 0.65))
)
PATCHES = tuple(
    EncodingRecipe(format="webp", quality=quality, scale=scale)
    for quality, scale in ((60, 1.0), (40, 1.0), (25, 1.0), (50, 0.7), (30, 0.7), (40, 0.5))
)


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """One set of questions under each pair of encodings: a value a question, in the same order for all."""

    name: str
    image_ids: Sequence[str]
    scores: Mapping[Recipes, Floats]
    uplink: Mapping[Recipes, Floats]


@dataclass(frozen=True, slots=True)
class RecipeLine:
    """One pair of encodings on one set, beside `EDGES_OWN`. `lost`: points of right answers."""

    set_name: str
    recipes: Recipes
    questions: int
    accuracy: Estimate
    uplink_bytes: Estimate
    lost: Estimate
    ratio: Estimate


def parse_recipe(text: str) -> EncodingRecipe:
    """Return the recipe of `FORMAT:QUALITY` or `FORMAT:QUALITY:SCALE`. Raises ValueError."""
    parts = text.split(":")
    if len(parts) not in (2, 3):
        raise ValueError(f"{text!r}: FORMAT:QUALITY or FORMAT:QUALITY:SCALE is needed, such as webp:40:0.8")
    return EncodingRecipe.model_validate(
        dict(zip(("format", "quality", "scale"), parts, strict=False)), strict=False
    )


def name_of(recipes: Recipes) -> str:
    """Return both recipes in words: `webp 40, region webp 85 at 0.7`."""
    return f"{_in_words(recipes.image)}, region {_in_words(recipes.patch)}"


def compare(outcomes: Outcomes, tried: Sequence[Recipes]) -> list[RecipeLine]:
    """Return a line for each, with 95 % intervals; `EDGES_OWN` must be among the outcomes."""
    resamples = Resamples(outcomes.image_ids)
    own_score, own_uplink = outcomes.scores[EDGES_OWN], outcomes.uplink[EDGES_OWN]
    return [
        RecipeLine(
            outcomes.name,
            recipes,
            len(own_score),
            resamples.mean(outcomes.scores[recipes]),
            resamples.mean(outcomes.uplink[recipes]),
            resamples.difference(own_score, outcomes.scores[recipes]).times(100),
            resamples.ratio(outcomes.uplink[recipes], own_uplink),
        )
        for recipes in tried
    ]


def fewest_bytes(sets: Sequence[Outcomes], tried: Sequence[Recipes], *, max_points_lost: float) -> Recipes:
    """Return what sends least of those that lose at most so many points on every set.

    The sets count alike, whatever their pictures weigh: the mean of the ratios decides.
    """

    def lost(recipes: Recipes) -> float:
        return max(100 * float(np.mean(one.scores[EDGES_OWN] - one.scores[recipes])) for one in sets)

    def ratio(recipes: Recipes) -> float:
        return float(np.mean([one.uplink[recipes].mean() / one.uplink[EDGES_OWN].mean() for one in sets]))

    fit = [recipes for recipes in tried if lost(recipes) <= max_points_lost]
    return min(fit, key=ratio, default=EDGES_OWN)


def _in_words(recipe: EncodingRecipe | None) -> str:
    if recipe is None:
        return "the edge's own"
    smaller = "" if recipe.scale == 1 else f" at {recipe.scale:g}"
    return f"{recipe.format} {recipe.quality}{smaller}"
