"""Which encoding of the global image and of the patch pays: accuracy against bytes, on held-out scenes.

    python -m benchmarks.codecs [--scenes 120] [--first-seed 400000] [--rows out/codecs.jsonl]

In process, through the product's own parts: the edge makes the pictures, the server's engine answers and
localises. Every encoding sees the same pixels and the same questions, so differences are paired. Each is
compared with the lossless picture. Scenes already in `--rows` are not asked again, so a run may be
interrupted. Prints two tables and, last, one JSON object.

The rule for the edge's defaults: the fewest mean bytes among the encodings that lose at most half a point
against lossless, in every column; where none does, at most half a point against JPEG 85 4:2:0.

Not covered: headers, which are the same for every encoding; time to encode.
"""

from __future__ import annotations

import argparse
import io
import json
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.instruments.photos import originals
from scenes.generator import Scene, shown_share
from secondglance.pictures.original import Original
from secondglance_eval.asking.in_process import answers, corners, edge_budget, pixels, region
from secondglance_protocol.wire import ImageSize
from secondglance_server.engine.loader import load_engine
from secondglance_server.engine.protocol import AnswerRequest, Engine, Picture

LOSSLESS = "PNG"
TOLERATED_POINTS = 0.5
_BEST_WEBP = (("method", 6),)  # the slowest search, the fewest bytes


@dataclass(frozen=True, slots=True)
class Codec:
    """One way to write a picture. `extra` holds options that change bytes or pixels beside the quality."""

    format: str
    quality: int | None = None
    subsampling: str = ""
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        parts = (self.format, self.quality, self.subsampling, *(f"{k}={v}" for k, v in self.extra))
        return " ".join(str(part) for part in parts if part not in ("", None))

    def write(self, image: Image.Image) -> bytes:
        options: dict[str, Any] = dict(self.extra)
        if self.quality is not None:
            options["quality"] = self.quality
        if self.subsampling:
            options["subsampling"] = self.subsampling
        if self.format == "JPEG":
            options = {"progressive": True} | options
        buffer = io.BytesIO()
        image.save(buffer, self.format, **options)
        return buffer.getvalue()


def _ways(
    *, halved: Sequence[int], full: Sequence[int], webp: Sequence[int], avif: Sequence[int]
) -> list[Codec]:
    """Qualities: of JPEG with chroma at half size and at full size, of WebP (always half) and of AVIF."""
    return [
        Codec(LOSSLESS),
        *(Codec("JPEG", quality, "4:2:0") for quality in halved),
        *(Codec("JPEG", quality, "4:4:4") for quality in full),
        *(Codec("WEBP", quality, extra=_BEST_WEBP) for quality in webp),
        *(Codec("AVIF", quality, "4:2:0") for quality in avif),
    ]


WAYS = {
    "global": _ways(
        halved=(20, 40, 55, 70, 85), full=(40, 70), webp=(15, 30, 50, 70, 85), avif=(15, 25, 35, 50)
    ),
    "patch": _ways(
        halved=(20, 40, 55, 70, 85),
        full=(20, 40, 70, 85),
        webp=(15, 30, 50, 60, 70, 78, 85),
        avif=(25, 35, 50, 65),
    ),
}

SAME_PIXELS = (  # bytes only: these change no pixel of a codec above
    Codec("JPEG", 85, "4:2:0", (("progressive", False), ("optimize", True))),
    Codec("JPEG", 85, "4:2:0", (("progressive", False),)),
)  # and, nearly, WebP by how long it searches
QUICK_WEBP = Codec("WEBP", 50, extra=(("method", 4),))


def study_scene(
    engine: Engine, scene: Scene, jpeg: bytes, part: str, ways: Sequence[Codec]
) -> dict[str, Any]:
    """Right or wrong for every encoding of one part and every question of one scene, with bytes."""
    study = _first_stages if part == "global" else _patches
    with Original(jpeg) as original:
        whole = original.global_image(edge_budget(engine.info.image))
        row = {"seed": scene.seed, "part": part, "original_bytes": len(jpeg)}
        return row | study(engine, scene, original, whole, ways)


