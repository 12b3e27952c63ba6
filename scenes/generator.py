"""Seeded, photo-like scenes with coloured signs, their ground truth, and views of them at any scale.

    scene = make_scene(7, split="test")
    photo = render(scene)              # the original, its longer side 1000-4000 px
    scene.questions[0]                 # text, answer, the sign's index; scene.signs[i].box in original pixels

No torch here: numpy and Pillow only. The same (seed, split) gives the same scene on every machine with the
same fonts.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from scenes.backgrounds import Background, light_view, make_background, paint_background
from scenes.fonts import Split, font_files
from scenes.questions import Question, make_questions
from scenes.signs import CHARACTERS, COLORS, Sign, make_sign, paint_sign

VIEW_SIDE_PX = 224  # the resolution for which text heights are balanced: the embedded model's input
TEXT_HEIGHT_VIEW_PX = (2.2, 22.0)  # log-uniform
LEAST_SIGN_VIEW_PX = 13.0  # a sign's colour stays visible when its text does not
LEAST_TEXT_PX = 14.0  # in the original: readable by somebody who has the original

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Sizes in pixels of the original. `noise`: sigma of the sensor's; `blur`: radius of the lens's."""

    seed: int
    split: Split
    width: int
    height: int
    background: Background
    signs: tuple[Sign, ...]
    questions: tuple[Question, ...]
    noise: float
    blur: float
    jpeg_quality: int

    def text_height_in_view(self, sign: Sign, side: int = VIEW_SIDE_PX) -> float:
        """The height of the sign's capitals after the longer side was resized to `side` pixels."""
        return sign.text_height * side / max(self.width, self.height)


def _rng(seed: int, split: Split) -> np.random.Generator:
    return np.random.default_rng([seed, 0 if split == "train" else 1])


def random_text(rng: np.random.Generator) -> str:
    length = int(rng.choice((1, 2, 3, 4), p=(0.15, 0.3, 0.3, 0.25)))
    pool = CHARACTERS[:10] if rng.random() < 0.25 else CHARACTERS
    return "".join(rng.choice(list(pool), length))


def place(sign: Sign, x: float, y: float) -> Sign:
    corners = tuple((cx + x, cy + y) for cx, cy in sign.corners)
    return replace(sign, corners=corners)


def free_spot(
    rng: np.random.Generator, sign: Sign, size: tuple[int, int], taken: list[Box], gap: float
) -> Sign | None:
    """The sign moved to where it touches no box in `taken`; None if forty throws find no such place."""
    left, top, right, bottom = sign.box
    if right - left + 2 * gap >= size[0] or bottom - top + 2 * gap >= size[1]:
        return None
    for _ in range(40):
        x, y = rng.uniform(gap - left, size[0] - gap - right), rng.uniform(gap - top, size[1] - gap - bottom)
        x0, y0, x1, y1 = left + x - gap, top + y - gap, right + x + gap, bottom + y + gap
        if all(x1 < a or x0 > c or y1 < b or y0 > d for a, b, c, d in taken):
            return place(sign, x, y)
    return None


def _place_signs(rng: np.random.Generator, size: tuple[int, int], split: Split) -> tuple[Sign, ...]:
    fonts = font_files(split)
    view_px = max(size) / VIEW_SIDE_PX  # original pixels per pixel of the view
    colors = rng.permutation(COLORS)[: int(rng.integers(2, 6))]
    signs: list[Sign] = []
    for color in colors:
        low = max(TEXT_HEIGHT_VIEW_PX[0], LEAST_TEXT_PX / view_px)
        moved = None
        while moved is None:
            text = random_text(rng)
            if any(text == other.text for other in signs):
                continue
            height = float(np.exp(rng.uniform(np.log(low), np.log(TEXT_HEIGHT_VIEW_PX[1])))) * view_px
            sign = make_sign(
                rng,
                text=text,
                color=str(color),
                font=fonts[int(rng.integers(len(fonts)))],
                text_height=height,
                least_height=LEAST_SIGN_VIEW_PX * view_px,
            )
            moved = free_spot(rng, sign, size, [other.box for other in signs], 3 * view_px)
        signs.append(moved)
    return tuple(signs)


