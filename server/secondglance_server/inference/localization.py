"""From attention to a region: plain functions over arrays.

Relative attention divides the question's map by the neutral prompt's (ViCrop, arXiv 2502.17422), which
removes the sinks that every prompt looks at. A window on the grid then becomes pixels of the original,
through the exact inverse of the model's padding, and grows where it would cut a text that the model has
found. Knows nothing of HTTP, sessions or torch. Not covered: tiling of large originals, which the server does
not hold.

Units: a window lies on the grid in cells (x to the right, y down); `cell_width` and `cell_height` are what
one cell covers of the original, in pixels. Where the model pads they are equal and windows are square in
the original; where it squashes they differ, and windows counted in cells are stretched with the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secondglance_protocol.geometry import cover_pixels
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import AttentionMap, LocalizationDefaults

Grid = NDArray[np.float64]  # [rows, cols]

WINDOW_SCALES = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)  # of the base side; ViCrop's
MASS_FRACTION = 0.4  # of the peak: cells below it are not part of the object (measured: docs/log.md)
MASS_RADIUS_CELLS = 4  # around the peak: mass farther off belongs to something else
_NEUTRAL_FLOOR = 1e-6  # of the neutral map's mean: a cell that nothing looks at would divide by zero


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle in grid cells; may reach outside the grid."""

    left: float
    top: float
    width: float
    height: float

    def padded(self, cells: float) -> Window:
        return Window(self.left - cells, self.top - cells, self.width + 2 * cells, self.height + 2 * cells)


def relative_attention(question: AttentionMap, neutral: AttentionMap) -> AttentionMap:
    """The element-wise ratio of two maps of one picture. Raises ValueError if their grids differ."""
    if question.weights.shape != neutral.weights.shape or question.content != neutral.content:
        raise ValueError(f"grids differ: {question.weights.shape} and {neutral.weights.shape}")
    usual = neutral.weights.astype(np.float64)
    floor = max(_NEUTRAL_FLOOR * float(usual.mean()), float(np.finfo(np.float32).tiny))
    ratio = question.weights.astype(np.float64) / np.maximum(usual, floor)
    return replace(question, weights=ratio.astype(np.float32))


def locate(attention: AttentionMap, original: ImageSize, how: LocalizationDefaults) -> PixelBox:
    """The region of the original that the map points at; at least one pixel, always within the original."""
    weights = _within_content(attention)
    rows, cols = weights.shape
    x0, y0, x1, y1 = attention.content
    cell_width = original.width / ((x1 - x0) * cols)
    cell_height = original.height / ((y1 - y0) * rows)
    if how.window == "mass":
        window = mass_window(weights, min_side_cells=how.min_side_cells)
    else:
        window = vicrop_window(
            weights, cell_width=cell_width, cell_height=cell_height, base_side=how.base_side
        )
    window = window.padded(how.pad_cells)
    left, right = _slide_inside(
        (window.left - x0 * cols) * cell_width, window.width * cell_width, original.width
    )
    top, bottom = _slide_inside(
        (window.top - y0 * rows) * cell_height, window.height * cell_height, original.height
    )
    return _with_whole_texts(cover_pixels(left, top, right, bottom, original), attention, original)


def further_regions(
    attention: AttentionMap, original: ImageSize, first: PixelBox, most: int
) -> list[PixelBox]:
    """Return up to `most` regions to look at after `first`, best first.

    Each is as large as `first`, around the peak of the map once the cells of all earlier ones are blanked,
    and grows as `first` does, to cut no text. None comes twice. What is left of a map is often so even that
    a window by its mass would be half of it.
    """
    weights = _within_content(attention)
    regions = [first]
    while len(regions) <= most:
        weights[_cells_of(regions[-1], attention, original)] = 0.0
        if weights.max() <= 0.0:
            break
        region = _with_whole_texts(_around_peak(weights, attention, original, first), attention, original)
        if region in regions:
            break
        regions.append(region)
    return regions[1:]


