"""Photographs that scenes are drawn on, from Debian's packages; used for training, never shipped.

Training and held-out photographs are disjoint. Their licences are listed in `docs/training-reader.md`.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
from PIL import Image, ImageDraw

from scenes.fonts import Split

PACKAGES = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "endless-sky-high-dpi",
)
Box = tuple[float, float, float, float]
_ROOT = pathlib.Path("/usr/share")
_LONGEST_PX = 1280
_LANDSCAPES = "games/endless-sky/plugins/endless-sky-high-dpi/images/land"
_WALLPAPERS_REPEATED = 4  # for training: 30 near views of many kinds beside 273 landscapes

_BACKGROUNDS_TRAIN = """
Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Kleiber_by_Lukas_Baubkus Picture_0B_by_freespace
Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi analogpattern_by_Peter_Nerlich free_by_Peter_Nerlich
life_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi
"""
_NATURE_TRAIN = """
Aqua Blinds Dune FreshFlower GreenMeadow LadyBird RainDrops Storm YellowFlower
"""
_PLASMA_TRAIN = """
BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow Grey Kite Opal Path Shell
"""
_BACKGROUNDS_TEST = "Picture_1A_by_freespace friends_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi"
_NATURE_TEST = "Garden TwoWings Wood"
_PLASMA_TEST = "FallenLeaf OneStandsOut Volna summer_1am"
_NAMES: dict[Split, tuple[str, str, str]] = {
    "train": (_BACKGROUNDS_TRAIN, _NATURE_TRAIN, _PLASMA_TRAIN),
    "test": (_BACKGROUNDS_TEST, _NATURE_TEST, _PLASMA_TEST),
}


@functools.cache
def texture_files(split: Split) -> tuple[pathlib.Path, ...]:
    """Return the split's photographs. Raises FileNotFoundError naming the packages to install."""
    backgrounds, nature, plasma = (names.split() for names in _NAMES[split])
    files = [_ROOT / "backgrounds" / f"{name}.jpg" for name in backgrounds]
    files += [_ROOT / "backgrounds" / "mate" / "nature" / f"{name}.jpg" for name in nature]
    for name in plasma:
        found = sorted((_ROOT / "wallpapers" / name / "contents" / "images").glob("*.[jp][pn]g"))
        files += [max(found, key=lambda path: path.stat().st_size)] if found else [_ROOT / name]
    if split == "train":
        landscapes = _ROOT / _LANDSCAPES
        files = files * _WALLPAPERS_REPEATED + (sorted(landscapes.glob("*.jpg")) or [landscapes])
    missing = [path for path in dict.fromkeys(files) if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} photographs are missing ({missing[0].name}, ...): "
            f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        )
    return tuple(files)


@functools.lru_cache(maxsize=64)
def _load(path: pathlib.Path) -> Image.Image:
    image = Image.open(path)
    image.draft("RGB", (_LONGEST_PX, _LONGEST_PX))
    image = image.convert("RGB")
    image.thumbnail((_LONGEST_PX, _LONGEST_PX), Image.Resampling.BILINEAR)
    return image


