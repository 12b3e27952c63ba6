"""Frames out of a stream of JPEGs, by the marks that every JPEG has at its start and end.

What cameras write around them (`multipart/x-mixed-replace`, in a dozen dialects) is not read: boundaries lack
dashes or do not match, lengths lie, line ends differ. Each byte is looked at about once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto

MAX_FRAME_BYTES = 64 * 1024 * 1024

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends entropy-coded data: no stuffing, fill or restart
_SCAN = 0xDA
_BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length


class FrameError(ValueError):
    """The stream is not one of pictures."""


class _At(Enum):
    """What comes next in the buffer."""

    GAP = auto()  # anything, up to the start of a picture
    MARKER = auto()
    SCAN = auto()
    LOOSE = auto()  # no marker where one must be: the picture ends at the next end mark


class JpegFrames:
    """Feed it bytes as they come, get whole JPEGs. What lies between them is skipped."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0  # what is before was looked at
        self._segment = 0  # where the segment begins that was passed last
        self._state = _At.GAP
        self._since_frame = 0

    @property
    def is_inside(self) -> bool:
        """Whether a picture has begun and not ended."""
        return self._state is not _At.GAP

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the frames that `data` completes. Raises FrameError above `MAX_FRAME_BYTES` without one."""
        self._data += data
        self._since_frame += len(data)
        while (end := self._advance()) is not None:
            frame = bytes(self._data[:end])
            self._restart(end)
            self._since_frame = len(self._data)
            yield frame
        if self._since_frame > MAX_FRAME_BYTES:
            raise FrameError(f"a frame of the stream exceeds {MAX_FRAME_BYTES} bytes")

    def _advance(self) -> int | None:
        """Return where the current picture ends, None if the buffer does not tell yet."""
        while True:
            match self._state:
                case _At.GAP:
                    step = self._skip_gap()
                case _At.MARKER:
                    if (end := self._end_mark()) is not None:
                        return end
                    step = self._pass_marker()
                case _At.SCAN:
                    step = self._pass_scan()
                case _At.LOOSE:
                    return self._loose_end()
            if not step:
                return None

    def _restart(self, start: int) -> None:
        """Drop what is before `start` and look for a picture from there."""
        del self._data[:start]
        self._at = 0
        self._state = _At.GAP

    def _skip_gap(self) -> bool:
        start = self._data.find(_START)
        if start < 0:
            del self._data[: len(self._data) - self._data.endswith(b"\xff")]
            return False
        del self._data[:start]
        self._at = len(_START)
        self._state = _At.MARKER
        return True

    def _end_mark(self) -> int | None:
        is_end = self._data[self._at : self._at + 2] == _END
        return self._at + 2 if is_end else None

    def _pass_marker(self) -> bool:
        """Go on behind a marker and what belongs to it; False if the buffer does not hold that yet."""
        head = self._data[self._at : self._at + 4]
        if len(head) < 2:
            return False
        if head[0] != 0xFF:
            if self._at == len(_START):
                self._state = _At.LOOSE
            else:
                self._restart(self._segment)  # cut short: this one reached into what follows
            return True
        marker = head[1]
        if marker == 0xD8:
            self._restart(self._at)  # the one before was cut short
        elif marker == 0xFF:
            self._at += 1
        elif marker in _BARE:
            self._at += 2
        else:
            return self._pass_segment(marker, head)
        return True

    def _pass_segment(self, marker: int, head: bytearray) -> bool:
        if len(head) < 4:
            return False
        length = int.from_bytes(head[2:4], "big")
        if length < 2:
            self._restart(len(_START))
            return True
        if len(self._data) < self._at + 2 + length:
            return False
        self._segment = self._at
        self._at += 2 + length
        self._state = _At.SCAN if marker == _SCAN else _At.MARKER
        return True

    def _pass_scan(self) -> bool:
        found = _IN_SCAN.search(self._data, self._at)
        if found is None:
            self._at = max(self._at, len(self._data) - 1)
            return False
        self._at = found.start()
        self._state = _At.MARKER
        return True

    def _loose_end(self) -> int | None:
        end = self._data.find(_END, self._at)
        if end < 0:
            self._at = max(self._at, len(self._data) - 1)
            return None
        return end + len(_END)


def is_multipart(content_type: str) -> bool:
    """Whether a reply says that several pictures follow one another in it."""
    return content_type.strip().lower().startswith(("multipart/", "video/"))
