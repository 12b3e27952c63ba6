"""What the tower is trained on: 224-px views with dense labels, rendered once into shards on disk.

Three kinds of view: collages (twenty to fifty signs in one view: a scene alone holds too few characters),
whole scenes as an edge sends them, and crops as the product cuts them. Labels are given for each of the
tower's cells.
"""

from __future__ import annotations

import dataclasses
import io
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from scenes import generator, signs
from scenes.backgrounds import make_background, paint_background
from scenes.fonts import Split, font_files

SIDE = 224
CELLS = 14
PADDING_GREY = (127, 127, 127)
IGNORE = 255
SLOTS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """Per cell: `color` 0 none, 1.. ; `slots` 0 empty, 1.. (where color > 0); `anchor` 1 at a sign's centre.

    `characters` [28, 56]: the character whose centre lies in that 8x4-px cell, 0 for none, IGNORE beside one.
    """

    color: NDArray[np.uint8]
    anchor: NDArray[np.uint8]
    slots: NDArray[np.uint8]
    characters: NDArray[np.uint8]


def letterbox(image: Image.Image) -> Image.Image:
    """The image at the largest size that fits, centred on grey: what the model's processor does."""
    scale = SIDE / max(image.size)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    canvas = Image.new("RGB", (SIDE, SIDE), PADDING_GREY)
    canvas.paste(image.resize(size, Image.Resampling.BICUBIC), ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    return canvas


def _inside(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which points [N, 2] lie in the convex quadrangle [4, 2] (clockwise)."""
    edges = np.roll(corners, -1, axis=0) - corners
    relative = points[:, None] - corners[None]
    return np.all(edges[None, :, 0] * relative[..., 1] - edges[None, :, 1] * relative[..., 0] >= 0, axis=1)


def make_labels(shown: list[signs.Sign], origin: tuple[float, float], scale: float) -> Labels:
    """Labels of a view that shows the original at `scale` from `origin` (original px at its top left)."""
    color, anchor = np.zeros((2, CELLS, CELLS), np.uint8)
    slots = np.zeros((CELLS, CELLS, SLOTS), np.uint8)
    characters = np.zeros((28, 56), np.uint8)
    places = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS)), -1).reshape(-1, 2)
    middles = (places + 0.5) * (SIDE / CELLS)
    for centers_only in (False, True):  # the cell of a centre belongs to that sign, whoever else covers it
        for sign in shown:
            corners = (np.array(sign.corners) - origin) * scale
            center = corners.mean(axis=0)
            if not (0 <= center[0] < SIDE and 0 <= center[1] < SIDE):
                continue
            row, col = int(center[1] * CELLS / SIDE), int(center[0] * CELLS / SIDE)
            here = np.zeros((CELLS, CELLS), bool)
            here[row, col] = True
            if not centers_only:
                here |= _inside(middles, corners).reshape(CELLS, CELLS)
            text = [signs.CHARACTERS.index(c) + 1 for c in sign.text]
            color[here] = signs.COLORS.index(sign.color) + 1
            slots[here] = text + [0] * (SLOTS - len(text))
            if centers_only:
                anchor[row, col] = 1
            else:
                _mark_characters(characters, sign, text, origin, scale)
    return Labels(color, anchor, slots, characters)


def _mark_characters(
    grid: NDArray[np.uint8], sign: signs.Sign, text: list[int], origin: tuple[float, float], scale: float
) -> None:
    height = sign.text_height * scale
    for code, center in zip(text, signs.character_centers(sign), strict=True):
        x, y = (np.array(center) - origin) * scale
        reach_x, reach_y = max(height * 0.3, 3), max(height * 0.5, 5)
        rows = slice(max(int((y - reach_y) // 8), 0), max(int((y + reach_y) // 8) + 1, 0))
        cols = slice(max(int((x - reach_x) // 4), 0), max(int((x + reach_x) // 4) + 1, 0))
        grid[rows, cols] = np.where(grid[rows, cols] == 0, IGNORE, grid[rows, cols])
        if 4.5 <= height <= 36 and 0 <= x < SIDE and 0 <= y < SIDE:
            grid[int(y // 8), int(x // 4)] = code


def compress(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """The view after the edge's JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(72, 96)), subsampling=int(rng.choice((0, 2))))
    return Image.open(buffer).convert("RGB")


def collage(rng: np.random.Generator, split: Split = "train") -> tuple[Image.Image, Labels]:
    """As many signs as fit, of one regime of sizes."""
    regimes = ((4, 12, 55), (6, 20, 40), (12, 40, 22), (28, 95, 8))
    low, high, most = regimes[int(rng.choice(4, p=(0.3, 0.35, 0.25, 0.1)))]
    fonts = font_files(split)
    placed: list[signs.Sign] = []
    for _ in range(most):
        sign = signs.make_sign(
            rng,
            text=generator.random_text(rng),
            color=str(rng.choice(signs.COLORS)),
            font=fonts[int(rng.integers(len(fonts)))],
            text_height=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
            least_height=generator.LEAST_SIGN_VIEW_PX * float(rng.choice((1, 1, 2, 4))),
        )
        moved = generator.free_spot(rng, sign, (SIDE, SIDE), [other.box for other in placed], 1)
        if moved is not None:
            placed.append(moved)
    view = paint_background(make_background(rng, split), (2 * SIDE, 2 * SIDE), (0, 0, 1, 1))
    for sign in placed:
        signs.paint_sign(view, sign, (0, 0), 2)
    if rng.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.2 if low > 5 else 1.0)))
    view = generator.add_noise(view, rng.uniform(0, 12), int(rng.integers(251)))
    view = view.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return compress(rng, view), make_labels(placed, (0, 0), 1)


