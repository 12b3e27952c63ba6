"""Reads a reply whole: as many bytes as it may have, and none that would have to be unpacked first.

A reply that comes as events is read to the last one, which stands for it; tokens before it are told. Where a
region is asked for before the draft has ended, the draft so far is the reply, and the rest is left unread.

No request asks for compression, and a small compressed reply could hold gigabytes once it is unpacked, and
more if it was packed several times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import httpx

from secondglance.documents import parse_document
from secondglance_protocol.events import EVENT_STREAM, Event, EventReader
from secondglance_protocol.wire import Problem, RegionEvent, TokenEvent

T = TypeVar("T")
OnToken: TypeAlias = Callable[[TokenEvent], None]

MAX_REPLY_BYTES = 8 * 1024 * 1024  # a relevance map of 512 x 512 cells fits
NO_COMPRESSION = {"Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class WholeReply:
    """A reply's status and document, however they came."""

    status: int
    body: bytes
    is_streamed: bool = False
    is_cut: bool = False  # a draft that goes on


def read_reply(response: httpx.Response, on_token: OnToken = lambda _: None) -> WholeReply:
    """Return a response's status and body.

    Raises httpx.HTTPError, also if the reply is compressed, too long, or a stream that breaks off.
    """
    reading = _Reading(response, on_token)
    for part in response.iter_bytes():
        reading.take(part)
        if reading.has_region:
            break
    return reading.whole()


async def read_reply_async(response: httpx.Response, on_token: OnToken = lambda _: None) -> WholeReply:
    """Return what `read_reply` returns, awaited."""
    reading = _Reading(response, on_token)
    async for part in response.aiter_bytes():
        reading.take(part)
        if reading.has_region:
            break
    return reading.whole()


class _Reading:
    """A reply that is being read."""

    def __init__(self, response: httpx.Response, on_token: OnToken) -> None:
        _refuse_compression(response)
        self._status = response.status_code
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        self._events = EventReader() if media_type == EVENT_STREAM else None
        self._on_token = on_token
        self._n_bytes = 0
        self._n_tokens = 0
        self._body = bytearray()
        self._last: WholeReply | None = None

    @property
    def has_region(self) -> bool:
        """Whether a region is asked for while the draft goes on: the rest need not be waited for."""
        return self._last is not None and self._last.is_cut

    def take(self, part: bytes) -> None:
        """Take the next bytes. Raises httpx.DecodingError, and what `on_token` raises."""
        self._n_bytes += len(part)
        if self._n_bytes > MAX_REPLY_BYTES:
            raise httpx.DecodingError(f"the reply exceeds {MAX_REPLY_BYTES} bytes")
        if self._events is None:
            self._body += part
            return
        for event in _sound(lambda: self._events.feed(part) if self._events else []):
            if self._last is None:
                self._take_event(event)

    def whole(self) -> WholeReply:
        """Return the reply. Raises httpx.RemoteProtocolError if it is a stream without an end."""
        if self._events is None:
            return WholeReply(self._status, bytes(self._body))
        if self._last is None:
            raise httpx.RemoteProtocolError("the stream ended before the reply")
        return self._last

    def _take_event(self, event: Event) -> None:
        if event.name == "token":
            self._n_tokens += 1
            self._on_token(_sound(lambda: parse_document(TokenEvent, event.data)))
        elif event.name == "region":
            draft = _sound(lambda: parse_document(RegionEvent, event.data)).draft
            if draft is not None:
                self._last = WholeReply(self._status, draft.model_dump_json().encode(), True, is_cut=True)
        elif event.name == "reply":
            self._last = WholeReply(self._status, event.data.encode(), self._n_tokens > 0)
        elif event.name == "problem":
            status = _sound(lambda: parse_document(Problem, event.data)).status
            self._last = WholeReply(status, event.data.encode(), self._n_tokens > 0)


def _sound(read: Callable[[], T]) -> T:
    """Return what is read of a stream. Raises httpx.DecodingError for what makes no sense."""
    try:
        return read()
    except ValueError as exc:  # pydantic's ValidationError is one
        raise httpx.DecodingError("the server's stream makes no sense") from exc


def _refuse_compression(response: httpx.Response) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise httpx.DecodingError("the reply is compressed, which nobody asked for")
