"""What each rung of the edge's ladder costs and loses: the pair's accuracy and bytes for each encoding.

    python -m benchmarks.ladder [--scenes 200] [--first-seed 430000] [--rows out/ladder.jsonl]
                                [--out edge_client/secondglance/link/measured_encodings.json]
                                [--docs docs/network.md]

In process, through the product's own parts: the edge's pictures, the server's engine, gate and skip rule (a
test holds this and the pair over HTTP together). What an encoding loses does not depend on the link, so none
is in between. Every pair of encodings gets the same questions, all of each held-out scene, so differences are
paired; scenes are the clusters of their standard errors. Bytes are of the pictures alone.

Scenes that `--rows` has of the same model are not asked again, so a run may be interrupted. `--out` is
what the edge chooses by, `--docs` a page whose table is put in place. Prints a table and, last, one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.codecs import read_rows
from benchmarks.instruments.marked import put_between
from benchmarks.instruments.photos import originals
from scenes.generator import Scene
from secondglance.link.measured_encodings import MEASURED_FILE
from secondglance.pictures.encoding import Recipe
from secondglance.pictures.original import Original
from secondglance.settings import EdgeSettings
from secondglance_eval.asking.in_process import answers, corners, edge_budget, pixels, wanted_region, written
from secondglance_eval.facts import digest_of, files_of_model
from secondglance_eval.markdown import markdown_table
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, Engine, Picture
from secondglance_server.inference.gate import is_doubtful, judge

_FIXED = EdgeSettings.model_construct()  # the defaults, whatever the environment says
IMAGES: dict[str, tuple[Recipe, float]] = {  # the fixed one first, in both
    f"webp {_FIXED.image_quality}": (_FIXED.image_recipe, 1.0),
    "webp 30": (Recipe("webp", 30), 1.0),
    "webp 40 at 3/4": (Recipe("webp", 40), 0.75),
}
PATCHES: dict[str, Recipe] = {
    f"webp {_FIXED.patch_quality}": _FIXED.patch_recipe,
    "webp 70": Recipe("webp", 70),
    "webp 50": Recipe("webp", 50),
    "webp 30": Recipe("webp", 30),
}
FIXED_IMAGE, FIXED_PATCH = next(iter(IMAGES)), next(iter(PATCHES))
_NOTHING_LOST = {"points_lost": 0.0, "standard_error": 0.0}  # by the fixed setting, which is the measure
Row = dict[str, Any]
Flags = Sequence[Sequence[bool]]  # by scene


def ask_scene(engine: Engine, scene: Scene, jpeg: bytes) -> Row:
    """For each way to encode the picture: its bytes, the drafts that are right, and for each way to encode a
    region what the second stage made of every question: right or not and bytes, None where none was wanted.
    """
    size = ImageSize(width=scene.width, height=scene.height)
    truths = [question.answer for question in scene.questions]
    found: dict[str, Any] = {}
    crops: dict[PixelBox, Image.Image] = {}
    with Original(jpeg) as original:
        for image, (recipe, scale) in IMAGES.items():
            budget = edge_budget(engine.info.image).scaled(scale)
            data = written(original.global_image(budget), recipe)
            picture = Picture(f"{scene.seed}:{image}", pixels(data))
            drafts = answers(engine, [AnswerRequest(picture, q.text) for q in scene.questions])
            boxes = wanted(engine, picture, drafts, size)
            for box in boxes:
                if box is not None and box not in crops:
                    crops[box] = original.patch(corners(box), edge_budget(engine.info.patch))
            found[image] = {
                "bytes": len(data),
                "drafts": [draft.text == truth for draft, truth in zip(drafts, truths, strict=True)],
                "patches": {
                    name: second_stages(engine, scene, picture, boxes, crops, name) for name in PATCHES
                },
            }
    return {"seed": scene.seed, "kinds": [q.kind for q in scene.questions], "images": found}


def wanted(
    engine: Engine, picture: Picture, drafts: Sequence[AnswerResult], original: ImageSize
) -> list[PixelBox | None]:
    """The region that the server would ask for, for each draft."""
    return [
        wanted_region(engine, draft, picture, original)
        if is_doubtful(judge(draft.tokens, engine.info.gate), draft.tokens)
        else None
        for draft in drafts
    ]


def second_stages(
    engine: Engine,
    scene: Scene,
    picture: Picture,
    boxes: Sequence[PixelBox | None],
    crops: dict[PixelBox, Image.Image],
    patch: str,
) -> list[tuple[bool, int] | None]:
    sent = [written(crops[box], PATCHES[patch]) if box else None for box in boxes]
    requests = [
        AnswerRequest(picture, question.text, Picture(f"{picture.key}:{patch}:{box}", pixels(data)))
        for question, box, data in zip(scene.questions, boxes, sent, strict=True)
        if data is not None
    ]
    results = iter(answers(engine, requests))
    return [
        None if data is None else (next(results).text == question.answer, len(data))
        for question, data in zip(scene.questions, sent, strict=True)
    ]


def model_digest() -> str:
    """Of the embedded model: rows of another are other rows."""
    folder = files_of_model("embedded")
    assert folder is not None, "it comes with the server"
    return digest_of(folder)[:16]


def collect(path: pathlib.Path, seeds: Sequence[int], workers: int) -> list[Row]:
    """Asks about the scenes that are missing, one line a scene; the rows of `seeds`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    terms = [model_digest(), *IMAGES, *PATCHES]

    def known() -> dict[int, Row]:
        return {row["seed"]: row for row in read_rows(path) if row["terms"] == terms}

    missing = [seed for seed in seeds if seed not in known()]
    if missing:
        torch.set_num_threads(1)  # the renderer has the other core; two threads that wait for it are slower
        engine, began = load_engine("embedded"), time.monotonic()
        with path.open("a") as file:
            for count, (scene, jpeg) in enumerate(originals(missing, workers), start=1):
                file.write(json.dumps({"terms": terms, **ask_scene(engine, scene, jpeg)}) + "\n")
                file.flush()
                if count % 20 == 0:
                    print(f"{count}/{len(missing)} scenes, {time.monotonic() - began:.0f} s", flush=True)
    rows = known()
    return [rows[seed] for seed in seeds]


