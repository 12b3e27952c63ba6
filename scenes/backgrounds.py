"""Procedural backgrounds and clutter, described in fractions of the photo and painted into any view of it.

Training and held-out scenes use disjoint kinds (`KINDS`): a model that leans on a kind's look fails the
held-out set. Clutter is muted in colour and never a panel with a rim, so that what is a sign is never a
matter of taste.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

KINDS = {
    "train": ("clouds", "bricks", "blocks", "meadow", "gradient", "shelves", "crates", "fence"),
    "test": ("dunes", "facade", "bokeh"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A piece of clutter; points in fractions of the photo's sides (width, height)."""

    kind: Literal["ellipse", "polygon", "line"]
    points: tuple[tuple[float, float], ...]
    rgb: tuple[int, int, int]
    thickness: float = 0.0  # of a line, as a fraction of the longer side


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """`fields`: uint8 [n, n, 3] colours, coarse to fine, averaged; `light`: uint8 [n, n], 128 is neutral."""

    fields: tuple[Image.Image, ...]
    weights: tuple[float, ...]
    light: Image.Image
    shapes: tuple[Shape, ...]


def muted(rng: np.random.Generator) -> tuple[int, int, int]:
    base = rng.uniform(40, 215)
    red, green, blue = np.clip(base + rng.normal(0, 13, 3), 5, 250).astype(int).tolist()
    return red, green, blue


def _field(rng: np.random.Generator, cells: int, spread: float) -> NDArray[np.float64]:
    """A smooth random colour field [cells, cells, 3] of low saturation."""
    grey = rng.normal(0, spread, (cells, cells, 1))
    return grey + rng.normal(0, spread * 0.25, (cells, cells, 3)) + rng.normal(0, 8, (1, 1, 3))


def _blob(
    rng: np.random.Generator, center: NDArray[np.float64], radius: float
) -> tuple[tuple[float, float], ...]:
    corners = int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = radius * rng.uniform(0.4, 1, corners)
    return tuple(zip(center[0] + radii * np.cos(angles), center[1] + radii * np.sin(angles), strict=True))


def _clutter(rng: np.random.Generator, count: int) -> list[Shape]:
    shapes = []
    for _ in range(count):
        center, radius, roll = (
            rng.uniform(0, 1, 2),
            float(np.exp(rng.uniform(np.log(0.01), np.log(0.2)))),
            rng.random(),
        )
        if roll < 0.3:
            box = (
                (center[0] - radius, center[1] - radius * rng.uniform(0.4, 1)),
                (center[0] + radius, center[1] + radius * 0.7),
            )
            shapes.append(Shape("ellipse", box, muted(rng)))
        elif roll < 0.7:
            shapes.append(Shape("polygon", _blob(rng, center, radius), muted(rng)))
        else:
            end = center + rng.normal(0, 0.4, 2)
            shapes.append(
                Shape("line", (tuple(center), tuple(end)), muted(rng), float(rng.uniform(0.0015, 0.012)))
            )
    return shapes


def _tiles(rng: np.random.Generator, rows: int, cols: int, gap: float, offset: float) -> list[Shape]:
    """A wall of rectangles: bricks, city blocks or window panes, by their proportions."""
    tone = np.array(muted(rng), dtype=float)
    shapes = []
    for row in range(rows):
        shift = offset if row % 2 else 0.0
        for col in range(-1, cols):
            left, top = (col + shift + gap) / cols, (row + gap) / rows
            right, bottom = (col + 1 + shift - gap) / cols, (row + 1 - gap) / rows
            red, green, blue = np.clip(tone + rng.normal(0, 10), 5, 250).astype(int).tolist()
            shapes.append(
                Shape(
                    "polygon",
                    ((left, top), (right, top), (right, bottom), (left, bottom)),
                    (red, green, blue),
                )
            )
    return shapes


def _shelves(rng: np.random.Generator) -> list[Shape]:
    """Rows of things of all widths and heights that stand on boards."""
    rows = int(rng.integers(3, 9))
    shapes = []
    for row in range(rows):
        floor, left = (row + 1) / rows, float(rng.uniform(0, 0.1))
        shapes.append(Shape("line", ((0, floor), (1, floor)), muted(rng), float(rng.uniform(0.002, 0.008))))
        while left < 1:
            width, height = float(rng.uniform(0.01, 0.12)), float(rng.uniform(0.3, 0.9)) / rows
            box = (
                (left, floor - height),
                (left + width, floor - height),
                (left + width, floor),
                (left, floor),
            )
            shapes.append(Shape("polygon", box, muted(rng)))
            left += width + float(rng.choice((0.0, 0.01, 0.06)))
    return shapes