def make_scene(
    seed: int, *, split: Split, size: tuple[int, int] | None = None, canonical: bool = False
) -> Scene:
    """A scene of 2-5 signs.

    `size` fixes width and height in pixels; `canonical` uses each question's first wording.
    """
    rng = _rng(seed, split)
    if size is None:
        longer, aspect = int(rng.integers(1000, 4001)), float(np.exp(rng.uniform(-np.log(2), np.log(2))))
        shorter = max(round(longer * min(aspect, 1 / aspect)), 1000 if longer >= 2000 else longer // 2)
        size = (longer, shorter) if aspect > 1 else (shorter, longer)
    signs = _place_signs(rng, size, split)
    return Scene(
        seed=seed,
        split=split,
        width=size[0],
        height=size[1],
        background=make_background(rng, split),
        signs=signs,
        questions=make_questions(rng, signs, canonical=canonical),
        noise=float(rng.uniform(0, 9)),
        blur=float(rng.uniform(0, 1.3)),
        jpeg_quality=int(rng.integers(78, 96)),
    )


_NOISE_TILE = np.random.default_rng(0).normal(0, 1, (257, 263)).astype(np.float32)


def add_noise(view: Image.Image, sigma: float, shift: int) -> Image.Image:
    """Grey sensor noise from one fixed tile, shifted by the scene."""
    if sigma < 0.5:
        return view
    rows, cols = -(-view.height // 257), -(-view.width // 263)
    tile = np.clip(128 + sigma * np.roll(_NOISE_TILE, shift), 0, 255).astype(np.uint8)
    layer = Image.fromarray(np.tile(tile, (rows, cols))[: view.height, : view.width])
    return ImageChops.add(view, Image.merge("RGB", (layer,) * 3), 1, -128)


def render(scene: Scene, box: Box | None = None, size: tuple[int, int] | None = None) -> Image.Image:
    """The part `box` (original pixels) of the scene as `size` pixels; by default the whole original.

    Nothing is painted finer than the original's own pixels: a larger `size` is an enlargement, as it is with
    a photo.
    """
    box = box or (0.0, 0.0, float(scene.width), float(scene.height))
    span = box[2] - box[0], box[3] - box[1]
    size = size or (round(span[0]), round(span[1]))
    scale = min(1.0, size[0] / span[0])
    paint_size = max(round(span[0] * scale), 1), max(round(span[1] * scale), 1)
    part = (box[0] / scene.width, box[1] / scene.height, box[2] / scene.width, box[3] / scene.height)
    view = paint_background(scene.background, paint_size, part)
    for sign in scene.signs:
        paint_sign(view, sign, (box[0], box[1]), scale)
    light = light_view(scene.background, paint_size, part)
    view = ImageChops.multiply(view, Image.merge("RGB", (light,) * 3)).point(
        [min(v * 2, 255) for v in range(256)] * 3
    )
    if scene.blur * scale > 0.3:
        view = view.filter(ImageFilter.GaussianBlur(scene.blur * scale))
    view = add_noise(view, scene.noise * scale, scene.seed % 251)
    return view if view.size == size else view.resize(size, Image.Resampling.BICUBIC)


def shown_share(sign_box: Box, box: Box) -> float:
    """The share of the sign's bounding box that a box shows."""
    width = min(sign_box[2], box[2]) - max(sign_box[0], box[0])
    height = min(sign_box[3], box[3]) - max(sign_box[1], box[1])
    area = (sign_box[2] - sign_box[0]) * (sign_box[3] - sign_box[1])
    return max(width, 0.0) * max(height, 0.0) / area


def encode_jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