class PhotoBackground:
    """A part of a photograph, perhaps mirrored and with other colours, behind a scene of a given aspect.

    For training half of them are turned to other hues, and half have bright things before them: colours alone
    must not look like a sign.
    """

    def __init__(self, rng: np.random.Generator, split: Split, aspect: float) -> None:
        files = texture_files(split)
        self._path = files[int(rng.integers(len(files)))]
        source = _load(self._path)
        share = float(rng.uniform(0.25, 1.0))
        width = min(source.width, source.height * aspect) * share
        height = width / aspect
        left, top = rng.uniform(0, source.width - width), rng.uniform(0, source.height - height)
        self._box = (left, top, left + width, top + height)
        self._is_mirrored = bool(rng.random() < 0.5)
        self._gain = rng.uniform(0.75, 1.15) * rng.uniform(0.85, 1.15, 3)
        self._offset = float(rng.uniform(-15, 25))
        self._hues: tuple[float, ...] | None = None
        self._things: tuple[_Thing, ...] = ()
        if split == "train" and rng.random() < 0.5:
            self._hues = _other_hues(rng, 0.4)
        if split == "train" and rng.random() < 0.5:
            self._things = tuple(_Thing(rng, aspect) for _ in range(int(rng.integers(1, 7))))

    def paint(self, size: tuple[int, int], part: Box) -> Image.Image:
        """Return `size` pixels of the fraction `part` (left, top, right, bottom) of the background."""
        x0, y0, x1, y1 = self._box
        u0, v0, u1, v1 = part
        if self._is_mirrored:
            u0, u1 = 1 - u1, 1 - u0
        width, height = x1 - x0, y1 - y0
        box = (x0 + u0 * width, y0 + v0 * height, x0 + u1 * width, y0 + v1 * height)
        view = _load(self._path).resize(size, Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        if self._is_mirrored:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self._hues:
            view = view.convert("RGB", self._hues)
        for thing in self._things:
            thing.paint(view, part)
        levels = np.arange(256)[None] * self._gain[:, None] + self._offset
        return view.point(np.clip(levels, 0, 255).astype(int).ravel().tolist())


class _Thing:
    """A round or jagged piece of another photograph, in strong colours.

    `_outline` [48, 2]: its points in fractions of the picture.
    """

    def __init__(self, rng: np.random.Generator, aspect: float) -> None:
        files = texture_files("train")
        self._path = files[int(rng.integers(len(files)))]
        source = _load(self._path)
        side = float(rng.uniform(0.05, 0.5)) * min(source.size)
        left, top = rng.uniform(0, source.width - side), rng.uniform(0, source.height - side)
        self._source_box = (left, top, left + side, top + side)
        self._hues = _other_hues(rng, 0.9)
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radii = np.ones(48)
        for waves in range(2, 8):
            radii += rng.normal(0, 0.45 / waves) * np.cos(waves * angles + rng.uniform(0, 2 * np.pi))
        radius = float(np.exp(rng.uniform(np.log(0.02), np.log(0.3))))
        stretch = float(np.exp(rng.normal(0, 0.4)))
        around = np.stack([np.cos(angles) * stretch, np.sin(angles) / stretch], 1)
        around *= np.maximum(radii, 0.1)[:, None] * radius
        self._outline = rng.uniform(0, 1, 2) + around * (1 / max(aspect, 1), min(aspect, 1))

    def paint(self, view: Image.Image, part: Box) -> None:
        u0, v0, u1, v1 = part
        outline = (self._outline - (u0, v0)) / (u1 - u0, v1 - v0) * view.size
        left, top = np.floor(outline.min(axis=0)).astype(int).tolist()
        right, bottom = np.ceil(outline.max(axis=0)).astype(int).tolist()
        if right <= max(left, 0) or bottom <= max(top, 0) or left >= view.width or top >= view.height:
            return
        mask = Image.new("L", (right - left, bottom - top), 0)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline.tolist()], fill=255)
        skin = _load(self._path).resize(
            mask.size, Image.Resampling.BILINEAR, self._source_box, reducing_gap=2.0
        )
        view.paste(skin.convert("RGB", self._hues), (left, top), mask)


def _other_hues(rng: np.random.Generator, deviation: float) -> tuple[float, ...]:
    """Return the matrix [3, 4] that turns all hues by one angle and changes saturation; greys stay grey."""
    angle = float(rng.uniform(-np.pi, np.pi))
    saturation = float(np.clip(np.exp(rng.normal(0.25, deviation)), 0.2, 4.0))
    grey = np.full((3, 3), 1 / 3)
    cross = np.array([(0, -1, 1), (1, 0, -1), (-1, 1, 0)]) / np.sqrt(3)
    turned = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * cross
    matrix = grey + saturation * turned
    return tuple(np.concatenate([matrix, np.zeros((3, 1))], axis=1).ravel().tolist())
