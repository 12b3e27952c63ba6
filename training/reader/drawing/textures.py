"""Photographs that scenes are drawn on, from Debian's wallpaper packages; used for training, never shipped.

Training and held-out photographs are disjoint. Their licences are listed in `docs/training-reader.md`.
"""

from __future__ import annotations

import functools
import pathlib

import numpy as np
from PIL import Image

from scenes.fonts import Split

PACKAGES = (
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
)
_ROOT = pathlib.Path("/usr/share")
_LONGEST_PX = 1280

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
    missing = [path for path in files if not path.exists()]
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
    """A part of a photograph, perhaps mirrored and with other colours, behind a scene of a given aspect."""

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

    def paint(self, size: tuple[int, int], part: tuple[float, float, float, float]) -> Image.Image:
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
        levels = np.arange(256)[None] * self._gain[:, None] + self._offset
        return view.point(np.clip(levels, 0, 255).astype(int).ravel().tolist())
