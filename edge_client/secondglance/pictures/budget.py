"""How large a picture may be sent: the shared fitting rule, and a rule for hair-thin originals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from secondglance.pictures.orientation import Size
from secondglance_protocol.geometry import fit_within
from secondglance_protocol.wire import ImageSize


@dataclass(frozen=True, slots=True)
class PixelBudget:
    """Pixels and shape that the server accepts; `max_pixels` is for encoders with a free aspect ratio."""

    max_width: int
    max_height: int
    max_pixels: int | None = None
    min_side: int = 1
    max_aspect: float = math.inf

    def scaled(self, share: float) -> PixelBudget:
        """With `share` of the sides, and no less than `min_side`."""
        if share == 1:
            return self
        return replace(
            self,
            max_width=max(self.min_side, round(self.max_width * share)),
            max_height=max(self.min_side, round(self.max_height * share)),
            max_pixels=None if self.max_pixels is None else max(1, round(self.max_pixels * share**2)),
        )

    def fit(self, size: Size) -> Size:
        """The size to send a picture of `size` at: never enlarged, aspect kept to the pixel.

        Only a picture that the server would refuse as too thin is thickened to `min_side` and
        `max_aspect`; boxes in [0, 1] stay right, because both axes scale on their own.
        """
        fitted = fit_within(
            ImageSize(width=size[0], height=size[1]),
            # A side longer than this could not be thickened within the other side's bound.
            max_width=int(min(self.max_width, self.max_height * self.max_aspect)),
            max_height=int(min(self.max_height, self.max_width * self.max_aspect)),
            max_pixels=self.max_pixels,
        )
        thinnest = max(self.min_side, math.ceil(max(fitted.width, fitted.height) / self.max_aspect))
        return self._within_pixels(max(fitted.width, thinnest), max(fitted.height, thinnest))

    def _within_pixels(self, width: int, height: int) -> Size:
        if self.max_pixels is None or width * height <= self.max_pixels:
            return width, height
        if width >= height:  # thickening went over: the long side gives way
            return self.max_pixels // height, height
        return width, self.max_pixels // width
