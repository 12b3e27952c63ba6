"""`make eval-model`: a model on held-out scenes, in process, through the product's own parts.

For each scene (held-out fonts and backgrounds) the original is rendered and saved as a JPEG; the edge's code
makes the global view and every crop; the server's engine, gate and localisation do the rest. Printed: tables
by text height in the global image and, as last line, one JSON document. Its `photo_*` keys are of scenes on
photographs, with fonts and words that no training saw (docs/training-reader.md names the packages). What is
`illegible` there is text too small for the first picture, which only the second look can read: drawn scenes
again, from an edge whose first picture has 224 px a side (`image_scale`), and of their questions those.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import reader
from scenes.generator import VIEW_SIDE_PX, Scene, shown_share
from scenes.photos import original_of
from scenes.signs import Sign
from secondglance.settings import EdgeSettings
from secondglance_eval.asking.in_process import Edge, answers, corners, region, wanted_region
from secondglance_eval.judging.intervals import auroc
from secondglance_protocol.wire import PixelBox
from secondglance_server.engine import processes
from secondglance_server.engine.loader import EMBEDDED, READER, load_engine
from secondglance_server.engine.protocol import AnswerRequest, Engine, GateDefaults
from secondglance_server.inference.gate import judge
from training.pictures.views import product_window

Found = TypeVar("Found")
BANDS = ((0, reader.TINY_PX), (reader.TINY_PX, 6), (6, 9), (9, math.inf))


@dataclass(slots=True)
class Row:
    """One question.

    `with_crop`: the answer with the model's crop, of reading questions and where the gate fires. Of reading
    ones: `with_true_crop`; `box_share`, the share of the sign that the model's box holds. `is_skipped`: the
    server asks for no crop, however unsure the answer is.
    """

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
    is_skipped: bool = False

    @property
    def is_right(self) -> bool:
        return self.first == self.answer

    def is_right_as_pair(self, threshold: float) -> bool:
        """The answer of both stages under a gate at that min-entropy."""
        asks_again = self.min_entropy > threshold and not self.is_skipped
        return (self.with_crop if asks_again else self.first) == self.answer


def ask_scene(engine: Engine, settings: EdgeSettings, scene: Scene, jpeg: bytes) -> list[Row]:
    """Ask every question of a scene; again with the model's crop where it reads or where the gate fires, and
    reading ones with the true crop too."""
    edge = Edge(engine, settings, jpeg)
    rng = np.random.default_rng([scene.seed, 41])
    side = max(edge.whole.rgb.shape)
    drafts = answers(engine, [AnswerRequest(edge.whole, question.text) for question in scene.questions])
    rows = []
    for question, draft in zip(scene.questions, drafts, strict=True):
        confidence = judge(draft.tokens, engine.info.gate)
        sign = None if question.sign is None else scene.signs[question.sign]
        row = Row(
            question.kind,
            scene.text_height_in_view(sign, side) if sign else math.nan,
            question.answer,
            draft.text,
            confidence.min_entropy,
            confidence.shannon,
            confidence.margin,
        )
        rows.append(row)
        read = sign if question.kind == "read" else None
        if read is None and confidence.min_entropy <= engine.info.gate.threshold:
            continue
        wanted = wanted_region(engine, draft, edge.whole, edge.size)
        row.is_skipped = wanted is None
        boxes = [wanted or region(engine, draft, edge.whole, edge.size)]
        if read is not None:
            row.box_share = shown_share(read.box, corners(boxes[0]))
            boxes.append(_true_box(rng, scene, read))
        second, *with_true_crop = answers(
            engine, [AnswerRequest(edge.whole, question.text, edge.crop(box)) for box in boxes]
        )
        row.with_crop, row.crop_min_entropy = second.text, judge(second.tokens, engine.info.gate).min_entropy
        if read is not None:
            row.with_true_crop = with_true_crop[0].text
    return rows


def ask_illegible(engine: Engine, scene: Scene, jpeg: bytes) -> list[Row]:
    """Ask what text says that has under 4 px in a first picture of 224 px a side."""
    side = min(engine.info.image.max_width, VIEW_SIDE_PX)
    asked = tuple(
        question
        for question in scene.questions
        if question.kind == "read"
        and question.sign is not None
        and scene.text_height_in_view(scene.signs[question.sign], side) < reader.TINY_PX
    )
    settings = EdgeSettings(image_scale=side / engine.info.image.max_width)
    return ask_scene(engine, settings, replace(scene, questions=asked), jpeg)


def _true_box(rng: np.random.Generator, scene: Scene, sign: Sign) -> PixelBox:
    """As the product cuts it, the sign in its middle."""
    left, top, right, bottom = product_window(rng, scene, sign, jitter_cells=0.0)
    return PixelBox(left=int(left), top=int(top), right=int(right), bottom=int(bottom))


def _mean(values: list[bool] | list[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _pair(rows: list[Row], threshold: float) -> float:
    return _mean([row.is_right_as_pair(threshold) for row in rows])


def summarize(rows: list[Row], illegible: list[Row], threshold: float, scenes: int) -> dict[str, float]:
    reads = [row for row in rows if row.kind == "read"]
    coarse = [row for row in rows if row.kind in ("count", "presence")]
    wrong = [row for row in reads if not row.is_right]
    read_pair = _pair(reads, threshold)
    true_crop = _mean([row.with_true_crop == row.answer for row in reads])
    first = _mean([row.is_right for row in reads])
    figures = {
        "scenes": scenes,
        "questions": len(rows),
        "pair": _pair(rows, threshold),
        "read_legible": _mean([row.is_right for row in reads if row.height >= 9]),
        "illegible": len(illegible),
        "read_illegible_stage1": _mean([row.is_right for row in illegible]),
        "min_entropy_illegible": _mean([row.min_entropy for row in illegible]),
        "illegible_unsure": _mean([row.min_entropy > threshold for row in illegible]),
        "illegible_mended": _pair([row for row in illegible if not row.is_right], threshold),
        "read_with_crop": true_crop,
        "coarse": _mean([row.is_right for row in coarse]),
        "color": _mean([row.is_right for row in rows if row.kind == "color"]),
        "gate_auroc": auroc([row.min_entropy for row in rows], [not row.is_right for row in rows]),
        "gate_auroc_reads": auroc([row.min_entropy for row in reads], [not row.is_right for row in reads]),
        "gate_auroc_shannon": auroc([row.shannon for row in rows], [not row.is_right for row in rows]),
        "gate_auroc_margin": auroc([row.margin for row in rows], [not row.is_right for row in rows]),
        "box_hit": _mean([row.box_share >= 0.9 for row in wrong]),
        "read_stage1": first,
        "read_pair": read_pair,
        "count_pair": _pair([row for row in rows if row.kind == "count"], threshold),
        "retransmission_rate": _mean([row.min_entropy > threshold for row in reads]),
        "pair_gain_points": 100 * (read_pair - first),
        "pair_vs_true_crop_points": 100 * (read_pair - true_crop),
    }
    return {name: round(value, 4) for name, value in figures.items() if not math.isnan(value)}


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
            _pair(part, threshold),
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


@functools.cache
def engine_of(model: str) -> Engine:
    """Return this process's own."""
    return load_engine(model)


