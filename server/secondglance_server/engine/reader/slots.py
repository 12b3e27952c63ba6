"""How the reader's lines become slots: one for a line's start, one for each character, one for its end.

Lines that belong together are a block (a sign of two lines); blocks and lines are numbered in reading order.
A slot carries the recogniser's candidates, never a decision. No torch here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secondglance_server.engine.reader.alphabet import CHARACTERS
from secondglance_server.engine.reader.ocr import CANDIDATES, MOST_LINES, ReadLine

SLOTS = 160
EMPTY, START, CHARACTER, BETWEEN, LAST = range(5)  # kinds of slots
KINDS = 5
GEOMETRY = 20
LONGEST_LINE = 40
_MOST_GAP = 0.75  # between the lines of a block, of the smaller one's height
ASK_POSITION = 96  # the rotary position of a prompt's last token; questions end there, copies start behind
_NEXT_LINE, _END = len(CHARACTERS), len(CHARACTERS) + 1

Content = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """The slots of a picture.

    `ids`, `probabilities` [N, CANDIDATES]; `kind`, `line`, `block`, `position` [N]; `geometry` [N, GEOMETRY].

    `corners` [N, 4]: the line's box in the letterboxed square. `order`: for each line given, its number, or
    -1 where there was no room. `blocks`: the first line of each line's block, by number.
    """

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    kind: NDArray[np.int64]
    line: NDArray[np.int64]
    block: NDArray[np.int64]
    position: NDArray[np.int64]
    geometry: NDArray[np.float32]
    corners: NDArray[np.float32]
    order: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Placed:
    index: int
    corners: NDArray[np.float64]  # [4, 2] in a square of side 1, clockwise from the text's own top left
    box: NDArray[np.float64]  # left, top, right, bottom in the same square
    along: NDArray[np.float64]  # of length 1, in the text's direction
    length: float
    height: float
    read: ReadLine


def content_of(width: int, height: int) -> Content:
    """Return where a picture lies in the square that it is padded to."""
    side = max(width, height)
    left, top = (1 - width / side) / 2, (1 - height / side) / 2
    return left, top, 1 - left, 1 - top


def _place(index: int, read: ReadLine, content: Content) -> _Placed:
    scale = np.array([content[2] - content[0], content[3] - content[1]])
    corners = read.corners * scale + content[:2]
    height = float(np.linalg.norm(corners[3] - corners[0]) + np.linalg.norm(corners[2] - corners[1])) / 2
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    top_left, top_right, bottom_right, bottom_left = corners
    edge = (top_right - top_left + bottom_right - bottom_left) / 2
    length = float(np.hypot(*edge))
    return _Placed(index, corners, box, edge / max(length, 1e-9), length, max(height, 1e-4), read)


def _belong(upper: _Placed, lower: _Placed) -> bool:
    """Return whether a line continues the one above it: alike in height, close, one under the other.

    Seen along the longer line's own direction: the upright boxes of tilted lines overlap.
    """
    smaller, larger = sorted((upper.height, lower.height))
    if not smaller > 0.4 * larger:
        return False
    along = max(upper, lower, key=lambda line: line.length).along
    right, down = (lower.corners.mean(axis=0) - upper.corners.mean(axis=0)).tolist()
    gap = down * along[0] - right * along[1] - (smaller + larger) / 2
    if not -0.5 * smaller < gap < _MOST_GAP * smaller:
        return False
    a, b = upper.corners @ along, lower.corners @ along
    overlap = min(a.max(), b.max()) - max(a.min(), b.min())
    return bool(overlap > 0.5 * min(np.ptp(a), np.ptp(b)))


def _blocks(placed: Sequence[_Placed]) -> list[list[_Placed]]:
    """Return lines grouped, each group from top to bottom, groups in reading order."""
    blocks: list[list[_Placed]] = []
    for line in sorted(placed, key=lambda p: (p.box[1] + p.box[3], p.box[0])):
        fitting = [block for block in blocks if _belong(block[-1], line)]
        if fitting:
            min(fitting, key=lambda block: abs(block[-1].box[0] - line.box[0])).append(line)
        else:
            blocks.append([line])
    return sorted(blocks, key=lambda block: (round(block[0].box[1] * 12), block[0].box[0]))


def lay_out(lines: Sequence[ReadLine], content: Content, *, slots: int = SLOTS) -> Slots:
    """Return the slots of a picture whose content lies at `content`; what has no room is left out, smallest
    lines first."""
    by_size = sorted((_place(i, read, content) for i, read in enumerate(lines)), key=lambda p: -p.height)
    kept: list[_Placed] = []
    room = slots
    for placed in by_size[:MOST_LINES]:
        needed = min(len(placed.read.ids), LONGEST_LINE) + 2
        if needed <= room:
            kept.append(placed)
            room -= needed
    return _fill(_blocks(kept), len(lines), slots)


def _fill(blocks: list[list[_Placed]], count: int, slots: int) -> Slots:
    ids = np.zeros((slots, CANDIDATES), np.int64)
    probabilities = np.zeros((slots, CANDIDATES), np.float32)
    kind, line_of, block_of, position = (np.zeros(slots, np.int64) for _ in range(4))
    geometry = np.zeros((slots, GEOMETRY), np.float32)
    corners = np.zeros((slots, 4), np.float32)
    position[:] = ASK_POSITION
    order, firsts = [-1] * count, []
    flat = [line for block in blocks for line in block]
    ranks = _ranks(flat)
    slot = number = 0
    for block in blocks:
        first, along = number, 0
        for place, line in enumerate(block):
            order[line.index] = number
            firsts.append(first)
            size = min(len(line.read.ids), LONGEST_LINE)
            here = slice(slot, slot + size + 2)
            line_of[here], block_of[here], corners[here] = number, first, line.box
            kind[slot], kind[slot + 1 : slot + 1 + size] = START, CHARACTER
            is_last = place + 1 == len(block)
            kind[slot + size + 1] = LAST if is_last else BETWEEN
            ids[slot + 1 : slot + 1 + size] = line.read.ids[:size]
            probabilities[slot + 1 : slot + 1 + size] = line.read.probabilities[:size]
            ids[slot + size + 1, 0], probabilities[slot + size + 1, 0] = (_END if is_last else _NEXT_LINE), 1
            position[slot] = ASK_POSITION
            position[slot + 1 : slot + size + 2] = ASK_POSITION + 1 + along + np.arange(size + 1)
            geometry[here] = _geometry(line, place, len(block), len(blocks), ranks[number])
            geometry[slot + 1 : slot + 1 + size, -1] = line.read.probabilities[:size, 0]
            along += size + 1
            slot += size + 2
            number += 1
    return Slots(
        ids, probabilities, kind, line_of, block_of, position, geometry, corners, tuple(order), tuple(firsts)
    )


def _ranks(lines: Sequence[_Placed]) -> list[list[float]]:
    """Return, for each line, what only a comparison tells: size and place relative to the others."""
    if not lines:
        return []
    heights = np.array([line.height for line in lines])
    centers = np.array([((p.box[0] + p.box[2]) / 2, (p.box[1] + p.box[3]) / 2) for p in lines])
    result = []
    for index in range(len(lines)):
        others = np.delete(heights, index)
        taller = float(heights[index] / others.max()) if len(others) else 2.0
        x, y = centers[index]
        result.append([
            float(heights[index] / heights.max()),
            min(taller, 3.0) - 1,
            float(heights.min() / heights[index]),
            float((centers[:, 0] < x).mean()), float((centers[:, 0] > x).mean()),
            float((centers[:, 1] < y).mean()), float((centers[:, 1] > y).mean()),
        ])  # fmt: skip
    return result


def _geometry(
    line: _Placed, place: int, in_block: int, blocks: int, ranks: list[float]
) -> NDArray[np.float32]:
    """Return the features of a line's slots; the last is the character's own probability, filled in later."""
    x0, y0, x1, y1 = line.box
    values = [
        (x0 + x1) - 1, (y0 + y1) - 1, x1 - x0, y1 - y0, np.log(line.height) / 2 + 1.5, *ranks,
        place / 3, (in_block - 1) / 3, 1.0 if in_block == 1 else 0.0, blocks / 8,
        line.read.confidence, float(line.read.probabilities[:, 0].min()), line.read.score, 0.0,
    ]  # fmt: skip
    return np.array(values, np.float32)
