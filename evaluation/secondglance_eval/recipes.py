"""`secondglance-eval recipes`: the encodings of picture and region that are best for one model.

First the region's, beside the edge's own picture; then the picture's, with the region's best. Every
question is put to the server with every pair of encodings, over HTTP: the server's gate decides what is
asked again, and the bytes are those on the socket. A run that was cut off goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secondglance_eval.asking.asker import Asker
from secondglance_eval.asking.methods import recipes_method
from secondglance_eval.asking.records import Record, RecordWriter, read_records
from secondglance_eval.asking.run import Pace, run
from secondglance_eval.campaign import RECORDS_FILE
from secondglance_eval.datasets.example import Dataset
from secondglance_eval.errors import CalibrationError
from secondglance_eval.judging.intervals import Estimate, Floats
from secondglance_eval.judging.recipe_choice import (
    EDGES_OWN,
    Outcomes,
    RecipeLine,
    compare,
    fewest_bytes,
    name_of,
    parse_recipe,
)
from secondglance_eval.markdown import markdown_table
from secondglance_protocol.wire import EncodingRecipe, Recipes
from secondglance_server.engine.model_defaults import ModelDefaults

_HEAD = ("questions", "picture, region", "right, %", "points lost", "bytes up", "of the edge's own")


@dataclass(frozen=True, slots=True)
class Asked:
    """A set of questions, who asks them, and the folder of its records."""

    data: Dataset
    asker: Asker
    folder: Path


@dataclass(frozen=True, slots=True)
class RecipeStudy:
    """What was tried, on each set, and what was chosen."""

    chosen: Recipes
    lines: tuple[RecipeLine, ...]

    def table(self) -> str:
        """Return all figures as a table, the chosen pair marked."""
        rows = [
            (
                f"{line.set_name} ({line.questions:,})",
                name_of(line.recipes) + (" (chosen)" if line.recipes == self.chosen else ""),
                f"{line.accuracy.times(100):.1f}",
                f"{line.lost:.1f}",
                f"{line.uplink_bytes:,.0f}",
                f"{line.ratio:.3f}",
            )
            for line in self.lines
        ]
        return markdown_table(_HEAD, rows)

    def summary(self) -> dict[str, Any]:
        """Return what was chosen and what it showed on each set, for JSON."""
        shown = {line.set_name: _figures(line) for line in self.lines if line.recipes == self.chosen}
        return {"recipes": self.chosen.model_dump(), "sets": shown}


def choose_recipes(
    sets: Sequence[Asked],
    *,
    images: Sequence[EncodingRecipe],
    patches: Sequence[EncodingRecipe],
    max_points_lost: float,
    pace: Pace,
) -> RecipeStudy:
    """Measure and choose. Raises EdgeError, RecordsError, CalibrationError."""
    tried = [EDGES_OWN, *(EDGES_OWN.model_copy(update={"patch": patch}) for patch in patches)]
    found = [_answered(one, tried, pace) for one in sets]
    chosen = fewest_bytes(found, tried, max_points_lost=max_points_lost)
    with_images = [chosen.model_copy(update={"image": image}) for image in images]
    tried = list(dict.fromkeys([*tried, *with_images]))
    found = [_answered(one, tried, pace) for one in sets]
    chosen = fewest_bytes(found, tried, max_points_lost=max_points_lost)
    lines = [line for outcomes in found for line in compare(outcomes, tried)]
    return RecipeStudy(chosen, tuple(lines))


def recipes_of(texts: Sequence[str] | None, usual: Sequence[EncodingRecipe]) -> list[EncodingRecipe]:
    """Return the recipes that the texts name, or the usual ones. Raises CalibrationError."""
    try:
        return [parse_recipe(text) for text in texts] if texts else list(usual)
    except ValueError as exc:
        raise CalibrationError(str(exc)) from exc


def write_recipes(recipes: Recipes, path: Path) -> None:
    """Put the recipes into a model's `secondglance.json`; its other keys stay. Raises CalibrationError."""
    try:
        document = json.loads(path.read_bytes()) if path.exists() else {}
        document["recipes"] = recipes.model_dump()
        ModelDefaults.model_validate(document)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    except (OSError, ValueError, TypeError) as exc:
        raise CalibrationError(f"{path} does not take recipes: {exc}") from exc


def _answered(asked: Asked, tried: Sequence[Recipes], pace: Pace) -> Outcomes:
    path = asked.folder / RECORDS_FILE
    methods = [recipes_method(name_of(recipes), recipes) for recipes in tried]
    with RecordWriter(path) as writer:
        run(asked.data, methods, asked.asker, writer, pace=pace, what=asked.data.name)
    by_method: dict[str, dict[str, Record]] = {}
    for record in read_records(path):
        by_method.setdefault(record.method, {})[record.example_id] = record
    first = by_method.get(name_of(EDGES_OWN), {})
    if not first:
        raise CalibrationError(f"{asked.data.name}: it holds no question")

    def column(recipes: Recipes, value: str) -> Floats:
        rows = by_method[name_of(recipes)]
        return np.array([getattr(rows[each], value) for each in first], dtype=np.float64)

    return Outcomes(
        asked.data.name,
        [record.image_id for record in first.values()],
        {recipes: column(recipes, "score") for recipes in tried},
        {recipes: column(recipes, "uplink_bytes") for recipes in tried},
    )


def _figures(line: RecipeLine) -> dict[str, Any]:
    def shown(value: Estimate, digits: int) -> list[float]:
        return [round(each, digits) for each in (value.value, value.low, value.high)]

    return {
        "questions": line.questions,
        "accuracy": shown(line.accuracy, 4),
        "points_lost": shown(line.lost, 2),
        "uplink_bytes": shown(line.uplink_bytes, 1),
        "bytes_ratio": shown(line.ratio, 4),
    }
