"""Where a model should look: the layers, the map and the window that find the answers' boxes.

Every candidate is first judged by its boxes alone, which costs no answers. The best of them answer the
second stage; the most accurate one is taken, if it beats the model's own by more than the standard error of
the difference: many candidates are compared, and one is always lucky. Knows nothing of files, pictures or
devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import AttentionMap, LocalizationDefaults
from secondglance_server.inference.localization import locate, relative_attention

HELD = 0.9  # of the answer's box in the crop: then the crop shows the answer
FINALISTS = 5
_PADS = (0.0, 0.25, 0.5, 1.0)
_LEAST_CELLS = (1.0, 1.6, 2.4, 3.2)
_PAIRED_LAYERS = 3  # the best single ones, whose pairs are tried, too


@dataclass(frozen=True, slots=True)
class Setting:
    """The layers whose attention is averaged, and how their map becomes a box."""

    layers: tuple[int, ...]
    how: LocalizationDefaults

    @property
    def name(self) -> str:
        """Return the setting in words."""
        how = self.how
        smallest = f" of {how.min_side_cells:g} cells or more" if how.window == "mass" else ""
        layers = " and ".join(map(str, self.layers))
        return f"layer {layers}, {how.attention}, {how.window}{smallest}, pad {how.pad_cells:g}"


@dataclass(frozen=True, slots=True, eq=False)
class Looked:
    """What every layer looked at for one question: maps for it and for the neutral prompt, by layer."""

    example_id: str
    image_id: str
    box: PixelBox
    size: ImageSize
    asked: Mapping[int, AttentionMap]
    neutral: Mapping[int, AttentionMap]

    def region(self, setting: Setting) -> PixelBox:
        """Return the region of the original that the setting asks for."""
        found = _mean([self.asked[layer] for layer in setting.layers])
        if setting.how.attention == "relative":
            found = relative_attention(found, _mean([self.neutral[layer] for layer in setting.layers]))
        return locate(found, self.size, setting.how)


def held_share(box: PixelBox, region: PixelBox) -> float:
    """Return how much of `box` lies in `region`."""
    width = min(box.right, region.right) - max(box.left, region.left)
    height = min(box.bottom, region.bottom) - max(box.top, region.top)
    return max(0, width) * max(0, height) / (box.width * box.height)


def merit(looked: Sequence[Looked], setting: Setting) -> float:
    """Return the mean gain in detail: the share of the picture's sides that a crop which shows the answer
    leaves out, and 0 for a crop that does not show it."""
    gains = []
    for each in looked:
        region = each.region(setting)
        side = ((region.width / each.size.width) * (region.height / each.size.height)) ** 0.5
        gains.append((1 - side) if held_share(each.box, region) >= HELD else 0.0)
    return float(np.mean(gains))


def finalists(looked: Sequence[Looked], own: Setting) -> list[Setting]:
    """Return the model's own setting and the candidates with the best boxes."""
    layers = sorted(looked[0].asked)
    ranked = _ranked(looked, [(layer,) for layer in layers], own.how)
    best = list(dict.fromkeys(setting.layers[0] for setting in ranked))[:_PAIRED_LAYERS]
    pairs = [tuple(sorted(pair)) for pair in combinations(best, 2)]
    ranked = _ranked(looked, pairs, own.how, ranked)
    others = [setting for setting in ranked if setting != own]
    return [own, *others[:FINALISTS]]


def choose_setting(scores: Mapping[Setting, Sequence[float]], own: Setting) -> Setting:
    """Return the most accurate setting, the model's `own` where none is clearly better.

    `scores`: of each setting the second answers' scores, question by question, the best boxes first.
    """
    best = max(scores, key=lambda setting: float(np.mean(scores[setting])))
    gain = np.asarray(scores[best]) - np.asarray(scores[own])
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.inf
    return best if gain.mean() > error else own


def _ranked(
    looked: Sequence[Looked],
    layer_sets: Sequence[tuple[int, ...]],
    how: LocalizationDefaults,
    others: Sequence[Setting] = (),
) -> list[Setting]:
    """Return all settings over these layers, and the others, by falling merit."""
    settings = [*others, *(Setting(layers, each) for layers in layer_sets for each in _ways(how))]
    merits = {setting: merit(looked, setting) for setting in settings}
    return sorted(merits, key=lambda setting: -merits[setting])


def _ways(how: LocalizationDefaults) -> Iterator[LocalizationDefaults]:
    """Yield maps and windows; the base of ViCrop's windows is the encoder's side, which stays."""
    for attention in ("plain", "relative"):
        for pad in _PADS:
            same = replace(how, attention=attention, pad_cells=pad)
            yield replace(same, window="vicrop")
            for cells in _LEAST_CELLS:
                yield replace(same, window="mass", min_side_cells=cells)


def _mean(maps: Sequence[AttentionMap]) -> AttentionMap:
    if len(maps) == 1:
        return maps[0]
    return replace(maps[0], weights=np.mean([each.weights for each in maps], axis=0, dtype=np.float32))