def _crates(rng: np.random.Generator) -> list[Shape]:
    """Boxes of one make, turned a little, anywhere."""
    width, height = (float(v) for v in rng.uniform(0.03, 0.12, 2))
    shapes = []
    for _ in range(int(rng.integers(8, 50))):
        center, angle = rng.uniform(0, 1, 2), float(rng.normal(0, 0.15))
        turn = np.array(((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))))
        corners = np.array(((-1, -1), (1, -1), (1, 1), (-1, 1))) * (width / 2, height / 2) @ turn + center
        shapes.append(Shape("polygon", tuple((float(x), float(y)) for x, y in corners), muted(rng)))
    return shapes


def _fence(rng: np.random.Generator) -> list[Shape]:
    """Upright posts of one width, each of its own tone, some of them missing, between two rails."""
    posts, top = int(rng.integers(6, 24)), float(rng.uniform(0, 0.5))
    bottom = top + float(rng.uniform(0.2, 0.5))
    wide = float(rng.uniform(0.3, 0.8)) / posts
    rails = [Shape("line", ((0, y), (1, y)), muted(rng), 0.006) for y in (top + 0.03, bottom - 0.03)]
    lefts = [post / posts for post in range(posts) if rng.random() < 0.85]
    return rails + [
        Shape("polygon", ((x, top), (x + wide, top), (x + wide, bottom), (x, bottom)), muted(rng))
        for x in lefts
    ]


def _structure(rng: np.random.Generator, kind: str) -> list[Shape]:
    if kind == "bricks":
        return _tiles(rng, int(rng.integers(8, 20)), int(rng.integers(5, 12)), 0.04, 0.5)
    if kind == "blocks":
        return _tiles(
            rng, int(rng.integers(2, 5)), int(rng.integers(2, 6)), float(rng.uniform(0.01, 0.1)), 0.0
        )
    if kind == "facade":
        return _tiles(
            rng, int(rng.integers(5, 11)), int(rng.integers(6, 14)), float(rng.uniform(0.15, 0.3)), 0.0
        )
    if kind == "shelves":
        return _shelves(rng)
    if kind == "crates":
        return _crates(rng)
    if kind == "fence":
        return _fence(rng)
    if kind == "meadow":
        feet = rng.uniform(0, 1, (120, 2))
        return [
            Shape("line", (tuple(f), (f[0] + rng.normal(0, 0.02), f[1] - 0.06)), muted(rng), 0.003)
            for f in feet
        ]
    if kind == "bokeh":
        spots = rng.uniform(0, 1, (40, 3))
        return [Shape("ellipse", ((x, y), (x + 0.1 * r, y + 0.1 * r)), muted(rng)) for x, y, r in spots]
    return []


def make_background(rng: np.random.Generator, split: Literal["train", "test"]) -> Background:
    kind = str(rng.choice(KINDS[split]))
    base = rng.uniform(70, 190)
    sizes = {"clouds": (5, 24, 90), "dunes": (3, 8, 64), "gradient": (2, 3, 128)}.get(kind, (3, 16, 110))
    spreads = (rng.uniform(10, 55), rng.uniform(5, 30), rng.uniform(3, 28))
    fields = []
    for cells, spread in zip(sizes, spreads, strict=True):
        values = base + _field(rng, cells, spread)
        if kind == "dunes":
            waves = np.sin(np.linspace(0, rng.uniform(8, 40), cells))[:, None, None]
            values = values + spread * waves
        fields.append(Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)))
    shapes = _structure(rng, kind) + _clutter(rng, int(rng.integers(4, 40)))
    light = Image.fromarray(np.clip(128 * rng.normal(1, 0.09, (3, 3)), 85, 165).astype(np.uint8))
    return Background(tuple(fields), (0.45, 0.3, 0.25), light, tuple(shapes))


def _window(
    image: Image.Image, size: tuple[int, int], part: tuple[float, float, float, float]
) -> Image.Image:
    """The part (fractions) of a coarse field, smoothly enlarged to a view."""
    box = (part[0] * image.width, part[1] * image.height, part[2] * image.width, part[3] * image.height)
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


def paint_background(
    background: Background, size: tuple[int, int], part: tuple[float, float, float, float]
) -> Image.Image:
    """The part (x0, y0, x1, y1 in fractions of the photo) of the background as an RGB view of `size`."""
    view = _window(background.fields[0], size, part)
    for index, field in enumerate(background.fields[1:], start=1):
        share = background.weights[index] / sum(background.weights[: index + 1])
        view = Image.blend(view, _window(field, size, part), share)
    draw = ImageDraw.Draw(view)
    across, down = size[0] / (part[2] - part[0]), size[1] / (part[3] - part[1])
    for shape in background.shapes:
        points = [((x - part[0]) * across, (y - part[1]) * down) for x, y in shape.points]
        if shape.kind == "line":
            draw.line(points, shape.rgb, max(round(shape.thickness * max(across, down)), 1))
        elif shape.kind == "ellipse":
            (x0, y0), (x1, y1) = points
            draw.ellipse((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), shape.rgb)
        else:
            draw.polygon(points, shape.rgb)
    return view


def light_view(
    background: Background, size: tuple[int, int], part: tuple[float, float, float, float]
) -> Image.Image:
    return _window(background.light, size, part)
