"""What training keeps of a scene: for each view the reader's lines, a thumbnail and the ground truth.

One JSON object a scene; rendered and read once, then used by every stage. Drawn scenes come from `scenes/`,
the others from `training.reader.drawing.worlds`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scenes.fonts import Split
from scenes.generator import Scene, make_scene, render
from secondglance_server.engine.reader.ocr import CANDIDATES, ReadLine, TextReader
from training.reader.drawing.placards import line_quads
from training.reader.drawing.textures import Box
from training.reader.drawing.worlds import (
    VIEW_SIDE_PX,
    World,
    compressed,
    make_world,
    render_world,
    view_size,
)

THUMB_PX = 384
_CUT = 0.25  # of the crops
_ASTRAY = 0.12  # of the crops: the server does not always ask for the right place
SCENES_PER_SHARD = 50
SMALL_TEXT_PX = (2.5, 60.0)  # in the model's view, in a third of the worlds: some of it cannot be read there
_TINY_TEXT_PX = (2.5, 9.0)  # in a sixth of the worlds: where to look is all that the first view says


@dataclass(frozen=True, slots=True, eq=False)
class TrueLine:
    """`box` in [0, 1] of the view, perhaps beyond it."""

    text: str
    kind: str
    box: Box


@dataclass(frozen=True, slots=True, eq=False)
class TrueSign:
    """`shown`: the share of its box that the view shows."""

    color: str | None
    box: Box
    shown: float
    lines: tuple[TrueLine, ...]

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """`target`: the sign that a crop was cut for; None for a global view and a crop of any place."""

    size: tuple[int, int]
    thumb: bytes
    lines: tuple[ReadLine, ...]
    signs: tuple[TrueSign, ...]
    target: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One scene: its global view, then a crop."""

    seed: int
    source: str
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Sign:
    """Ground truth in pixels of the original."""

    color: str | None
    box: Box
    lines: tuple[tuple[str, str, Box], ...]


class Subject:
    """A drawn scene or a world, seen alike."""

    def __init__(self, scene: Scene | World) -> None:
        self._scene = scene
        self.size = scene.width, scene.height
        if isinstance(scene, World):
            self.signs = tuple(
                _Sign(
                    p.color,
                    p.box,
                    tuple(
                        (line.text, line.kind, _bounds(quad))
                        for line, quad in zip(p.lines, line_quads(p), strict=True)
                    ),
                )
                for p in scene.placards
            )
        else:
            self.signs = tuple(
                _Sign(s.color, s.box, ((s.text, "code", _shrunk(s.box)),)) for s in scene.signs
            )

    def render(self, box: Box, side: int = VIEW_SIDE_PX) -> Image.Image:
        """Return what `box` of the original looks like with at most `side` pixels a side."""
        size = view_size((box[2] - box[0], box[3] - box[1]), side)
        if isinstance(self._scene, World):
            return render_world(self._scene, box, size)
        return render(self._scene, box, size)


def _bounds(quad: NDArray[np.float64]) -> Box:
    x0, y0 = quad.min(axis=0).tolist()
    x1, y1 = quad.max(axis=0).tolist()
    return x0, y0, x1, y1


def _shrunk(box: Box) -> Box:
    dx, dy = 0.12 * (box[2] - box[0]), 0.2 * (box[3] - box[1])
    return box[0] + dx, box[1] + dy, box[2] - dx, box[3] - dy


def make_record(seed: int, source: str, split: Split, reader: TextReader | None) -> Record:
    """Return a scene's record; `source` is "drawn" or "photo". Without `reader` its views have no lines."""
    rng = np.random.default_rng([seed, 11])
    text_px = None
    if split == "train":
        text_px = SMALL_TEXT_PX if seed % 3 == 1 else _TINY_TEXT_PX if seed % 6 == 2 else None
    scene = make_scene(seed, split=split) if source == "drawn" else make_world(seed, split, text_px)
    subject = Subject(scene)
    whole = (0.0, 0.0, float(subject.size[0]), float(subject.size[1]))
    first = _view(rng, subject, whole, None, reader)
    target = int(rng.permutation(len(subject.signs))[0]) if subject.signs else None
    if target is None or rng.random() < _ASTRAY:
        crop = _view(rng, subject, any_box(rng, subject), None, reader)
    else:
        crop = _view(rng, subject, crop_box(rng, subject, target), target, reader)
    return Record(seed, source, (first, crop))


def any_box(rng: np.random.Generator, subject: Subject) -> Box:
    """Return a region of any place: what the server asks for where its attention is wrong, or no sign is."""
    side = max(subject.size) * rng.uniform(0.2, 0.4)
    width, height = min(side, subject.size[0]), min(side, subject.size[1])
    left, top = rng.uniform(0, subject.size[0] - width), rng.uniform(0, subject.size[1] - height)
    return left, top, left + width, top + height


