"""Frames out of `multipart/x-mixed-replace`, the form in which cameras and ffmpeg send a stream of JPEGs."""

from __future__ import annotations

from collections.abc import Iterator

MAX_FRAME_BYTES = 64 * 1024 * 1024


class FrameError(ValueError):
    """The stream is not one of pictures."""


class MultipartFrames:
    """Feed it bytes as they come, get whole frames. Parts may or may not say how long they are."""

    def __init__(self, boundary: str) -> None:
        self._mark = b"--" + boundary.removeprefix("--").encode()  # some cameras count the dashes in
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Frames that `data` completes. Raises FrameError."""
        self._data += data
        while (frame := self._next()) is not None:
            if frame:
                yield frame
        if len(self._data) > MAX_FRAME_BYTES:
            raise FrameError(f"a frame of the stream exceeds {MAX_FRAME_BYTES} bytes")

    def _next(self) -> bytes | None:
        """One part's content, taken off the buffer; None while it is not complete."""
        start = self._data.find(self._mark)
        if start < 0:
            return None
        head_end = self._data.find(b"\r\n\r\n", start)
        if head_end < 0:
            return None
        begin = head_end + 4
        length = _content_length(bytes(self._data[start:head_end]))
        if length is None:
            end = self._data.find(b"\r\n" + self._mark, begin)
            if end < 0:
                return None
        else:
            end = begin + length
            if len(self._data) < end:
                return None
        frame = bytes(self._data[begin:end])
        del self._data[:end]
        return frame


def boundary_of(content_type: str) -> str | None:
    """The boundary of a multipart stream; None for another content type."""
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    if not kind.lower().startswith("multipart/"):
        return None
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "boundary":
            return value.strip().strip('"')
    return None


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return int(value)
    return None