def global_view(rng: np.random.Generator, scene: generator.Scene) -> tuple[Image.Image, Labels]:
    """The whole scene as the edge sends it: downsampled, compressed, then letterboxed by the server."""
    scale = SIDE / max(scene.width, scene.height)
    size = max(round(scene.width * scale), 1), max(round(scene.height * scale), 1)
    fine = generator.render(scene, size=(3 * size[0], 3 * size[1]))
    view = letterbox(compress(rng, fine.resize(size, Image.Resampling.LANCZOS)))
    offset = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    return view, make_labels(list(scene.signs), (-offset[0] / scale, -offset[1] / scale), scale)


def crop_view(
    rng: np.random.Generator, scene: generator.Scene, box: tuple[float, float, float, float]
) -> tuple[Image.Image, Labels]:
    """What the edge would cut from the original, at most 224 px a side, compressed, then letterboxed."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = SIDE / max(width, height)
    sent = min(scale, 1.0)
    size = max(round(width * sent), 1), max(round(height * sent), 1)
    fine = generator.render(
        scene, box, (min(2 * size[0], round(width)) or 1, min(2 * size[1], round(height)) or 1)
    )
    view = letterbox(compress(rng, fine.resize(size, Image.Resampling.LANCZOS)))
    left, top = (SIDE - width * scale) / 2, (SIDE - height * scale) / 2
    return view, make_labels(list(scene.signs), (box[0] - left / scale, box[1] - top / scale), scale)


def window(
    scene: generator.Scene, center: tuple[float, float], side: float
) -> tuple[float, float, float, float]:
    """A square of `side` original pixels around `center`, moved or cut to lie inside the photo.

    The box is in whole pixels.
    """
    width, height = min(side, scene.width), min(side, scene.height)
    left = min(max(center[0] - width / 2, 0), scene.width - width)
    top = min(max(center[1] - height / 2, 0), scene.height - height)
    return float(round(left)), float(round(top)), float(round(left + width)), float(round(top + height))


def product_window(
    rng: np.random.Generator, scene: generator.Scene, sign: signs.Sign, *, jitter_cells: float = 0.5
) -> tuple[float, float, float, float]:
    """A window as the product cuts it: larger than the sign, at least 2.2 to 4 cells a side, a little off."""
    cell = max(scene.width, scene.height) / CELLS
    left, top, right, bottom = sign.box
    side = max(max(right - left, bottom - top) * rng.uniform(1.1, 1.8), cell * rng.uniform(2.2, 4.0))
    center = np.array(sign.center) + rng.normal(0, jitter_cells * cell / 2, 2)
    return window(scene, (float(center[0]), float(center[1])), float(side))


def tower_example(seed: int) -> tuple[Image.Image, Labels]:
    """The view number `seed` of the tower's training set: six in ten are collages."""
    rng = np.random.default_rng([seed, 17])
    roll = rng.random()
    if roll < 0.6:
        return collage(rng)
    scene = generator.make_scene(1_000_000 + seed, split="train")
    if roll < 0.75:
        return global_view(rng, scene)
    sign = scene.signs[int(rng.integers(len(scene.signs)))]
    return crop_view(rng, scene, product_window(rng, scene, sign))


def held_out_collage(seed: int) -> tuple[Image.Image, Labels]:
    return collage(np.random.default_rng([seed, 3]), "test")


def held_out_crop(seed: int) -> tuple[Image.Image, Labels]:
    rng, scene = np.random.default_rng([seed, 5]), generator.make_scene(500_000 + seed, split="test")
    sign = scene.signs[int(rng.integers(len(scene.signs)))]
    return crop_view(rng, scene, product_window(rng, scene, sign, jitter_cells=0.2))


def held_out_global(seed: int) -> tuple[Image.Image, Labels]:
    return global_view(np.random.default_rng([seed, 6]), generator.make_scene(600_000 + seed, split="test"))


def save_shard(
    path: pathlib.Path, images: NDArray[np.uint8], labels: Sequence[Any], **more: NDArray[Any]
) -> None:
    """An .npz of images and their labels (nested lists keep their nesting); written whole or not at all."""

    def stack(name: str, part: Any) -> Any:
        return getattr(part, name) if isinstance(part, Labels) else [stack(name, inner) for inner in part]

    fields = {field.name: np.array(stack(field.name, labels)) for field in dataclasses.fields(Labels)}
    part = path.with_suffix(".part.npz")
    np.savez(part, images=images, **fields, **more)
    part.rename(path)


def write_shard(
    path: pathlib.Path, example: Callable[[int], tuple[Image.Image, Labels]], seeds: range
) -> None:
    """Renders one example for each seed into an .npz; written whole or not at all."""
    images = np.zeros((len(seeds), SIDE, SIDE, 3), np.uint8)
    rows = []
    for index, seed in enumerate(seeds):
        image, labels = example(seed)
        images[index] = np.asarray(image)
        rows.append(labels)
    save_shard(path, images, rows)
