"""A coloured sign with 1-4 characters: what it is, and how it is painted into a view.

A sign is described in pixels of the original photo and painted at whatever scale a view needs, so that a
training view costs what its own pixels cost. Where signs go is `scenes.generator`'s job.
"""

from __future__ import annotations

import math
import pathlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from scenes.fonts import CAP_HEIGHTS_PX, face

COLORS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
# Without I, O and Q, as licence plates do: nobody tells those from 1 and 0 without context.
CHARACTERS = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"

_HUE_DEGREES = {"red": (352, 366), "orange": (22, 34), "yellow": (48, 58), "green": (105, 150)}
_HUE_DEGREES |= {"blue": (208, 232), "purple": (268, 292)}

Point = tuple[float, float]
Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Sign:
    """One sign. Lengths are pixels of the original; `corners` run clockwise from the panel's own top left."""

    text: str
    color: str
    panel_rgb: Rgb
    ink_rgb: Rgb
    rim_rgb: Rgb
    font: pathlib.Path
    width: float
    height: float
    text_height: float  # of a capital letter
    corner_radius: float  # as a fraction of the height
    corners: tuple[Point, ...]  # four

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the tilted panel."""
        xs, ys = zip(*self.corners, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def center(self) -> Point:
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def _hsv(hue_degrees: float, saturation: float, value: float) -> Rgb:
    sector, fraction = divmod(hue_degrees % 360 / 60, 1)
    low, falling, rising = 1 - saturation, 1 - saturation * fraction, 1 - saturation * (1 - fraction)
    table = [
        (1, rising, low),
        (falling, 1, low),
        (low, 1, rising),
        (low, falling, 1),
        (rising, low, 1),
        (1, low, falling),
    ]
    red, green, blue = (round(255 * value * channel) for channel in table[int(sector)])
    return red, green, blue


def panel_colors(rng: np.random.Generator, color: str) -> tuple[Rgb, Rgb, Rgb]:
    """Panel, ink and rim of a sign of that colour, jittered; ink always contrasts with the panel."""
    near_white = _hsv(rng.uniform(0, 360), rng.uniform(0, 0.05), rng.uniform(0.93, 1))
    near_black = _hsv(rng.uniform(0, 360), rng.uniform(0, 0.3), rng.uniform(0.03, 0.12))
    if color == "white":
        return near_white, near_black, _hsv(0, 0, rng.uniform(0.1, 0.45))
    if color == "black":
        return near_black, near_white, _hsv(0, 0, rng.uniform(0.7, 1))
    low, high = _HUE_DEGREES[color]
    value = {"yellow": (0.85, 1.0), "orange": (0.88, 1.0), "green": (0.4, 0.75)}.get(color, (0.6, 0.95))
    panel = _hsv(rng.uniform(low, high), rng.uniform(0.78, 1), rng.uniform(*value))
    luma = float(np.dot(panel, (0.299, 0.587, 0.114)))
    ink = near_black if luma > 125 else near_white
    rim = near_white if rng.random() < 0.6 else near_black
    return panel, ink, rim


def text_width_per_height(text: str, font: pathlib.Path) -> float:
    """Width of the text for a capital letter of height 1."""
    left, _, right, _ = face(font, 96).getbbox(text)
    return float(right - left) / 96


def make_sign(
    rng: np.random.Generator,
    *,
    text: str,
    color: str,
    font: pathlib.Path,
    text_height: float,
    least_height: float,
) -> Sign:
    """A sign around (0, 0): roll up to 10 degrees, a little perspective, margins that keep text readable."""
    height = max(text_height * rng.uniform(1.5, 2.1), least_height)
    text_width = text_height * text_width_per_height(text, font)
    width = max(text_width + text_height * rng.uniform(0.5, 1.2), least_height, 0.8 * height)
    roll = math.radians(float(np.clip(rng.normal(0, 4), -10, 10)))
    cos, sin = math.cos(roll), math.sin(roll)
    corners = []
    for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
        u = x * width / 2 * (1 + rng.uniform(-0.04, 0.04))
        v = y * height / 2 * (1 + rng.uniform(-0.06, 0.06))
        corners.append((u * cos - v * sin, u * sin + v * cos))
    panel, ink, rim = panel_colors(rng, color)
    radius = rng.choice((0.0, 0.1, 0.25, 0.5), p=(0.3, 0.3, 0.3, 0.1))
    return Sign(text, color, panel, ink, rim, font, width, height, text_height, float(radius), tuple(corners))


def perspective(source: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, ...]:
    """Pillow's eight coefficients that take output points `target` [4, 2] to input points `source` [4, 2]."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append((x, y, 1, 0, 0, 0, -u * x, -u * y))
        rows.append((0, 0, 0, x, y, 1, -v * x, -v * y))
    return tuple(np.linalg.solve(np.array(rows), source.reshape(8)))


