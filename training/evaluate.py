"""`make eval-model`: the embedded model on held-out scenes, in process, through the product's own parts.

For each scene (held-out fonts and backgrounds) the original is rendered and saved as a JPEG; the edge's code
makes the global view and every crop; the server's engine, gate and localisation do the rest. Printed: tables
by text height in the global image and, as last line, one JSON document.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import pathlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from edge_client.budget import PixelBudget
from edge_client.encoding import encode
from edge_client.images import Original
from edge_client.settings import EdgeSettings
from evaluation.intervals import auroc
from scenes.generator import Scene, shown_share
from scenes.photos import originals
from server.engine.loader import load_engine
from server.engine.protocol import AnswerRequest, AnswerResult, Engine, Picture
from server.gate import judge
from server.localization import locate, relative_attention
from shared.protocol import MEDIA_TYPES
from shared.wire import ImageSize, PixelBox
from training.views import product_window

BANDS = ((0, 4), (4, 6), (6, 9), (9, math.inf))
TRUE_CROP_JITTER_CELLS = 0.0


@dataclass(slots=True)
class Row:
    """One question. `box_share`: the share of the sign that the model's box holds (reading questions)."""

    kind: str
    height: float
    answer: str
    first: str
    min_entropy: float
    shannon: float
    margin: float
    with_crop: str = ""
    with_true_crop: str = ""
    box_share: float = 0.0
    crop_min_entropy: float = 0.0

    @property
    def is_right(self) -> bool:
        return self.first == self.answer

    def is_right_as_pair(self, threshold: float) -> bool:
        """The answer of both stages under a gate at that min-entropy."""
        return (self.with_crop if self.min_entropy > threshold else self.first) == self.answer


class Edge:
    """The edge's work on one original, without the network."""

    def __init__(self, jpeg: bytes, engine: Engine, settings: EdgeSettings) -> None:
        self._original = Original(jpeg)
        self._engine, self._settings = engine, settings

    def global_picture(self, key: str) -> Picture:
        budget = self._engine.info.image
        within = PixelBudget(budget.max_width, budget.max_height, budget.max_pixels)
        return self._sent(self._original.global_image(within), self._settings.image_recipe, key)

    def patch(self, box: PixelBox, key: str) -> Picture:
        budget = self._engine.info.patch
        within = PixelBudget(budget.max_width, budget.max_height, budget.max_pixels)
        pixels = (box.left, box.top, box.right, box.bottom)
        return self._sent(self._original.patch(pixels, within), self._settings.patch_recipe, key)

    def _sent(self, image: Image.Image, recipe: Any, key: str) -> Picture:
        encoded = encode(image, recipe, accepted=MEDIA_TYPES, max_bytes=1 << 22)
        assert encoded is not None
        return Picture(key=key, rgb=np.asarray(Image.open(io.BytesIO(encoded.data)).convert("RGB")))


def _answer(engine: Engine, request: AnswerRequest) -> AnswerResult:
    result = engine.answer([request])[0]
    if isinstance(result, Exception):
        raise result
    return result


def ask_scene(engine: Engine, settings: EdgeSettings, scene: Scene, jpeg: bytes) -> list[Row]:
    """Every question of one scene at stage one; reading ones also with the model's crop and the true one."""
    edge = Edge(jpeg, engine, settings)
    size = ImageSize(width=scene.width, height=scene.height)
    picture = edge.global_picture(f"{scene.seed}")
    how = engine.info.localization
    neutral = engine.neutral_attention(picture) if how.attention == "relative" else None
    rng = np.random.default_rng([scene.seed, 41])
    rows = []
    for question in scene.questions:
        result = _answer(engine, AnswerRequest(picture, question.text))
        confidence = judge(result.tokens, engine.info.gate)
        height = (
            scene.text_height_in_view(scene.signs[question.sign]) if question.sign is not None else math.nan
        )
        row = Row(
            question.kind,
            height,
            question.answer,
            result.text,
            confidence.min_entropy,
            confidence.shannon,
            confidence.margin,
        )
        rows.append(row)
        if question.kind != "read" or question.sign is None:
            continue
        assert result.attention is not None
        attention = result.attention if neutral is None else relative_attention(result.attention, neutral)
        box = locate(attention, size, how)
        sign = scene.signs[question.sign]
        row.box_share = shown_share(sign.box, (box.left, box.top, box.right, box.bottom))
        second = _answer(
            engine, AnswerRequest(picture, question.text, edge.patch(box, f"{scene.seed}:{question.sign}"))
        )
        row.with_crop, row.crop_min_entropy = second.text, judge(second.tokens, engine.info.gate).min_entropy
        left, top, right, bottom = product_window(rng, scene, sign, jitter_cells=TRUE_CROP_JITTER_CELLS)
        true_box = PixelBox(left=int(left), top=int(top), right=int(right), bottom=int(bottom))
        row.with_true_crop = _answer(
            engine,
            AnswerRequest(picture, question.text, edge.patch(true_box, f"{scene.seed}:{question.sign}:true")),
        ).text
    return rows