def outcomes(row: Row, image: str, patch: str) -> list[bool]:
    """Whether the pair was right, for each question of a scene."""
    found = row["images"][image]
    return [
        draft if second is None else second[0]
        for draft, second in zip(found["drafts"], found["patches"][patch], strict=True)
    ]


def lost(fixed: Flags, other: Flags) -> dict[str, float]:
    """Points that `other` is below `fixed`, and the standard error, with scenes as clusters.

    As if one more question differed: rungs that were never seen to differ are not proven equal.
    """
    losses = np.array([sum(a) - sum(b) for a, b in zip(fixed, other, strict=True)], dtype=float)
    counts = np.array([len(a) for a in fixed], dtype=float)
    mean = losses.sum() / counts.sum()
    error = np.sqrt(((losses - mean * counts) ** 2).sum() + 1) / counts.sum()
    return {"points_lost": round(float(100 * mean), 2), "standard_error": round(float(100 * error), 2)}


def accuracy(flags: Flags) -> float:
    return round(sum(map(sum, flags)) / sum(map(len, flags)), 4)


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Both ladders as the edge reads them, and every pair of encodings against the fixed one."""
    kinds = [kind for row in rows for kind in row["kinds"]]
    return {
        "questions": len(kinds),
        "reading": kinds.count("read"),
        "images": [_image_rung(rows, name) for name in IMAGES],
        "patches": [_patch_rung(rows, name) for name in PATCHES],
        "pairs": {f"{i} / {p}": _pair(rows, i, p) for i in IMAGES for p in PATCHES},
    }


def _image_rung(rows: Sequence[Row], image: str) -> Row:
    fixed, other = ([outcomes(row, name, FIXED_PATCH) for row in rows] for name in (FIXED_IMAGE, image))
    glances = [second is not None for row in rows for second in row["images"][image]["patches"][FIXED_PATCH]]
    recipe, scale = IMAGES[image]
    return {
        "name": image,
        "format": recipe.format,
        "quality": recipe.quality,
        "scale": scale,
        "bytes": round(float(np.mean([row["images"][image]["bytes"] for row in rows]))),
        "second_glances": round(float(np.mean(glances)), 4),
        "accuracy": accuracy(other),
        **(_NOTHING_LOST if image == FIXED_IMAGE else lost(fixed, other)),
    }


def _patch_rung(rows: Sequence[Row], patch: str) -> Row:
    """Among the questions that needed a region."""
    glances = {
        name: [[second for second in row["images"][FIXED_IMAGE]["patches"][name] if second] for row in rows]
        for name in PATCHES
    }
    right = {name: [[second[0] for second in scene] for scene in found] for name, found in glances.items()}
    fixed = right[FIXED_PATCH]
    return {
        "name": patch,
        "format": PATCHES[patch].format,
        "quality": PATCHES[patch].quality,
        "bytes": round(float(np.mean([second[1] for scene in glances[patch] for second in scene]))),
        "accuracy": accuracy(right[patch]),
        **(_NOTHING_LOST if patch == FIXED_PATCH else lost(fixed, right[patch])),
    }


def _pair(rows: Sequence[Row], image: str, patch: str) -> Row:
    """In the mix of all questions, and of the reading questions alone."""

    def flags(image: str, patch: str, kinds: Iterable[str]) -> list[list[bool]]:
        return [
            [
                right
                for right, kind in zip(outcomes(row, image, patch), row["kinds"], strict=True)
                if kind in kinds
            ]
            for row in rows
        ]

    mix = ("read", "color", "count", "presence")
    pair: Row = {}
    for prefix, kinds in (("", mix), ("reading_", ("read",))):
        fixed = flags(FIXED_IMAGE, FIXED_PATCH, kinds)
        other = flags(image, patch, kinds)
        pair[f"{prefix}accuracy"] = accuracy(other)
        loss = _NOTHING_LOST if (image, patch) == (FIXED_IMAGE, FIXED_PATCH) else lost(fixed, other)
        pair |= {f"{prefix}{name}": value for name, value in loss.items()}
    return pair


def described(found: dict[str, Any]) -> list[list[str]]:
    """The rows of the table, for the terminal and for the page."""
    rows = []
    for what, ladder in (("picture", found["images"]), ("region", found["patches"])):
        for rung in ladder:
            points = f"{rung['points_lost']:+.2f} ± {rung['standard_error']:.2f}"
            glances = f"{100 * rung['second_glances']:.1f} %" if "second_glances" in rung else ""
            accuracy_ = f"{100 * rung['accuracy']:.1f} %"
            name = f"{what}, {rung['name']}"
            if rung is ladder[0]:
                name, points = f"{name} (fixed)", ""
            rows.append([name, f"{rung['bytes']:,}", glances, accuracy_, points])
    return rows


_COLUMNS = ("", "bytes", "second glances", "accuracy", "points lost ± standard error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=430_000)
    parser.add_argument("--workers", type=int, default=1, help="processes that render")
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("out/ladder.jsonl"))
    parser.add_argument("--out", type=pathlib.Path, help=f"the edge's: {MEASURED_FILE}")
    parser.add_argument("--docs", type=pathlib.Path)
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    rows = collect(arguments.rows, seeds, arguments.workers)
    terms = {"scenes": len(rows), "first_seed": arguments.first_seed, "model": model_digest()}
    document = {**terms, **figures(rows)}
    table = Table(title=f"{document['questions']} questions about {len(rows)} held-out scenes")
    for column in _COLUMNS:
        table.add_column(column, justify="right")
    for cells in described(document):
        table.add_row(*cells)
    Console(width=120).print(table)
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.docs:
        about = (
            f"{document['questions']:,} questions of all kinds about {len(rows)} held-out scenes, "
            f"{document['reading']:,} of them reading:"
        )
        put_between(arguments.docs, "ladder", f"{about}\n\n{markdown_table(_COLUMNS, described(document))}")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