def _flat_panel(sign: Sign, scale: float) -> tuple[Image.Image, Image.Image]:
    """The sign seen from the front at `scale`: its face and the mask of its outline."""
    wanted = sign.text_height * scale
    cap = next((size for size in CAP_HEIGHTS_PX if size >= wanted), CAP_HEIGHTS_PX[-1])
    zoom = cap / sign.text_height
    width, height = max(round(sign.width * zoom), 2), max(round(sign.height * zoom), 2)
    panel = Image.new("RGB", (width, height), sign.panel_rgb)
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(panel)
    radius = sign.corner_radius * height
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, width - 1, height - 1), radius, fill=255)
    rim = max(round(0.055 * height), 1)
    draw.rounded_rectangle((0, 0, width - 1, height - 1), radius, outline=sign.rim_rgb, width=rim)
    font = face(sign.font, cap)
    left, _, right, _ = font.getbbox(sign.text)
    _, cap_top, _, cap_bottom = font.getbbox("H")
    draw.text(
        ((width - right - left) / 2, (height - cap_top - cap_bottom) / 2), sign.text, sign.ink_rgb, font
    )
    size = max(round(sign.width * scale), 2), max(round(sign.height * scale), 2)
    if size[0] < width:
        panel, mask = panel.resize(size, Image.Resampling.BOX), mask.resize(size, Image.Resampling.BOX)
    return panel, mask


def paint_sign(view: Image.Image, sign: Sign, origin: Point, scale: float) -> None:
    """Paints into a view that shows the original from `origin` at `scale` view pixels per original pixel."""
    target = (np.array(sign.corners) - origin) * scale
    left, top = np.floor(target.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(target.max(axis=0)).astype(int) + 1
    if right <= 0 or bottom <= 0 or left >= view.width or top >= view.height:
        return
    panel, mask = _flat_panel(sign, scale)
    source = np.array([(0, 0), (panel.width, 0), panel.size, (0, panel.height)], dtype=np.float64)
    coefficients = perspective(source, target - (left, top))
    size = (int(right - left), int(bottom - top))
    face_view = panel.transform(
        size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC, fillcolor=sign.rim_rgb
    )
    mask_view = mask.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC)
    view.paste(face_view, (int(left), int(top)), mask_view)


def character_centers(sign: Sign) -> list[Point]:
    """The centre of each character in pixels of the original, from the panel's front through its tilt."""
    font = face(sign.font, 96)
    zoom = sign.text_height / 96
    left, _, right, _ = font.getbbox(sign.text)
    start = (sign.width - (right + left) * zoom) / 2
    middles = [
        start + zoom * (font.getlength(sign.text[:i]) + font.getlength(sign.text[: i + 1])) / 2
        for i in range(len(sign.text))
    ]
    front = np.array([(0, 0), (sign.width, 0), (sign.width, sign.height), (0, sign.height)], dtype=np.float64)
    a, b, c, d, e, f, g, h = perspective(np.array(sign.corners), front)
    centers = []
    for x in middles:
        y = sign.height / 2
        scale = g * x + h * y + 1
        centers.append(((a * x + b * y + c) / scale, (d * x + e * y + f) / scale))
    return centers