def _mean(values: list[bool] | list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def summarize(rows: list[Row], threshold: float, scenes: int) -> dict[str, float]:
    reads = [row for row in rows if row.kind == "read"]
    coarse = [row for row in rows if row.kind in ("count", "presence")]
    wrong = [row for row in reads if not row.is_right]
    pair = _mean([row.is_right_as_pair(threshold) for row in reads])
    true_crop = _mean([row.with_true_crop == row.answer for row in reads])
    first = _mean([row.is_right for row in reads])
    figures = {
        "scenes": scenes,
        "read_legible": _mean([row.is_right for row in reads if row.height >= 9]),
        "read_illegible_stage1": _mean([row.is_right for row in reads if row.height < 4]),
        "min_entropy_illegible": _mean([row.min_entropy for row in reads if row.height < 4]),
        "read_with_crop": true_crop,
        "coarse": _mean([row.is_right for row in coarse]),
        "color": _mean([row.is_right for row in rows if row.kind == "color"]),
        "gate_auroc": auroc([row.min_entropy for row in rows], [not row.is_right for row in rows]),
        "gate_auroc_reads": auroc([row.min_entropy for row in reads], [not row.is_right for row in reads]),
        "gate_auroc_shannon": auroc([row.shannon for row in rows], [not row.is_right for row in rows]),
        "gate_auroc_margin": auroc([row.margin for row in rows], [not row.is_right for row in rows]),
        "box_hit": _mean([row.box_share >= 0.9 for row in wrong]),
        "read_stage1": first,
        "read_pair": pair,
        "retransmission_rate": _mean([row.min_entropy > threshold for row in reads]),
        "pair_gain_points": 100 * (pair - first),
        "pair_vs_true_crop_points": 100 * (pair - true_crop),
    }
    return {name: round(value, 4) for name, value in figures.items()}


def print_tables(rows: list[Row], threshold: float) -> None:
    table = Table(title="Reading, by height of the capitals in the global image (px)")
    for column in (
        "height",
        "questions",
        "stage 1",
        "min-entropy",
        "asks again",
        "box holds sign",
        "pair",
        "true crop",
    ):
        table.add_column(column, justify="right")
    for low, high in BANDS:
        part = [row for row in rows if row.kind == "read" and low <= row.height < high]
        shares = (
            _mean([row.is_right for row in part]),
            _mean([row.min_entropy for row in part]),
            _mean([row.min_entropy > threshold for row in part]),
            _mean([row.box_share >= 0.9 for row in part if not row.is_right]),
            _mean([row.is_right_as_pair(threshold) for row in part]),
            _mean([row.with_true_crop == row.answer for row in part]),
        )
        table.add_row(f"{low}-{high}", str(len(part)), *(f"{share:.3f}" for share in shares))
    other = Table(title="Other questions, stage 1")
    for column in ("kind", "questions", "right", "min-entropy"):
        other.add_column(column, justify="right")
    for kind in ("count", "presence", "color"):
        part = [row for row in rows if row.kind == kind]
        other.add_row(
            kind,
            str(len(part)),
            f"{_mean([r.is_right for r in part]):.3f}",
            f"{_mean([r.min_entropy for r in part]):.3f}",
        )
    console = Console(width=110)
    console.print(table, other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument(
        "--rows", type=pathlib.Path, help="also write every question's result there, as JSON lines"
    )
    arguments = parser.parse_args()
    engine, settings = load_engine(arguments.model), EdgeSettings()
    rows: list[Row] = []
    started = time.monotonic()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    for done, (scene, jpeg) in enumerate(originals(seeds, arguments.workers), start=1):
        rows += ask_scene(engine, settings, scene, jpeg)
        if done % 50 == 0:
            eta = (time.monotonic() - started) / done * (arguments.scenes - done)
            print(f"{done}/{arguments.scenes} scenes, {eta / 60:.1f} min to go", flush=True)
    if arguments.rows:
        arguments.rows.write_text(
            "".join(json.dumps({n: getattr(row, n) for n in Row.__slots__}) + "\n" for row in rows)
        )
    threshold = engine.info.gate.threshold
    print_tables(rows, threshold)
    print(json.dumps(summarize(rows, threshold, arguments.scenes)))


if __name__ == "__main__":
    main()
