"""A second glance is asked for only where it can show more than was seen."""

from __future__ import annotations

from typing import get_args

import pytest

from secondglance_protocol.reasons import REASONS, in_words
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import EncoderBudget
from secondglance_server.inference.intake import ImageLimits
from secondglance_server.inference.skip import SkipReason, seen_size, skip_before_looking, skip_region

BUDGET = EncoderBudget(336, 336)
LIMITS = ImageLimits(max_pixels=25_000_000, min_side=2, max_side=8192, max_aspect_ratio=200)


def size(width: int, height: int) -> ImageSize:
    return ImageSize(width=width, height=height)


def box(left: int, top: int, right: int, bottom: int) -> PixelBox:
    return PixelBox(left=left, top=top, right=right, bottom=bottom)


@pytest.mark.parametrize(
    ("original", "seen", "reason"),
    [
        (size(336, 252), size(336, 252), "original_seen"),
        (size(100, 50), size(336, 168), "original_seen"),
        (size(337, 252), size(336, 252), None),
        (size(1, 4000), size(2, 336), None),
    ],
)
def test_an_original_that_was_seen_is_not_asked_for(
    original: ImageSize, seen: ImageSize, reason: SkipReason | None
) -> None:
    assert skip_before_looking(original, seen) == reason


def test_an_upload_larger_than_the_encoder_uses_counts_as_what_is_used() -> None:
    assert seen_size(size(4000, 3000), BUDGET) == size(336, 252)


@pytest.mark.parametrize(
    ("region", "original", "seen", "reason"),
    [
        (box(1000, 1000, 1500, 1500), size(4000, 3000), size(336, 252), None),
        (box(0, 0, 4000, 2900), size(4000, 3000), size(336, 252), "whole_image"),
        (box(0, 0, 336, 300), size(400, 300), size(396, 297), "no_finer"),
        (box(0, 0, 3500, 3000), size(4000, 3000), size(336, 252), None),
        (box(0, 0, 1, 2000), size(1, 4000), size(2, 336), "no_finer"),
        (box(0, 0, 5, 3000), size(400, 3000), size(45, 336), "not_sendable"),
    ],
)
def test_a_region_is_asked_for_if_its_crop_shows_more_and_can_be_sent(
    region: PixelBox, original: ImageSize, seen: ImageSize, reason: SkipReason | None
) -> None:
    assert skip_region(region, original, seen, BUDGET, LIMITS) == reason


def test_every_reason_has_words_and_an_unknown_one_keeps_its_name() -> None:
    """U3: an edge says why in words, also of reasons that only a newer server knows."""
    assert set(REASONS) == {*get_args(SkipReason), "empty_answer"}
    assert in_words("no_finer") == REASONS["no_finer"]
    assert in_words("something_newer") == "something_newer"
