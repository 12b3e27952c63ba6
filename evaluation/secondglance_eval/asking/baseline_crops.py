"""Where to cut instead of where the server looked: the baselines' crops. All have the region's shape.

The server takes a patch only in the shape of the region that it asked for; the offer says no more than that.
"""

from __future__ import annotations

import zlib

import numpy as np

from secondglance_eval.datasets.example import Example
from secondglance_protocol.wire import PixelBox

_AROUND_OBJECT = 1.25  # times the object's longer side: its borders are in the picture


def random_crop(roi: PixelBox, example: Example) -> PixelBox:
    """Return a box as large as the region, anywhere; for the same example the same place every time."""
    rng = np.random.default_rng(zlib.crc32(example.id.encode()))
    left = int(rng.integers(example.width - roi.width + 1))
    top = int(rng.integers(example.height - roi.height + 1))
    return _box(left, top, roi.width, roi.height)


def centre_crop(roi: PixelBox, example: Example) -> PixelBox:
    """Return a box as large as the region, in the middle of the picture."""
    left, top = (example.width - roi.width) // 2, (example.height - roi.height) // 2
    return _box(left, top, roi.width, roi.height)


def oracle_crop(roi: PixelBox, example: Example) -> PixelBox:
    """Return a box around the answer, as large as the region or as the whole object needs."""
    assert example.box is not None, "only for examples that say where the answer lies"
    needed = max(example.box.width / roi.width, example.box.height / roi.height) * _AROUND_OBJECT
    most = min(example.width / roi.width, example.height / roi.height)
    scale = min(max(1.0, needed), most)
    width, height = (
        min(round(roi.width * scale), example.width),
        min(round(roi.height * scale), example.height),
    )
    left = (example.box.left + example.box.right - width) // 2
    top = (example.box.top + example.box.bottom - height) // 2
    return _box(
        min(max(left, 0), example.width - width), min(max(top, 0), example.height - height), width, height
    )


def _box(left: int, top: int, width: int, height: int) -> PixelBox:
    return PixelBox(left=left, top=top, right=left + width, bottom=top + height)