def _first_stages(
    engine: Engine, scene: Scene, _: Original, whole: Image.Image, ways: Sequence[Codec]
) -> dict[str, Any]:
    """Which answers are right, and which reading questions' boxes hold their sign."""
    found = {}
    asked = [q for q in scene.questions if q.kind == "read"]
    for kind in ("color", "count", "presence"):
        asked += [q for q in scene.questions if q.kind == kind][:1]
    size = ImageSize(width=scene.width, height=scene.height)
    for codec in ways:
        data = codec.write(whole)
        # named by its encoding: pictures of one name share what the engine has computed for the first
        picture = Picture(f"{scene.seed}:{codec.name}", pixels(data))
        results = answers(engine, [AnswerRequest(picture, q.text) for q in asked])
        right, hits = [], []
        for question, result in zip(asked, results, strict=True):
            right.append(result.text == question.answer)
            if question.kind == "read" and question.sign is not None:
                box = region(engine, result, picture, size)
                sign = scene.signs[question.sign].box
                hits.append(shown_share(sign, corners(box)) >= 0.9)
        found[codec.name] = {"bytes": [len(data)], "right": right, "hits": hits}
    same = {codec.name: len(codec.write(whole)) for codec in (*SAME_PIXELS, QUICK_WEBP)}
    return {"kinds": [q.kind for q in asked], "codecs": found, "same_pixels": same}


def _patches(
    engine: Engine, scene: Scene, original: Original, whole: Image.Image, ways: Sequence[Codec]
) -> dict[str, Any]:
    """Stage two of the reading questions and one about a colour; the global image lossless, one box."""
    picture = Picture(f"{scene.seed}:whole", np.asarray(whole))
    asked = [q for q in scene.questions if q.kind == "read"]
    asked += [q for q in scene.questions if q.kind == "color"][:1]
    drafts = answers(engine, [AnswerRequest(picture, q.text) for q in asked])
    size = ImageSize(width=scene.width, height=scene.height)
    found: dict[str, Any] = {c.name: {"bytes": [], "right": []} for c in ways}
    for number, (question, draft) in enumerate(zip(asked, drafts, strict=True)):
        box = region(engine, draft, picture, size)
        crop = original.patch(corners(box), edge_budget(engine.info.patch))
        sent = {codec.name: codec.write(crop) for codec in ways}
        requests = [
            AnswerRequest(picture, question.text, Picture(f"{scene.seed}:{number}:{name}", pixels(data)))
            for name, data in sent.items()
        ]
        for (name, data), result in zip(sent.items(), answers(engine, requests), strict=True):
            found[name]["bytes"].append(len(data))
            found[name]["right"].append(result.text == question.answer)
    return {"kinds": [q.kind for q in asked], "codecs": found}


Row = dict[str, Any]
COLUMNS = {"global": ("read", "color", "coarse", "box"), "patch": ("read", "color")}
KINDS = {"read": ("read",), "color": ("color",), "coarse": ("count", "presence")}


def _flags(row: Row, codec: str, column: str) -> list[bool]:
    """The right-or-wrong flags of one scene under one encoding that a column averages."""
    found = row["codecs"][codec]
    if column == "box":
        return list(found["hits"])
    pairs = zip(found["right"], row["kinds"], strict=True)
    return [flag for flag, kind in pairs if kind in KINDS[column]]


def difference(rows: Sequence[Row], codec: str, column: str) -> tuple[float, float]:
    """Points against lossless and half the width of their 95 % interval; scenes are the clusters."""
    gains = np.array(
        [sum(_flags(row, codec, column)) - sum(_flags(row, LOSSLESS, column)) for row in rows], dtype=float
    )
    counts = np.array([len(_flags(row, LOSSLESS, column)) for row in rows], dtype=float)
    mean = gains.sum() / counts.sum()
    spread = np.sqrt(((gains - mean * counts) ** 2).sum()) / counts.sum()
    return float(100 * mean), float(100 * 1.96 * spread)


def summarize(rows: Sequence[Row], part: str) -> list[dict[str, Any]]:
    """One entry for each encoding that every row has, fewest bytes first."""
    entries = []
    names = [name for name in rows[0]["codecs"] if all(name in row["codecs"] for row in rows)]
    for name in names:
        sizes = [size for row in rows for size in row["codecs"][name]["bytes"]]
        entry: dict[str, Any] = {"codec": name, "bytes": round(statistics.fmean(sizes), 1)}
        for column in COLUMNS[part]:
            flags = [flag for row in rows for flag in _flags(row, name, column)]
            points, half = difference(rows, name, column)
            entry[column] = round(100 * statistics.fmean(flags), 2)
            entry[f"{column}_points"], entry[f"{column}_half"] = round(points, 2), round(half, 2)
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry["bytes"])


