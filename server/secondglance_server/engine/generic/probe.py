"""What a model says about itself, tried on synthetic pictures before the first client.

`find_grid` draws a bright square over one cell of a supposed grid and looks which token changes most: a grid
that is transposed, shifted by a separator or cut into other rows sends it elsewhere. `compare` asks two
engines the same things. A probe of features cannot see where a model's attention points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secondglance_server.engine.generic.adapter import GenericAdapter
from secondglance_server.engine.generic.grids import CONTENTS, Content, ContentRule, Grid, Rule, rules
from secondglance_server.engine.protocol import (
    AnswerRequest,
    AnswerResult,
    Engine,
    EngineError,
    Picture,
)

ENOUGH = 0.8  # of the squares must change their own cell most, at every size
_SEES = 0.2  # of the strongest change of any token: the share from which a view shows a square
_BACKGROUND, _BRIGHT = 90, 255
_INSET = 0.15  # of a cell, left dark on each side
_TOLERANCE = {torch.float32: 2e-3}  # nats; a half's rounding moves a statistic by far more
_HALF_TOLERANCE = 0.3
_TOKENS = 3
_ODD_SIZES = ((101, 37), (37, 101), (79, 83))  # pixels: a rule that fits round sizes only would fail later
_QUESTIONS = ("What is this?", "What colour is the largest of the squares in this picture, and where is it?")


@dataclass(frozen=True, slots=True)
class FoundGrid:
    """The rules that hold for a model, in words too."""

    rule: Rule
    content: ContentRule
    how: str


class Sensitivity:
    """How much each image token's features change when a square of a picture becomes bright."""

    def __init__(self, adapter: GenericAdapter) -> None:
        self._adapter = adapter
        self._features: dict[tuple[int, int, tuple[int, int, int, int]], Tensor] = {}

    @torch.inference_mode()
    def features(self, width: int, height: int, box: tuple[int, int, int, int]) -> Tensor:
        """Return the tokens' features [run, width] of a grey picture that is bright in (x0, y0, x1, y1)."""
        key = (width, height, box)
        if key not in self._features:
            rgb = np.full((height, width, 3), _BACKGROUND, np.uint8)
            x0, y0, x1, y1 = box
            rgb[y0:y1, x0:x1] = _BRIGHT
            (encoded,) = self._adapter.encode([self._adapter.pixels(rgb)])
            self._features[key] = encoded.tokens.float().cpu()
        return self._features[key]

    def change(self, width: int, height: int, box: tuple[int, int, int, int]) -> Tensor:
        """Return each token's change [run]."""
        blank = self.features(width, height, (0, 0, 0, 0))
        change: Tensor = torch.linalg.vector_norm(self.features(width, height, box) - blank, dim=-1)
        return change


def find_grid(adapter: GenericAdapter, sizes: Sequence[tuple[int, int]]) -> FoundGrid:
    """Return the first rule that holds at all `sizes` (width, height), and names a grid for odd ones.

    Raises ValueError where none does.
    """
    seen = Sensitivity(adapter)
    tried: set[tuple[Grid, ...]] = set()
    best = 0.0
    for name, rule in rules():
        grids = [_grid_of(adapter, rule, width, height) for width, height in sizes]
        known = tuple(grid for grid in grids if grid is not None)
        if len(known) != len(sizes) or known in tried:
            continue
        if any(_grid_of(adapter, rule, width, height) is None for width, height in _ODD_SIZES):
            continue
        tried.add(known)
        for content_name, content in CONTENTS:
            hits = min(
                hit_rate(seen, grid, content(width, height), width, height)
                for grid, (width, height) in zip(known, sizes, strict=True)
            )
            if hits >= ENOUGH:
                return FoundGrid(rule, content, f"{name}, which {content_name}")
            best = max(best, hits)
    if not tried:
        raise ValueError("nothing that its processor says of a picture names a grid of tokens")
    raise ValueError(
        f"no supposed grid holds: at best {best:.0%} of bright squares changed their own cell's token most"
    )


def hit_rate(seen: Sensitivity, grid: Grid, content: Content, width: int, height: int) -> float:
    """Return the share of bright squares, one over a cell each, that change that cell's token most.

    Tokens that change with every square (some encoders have them) count by how much more they do. A token
    that hardly changes beside one of another view does not see the square: its view shows another part.
    """
    chosen = _cells(grid, content)
    if not chosen:
        return 0.0
    boxes = [_box(cell, grid, content, width, height) for cell in chosen]
    changes = torch.stack([seen.change(width, height, box) for box in boxes])  # [squares, run]
    if changes.shape[1] <= max(grid.cells):
        return 0.0
    most = changes.amax(dim=1)
    changes = changes[:, list(grid.cells)]  # tiles show the same square once more
    sees = changes.amax(dim=1) >= _SEES * most
    usual = changes.mean(dim=0) + 1e-6 * float(changes.mean())
    strongest = (changes / usual * changes.clamp(min=0).sqrt()).argmax(dim=1).tolist()
    own = [row * grid.cols + col for row, col in chosen]
    hits = [one == other for one, other in zip(strongest, own, strict=True)]
    return float(np.mean(np.array(hits) & sees.numpy()))


