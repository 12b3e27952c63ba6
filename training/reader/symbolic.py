"""Pictures without pixels: lines of text at places, read with made-up uncertainty or with the real reader's.

The truth is drawn first and what was read follows from it: look-alikes near each other, characters dropped
and doubled, short lines lost. Where real lines are at hand, their posteriors stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from secondglance_server.engine.reader.alphabet import CHARACTERS, INDEX, OTHER_INDEX, folded
from secondglance_server.engine.reader.ocr import CANDIDATES, ReadLine
from training.reader.drawing.placards import ALL_COLORS
from training.reader.drawing.words import random_kind, text_of
from training.reader.records import TrueLine, TrueSign, View

_ALIKE = (
    *[
        "0OoDQ",
        "1lI|i!",
        "2Zz",
        "5Ss",
        "8B3",
        "6Gb",
        "9gq",
        "4A",
        "7T1",
        "cCeG",
        "uvVU",
        "wWvv",
        "mnrN",
        "hkbn",
        "EFP",
    ],
    *["MNH", "KXx", "tfT+", "j;i", ".,", "-_~", ":;", "aeo", "yY", "pP", "kK", "RK"],
)
_CONFUSED: dict[int, list[int]] = {}
for _group in _ALIKE:
    for _character in _group:
        _CONFUSED.setdefault(INDEX[_character], []).extend(INDEX[c] for c in _group if c != _character)


@dataclass(frozen=True, slots=True, eq=False)
class PooledLine:
    """A line that the real reader read; `height`: in pixels of its view."""

    text: str
    kind: str
    ids: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    score: float


@dataclass(frozen=True, slots=True)
class Difficulty:
    """`lines`: the most lines; `blur`: the share of made-up lines that are not read clearly; `pooled`: the
    share of real lines; `longest`: of a made-up text."""

    signs: int = 4
    blur: float = 0.5
    pooled: float = 0.5
    longest: int = 26
    multi: float = 0.3


def read_of(
    rng: np.random.Generator, text: str, blur: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return what a reader might see of a text; `blur` 0 is perfect, 1 hardly legible."""
    ids: list[NDArray[np.uint8]] = []
    probabilities: list[NDArray[np.float32]] = []
    for character in folded(text):
        if rng.random() < 0.04 * blur:
            continue
        for _ in range(2 if rng.random() < 0.02 * blur else 1):
            row_ids, row = _posterior(rng, INDEX[character], blur)
            ids.append(row_ids)
            probabilities.append(row)
    if not ids:
        row_ids, row = _posterior(rng, OTHER_INDEX, 1.0)
        ids, probabilities = [row_ids], [row]
    return np.stack(ids), np.stack(probabilities)


