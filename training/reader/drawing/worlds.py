"""A world: placards before a background, rendered as any view of it.

Half of the backgrounds are photographs; the rest are those of `scenes/`, plain walls and tiles. Nothing is
painted finer than the original's own pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from scenes.backgrounds import light_view, make_background, paint_background
from scenes.fonts import Split, font_files
from scenes.generator import add_noise
from training.reader.drawing.placards import ALL_COLORS, Line, Placard, make_placard, paint_placard
from training.reader.drawing.textures import Box, PhotoBackground
from training.reader.drawing.words import random_kind, text_of

VIEW_SIDE_PX = 448  # the model's view: the longer side of both pictures
LEAST_TEXT_PX = 13.0  # in the original
_LEAST_CONTRAST = 2.0  # WCAG asks for 3 where text is large
_SEEN_SHARE = 0.9  # of the wall behind text
_SEEN_PX = 256


# how many lines a placard has, and how many stand right under another: training sees more than is measured
LINES: dict[Split, tuple[float, ...]] = {
    "train": (0.55, 0.21, 0.11, 0.06, 0.04, 0.03),
    "test": (0.66, 0.23, 0.11),
}
STACKED: dict[Split, float] = {"train": 0.25, "test": 0.0}


class Paintable(Protocol):
    def paint(self, size: tuple[int, int], part: Box) -> Image.Image: ...


class DrawnBackground:
    """One of the procedural backgrounds of `scenes/`."""

    def __init__(self, rng: np.random.Generator, split: Split) -> None:
        self._background = make_background(rng, split)

    def paint(self, size: tuple[int, int], part: Box) -> Image.Image:
        view = paint_background(self._background, size, part)
        light = light_view(self._background, size, part)
        lit = ImageChops.multiply(view, Image.merge("RGB", (light,) * 3))
        return lit.point([min(v * 2, 255) for v in range(256)] * 3)


class PlainWall:
    """A wall or a screen of one colour with a soft gradient and perhaps joints between tiles."""

    def __init__(self, rng: np.random.Generator) -> None:
        base = rng.uniform(20, 245) + rng.normal(0, 18, 3)
        corners = base + rng.normal(0, 14, (2, 2, 1)) + rng.normal(0, 3, (2, 2, 3))
        self._corners = Image.fromarray(np.clip(corners, 0, 255).astype(np.uint8))
        self._tiles = int(rng.integers(4, 16)) if rng.random() < 0.35 else 0
        self._joint = float(rng.uniform(-30, 30))

    def paint(self, size: tuple[int, int], part: Box) -> Image.Image:
        box = tuple(0.5 + v for v in part)
        view = self._corners.resize(size, Image.Resampling.BILINEAR, box)
        if not self._tiles:
            return view
        across = np.linspace(part[0], part[2], size[0])[None] * self._tiles % 1 < 0.03
        down = np.linspace(part[1], part[3], size[1])[:, None] * self._tiles % 1 < 0.03
        pixels = np.asarray(view, np.float32) + (across | down)[..., None] * self._joint
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """Sizes in pixels of the original."""

    seed: int
    width: int
    height: int
    background: Paintable
    placards: tuple[Placard, ...]
    noise: float
    blur: float


def make_world(seed: int, split: Split, text_px: tuple[float, float] | None = None) -> World:
    """Return a world; the same seed gives the same world where fonts, words and photographs are the same.

    `text_px`: the least and the largest height of a placard's first line in the model's view.
    """
    rng = np.random.default_rng([seed, 7 if split == "train" else 8])
    longer, aspect = int(rng.integers(900, 4001)), float(np.exp(rng.uniform(-np.log(2), np.log(2))))
    shorter = max(round(longer * min(aspect, 1 / aspect)), longer // 2)
    size = (longer, shorter) if aspect > 1 else (shorter, longer)
    background = _background(rng, split, size[0] / size[1])
    placed = _placards(rng, size, split, text_px)
    placards = tuple(seen for placard in placed if (seen := visible(placard, background, size)))
    return World(seed, *size, background, placards, float(rng.uniform(0, 9)), float(rng.uniform(0, 1.4)))


def _background(rng: np.random.Generator, split: Split, aspect: float) -> Paintable:
    draw = rng.random()
    if split == "test" or draw < 0.68:
        return PhotoBackground(rng, split, aspect)
    return DrawnBackground(rng, split) if draw < 0.84 else PlainWall(rng)


def visible(placard: Placard, background: Paintable, size: tuple[int, int]) -> Placard | None:
    """Return a placard that a person can see: without a panel its ink must differ from the wall behind it.

    Where it does not, it becomes white or black; None if the wall hides those too. `size`: of the original.
    """
    if placard.color is not None:
        return placard
    part = tuple(float(np.clip(v / size[i % 2], 0, 1)) for i, v in enumerate(placard.box))
    width, height = (part[2] - part[0]) * size[0], (part[3] - part[1]) * size[1]
    shape = (
        max(round(_SEEN_PX * min(width / height, 1)), 1),
        max(round(_SEEN_PX * min(height / width, 1)), 1),
    )
    wall = _luminance(np.asarray(background.paint(shape, part)))
    for ink in (placard.ink_rgb, (245, 245, 245), (15, 15, 15)):
        own = _luminance(np.array(ink))
        contrast = (np.maximum(own, wall) + 0.05) / (np.minimum(own, wall) + 0.05)
        if (contrast >= _LEAST_CONTRAST).mean() >= _SEEN_SHARE:
            return replace(placard, ink_rgb=ink)
    return None


def _luminance(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return WCAG's relative luminance of [..., 3]."""
    values = rgb / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ np.array((0.2126, 0.7152, 0.0722))