def _grid_of(adapter: GenericAdapter, rule: Rule, width: int, height: int) -> Grid | None:
    text_layout = adapter.layout(width, height)
    inputs = adapter.read_inputs(width, height)
    return rule(adapter.seen(width, height, text_layout.stretches or (text_layout.run,), inputs))


def _cells(grid: Grid, content: Content) -> list[tuple[int, int]]:
    """Return (row, column) of cells that lie in the picture: its corners and two cells off the diagonal."""
    x0, y0, x1, y1 = content
    first_col, last_col = int(np.ceil(x0 * grid.cols - 1e-6)), int(np.floor(x1 * grid.cols + 1e-6)) - 1
    first_row, last_row = int(np.ceil(y0 * grid.rows - 1e-6)), int(np.floor(y1 * grid.rows + 1e-6)) - 1
    last_col, last_row = min(last_col, grid.cols - 1), min(last_row, grid.rows - 1)
    if last_col < first_col or last_row < first_row:
        return []
    cols, rows = last_col - first_col, last_row - first_row
    found = {
        (first_row, first_col),
        (first_row, last_col),
        (last_row, first_col),
        (last_row, last_col),
        (first_row + rows // 3, first_col + 2 * cols // 3),
        (first_row + 2 * rows // 3, first_col + cols // 4),
    }
    return sorted(found)


def _box(
    cell: tuple[int, int], grid: Grid, content: Content, width: int, height: int
) -> tuple[int, int, int, int]:
    """Return the inner pixels of a cell of the picture, (x0, y0, x1, y1).

    A square up to the cell's edge would shine into the next tile, which then seems to see it.
    """
    row, col = cell
    x0, y0, x1, y1 = content
    left, right = (((col + at) / grid.cols - x0) / (x1 - x0) * width for at in (_INSET, 1 - _INSET))
    top, bottom = (((row + at) / grid.rows - y0) / (y1 - y0) * height for at in (_INSET, 1 - _INSET))
    box = (round(left), round(top), max(round(right), round(left) + 1), max(round(bottom), round(top) + 1))
    return max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)


def squares(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Return a picture of coloured squares, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    step = max(min(width, height) // 6, 1)
    coarse = rng.integers(0, 256, (height // step + 1, width // step + 1, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((step, step, 1), dtype=np.uint8))[:height, :width]


def compare(
    engine: Engine, stock: Engine, width: int, height: int, dtype: torch.dtype, *, is_batched: bool
) -> str | None:
    """Return what `engine` answers otherwise than `stock`, None where they agree.

    Asked are both stages, a second question about a picture that is held, and, where `is_batched`, several
    questions of different lengths at once.
    """
    first = Picture("probe-1", squares(width, height, 1))
    second = Picture("probe-2", squares(height, width, 2))
    asked = [
        AnswerRequest(first, _QUESTIONS[0], max_new_tokens=_TOKENS),
        AnswerRequest(first, _QUESTIONS[1], max_new_tokens=_TOKENS),
        AnswerRequest(first, _QUESTIONS[0], patch=second, max_new_tokens=_TOKENS),
        AnswerRequest(second, _QUESTIONS[0], max_new_tokens=_TOKENS),
    ]
    names = ("the first stage", "a second question", "the second stage", "a picture of another shape")
    expected = stock.answer(asked)
    for name, request, right in zip(names, asked, expected, strict=True):
        why = _difference(engine.answer([request])[0], right, dtype)
        if why is not None:
            return f"{name}: {why}"
    if is_batched:
        others = [Picture(f"probe-{key}", first.rgb) for key in "ab"]
        together = engine.answer(
            [AnswerRequest(p, q, max_new_tokens=_TOKENS) for p, q in zip(others, _QUESTIONS, strict=True)]
        )
        for answer, right in zip(together, expected, strict=False):
            why = _difference(answer, right, dtype)
            if why is not None:
                return f"a batch: {why}"
    return None


def _difference(
    one: AnswerResult | EngineError, other: AnswerResult | EngineError, dtype: torch.dtype
) -> str | None:
    if isinstance(other, EngineError):
        raise other
    if isinstance(one, EngineError):
        return str(one)
    if one.prompt_tokens != other.prompt_tokens:
        return f"{one.prompt_tokens} tokens in the prompt instead of {other.prompt_tokens}"
    if (why := differing_statistics(one, other, dtype)) is not None:
        return why
    if (one.attention is None) != (other.attention is None):
        return "one has a map"
    if one.attention is not None and other.attention is not None:
        scale = max(float(other.attention.weights.max()), 1e-9)
        apart = float(np.abs(one.attention.weights - other.attention.weights).max()) / scale
        if apart > (1e-2 if dtype == torch.float32 else 0.3):
            return f"attention differs by {apart:.0%}"
    return None


def differing_statistics(one: AnswerResult, other: AnswerResult, dtype: torch.dtype) -> str | None:
    """Return by how much the tokens' statistics differ, None where it may be rounding."""
    tolerance = _TOLERANCE.get(dtype, _HALF_TOLERANCE)
    compared = list(zip(one.tokens, other.tokens, strict=False))
    if dtype != torch.float32:
        compared = compared[:1]  # afterwards rounding may have chosen another token
    for left, right in compared:
        values = np.array([left.min_entropy - right.min_entropy, left.shannon - right.shannon])
        if not np.all(np.abs(values) <= tolerance):
            return f"statistics differ by {np.abs(values).max():.3g} nats"
    return None
