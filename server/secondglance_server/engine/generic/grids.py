"""Guesses at how a picture's tokens lie in it, from what its processor says of one picture.

Each rule looks at one thing that processors give away and returns a grid, or None where that thing is not
there or does not fit. No rule is trusted: `probe` tries them on pictures. Knows no model type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any

from torch import Tensor

Content = tuple[float, float, float, float]
WHOLE: Content = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a processor makes of a picture of `width` x `height` pixels.

    `stretches`: lengths of its stretches of image tokens, in order. `inputs`: the model's inputs for it.
    `views`: how many tokens one view of the model may have, from its settings; squares of whole numbers.
    `merge`: patches per token side.
    """

    width: int
    height: int
    stretches: tuple[int, ...]
    inputs: Mapping[str, Tensor]
    views: tuple[int, ...] = ()
    merge: int = 1

    @property
    def run(self) -> int:
        return sum(self.stretches)


@dataclass(frozen=True, slots=True)
class Grid:
    """`cells`: which of a picture's image tokens are the cells, row by row."""

    rows: int
    cols: int
    cells: tuple[int, ...]


Rule = Callable[[Seen], Grid | None]
ContentRule = Callable[[int, int], Content]


def block(start: int, rows: int, cols: int) -> Grid:
    """Return the grid of consecutive tokens."""
    return Grid(rows, cols, tuple(range(start, start + rows * cols)))


def by_patch_grid(seen: Seen) -> Grid | None:
    """Read `image_grid_thw`: frames, rows and columns of patches, of which the model merges squares."""
    grid = _one_row(seen, "image_grid_thw", "image_grid_hws", "grid_thw", "grid_hws")
    if grid is None or len(grid) < 2:
        return None
    return _shrunk(grid[-2], grid[-1], seen.run, start=0)


def by_rows(seen: Seen) -> Grid | None:
    """Take each stretch between other tokens for a row."""
    lengths = set(seen.stretches)
    if len(seen.stretches) < 2 or len(lengths) > 1:
        return None
    return block(0, len(seen.stretches), lengths.pop())


_SHAPES = ("spatial_shapes", "image_sizes", "target_sizes", "tgt_sizes")


def by_first_shape(seen: Seen) -> Grid | None:
    """Read the first view's rows and columns: the thumbnail before the tiles."""
    for name in _SHAPES:
        shapes = _rows(seen, name)
        if shapes and len(shapes[0]) == 2:
            found = _shrunk(shapes[0][0], shapes[0][1], seen.stretches[0], start=0)
            if found is not None:
                return found
    return None


def by_shapes(seen: Seen) -> Grid | None:
    """Read `spatial_shapes` or `image_sizes`: the last view's rows and columns, in patches or pixels.

    The last view is the only one, or the thumbnail behind the tiles.
    """
    for name in _SHAPES:
        shape = _last_row(seen, name)
        if shape is not None and len(shape) == 2:
            last = (
                seen.stretches[-1] if len(set(seen.stretches)) > 1 or len(seen.stretches) == 1 else seen.run
            )
            found = _shrunk(shape[0], shape[1], last, start=seen.run - last)
            if found is not None:
                return found
    return None