def _around_peak(weights: Grid, attention: AttentionMap, original: ImageSize, size: PixelBox) -> PixelBox:
    """Return a region as large as `size`, centred on the peak's cell as far as it lies inside."""
    row, col = np.unravel_index(int(weights.argmax()), weights.shape)
    rows, cols = weights.shape
    x0, y0, x1, y1 = attention.content
    x = (float(col) + 0.5 - x0 * cols) * original.width / ((x1 - x0) * cols)
    y = (float(row) + 0.5 - y0 * rows) * original.height / ((y1 - y0) * rows)
    left = min(max(round(x - size.width / 2), 0), original.width - size.width)
    top = min(max(round(y - size.height / 2), 0), original.height - size.height)
    return PixelBox(left=left, top=top, right=left + size.width, bottom=top + size.height)


def _with_whole_texts(region: PixelBox, attention: AttentionMap, original: ImageSize) -> PixelBox:
    """Return the region, grown where it cuts a line of text of which it holds more than half.

    A part of a text reads like a text. Half the line's height is left around it.
    """
    x0, y0, x1, y1 = attention.content
    x_scale, y_scale = original.width / (x1 - x0), original.height / (y1 - y0)  # pixels of a grid unit
    left, top, right, bottom = map(float, (region.left, region.top, region.right, region.bottom))
    for text in attention.texts:
        start, end = (text[0] - x0) * x_scale, (text[2] - x0) * x_scale
        upper, lower = (text[1] - y0) * y_scale, (text[3] - y0) * y_scale
        width = min(end, region.right) - max(start, region.left)
        height = min(lower, region.bottom) - max(upper, region.top)
        if min(width, height) <= 0 or width * height <= 0.5 * (end - start) * (lower - upper):
            continue
        if width < end - start or height < lower - upper:
            around = (lower - upper) / 2
            left, right = min(left, start - around), max(right, end + around)
            top, bottom = min(top, upper - around), max(bottom, lower + around)
    return cover_pixels(left, top, right, bottom, original)


def _cells_of(region: PixelBox, attention: AttentionMap, original: ImageSize) -> tuple[slice, slice]:
    """Return rows and columns of the cells that `region` touches."""
    rows, cols = attention.weights.shape
    x0, y0, x1, y1 = attention.content
    x_cells, y_cells = (x1 - x0) * cols / original.width, (y1 - y0) * rows / original.height  # of a pixel
    left, right = x0 * cols + region.left * x_cells, x0 * cols + region.right * x_cells
    top, bottom = y0 * rows + region.top * y_cells, y0 * rows + region.bottom * y_cells
    return _touched(top, bottom), _touched(left, right)


def _touched(start: float, end: float) -> slice:
    tolerance = 1e-6  # cells: as in `_within_content`
    return slice(max(0, math.floor(start + tolerance)), math.ceil(end - tolerance))


def vicrop_window(weights: Grid, *, cell_width: float, cell_height: float, base_side: float) -> Window:
    """ViCrop's choice: per size the position of the largest sum, then the size that stands out most per cell.

    How far a window stands out: its sum less the mean of the sums one cell to the left, right, above and
    below, over its number of cells. A window that covers the grid is the whole image, and no rival of
    smaller ones.
    """
    rows, cols = weights.shape
    best: tuple[float, Window] | None = None
    for width, height in _window_sizes(rows, cols, cell_width, cell_height, base_side):
        # Sums are taken over whole cells; the window itself keeps its exact size around their centre.
        n_cols, n_rows = min(max(1, int(width)), cols), min(max(1, int(height)), rows)
        if (n_rows, n_cols) == (rows, cols):
            continue
        sums = _window_sums(weights, n_rows, n_cols)
        row, col = np.unravel_index(int(sums.argmax()), sums.shape)
        prominence = _prominence(sums, int(row), int(col)) / (n_rows * n_cols)
        if best is None or prominence > best[0]:
            centre_x, centre_y = float(col) + n_cols / 2, float(row) + n_rows / 2
            best = (prominence, Window(centre_x - width / 2, centre_y - height / 2, width, height))
    return best[1] if best else Window(0.0, 0.0, float(cols), float(rows))


