"""A file made of pieces of another one and of bytes of our own, without a copy of either."""

from __future__ import annotations

import bisect
import io
from collections.abc import Sequence
from itertools import accumulate
from typing import IO, TypeAlias

Piece: TypeAlias = bytes | tuple[int, int]
"""Bytes, or (start, length) of a stretch of the file underneath."""


class _Splice(io.RawIOBase):
    def __init__(self, file: IO[bytes], pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = pieces
        lengths = (len(piece) if isinstance(piece, bytes) else piece[1] for piece in pieces)
        self._starts = [0, *accumulate(lengths)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # typeshed names a private type
        number = bisect.bisect_right(self._starts, self._at) - 1
        if number >= len(self._pieces):
            return 0
        piece, skipped = self._pieces[number], self._at - self._starts[number]
        wanted = min(len(buffer), self._starts[number + 1] - self._at)
        if isinstance(piece, bytes):
            found = piece[skipped : skipped + wanted]
        else:
            self._file.seek(piece[0] + skipped)
            found = self._file.read(wanted)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def splice(file: IO[bytes], pieces: Sequence[Piece]) -> IO[bytes]:
    """Return a file to read: `pieces` one after the other. `file` must not be read by others meanwhile."""
    return io.BufferedReader(_Splice(file, [piece for piece in pieces if len(piece)]))