def gate_of(model: str) -> GateDefaults:
    return engine_of(model).info.gate


def drawn_rows(model: str, seed: int) -> tuple[list[Row], list[Row]]:
    """Return what came of a scene's questions, and of those about text that is too small."""
    engine, (scene, jpeg) = engine_of(model), original_of(seed)
    return ask_scene(engine, EdgeSettings(), scene, jpeg), ask_illegible(engine, scene, jpeg)


def photo_rows(model: str, seed: int) -> list[reader.Row]:
    return reader.photo_rows(engine_of(model), seed)


def of_all_scenes(
    pool: Executor, rows_of: Callable[[int], Found], seeds: Sequence[int], what: str
) -> list[Found]:
    """Return what came of each scene, in order."""
    rows: list[Found] = []
    started = time.monotonic()
    for done, found in enumerate(pool.map(rows_of, seeds, chunksize=2), start=1):
        rows.append(found)
        if done % 50 == 0:
            left = (time.monotonic() - started) / done * (len(seeds) - done)
            print(f"{what}: {done}/{len(seeds)} scenes, {left / 60:.1f} min to go", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--photo-scenes", type=int, help="on photo textures; as many as scenes if unset")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--model", default=EMBEDDED)
    parser.add_argument(
        "--workers", type=int,
        help="processes, each with the model in its memory; 2 for a model that comes with the server, else 1",
    )  # fmt: skip
    parser.add_argument(
        "--rows", type=pathlib.Path, help="also write every question's result there, as JSON lines"
    )
    arguments = parser.parse_args()
    model, wanted = arguments.model, arguments.photo_scenes
    workers = arguments.workers or (2 if model in (EMBEDDED, READER) else 1)
    drawn = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    photo = reader.photo_seeds(arguments.scenes if wanted is None else wanted)
    with processes.pool(workers) as pool:
        gate = pool.submit(gate_of, model).result()
        of_drawn = of_all_scenes(pool, functools.partial(drawn_rows, model), drawn, "drawn")
        of_photos = of_all_scenes(pool, functools.partial(photo_rows, model), photo, "photo textures")
    rows, illegible = (list(chain.from_iterable(found[part] for found in of_drawn)) for part in (0, 1))
    on_photos = list(chain.from_iterable(of_photos))
    if arguments.rows:
        arguments.rows.write_text(
            "".join(json.dumps({n: getattr(row, n) for n in Row.__slots__}) + "\n" for row in rows)
        )
    print_tables(rows, gate.threshold)
    photos = reader.photo_figures(on_photos, gate.doubts_above) if on_photos else {}
    print(json.dumps(summarize(rows, illegible, gate.threshold, arguments.scenes) | photos))


if __name__ == "__main__":
    main()