def mass_window(weights: Grid, *, min_side_cells: float) -> Window:
    """A square of cells around the peak: centred on the mass near it, as wide as that mass spreads.

    Only cells within `MASS_RADIUS_CELLS` of the peak and at least `MASS_FRACTION` of it count. The side is
    that of a uniform block with the same variance, so a block of n cells gives a side of n.
    """
    row, col = np.unravel_index(int(weights.argmax()), weights.shape)
    top, left = max(0, int(row) - MASS_RADIUS_CELLS), max(0, int(col) - MASS_RADIUS_CELLS)
    near = weights[top : int(row) + MASS_RADIUS_CELLS + 1, left : int(col) + MASS_RADIUS_CELLS + 1]
    mass = np.where(near >= MASS_FRACTION * near.max(), near, 0.0)
    if mass.sum() <= 0.0:  # nothing was looked at: no place is better than the peak's
        mass = np.ones_like(near)
    mass = mass / mass.sum()
    xs = left + np.arange(near.shape[1]) + 0.5
    ys = top + np.arange(near.shape[0]) + 0.5
    x, spread_x = _mean_and_side(mass.sum(axis=0), xs)
    y, spread_y = _mean_and_side(mass.sum(axis=1), ys)
    side = max(min_side_cells, spread_x, spread_y)
    return Window(x - side / 2, y - side / 2, side, side)


def _within_content(attention: AttentionMap) -> Grid:
    """The weights with the model's padding blanked: cells that hold nothing of the picture."""
    weights = attention.weights.astype(np.float64)
    rows, cols = weights.shape
    x0, y0, x1, y1 = attention.content
    lefts, tops = np.arange(cols), np.arange(rows)
    tolerance = 1e-6  # cells: a border that ends on a cell's edge leaves nothing in the next one
    columns = (lefts + 1 > x0 * cols + tolerance) & (lefts < x1 * cols - tolerance)
    lines = (tops + 1 > y0 * rows + tolerance) & (tops < y1 * rows - tolerance)
    return np.where(lines[:, None] & columns[None, :], weights, 0.0)


def _window_sizes(
    rows: int, cols: int, cell_width: float, cell_height: float, base_side: float
) -> list[tuple[float, float]]:
    """Candidate (width, height) in cells."""
    if max(cell_width, cell_height) > base_side / 2:
        largest = max(2, min(rows, cols) // 2)
        return [(float(n), float(n)) for n in range(2, largest + 1)]
    sides = [base_side * scale for scale in WINDOW_SCALES]
    return [(side / cell_width, side / cell_height) for side in sides]


def _window_sums(weights: Grid, n_rows: int, n_cols: int) -> Grid:
    """Sums of every n_rows x n_cols window, by its top-left cell: [rows - n_rows + 1, cols - n_cols + 1]."""
    total = np.zeros((weights.shape[0] + 1, weights.shape[1] + 1))
    total[1:, 1:] = weights.cumsum(axis=0).cumsum(axis=1)
    upper, lower = total[:-n_rows], total[n_rows:]
    return lower[:, n_cols:] - lower[:, :-n_cols] - upper[:, n_cols:] + upper[:, :-n_cols]


def _prominence(sums: Grid, row: int, col: int) -> float:
    """The sum at a position less the mean of its neighbours that exist."""
    places = [(row, col - 1), (row, col + 1), (row - 1, col), (row + 1, col)]
    neighbours = [float(sums[r, c]) for r, c in places if 0 <= r < sums.shape[0] and 0 <= c < sums.shape[1]]
    return float(sums[row, col]) - sum(neighbours) / len(neighbours)


def _mean_and_side(mass: Grid, places: NDArray[np.floating[Any]]) -> tuple[float, float]:
    mean = float((mass * places).sum())
    variance = float((mass * (places - mean) ** 2).sum())
    return mean, float(np.sqrt(12.0 * variance + 1.0))


def _slide_inside(start: float, length: float, limit: int) -> tuple[float, float]:
    """The span moved inside [0, limit] with its length kept, cut only where it is longer than that."""
    length = min(length, float(limit))
    start = min(max(start, 0.0), limit - length)
    return start, start + length