def random_lines(rng: np.random.Generator, split: Split) -> tuple[Line, ...]:
    """Return the lines of one placard, the first at height 1."""
    count = 1 + int(rng.choice(len(LINES[split]), p=LINES[split]))
    lines = [_line(rng, split, 1.0)]
    for _ in range(count - 1):
        same = rng.random() < 0.55
        lines.append(_line(rng, split, 1.0 if same else float(rng.uniform(0.45, 0.9))))
    return tuple(lines)


def _line(rng: np.random.Generator, split: Split, height: float) -> Line:
    kind = random_kind(rng)
    return Line(text_of(rng, kind, split), kind, height)


def _placards(
    rng: np.random.Generator, size: tuple[int, int], split: Split, text_px: tuple[float, float] | None
) -> tuple[Placard, ...]:
    fonts = font_files(split)
    view_px = max(size) / VIEW_SIDE_PX
    count = int(rng.choice(7, p=(0.04, 0.30, 0.20, 0.18, 0.13, 0.08, 0.07)))
    distinct = [str(c) for c in rng.permutation(ALL_COLORS)]
    least, most = text_px or (4.0, 80.0 if count == 1 else 44.0)
    low = max(least * view_px, LEAST_TEXT_PX)
    high = max(most * view_px, low)
    placed: list[Placard] = []
    for index in range(count):
        color: str | None = distinct[index]
        if rng.random() < 0.22:
            color = None
        elif rng.random() < 0.15:
            color = str(rng.choice(ALL_COLORS))
        for _ in range(4):
            height = float(np.exp(rng.uniform(np.log(low), np.log(high))))
            font = fonts[int(rng.integers(len(fonts)))]
            placard = make_placard(rng, random_lines(rng, split), color, font, height)
            moved = None
            if STACKED[split] and placed and rng.random() < STACKED[split]:
                moved = _spot_under(rng, placard, size, placed, view_px)
            moved = moved or _free_spot(rng, placard, size, placed, 5 * view_px)
            if moved is not None:
                placed.append(moved)
                break
    return tuple(placed)


def _spot_under(
    rng: np.random.Generator, placard: Placard, size: tuple[int, int], taken: list[Placard], view_px: float
) -> Placard | None:
    """Return the placard right under the last one, as plates under a traffic sign; None without room."""
    left, top, right, _ = placard.box
    x0, _, x1, y1 = taken[-1].box
    x = x0 - left if rng.random() < 0.4 else (x0 + x1 - left - right) / 2
    y = y1 - top + rng.uniform(0, 3) * view_px
    moved = placard.moved(x, y)
    fits = moved.box[0] >= 0 and moved.box[2] <= size[0] and moved.box[3] <= size[1]
    return moved if fits and _is_free(moved.box, taken) else None


def _free_spot(
    rng: np.random.Generator, placard: Placard, size: tuple[int, int], taken: list[Placard], gap: float
) -> Placard | None:
    left, top, right, bottom = placard.box
    if right - left + 2 * gap >= size[0] or bottom - top + 2 * gap >= size[1]:
        return None
    for _ in range(25):
        x, y = rng.uniform(gap - left, size[0] - gap - right), rng.uniform(gap - top, size[1] - gap - bottom)
        if _is_free((left + x - gap, top + y - gap, right + x + gap, bottom + y + gap), taken):
            return placard.moved(x, y)
    return None


def _is_free(box: Box, taken: list[Placard]) -> bool:
    x0, y0, x1, y1 = box
    return all(x1 < a or x0 > c or y1 < b or y0 > d for a, b, c, d in (other.box for other in taken))


def render_world(world: World, box: Box | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """Return the part `box` (original pixels) as `size` pixels; by default the whole original."""
    box = box or (0.0, 0.0, float(world.width), float(world.height))
    span = box[2] - box[0], box[3] - box[1]
    size = size or (round(span[0]), round(span[1]))
    scale = min(1.0, size[0] / span[0])
    paint_size = max(round(span[0] * scale), 1), max(round(span[1] * scale), 1)
    part = (box[0] / world.width, box[1] / world.height, box[2] / world.width, box[3] / world.height)
    view = world.background.paint(paint_size, part)
    for placard in world.placards:
        paint_placard(view, placard, (box[0], box[1]), scale)
    if world.blur * scale > 0.3:
        view = view.filter(ImageFilter.GaussianBlur(world.blur * scale))
    view = add_noise(view, world.noise * scale, world.seed % 251)
    return view if view.size == size else view.resize(size, Image.Resampling.BICUBIC)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    """Return what is left of an image after WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=2)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def view_size(span: tuple[float, float], side: int = VIEW_SIDE_PX) -> tuple[int, int]:
    """Return the size of a view of `span` original pixels: at most `side`, never enlarged."""
    scale = min(1.0, side / max(span))
    return max(round(span[0] * scale), 1), max(round(span[1] * scale), 1)
