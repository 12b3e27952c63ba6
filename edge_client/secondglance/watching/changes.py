"""Whether a frame shows something else than the last one that passed."""

from __future__ import annotations

from PIL import Image, ImageChops

from secondglance.pictures.budget import PixelBudget
from secondglance.pictures.original import Original

_GRID = 16
_OVERSAMPLING = 4


class ChangeFilter:
    """Compares grey averages on a 16 x 16 grid; the cell that changed most decides.

    Averaging takes the sensor's noise away, and the largest cell rather than the mean of all notices what is
    small in the picture. `min_percent` is of the way from black to white; 0 lets everything pass.
    """

    def __init__(self, min_percent: float, *, max_pixels: int) -> None:
        self._min_percent = min_percent
        self._max_pixels = max_pixels
        self._last: Image.Image | None = None

    def passes(self, picture: bytes) -> bool:
        """Also for what is no picture: that is the asker's to complain about."""
        if self._min_percent <= 0:
            return True
        try:
            seen = self._averages(picture)
        except Exception:  # a decoder's trouble with one picture must not end its source
            return True
        if self._last is not None and _largest_percent(self._last, seen) < self._min_percent:
            return False
        self._last = seen
        return True

    def _averages(self, picture: bytes) -> Image.Image:
        side = _GRID * _OVERSAMPLING
        with Original(picture, max_pixels=self._max_pixels) as original:
            small = original.global_image(PixelBudget(side, side))
        return small.convert("L").resize((_GRID, _GRID), Image.Resampling.BOX)


def _largest_percent(one: Image.Image, other: Image.Image) -> float:
    _, brightest = ImageChops.difference(one, other).getextrema()
    assert isinstance(brightest, (int, float)), "grey has one band"
    return 100 * brightest / 255