def by_aspect(seen: Seen) -> Grid | None:
    """Take the factors of the run whose ratio is nearest to the picture's."""
    pairs = [(rows, seen.run // rows) for rows in range(1, seen.run + 1) if seen.run % rows == 0]
    if len(seen.stretches) != 1 or len(pairs) < 3:
        return None
    ratio = seen.height / seen.width
    rows, cols = min(pairs, key=lambda pair: max(pair[0] / pair[1] / ratio, ratio * pair[1] / pair[0]))
    return block(0, rows, cols)


def by_square(stretch: int, *, skipped: int = 0, has_newlines: bool = False) -> Rule:
    """Return the rule that takes one stretch for a square, behind `skipped` tokens.

    `has_newlines`: every row ends in a token that is no cell.
    """

    def rule(seen: Seen) -> Grid | None:
        if stretch >= len(seen.stretches):
            return None
        start = sum(seen.stretches[:stretch]) if stretch >= 0 else seen.run - seen.stretches[stretch]
        length = seen.stretches[stretch] - skipped
        side = isqrt(length)
        if has_newlines:
            if side < 2 or side * (side + 1) != length:
                return None
            rows = [
                range(start + skipped + row * (side + 1), start + skipped + row * (side + 1) + side)
                for row in range(side)
            ]
            return Grid(side, side, tuple(cell for row in rows for cell in row))
        return block(start + skipped, side, side) if side > 1 and side * side == length else None

    return rule


def by_view(view: int, *, is_last: bool, skipped: int = 0) -> Rule:
    """Return the rule that takes a view for the picture: the first tokens of its run, or the last.

    `view`: which of the sizes that the model's settings name.
    """

    def rule(seen: Seen) -> Grid | None:
        if view >= len(seen.views) or seen.views[view] + skipped > seen.run:
            return None
        side = isqrt(seen.views[view])
        start = seen.run - side * side - skipped if is_last else skipped
        return block(start, side, side) if side > 1 else None

    return rule


def rules() -> Iterator[tuple[str, Rule]]:
    """Yield every rule with its name, those that read the most first."""
    yield "the processor's grid of patches", by_patch_grid
    yield "rows between other tokens", by_rows
    yield "the processor's shapes", by_shapes
    yield "the processor's first shape", by_first_shape
    for stretch, name in ((0, "first"), (-1, "last")):
        yield f"a square in the {name} stretch", by_square(stretch)
        yield f"a square behind one token in the {name} stretch", by_square(stretch, skipped=1)
        yield (
            f"a square with a token after each row in the {name} stretch",
            by_square(stretch, has_newlines=True),
        )
    for view in range(4):
        for is_last, name in ((False, "first"), (True, "last")):
            for skipped in (0, 1):
                yield (
                    f"the {name} view, {skipped} skipped, size {view}",
                    by_view(view, is_last=is_last, skipped=skipped),
                )
    yield "the picture's own ratio", by_aspect


def whole(width: int, height: int) -> Content:
    """Say that the grid covers the picture."""
    return WHOLE


def centred(width: int, height: int) -> Content:
    """Say that the picture is padded to a square on both sides."""
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    return left / side, top / side, (left + width) / side, (top + height) / side


def cornered(width: int, height: int) -> Content:
    """Say that the picture is padded to a square at the right and the bottom."""
    side = max(width, height)
    return 0.0, 0.0, width / side, height / side


CONTENTS: tuple[tuple[str, ContentRule], ...] = (
    ("covers the picture", whole),
    ("covers the picture padded on both sides", centred),
    ("covers the picture padded at its end", cornered),
)


def _one_row(seen: Seen, *names: str) -> list[int] | None:
    for name in names:
        values = _rows(seen, name)
        if values is not None and len(values) == 1:
            return values[0]
    return None


def _last_row(seen: Seen, name: str) -> list[int] | None:
    values = _rows(seen, name)
    return values[-1] if values else None


def _rows(seen: Seen, name: str) -> list[list[int]] | None:
    value: Any = seen.inputs.get(name)
    if value is None:
        return None
    listed = value.tolist() if hasattr(value, "tolist") else [list(row) for row in value]
    while listed and isinstance(listed[0], list) and listed[0] and isinstance(listed[0][0], list):
        listed = listed[-1]
    return listed if listed and isinstance(listed[0], list) else None


def _shrunk(height: int, width: int, tokens: int, *, start: int) -> Grid | None:
    """Return the grid of `tokens` cells that is `height` x `width` with squares merged into one cell."""
    if tokens < 1 or height * width % tokens:
        return None
    factor = isqrt(height * width // tokens)
    if factor == 0 or factor * factor * tokens != height * width or height % factor or width % factor:
        return None
    return block(start, height // factor, width // factor)
