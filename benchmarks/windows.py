"""Which region to ask for: padding, smallest window, a second smaller round, a second region.

    python -m benchmarks.windows [--scenes 100] [--first-seed 401000] [--rows out/windows.jsonl]

In process, on held-out scenes of 4-12 megapixels, reading questions only: each is asked with every window,
whatever the gate says, so that any gate can be judged afterwards. The second round localises within the first
crop and cuts again from the original; the second region is looked for with the first one blanked. Both are
used only where the answer with the first crop is still doubtful, and the surer of the two answers counts.
Scenes already in `--rows` are not asked again. Prints a table and, last, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.codecs import read_rows
from scenes.generator import shown_share
from secondglance.settings import EdgeSettings
from secondglance_eval.asking.in_process import Edge, answers, compared, corners
from secondglance_eval.asking.prefetch import pictures_ahead, with_pictures
from secondglance_eval.datasets.example import Example
from secondglance_eval.datasets.held_out import HeldOutScenes
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, AttentionMap, Engine
from secondglance_server.inference.gate import judge
from secondglance_server.inference.localization import locate

PADS = (0.0, 0.25, 0.5, 0.75)
SMALLEST = (1.2, 1.6, 2.0)
FIRST = "the model's own"
TRUE_CROP = "true box, pad 0.25 of it"


def study(engine: Engine, group: Sequence[Example], data: bytes) -> list[dict[str, Any]]:
    """One row for each reading question."""
    edge = Edge(engine, EdgeSettings(), data)
    asked = [example for example in group if example.kind == "read"]
    drafts = answers(engine, [AnswerRequest(edge.whole, example.question) for example in asked])
    return [_row(engine, edge, example, draft) for example, draft in zip(asked, drafts, strict=True)]


def _row(engine: Engine, edge: Edge, example: Example, draft: AnswerResult) -> dict[str, Any]:
    attention = compared(engine, draft, edge.whole)
    how = engine.info.localization
    boxes = {FIRST: locate(attention, edge.size, how)} | {
        f"pad {pad} least {least}": locate(
            attention, edge.size, replace(how, pad_cells=pad, min_side_cells=least)
        )
        for pad in PADS
        for least in SMALLEST
    }
    assert example.box is not None, "a reading question has a sign"
    boxes[TRUE_CROP] = _padded(example.box, edge.size)
    first = boxes[FIRST]
    boxes["second region"] = locate(_blanked(attention, first, edge.size), edge.size, how)
    boxes["second round"] = _within(engine, edge, example, first)
    requests = [AnswerRequest(edge.whole, example.question, edge.crop(box)) for box in boxes.values()]
    found = answers(engine, requests)
    return {
        "id": example.id,
        "seed": int(example.image_id),
        "height": example.text_height_px,
        "draft": _judged(engine, draft, example),
        "ways": {
            name: _judged(engine, result, example)
            | {"share": round(shown_share(corners(example.box), corners(box)), 3)}
            for (name, box), result in zip(boxes.items(), found, strict=True)
        },
    }


def _judged(engine: Engine, result: AnswerResult, example: Example) -> dict[str, Any]:
    doubts = {
        f"{metric} {aggregate}": getattr(
            judge(result.tokens, replace(engine.info.gate, aggregate=aggregate)), metric
        )
        for metric in ("min_entropy", "shannon", "margin")
        for aggregate in ("max", "mean", "first", "sum")
    }
    return {"right": result.text in example.answers, "doubts": doubts}


def _padded(box: PixelBox, size: ImageSize) -> PixelBox:
    across, down = round(0.25 * box.width), round(0.25 * box.height)
    return PixelBox(
        left=max(box.left - across, 0),
        top=max(box.top - down, 0),
        right=min(box.right + across, size.width),
        bottom=min(box.bottom + down, size.height),
    )


def _blanked(attention: AttentionMap, box: PixelBox, size: ImageSize) -> AttentionMap:
    """The map without what lies in the box."""
    weights = attention.weights.copy()
    rows, cols = weights.shape
    x0, y0, x1, y1 = attention.content
    xs = ((np.arange(cols) + 0.5) / cols - x0) / (x1 - x0) * size.width
    ys = ((np.arange(rows) + 0.5) / rows - y0) / (y1 - y0) * size.height
    inside = ((ys >= box.top) & (ys < box.bottom))[:, None] & ((xs >= box.left) & (xs < box.right))
    weights[inside] = 0.0
    return replace(attention, weights=weights)


def _within(engine: Engine, edge: Edge, example: Example, first: PixelBox) -> PixelBox:
    """A smaller region: where the model looks when the first crop is all it sees."""
    crop = edge.crop(first)
    draft = answers(engine, [AnswerRequest(crop, example.question)])[0]
    attention = compared(engine, draft, crop)
    size = ImageSize(width=first.width, height=first.height)
    inner = locate(attention, size, engine.info.localization)
    return PixelBox(
        left=first.left + inner.left,
        top=first.top + inner.top,
        right=first.left + inner.right,
        bottom=first.top + inner.bottom,
    )


Way = Callable[[dict[str, Any]], bool]


def pair(way: str, threshold: float, gate: str = "min_entropy max") -> Way:
    """Right as a pair with one region."""

    def is_right(row: dict[str, Any]) -> bool:
        doubtful = row["draft"]["doubts"][gate] > threshold
        return bool((row["ways"][way] if doubtful else row["draft"])["right"])

    return is_right


def again(more: str, threshold: float, gate: str = "min_entropy max") -> Way:
    """Right as a pair that looks once more where its second answer is doubtful; the surer answer counts."""

    def is_right(row: dict[str, Any]) -> bool:
        if row["draft"]["doubts"][gate] <= threshold:
            return bool(row["draft"]["right"])
        first, second = row["ways"][FIRST], row["ways"][more]
        if first["doubts"][gate] <= threshold or first["doubts"][gate] <= second["doubts"][gate]:
            return bool(first["right"])
        return bool(second["right"])

    return is_right


def difference(rows: Sequence[dict[str, Any]], way: Way, than: Way) -> tuple[float, float]:
    """Points that a way gains, and half its 95 % interval; scenes are the clusters."""
    seeds = sorted({row["seed"] for row in rows})
    gains = {seed: [0.0, 0.0] for seed in seeds}
    for row in rows:
        gains[row["seed"]][0] += way(row) - than(row)
        gains[row["seed"]][1] += 1
    sums, counts = np.array(list(gains.values())).T
    mean = sums.sum() / counts.sum()
    spread = np.sqrt(((sums - mean * counts) ** 2).sum()) / counts.sum()
    return float(100 * mean), float(196 * spread)


def ways_of(rows: Sequence[dict[str, Any]], threshold: float) -> dict[str, Way]:
    ways = {name: pair(name, threshold) for name in rows[0]["ways"] if not name.startswith("second")}
    return ways | {f"then a {name}": again(name, threshold) for name in ("second round", "second region")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--first-seed", type=int, default=401_000)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("out/windows.jsonl"))
    arguments = parser.parse_args()
    arguments.rows.parent.mkdir(parents=True, exist_ok=True)
    rows = read_rows(arguments.rows)
    done = {row["seed"] for row in rows}
    torch.set_num_threads(1)  # the renderer has the other core
    engine = load_engine(arguments.model)
    dataset = HeldOutScenes(arguments.scenes, arguments.first_seed)
    groups = [group for group in dataset if int(group[0].image_id) not in done]
    with arguments.rows.open("a") as file, pictures_ahead(1) as pool:
        for group, data in with_pictures(groups, pool, ahead=2):
            found = study(engine, group, data)
            file.write("".join(json.dumps(row) + "\n" for row in found))
            file.flush()
            rows += found
    threshold = engine.info.gate.threshold
    ways = ways_of(rows, threshold)
    table = Table(title=f"{len(rows)} reading questions, gate at {threshold}")
    for column in ("region", "window holds sign", "pair", "points against the default"):
        table.add_column(column, justify="right")
    figures = {}
    for name, way in ways.items():
        gain, half = difference(rows, way, ways[FIRST])
        accuracy = 100 * statistics.fmean(way(row) for row in rows)
        shares = [row["ways"][name.removeprefix("then a ")]["share"] >= 0.9 for row in rows]
        held = 100 * statistics.fmean(shares)
        figures[name] = {"pair": round(accuracy, 2), "points": round(gain, 2), "half": round(half, 2)}
        table.add_row(name, f"{held:.1f}", f"{accuracy:.1f}", f"{gain:+.2f} ± {half:.2f}")
    Console(width=110).print(table)
    print(json.dumps({"scenes": len({row["seed"] for row in rows}), "questions": len(rows), **figures}))


if __name__ == "__main__":
    main()
