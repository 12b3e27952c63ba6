"""A placard: up to three lines of text on a coloured panel or straight on the wall, and how it is painted.

Lengths are pixels of the original photo; a view is painted at whatever scale it needs.
"""

from __future__ import annotations

import math
import pathlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scenes.fonts import CAP_HEIGHTS_PX, face
from scenes.signs import COLORS, Rgb, panel_colors, perspective
from training.reader.drawing.words import Kind

ALL_COLORS = (*COLORS, "brown", "grey")

Quad = NDArray[np.float64]  # [4, 2], clockwise from the top left


@dataclass(frozen=True, slots=True)
class Line:
    """`height`: of a capital letter, relative to the placard's first."""

    text: str
    kind: Kind
    height: float


@dataclass(frozen=True, slots=True, eq=False)
class Placard:
    """`color` None: no panel, ink on the wall. `corners` [4, 2] in the original."""

    lines: tuple[Line, ...]
    color: str | None
    panel_rgb: Rgb
    ink_rgb: Rgb
    rim_rgb: Rgb
    font: pathlib.Path
    text_height: float  # of the first line's capitals
    margin: float  # around the text, in text heights
    spacing: float  # between lines, in text heights
    corner_radius: float
    is_left_aligned: bool
    corners: Quad

    @property
    def box(self) -> tuple[float, float, float, float]:
        x0, y0 = self.corners.min(axis=0)
        x1, y1 = self.corners.max(axis=0)
        return float(x0), float(y0), float(x1), float(y1)

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)

    def moved(self, x: float, y: float) -> Placard:
        return replace(self, corners=self.corners + np.array((x, y)))


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A placard seen from the front; `boxes` [lines, 4]: each text's left, top, right, bottom in it."""

    width: int
    height: int
    boxes: NDArray[np.float64]
    starts: tuple[tuple[float, float], ...]


def palette(rng: np.random.Generator, color: str | None) -> tuple[Rgb, Rgb, Rgb]:
    """Return panel, ink and rim; without a panel only the ink counts."""
    if color in COLORS:
        return panel_colors(rng, str(color))
    if color is None:
        bright = rng.random() < 0.5
        ink = rng.integers(225, 256, 3) if bright else rng.integers(0, 45, 3)
        if rng.random() < 0.25:
            ink = np.array(panel_colors(rng, str(rng.choice(COLORS[:6])))[0])
        red, green, blue = (int(v) for v in ink)
        return (0, 0, 0), (red, green, blue), (0, 0, 0)
    base = float(rng.uniform(90, 165))
    if color == "grey":
        panel = np.clip(base + rng.normal(0, 4, 3), 0, 255)
    else:
        panel = np.array([rng.uniform(80, 140), rng.uniform(48, 80), rng.uniform(15, 45)])
    light = color == "brown" or rng.random() < 0.5
    ink = rng.integers(225, 256, 3) if light and panel.mean() < 135 else rng.integers(0, 35, 3)
    tones = [(int(t[0]), int(t[1]), int(t[2])) for t in (panel, ink)]
    return tones[0], tones[1], tones[1]


def flat(placard: Placard, cap: int) -> Face:
    """Return the layout of a placard whose first line's capitals are `cap` pixels high."""
    widths, tops, bottoms, lefts, sizes = [], [], [], [], []
    for line in placard.lines:
        font = face(placard.font, max(round(line.height * cap), 4))
        left, _, right, _ = font.getbbox(line.text)
        _, top, _, bottom = font.getbbox("H")
        widths.append(right - left)
        lefts.append(left)
        tops.append(top)
        bottoms.append(bottom)
        sizes.append(bottom - top)
    pad = placard.margin * cap
    width = max(widths) + 2.2 * pad
    y = pad
    boxes, starts = [], []
    for index, size in enumerate(sizes):
        x = 1.1 * pad if placard.is_left_aligned else (width - widths[index]) / 2
        boxes.append((x, y, x + widths[index], y + size))
        starts.append((x - lefts[index], y - tops[index]))
        y += size + placard.spacing * cap * placard.lines[index].height
    height = boxes[-1][3] + pad
    return Face(max(round(width), 2), max(round(height), 2), np.array(boxes, np.float64), tuple(starts))


