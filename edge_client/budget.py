"""How large a picture may be: the largest size with the original's aspect that a server's budget allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_client.orientation import Size


@dataclass(frozen=True, slots=True)
class PixelBudget:
    """Pixels and shape that the server accepts; `max_pixels` is for encoders with a free aspect ratio."""

    max_width: int
    max_height: int
    max_pixels: int | None = None
    min_side: int = 2
    max_aspect: float = 200.0

    def fit(self, size: Size) -> Size:
        """The size to send a picture of `size` at: never enlarged, aspect kept to the pixel.

        Hair-thin pictures that the server would refuse are thickened to `min_side` and `max_aspect`; boxes in
        [0, 1] stay right, because both axes scale on their own.
        """
        width, height = size
        scale = min(1.0, self.max_width / width, self.max_height / height)
        if self.max_pixels is not None:
            scale = min(scale, math.sqrt(self.max_pixels / (width * height)))
        fitted_width, fitted_height = _scaled(width, scale), _scaled(height, scale)
        thinnest = max(self.min_side, math.ceil(max(fitted_width, fitted_height) / self.max_aspect))
        fitted_width, fitted_height = max(fitted_width, thinnest), max(fitted_height, thinnest)
        if self.max_pixels is not None and fitted_width * fitted_height > self.max_pixels:
            if fitted_width >= fitted_height:  # rounding up or thickening went over
                fitted_width = self.max_pixels // fitted_height
            else:
                fitted_height = self.max_pixels // fitted_width
        return fitted_width, fitted_height


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))