def _posterior(
    rng: np.random.Generator, truth: int, blur: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return candidates whose probability of holding the truth first is their own: noise, then Bayes."""
    likely = _CONFUSED.get(truth, [])
    others = [c for c in dict.fromkeys(likely) if c != truth]
    while len(others) < CANDIDATES - 1:
        other = int(rng.integers(1, len(CHARACTERS)))
        if other != truth and other not in others:
            others.append(other)
    chosen = np.array([truth, *rng.permutation(others)[: CANDIDATES - 1]])
    sharpness = (1 - blur) * 9 + 0.3 if blur else 40.0
    evidence = rng.normal(0, 1, CANDIDATES) * np.sqrt(sharpness)
    evidence[0] += sharpness
    weights = np.exp(evidence - evidence.max())
    values = (weights / weights.sum()).astype(np.float32)
    order = np.argsort(-values)
    return chosen[order].astype(np.uint8), values[order]


_PLAQUES = 0.25  # of the pictures with signs of several lines: nothing but one or two such signs


def symbolic_view(
    rng: np.random.Generator, difficulty: Difficulty, pool: Sequence[PooledLine]
) -> tuple[View, NDArray[np.float32]]:
    """Return a view and the colours [lines, classes] that its lines seem to have."""
    size = (448, int(rng.integers(250, 449))) if rng.random() < 0.6 else (int(rng.integers(250, 449)), 448)
    signs: list[TrueSign] = []
    lines: list[ReadLine] = []
    seem: list[NDArray[np.float32]] = []
    colors = [str(c) for c in rng.permutation(ALL_COLORS)]
    taken: list[tuple[float, float, float, float]] = []
    count = int(rng.integers(1, difficulty.signs + 1))
    if difficulty.multi and rng.random() < _PLAQUES:
        count, difficulty = 1 + int(rng.random() < 0.3), replace(difficulty, multi=1.0)
    for index in range(count):
        color = None if rng.random() < 0.2 else colors[index % len(colors)]
        sign = _sign(rng, difficulty, pool, color, size, taken)
        if sign is None:
            continue
        true, read = sign
        taken.append(true.box)
        signs.append(true)
        lines += read
        seem += [_seeming(rng, color) for _ in read]
    view = View(size, b"", tuple(lines), tuple(signs), None)
    return view, np.array(seem, np.float32).reshape(len(lines), len(ALL_COLORS) + 1)


def _seeming(rng: np.random.Generator, color: str | None) -> NDArray[np.float32]:
    truth = ALL_COLORS.index(color) if color else len(ALL_COLORS)
    logits = rng.normal(0, 1, len(ALL_COLORS) + 1)
    logits[truth] += rng.uniform(3, 12)
    weights = np.exp(logits - logits.max())
    return np.asarray(weights / weights.sum(), np.float32)


def _text(
    rng: np.random.Generator, difficulty: Difficulty, pool: Sequence[PooledLine]
) -> tuple[str, str, NDArray[np.uint8], NDArray[np.float32], float]:
    if pool and rng.random() < difficulty.pooled:
        real = pool[int(rng.integers(len(pool)))]
        return real.text, real.kind, real.ids, real.probabilities, real.score
    kind = random_kind(rng)
    text = text_of(rng, kind, "train")
    while len(text) > difficulty.longest:
        kind = random_kind(rng)
        text = text_of(rng, kind, "train")
    blur = float(rng.uniform(0, 0.9)) if rng.random() < difficulty.blur else 0.0
    ids, probabilities = read_of(rng, text, blur)
    return text, kind, ids, probabilities, float(np.clip(rng.normal(0.85 - 0.2 * blur, 0.08), 0.3, 1))


def _sign(
    rng: np.random.Generator,
    difficulty: Difficulty,
    pool: Sequence[PooledLine],
    color: str | None,
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[TrueSign, list[ReadLine]] | None:
    """Return a sign at a free place and what is read of it, or None."""
    many = (
        int(rng.choice((2, 3, 4, 5, 6, 8), p=(0.35, 0.2, 0.15, 0.1, 0.1, 0.1)))
        if rng.random() < difficulty.multi
        else 1
    )
    texts = [_text(rng, difficulty, pool) for _ in range(many)]
    for _ in range(12):
        first = float(np.exp(rng.uniform(np.log(6), np.log(45))))
        heights = [first] + [
            first * (1.0 if rng.random() < 0.5 else rng.uniform(0.45, 0.95)) for _ in texts[1:]
        ]
        widths = [
            h * 0.62 * max(len(t[0]), 1) * rng.uniform(0.8, 1.2) for h, t in zip(heights, texts, strict=True)
        ]
        gaps = [h * rng.uniform(0.3, 0.75) for h in heights]
        pad = first * rng.uniform(0.3, 1.0)
        width, height = max(widths) + 2 * pad, sum(heights) + sum(gaps[1:]) + 2 * pad
        if width >= size[0] or height >= size[1]:
            continue
        left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
        box = (left / size[0], top / size[1], (left + width) / size[0], (top + height) / size[1])
        if all(box[2] < a or box[0] > c or box[3] < b or box[1] > d for a, b, c, d in taken):
            break
    else:
        return None
    true, read, y = [], [], top + pad
    for place, (text, kind, ids, probabilities, score) in enumerate(texts):
        y += gaps[place] if place else 0
        x = left + (width - widths[place]) / 2
        tilt = rng.normal(0, 0.02) * widths[place]
        corners = np.array(
            [
                (x, y),
                (x + widths[place], y + tilt),
                (x + widths[place], y + heights[place] + tilt),
                (x, y + heights[place]),
            ]
        )
        corners = corners + rng.normal(0, 0.03 * heights[place], (4, 2))
        line_box = (x / size[0], y / size[1], (x + widths[place]) / size[0], (y + heights[place]) / size[1])
        true.append(TrueLine(text, kind, line_box))
        if rng.random() > 0.02:
            read.append(ReadLine((corners / size).astype(np.float32), ids, probabilities, score))
        y += heights[place]
    return TrueSign(color, box, 1.0, tuple(true)), read


def pool_of(views: Sequence[View]) -> list[PooledLine]:
    """Return the lines of real views that show one whole line of the truth."""
    from training.reader.targets import see

    pool: list[PooledLine] = []
    for view in views:
        seen = see(view)
        by_number = {seen.slots.order[i]: line for i, line in enumerate(view.lines)}
        for sign, found in zip(view.signs, seen.found, strict=True):
            for line, numbers in zip(sign.lines, found, strict=True):
                inside = line.box[0] >= 0 and line.box[2] <= 1 and line.box[1] >= 0 and line.box[3] <= 1
                if len(numbers) == 1 and inside:
                    read = by_number[numbers[0]]
                    pool.append(PooledLine(line.text, line.kind, read.ids, read.probabilities, read.score))
    return pool