def make_placard(
    rng: np.random.Generator,
    lines: tuple[Line, ...],
    color: str | None,
    font: pathlib.Path,
    text_height: float,
) -> Placard:
    """Return a placard around (0, 0): rolled and in a little perspective."""
    panel, ink, rim = palette(rng, color)
    placard = Placard(
        lines=lines, color=color, panel_rgb=panel, ink_rgb=ink, rim_rgb=rim, font=font,
        text_height=text_height, margin=float(rng.uniform(0.3, 1.1)), spacing=float(rng.uniform(0.45, 0.9)),
        corner_radius=float(rng.choice((0.0, 0.1, 0.25, 0.5), p=(0.4, 0.3, 0.25, 0.05))),
        is_left_aligned=bool(rng.random() < 0.25), corners=np.zeros((4, 2)),
    )  # fmt: skip
    front = flat(placard, 48)
    width, height = front.width * text_height / 48, front.height * text_height / 48
    roll = math.radians(float(np.clip(rng.normal(0, 4), -12, 12)))
    cos, sin = math.cos(roll), math.sin(roll)
    corners = []
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        u = x * width / 2 * (1 + rng.uniform(-0.03, 0.03))
        v = y * height / 2 * (1 + rng.uniform(-0.08, 0.08))
        corners.append((u * cos - v * sin, u * sin + v * cos))
    return replace(placard, corners=np.array(corners))


def _cap_for(placard: Placard, scale: float) -> int:
    wanted = placard.text_height * scale
    return next((size for size in CAP_HEIGHTS_PX if size >= wanted), CAP_HEIGHTS_PX[-1])


def _painted(placard: Placard, cap: int) -> tuple[Image.Image, Image.Image]:
    front = flat(placard, cap)
    size = (front.width, front.height)
    inks = Image.new("L", size, 0)
    draw = ImageDraw.Draw(inks)
    for line, start in zip(placard.lines, front.starts, strict=True):
        draw.text(start, line.text, 255, face(placard.font, max(round(line.height * cap), 4)))
    if placard.color is None:
        return Image.new("RGB", size, placard.ink_rgb), inks
    panel = Image.new("RGB", size, placard.panel_rgb)
    mask = Image.new("L", size, 0)
    outline = (0, 0, size[0] - 1, size[1] - 1)
    radius = placard.corner_radius * min(size)
    ImageDraw.Draw(mask).rounded_rectangle(outline, radius, fill=255)
    rim = round(0.12 * cap)
    if rim and placard.corner_radius > 0.05:
        ImageDraw.Draw(panel).rounded_rectangle(outline, radius, outline=placard.rim_rgb, width=rim)
    panel.paste(placard.ink_rgb, mask=inks)
    return panel, mask


def paint_placard(view: Image.Image, placard: Placard, origin: tuple[float, float], scale: float) -> None:
    """Paint into a view that shows the original from `origin` at `scale` view pixels per original pixel."""
    target = (placard.corners - origin) * scale
    left, top = np.floor(target.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(target.max(axis=0)).astype(int) + 1
    if right <= 0 or bottom <= 0 or left >= view.width or top >= view.height:
        return
    cap = _cap_for(placard, scale)
    panel, mask = _painted(placard, cap)
    shrink = placard.text_height * scale / cap
    if shrink < 0.9:
        size = max(round(panel.width * shrink), 2), max(round(panel.height * shrink), 2)
        panel, mask = panel.resize(size, Image.Resampling.BOX), mask.resize(size, Image.Resampling.BOX)
    source = np.array([(0, 0), (panel.width, 0), panel.size, (0, panel.height)], np.float64)
    coefficients = perspective(source, target - (left, top))
    size = (int(right - left), int(bottom - top))
    how = Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    fill = placard.ink_rgb if placard.color is None else placard.rim_rgb
    face_view = panel.transform(size, *how, fillcolor=fill)
    view.paste(face_view, (int(left), int(top)), mask.transform(size, *how))


def line_quads(placard: Placard) -> list[Quad]:
    """Return each line's text as four corners in the original."""
    front = flat(placard, 48)
    rectangle = np.array(
        [(0, 0), (front.width, 0), (front.width, front.height), (0, front.height)], np.float64
    )
    a, b, c, d, e, f, g, h = perspective(placard.corners, rectangle)
    quads = []
    for x0, y0, x1, y1 in front.boxes:
        points = []
        for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
            scale = g * x + h * y + 1
            points.append(((a * x + b * y + c) / scale, (d * x + e * y + f) / scale))
        quads.append(np.array(points))
    return quads
