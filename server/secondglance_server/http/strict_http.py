"""The HTTP/1.1 parser: h11, without what it forgives.

h11 takes obsolete line folding, bare line feeds, Content-Length beside Transfer-Encoding and repeated equal
lengths. A proxy in front may read such a head another way, and the two then disagree about where a request
ends (request smuggling). So they are refused here, in heads and in the trailers of chunked bodies, and so are
sections that are too large and bodies in crumbs. What h11 does not know: a target in absolute form
(`GET http://host/path`) means its path.
"""

from __future__ import annotations

import re

import h11
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer

MAX_HEADERS = 100

_FREE_CHUNKS = 1000
_MIN_CHUNK_BYTES = 256  # on average, beyond the free ones

_HEAD_END = b"\r\n\r\n"
_BARE_LINE_FEED = re.compile(rb"(?<!\r)\n")
_FOLDED_LINE = re.compile(rb"\n[ \t]")
_LENGTH = re.compile(rb"^content-length:(.*)$", re.IGNORECASE | re.MULTILINE)
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")  # RFC 3986, without names and passwords
_TOO_LARGE = 431


class StrictConnection(h11.Connection):
    """The server's side of one connection. `next_event` raises h11.RemoteProtocolError for what is refused;
    its `error_status_hint` is 431 for a head of more than `max_head_bytes` or 100 fields."""

    def __init__(self, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_head_bytes)
        self._max_head_bytes = max_head_bytes
        self._n_chunks = 0
        self._chunked_bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.their_state is h11.IDLE:
            self._check_head(self.trailing_data[0])
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check_framing(event)
            if isinstance(self._reader, ChunkedReader):
                self._reader = _StrictChunkedReader(self._max_head_bytes)
            self._n_chunks = self._chunked_bytes = 0
            return _in_origin_form(event)
        if isinstance(event, h11.Data):
            self._check_chunk(event)
        return event

    @property
    def is_reading_head(self) -> bool:
        """Whether a request's head has begun and is not complete."""
        return self.their_state is h11.IDLE and bool(self.trailing_data[0])

    def _check_head(self, received: bytes) -> None:
        head = _section(received, self._max_head_bytes)
        lengths = _LENGTH.findall(head)
        if len(lengths) > 1 or any(b"," in length for length in lengths):
            raise h11.RemoteProtocolError("more than one Content-Length")

    def _check_chunk(self, data: h11.Data) -> None:
        """Each chunk costs the event loop some 20 microseconds, however small it is."""
        self._n_chunks += data.chunk_start
        self._chunked_bytes += len(data.data)
        if self._n_chunks > _FREE_CHUNKS and self._chunked_bytes < _MIN_CHUNK_BYTES * self._n_chunks:
            raise h11.RemoteProtocolError("the chunks are too small")


class _StrictChunkedReader(ChunkedReader):
    """Holds the trailer section to the rules of the head."""

    def __init__(self, max_trailer_bytes: int) -> None:
        super().__init__()
        self._max_trailer_bytes = max_trailer_bytes

    def __call__(self, buf: ReceiveBuffer) -> h11.Data | h11.EndOfMessage | None:
        if self._reading_trailer:
            # With the end of the line before, an empty section ends like any other.
            _section(b"\r\n" + bytes(buf), self._max_trailer_bytes)
        event = super().__call__(buf)
        if isinstance(event, h11.EndOfMessage) and len(event.headers) > MAX_HEADERS:
            raise h11.RemoteProtocolError("too many trailer fields", error_status_hint=_TOO_LARGE)
        return event


def _section(received: bytes, max_bytes: int) -> bytes:
    """Return the lines up to the empty one, or all there are. Raises RemoteProtocolError."""
    end = received.find(_HEAD_END)
    lines = received if end < 0 else received[: end + len(_HEAD_END)]
    if len(lines) > max_bytes:
        raise h11.RemoteProtocolError("the header fields are too large", error_status_hint=_TOO_LARGE)
    if _BARE_LINE_FEED.search(lines):
        raise h11.RemoteProtocolError("a line ends without a carriage return")
    if _FOLDED_LINE.search(lines):
        raise h11.RemoteProtocolError("a header field is folded over lines")
    return lines


def _in_origin_form(request: h11.Request) -> h11.Request:
    """Return the request with its path as target. The host in the target counts for nothing here."""
    match = _ABSOLUTE.match(request.target)
    if match is None:
        return request
    authority, path = match.groups()
    if not _AUTHORITY.fullmatch(authority) or match.end() < len(request.target):
        raise h11.RemoteProtocolError("the target is no proper URL")
    return h11.Request(
        method=request.method,
        target=path if path[:1] == b"/" else b"/" + path,
        headers=request.headers.raw_items(),
        http_version=request.http_version,
    )


def _check_framing(request: h11.Request) -> None:
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("another version of HTTP")
    names = [name for name, _ in request.headers]
    if len(names) > MAX_HEADERS:
        raise h11.RemoteProtocolError("too many header fields", error_status_hint=_TOO_LARGE)
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        if request.http_version < b"1.1":
            raise h11.RemoteProtocolError("Transfer-Encoding in HTTP/1.0")