def crop_box(rng: np.random.Generator, subject: Subject, target: int) -> Box:
    """Return a region as the server asks for it: around the sign, larger, not quite centred.

    Some lie beside it and cut it: the rest of its text is in the first view only.
    """
    x0, y0, x1, y1 = subject.signs[target].box
    longer = max(subject.size)
    side = max((x1 - x0), (y1 - y0)) * rng.uniform(1.05, 1.7) + longer * rng.uniform(0.04, 0.2)
    width, height = (
        min(side * rng.uniform(0.85, 1.15), subject.size[0]),
        min(side * rng.uniform(0.7, 1.0), subject.size[1]),
    )
    width, height = max(width, (x1 - x0) * 1.02), max(height, (y1 - y0) * 1.02)
    cx = (x0 + x1) / 2 + rng.normal(0, 0.08) * width
    cy = (y0 + y1) / 2 + rng.normal(0, 0.08) * height
    if rng.random() < _CUT:
        cx += float(rng.choice((-1, 1))) * (width / 2 + (x1 - x0) * rng.uniform(-0.3, 0.3))
    left = float(np.clip(cx - width / 2, 0, max(subject.size[0] - width, 0)))
    top = float(np.clip(cy - height / 2, 0, max(subject.size[1] - height, 0)))
    return left, top, min(left + width, subject.size[0]), min(top + height, subject.size[1])


def _view(
    rng: np.random.Generator, subject: Subject, box: Box, target: int | None, reader: TextReader | None
) -> View:
    image = compressed(subject.render(box), int(rng.integers(18, 65)))
    return make_view(image, box, subject.signs, target, reader)


def make_view(
    image: Image.Image, box: Box, signs: Iterable[_Sign], target: int | None, reader: TextReader | None
) -> View:
    """Read an image that shows `box` of the original."""
    lines = tuple(reader.read(np.asarray(image))) if reader else ()
    return View(image.size, thumbnail(image), lines, true_signs(signs, box), target)


def true_signs(signs: Iterable[_Sign], box: Box) -> tuple[TrueSign, ...]:
    """Return the ground truth of a view that shows `box` of the original."""
    return tuple(
        TrueSign(
            sign.color,
            _inside(sign.box, box),
            _shown(sign.box, box),
            tuple(TrueLine(text, kind, _inside(place, box)) for text, kind, place in sign.lines),
        )
        for sign in signs
    )


def thumbnail(image: Image.Image) -> bytes:
    small = image.copy()
    small.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _inside(inner: Box, box: Box) -> Box:
    width, height = box[2] - box[0], box[3] - box[1]
    x0, y0, x1, y1 = inner
    return (x0 - box[0]) / width, (y0 - box[1]) / height, (x1 - box[0]) / width, (y1 - box[1]) / height


def _shown(inner: Box, box: Box) -> float:
    width = min(inner[2], box[2]) - max(inner[0], box[0])
    height = min(inner[3], box[3]) - max(inner[1], box[1])
    return max(width, 0.0) * max(height, 0.0) / ((inner[2] - inner[0]) * (inner[3] - inner[1]))


def to_json(record: Record) -> str:
    return json.dumps(
        {"seed": record.seed, "source": record.source, "views": [_view_json(v) for v in record.views]}
    )


def _view_json(view: View) -> dict[str, Any]:
    lines = [
        {
            "corners": [round(float(v), 4) for v in line.corners.ravel()],
            "ids": line.ids.ravel().tolist(),
            "p": np.rint(line.probabilities.ravel() * 2000).astype(int).tolist(),
            "score": round(line.score, 3),
        }
        for line in view.lines
    ]
    signs = [
        {
            "color": sign.color,
            "box": [round(v, 4) for v in sign.box],
            "shown": round(sign.shown, 3),
            "lines": [[line.text, line.kind, *(round(v, 4) for v in line.box)] for line in sign.lines],
        }
        for sign in view.signs
    ]
    thumb = base64.b64encode(view.thumb).decode()
    return {"size": view.size, "thumb": thumb, "lines": lines, "signs": signs, "target": view.target}


def from_json(text: str) -> Record:
    row = json.loads(text)
    return Record(row["seed"], row["source"], tuple(_view_from(view) for view in row["views"]))


def _view_from(row: dict[str, Any]) -> View:
    lines = tuple(
        ReadLine(
            np.array(line["corners"], np.float32).reshape(4, 2),
            np.array(line["ids"], np.uint8).reshape(-1, CANDIDATES),
            np.array(line["p"], np.float32).reshape(-1, CANDIDATES) / 2000,
            line["score"],
        )
        for line in row["lines"]
    )
    signs = tuple(
        TrueSign(
            sign["color"],
            tuple(sign["box"]),
            sign["shown"],
            tuple(TrueLine(text, kind, (x0, y0, x1, y1)) for text, kind, x0, y0, x1, y1 in sign["lines"]),
        )
        for sign in row["signs"]
    )
    return View(tuple(row["size"]), base64.b64decode(row["thumb"]), lines, signs, row["target"])


def shard_path(root: pathlib.Path, split: Split, number: int) -> pathlib.Path:
    return root / split / f"{number:04d}.jsonl.gz"


def render_shard(root: pathlib.Path, split: Split, number: int, reader: TextReader | None) -> None:
    """Write a shard whole or not at all; one that is there stays."""
    path = shard_path(root, split, number)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with gzip.open(part, "wt", compresslevel=3) as file:
        for seed in range(number * SCENES_PER_SHARD, (number + 1) * SCENES_PER_SHARD):
            source = "drawn" if seed % 5 < 2 else "photo"
            file.write(to_json(make_record(seed, source, split, reader)) + "\n")
    part.replace(path)


def read_shard(path: pathlib.Path) -> Iterator[Record]:
    with gzip.open(path, "rt") as file:
        for line in file:
            yield from_json(line)