def cheapest(entries: Iterable[dict[str, Any]], part: str, start: str = "") -> str | None:
    """The rule: the fewest bytes among those that lose at most half a point in every column.

    `start` is how the encoding's name begins; None if all of those lose more.
    """
    good = [
        entry
        for entry in entries
        if entry["codec"].startswith(start)
        and all(entry[f"{column}_points"] >= -TOLERATED_POINTS for column in COLUMNS[part])
    ]
    return min(good, key=lambda entry: float(entry["bytes"]))["codec"] if good else None


def print_table(entries: Sequence[dict[str, Any]], part: str) -> None:
    table = Table(title=f"{part}: accuracy, and points against lossless with the half width of 95 %")
    table.add_column("codec")
    for column in ("bytes", *COLUMNS[part]):
        table.add_column(column, justify="right")
    for entry in entries:
        cells = [
            f"{entry[c]:.1f} ({entry[f'{c}_points']:+.2f} ± {entry[f'{c}_half']:.2f})" for c in COLUMNS[part]
        ]
        table.add_row(entry["codec"], f"{entry['bytes']:.0f}", *cells)
    Console(width=130).print(table)


def read_rows(path: pathlib.Path) -> list[Row]:
    """The finished scenes; a line that an interruption cut short is dropped."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def merged(rows: Iterable[Row]) -> dict[tuple[int, str], Row]:
    """One row for each scene and part: encodings that were asked about later are put beside the first."""
    found: dict[tuple[int, str], Row] = {}
    for row in rows:
        there = found.setdefault((row["seed"], row["part"]), row)
        there["codecs"].update(row["codecs"])
    return found


def collect(path: pathlib.Path, seeds: Sequence[int], parts: Sequence[str], model: str) -> list[Row]:
    """Asks what is missing; the rows of those seeds and parts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = merged(read_rows(path))

    def missing(seed: int, part: str) -> list[Codec]:
        known = found[seed, part]["codecs"] if (seed, part) in found else {}
        return [codec for codec in WAYS[part] if codec.name not in known]

    to_do = [seed for seed in seeds if any(missing(seed, part) for part in parts)]
    if to_do:
        torch.set_num_threads(1)  # the renderer has the other core; two threads that wait for it are slower
        engine = load_engine(model)
        with path.open("a") as file:
            for scene, jpeg in originals(to_do, workers=1):
                for part in parts:
                    if ways := missing(scene.seed, part):
                        row = study_scene(engine, scene, jpeg, part, ways)
                        file.write(json.dumps(row) + "\n")
                        file.flush()
                        found = merged([*found.values(), row])
    return [row for (seed, part), row in found.items() if seed in set(seeds) and part in parts]


def summary_of(rows: Sequence[Row], part: str) -> dict[str, Any]:
    entries = summarize(rows, part)
    print_table(entries, part)
    formats = {"any": "", "AVIF": "AVIF", "WebP": "WEBP", "JPEG": "JPEG"}
    figures: dict[str, Any] = {
        "scenes": len(rows),
        "questions": sum(len(row["kinds"]) for row in rows),
        "cheapest": {name: cheapest(entries, part, start) for name, start in formats.items()},
        "codecs": entries,
    }
    if part == "global":
        names = rows[0]["same_pixels"]
        figures["original_bytes"] = round(statistics.fmean(row["original_bytes"] for row in rows))
        figures["same_pixels"] = {
            name: round(statistics.fmean(row["same_pixels"][name] for row in rows), 1) for name in names
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=120)
    parser.add_argument("--first-seed", type=int, default=400_000)
    parser.add_argument("--part", choices=("global", "patch"), help="only that one")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rows", type=pathlib.Path, default=pathlib.Path("out/codecs.jsonl"))
    parser.add_argument("--results", type=pathlib.Path, help="also write the figures there, as JSON")
    arguments = parser.parse_args()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.scenes)
    parts = [arguments.part] if arguments.part else ["global", "patch"]
    rows = collect(arguments.rows, seeds, parts, arguments.model)
    figures = {part: summary_of([row for row in rows if row["part"] == part], part) for part in parts}
    if arguments.results:
        arguments.results.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps({f"{part}_cheapest": figures[part]["cheapest"] for part in parts}))


if __name__ == "__main__":
    main()
