"""Bounds what the images that are being decoded hold together, from what their headers say.

Pixels cost by format, measured as the most that any kind of file took (docs/log.md): Pillow's own four bytes,
three of the array that comes out, and what the decoder needs beside them. JPEG: the coefficients of a
progressive one in four colours. WebP: Pillow reads it with libwebp's animation decoder, two canvases and a
copy. Thread-safe; not covered: the array's further life.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from secondglance_protocol.wire import ImageSize

BYTES_PER_PIXEL: Final = {"PNG": 8, "JPEG": 13, "WEBP": 19}


class DecodingMemory:
    """`max_bytes` for all; an image that alone is over it is decoded alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def room_for(self, format_name: str, size: ImageSize) -> Iterator[None]:
        """Around one decoding; waits until there is room."""
        n_bytes = BYTES_PER_PIXEL[format_name] * size.width * size.height
        with self._freed:
            self._freed.wait_for(lambda: self._held == 0 or self._held + n_bytes <= self._max_bytes)
            self._held += n_bytes
        try:
            yield
        finally:
            with self._freed:
                self._held -= n_bytes
                self._freed.notify_all()
