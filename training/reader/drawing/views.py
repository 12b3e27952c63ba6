"""Records in memory, as the stages want them: pixels in the tower's square, and what each cell shows."""

from __future__ import annotations

import io
import pathlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from secondglance_server.engine.adapters.reader import letterboxed
from secondglance_server.engine.reader.slots import content_of
from secondglance_server.engine.reader.tower import CLASSES, COARSE, FINE
from training.reader.drawing.placards import ALL_COLORS
from training.reader.drawing.textures import Box
from training.reader.drawing.worlds import VIEW_SIDE_PX
from training.reader.records import SMALL_TEXT_PX, THUMB_PX, Record, View, read_shard

IGNORED = -100
_LEAST_TEXT = SMALL_TEXT_PX[0] / VIEW_SIDE_PX  # of the square's side: lower lines are no text to anybody


def load_records(directory: pathlib.Path) -> list[Record]:
    """Return the records of the shards in a directory, in order."""
    return [record for path in sorted(directory.glob("*.jsonl.gz")) for record in read_shard(path)]


def padded_pixels(view: View) -> NDArray[np.uint8]:
    """Return the thumbnail centred in a grey square, uint8 [THUMB_PX, THUMB_PX, 3]."""
    return letterboxed(Image.open(io.BytesIO(view.thumb)).convert("RGB"), THUMB_PX)


def in_square(view: View, box: Box) -> Box:
    """Return a box of the view in the square."""
    left, top, right, bottom = content_of(*view.size)
    x0, y0, x1, y1 = box
    return (
        left + x0 * (right - left),
        top + y0 * (bottom - top),
        left + x1 * (right - left),
        top + y1 * (bottom - top),
    )


def dense_labels(view: View) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the colour of each fine cell [24, 24] and of the sign centred in each coarse one [12, 12].

    Cells at a sign's edge are ignored. Text without a panel counts as no sign.
    """
    fine = np.full((FINE, FINE), CLASSES - 1, np.int64)
    coarse = np.full((COARSE, COARSE), CLASSES - 1, np.int64)
    middle = (np.arange(FINE) + 0.5) / FINE
    for sign in view.signs:
        if sign.color is None or sign.shown <= 0.05:
            continue
        x0, y0, x1, y1 = in_square(view, sign.box)
        half = 0.5 / FINE
        inside_x, inside_y = (middle > x0) & (middle < x1), (middle > y0) & (middle < y1)
        near_x, near_y = (
            (middle > x0 - half) & (middle < x1 + half),
            (middle > y0 - half) & (middle < y1 + half),
        )
        color = ALL_COLORS.index(sign.color)
        edge = near_y[:, None] & near_x[None]
        fine[edge & (fine == CLASSES - 1)] = IGNORED
        fine[inside_y[:, None] & inside_x[None]] = color
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        if 0 <= cx < 1 and 0 <= cy < 1:
            coarse[int(cy * COARSE), int(cx * COARSE)] = color
            fine[min(int(cy * FINE), FINE - 1), min(int(cx * FINE), FINE - 1)] = color
    return fine, coarse


def text_labels(view: View) -> NDArray[np.float32]:
    """Return which coarse cells show text, on a panel or without one: 0 or 1, [12, 12]."""
    cells = np.zeros((COARSE, COARSE), np.float32)
    for line in (line for sign in view.signs for line in sign.lines):
        x0, y0, x1, y1 = in_square(view, line.box)
        if y1 - y0 >= _LEAST_TEXT:
            rows, columns = _cells(y0, y1), _cells(x0, x1)
            cells[rows[:, None], columns[None]] = 1
    return cells


def _cells(start: float, end: float) -> NDArray[np.int64]:
    """Return the coarse cells that lie between two places in the square, without what is only touched."""
    places = np.linspace(start, end, 2 * COARSE + 2)[1:-1]
    return np.unique((places[(places >= 0) & (places < 1)] * COARSE).astype(np.int64))
