"""Reads a reply whole: as many bytes as it may have, and none that would have to be unpacked first.

No request asks for compression, and a small compressed reply could hold gigabytes once it is unpacked, and
more if it was packed several times.
"""

from __future__ import annotations

import httpx

MAX_REPLY_BYTES = 8 * 1024 * 1024  # a relevance map of 512 x 512 cells fits
NO_COMPRESSION = {"Accept-Encoding": "identity"}


def read_reply(response: httpx.Response) -> bytes:
    """Return a streamed response's body. Raises httpx.HTTPError, also if it is compressed or too long."""
    _refuse_compression(response)
    body = bytearray()
    for part in response.iter_bytes():
        _append(body, part)
    return bytes(body)


async def read_reply_async(response: httpx.Response) -> bytes:
    """Return what `read_reply` returns, awaited."""
    _refuse_compression(response)
    body = bytearray()
    async for part in response.aiter_bytes():
        _append(body, part)
    return bytes(body)


def _refuse_compression(response: httpx.Response) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise httpx.DecodingError("the reply is compressed, which nobody asked for")


def _append(body: bytearray, part: bytes) -> None:
    if len(body) + len(part) > MAX_REPLY_BYTES:
        raise httpx.DecodingError(f"the reply exceeds {MAX_REPLY_BYTES} bytes")
    body += part
