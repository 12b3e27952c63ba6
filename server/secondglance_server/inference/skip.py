"""The skip rule: when a second glance cannot show the model more than it has seen, do not ask for one."""

from __future__ import annotations

import math
from typing import Literal

from secondglance_protocol.geometry import fit_within
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import EncoderBudget
from secondglance_server.inference.intake import ImageLimits

SkipReason = Literal["answers_only", "original_seen", "whole_image", "no_finer", "not_sendable", "off_domain"]

WHOLE_IMAGE_SHARE = 0.9  # of the original's area: what is left out would not pay for a second upload
_ROUNDING = 1.02  # sizes are whole pixels; a gain this small is rounding


def seen_size(uploaded: ImageSize, budget: EncoderBudget) -> ImageSize:
    """How many pixels of an upload the encoder uses."""
    return fit_within(
        uploaded, max_width=budget.max_width, max_height=budget.max_height, max_pixels=budget.max_pixels
    )


def skip_before_looking(original: ImageSize, seen: ImageSize) -> SkipReason | None:
    """Known without a region: the model has seen every pixel of the original."""
    if original.width <= seen.width and original.height <= seen.height:
        return "original_seen"
    return None


def skip_region(
    region: PixelBox, original: ImageSize, seen: ImageSize, budget: EncoderBudget, limits: ImageLimits
) -> SkipReason | None:
    """Why the crop of `region` is not worth its bytes, or None if it is.

    `seen` is the global image as the encoder used it, `budget` what the encoder can use of a patch,
    `limits` what the server takes as one.
    """
    crop = ImageSize(width=region.width, height=region.height)
    if crop.width * crop.height >= WHOLE_IMAGE_SHARE * original.width * original.height:
        return "whole_image"
    patch = seen_size(crop, budget)
    if _density(patch, crop) <= _ROUNDING * _density(seen, original):
        return "no_finer"
    if limits.complaint(patch.width, patch.height):
        return "not_sendable"
    return None


def _density(shown: ImageSize, of: ImageSize) -> float:
    """Shown pixels per pixel of the original, along one side (the geometric mean of both)."""
    return math.sqrt((shown.width * shown.height) / (of.width * of.height))
