"""The parts of a `multipart/form-data` body already in memory: at most two, each once, nothing on disk.

Part labels other than the name (file names, media types, charsets) are ignored: JSON is JSON, and an
image's bytes say what it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 2
MAX_BOUNDARY_BYTES = 70  # RFC 2046
MAX_PART_HEADERS = 8
MAX_PART_HEADER_BYTES = 4096


def parse_parts(content_type: str, body: bytes) -> dict[str, bytes]:
    """Contents by part name. Raises ProblemError UNSUPPORTED_MEDIA_TYPE or MALFORMED_REQUEST."""
    media_type, options = parse_options_header(content_type)
    if media_type != b"multipart/form-data":
        raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "the body must be multipart/form-data")
    boundary = options.get(b"boundary")
    if not 0 < len(boundary or b"") <= MAX_BOUNDARY_BYTES:
        raise _malformed(f"the multipart boundary must have 1 to {MAX_BOUNDARY_BYTES} bytes")
    assert boundary is not None
    start = b"--" + boundary + b"\r\n"
    collector = _Collector()
    try:
        parser = MultipartParser(
            boundary,
            collector.callbacks(),
            max_header_count=MAX_PART_HEADERS,
            max_header_size=MAX_PART_HEADER_BYTES,
        )
        if not body.startswith(start) and (first := _first_delimiter(boundary, body)):
            parser.write(start)
            body = body[first.end() :]
        parser.write(body)
        parser.finalize()
    except FormParserError as exc:
        raise _malformed("the multipart body is broken") from exc
    if not collector.is_complete:
        raise _malformed("the multipart body ends before its last boundary")
    return collector.parts


def _first_delimiter(boundary: bytes, body: bytes) -> re.Match[bytes] | None:
    """Return where the parts begin. RFC 2046 allows text in front and blanks behind; the parser does not."""
    pattern = rb"(?:\A|\r\n)--%s(--)?[ \t]*(?:\r\n|\Z)" % re.escape(boundary)
    match = re.search(pattern, body)
    return match if match and match[1] is None and body[match.end() - 1 : match.end()] == b"\n" else None


def _malformed(detail: str) -> ProblemError:
    return ProblemError(ErrorCode.MALFORMED_REQUEST, detail)


class _Collector:
    """Receives the parser's events and keeps the parts."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}
        self.is_complete = False
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._data: list[bytes] = []
        self._n_parts = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_to_header_name,
            "on_header_value": self._add_to_header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        self._n_parts += 1
        if self._n_parts > MAX_PARTS:
            raise _malformed(f"the body has more than {MAX_PARTS} parts")
        self._name = ""
        self._data = []

    def _add_to_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_to_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value)
            self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._header_name = self._header_value = b""

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._data.append(data[start:end])

    def _end_part(self) -> None:
        if not self._name:
            raise _malformed("a part has no name")
        if self._name in self.parts:
            raise _malformed("two parts have the same name")
        self.parts[self._name] = b"".join(self._data)

    def _end(self) -> None:
        self.is_complete = True
