"""Who asks, what they may do and how much of it: settled before a byte of the body is read.

Without keys everyone is the one public tenant. With keys, every path but the probes wants one, whether or
not there is anything at that path. Browsers cannot send `Authorization: Bearer` by themselves, so pages that
people open take the key as the password of HTTP Basic, too, under the same rules; the API does not, for a
browser would send it along with requests that other sites' pages make.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import partial

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import API_KEY_HEADER
from secondglance_server.errors import ProblemError
from secondglance_server.http.door import destination_of
from secondglance_server.http.linger import meter_of
from secondglance_server.http.observe import facts_of
from secondglance_server.http.problems import HttpProblemError
from secondglance_server.inference.stores.protocol import QuotaStore
from secondglance_server.keys import ApiKey, find_key

_BASIC = 'Basic realm="Second Glance: any name, the key as password", charset="UTF-8"'


class KeyMiddleware:
    """Sets the tenant of a request and holds its key to its scope and quotas."""

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey], quotas: QuotaStore) -> None:
        self._app = app
        self._keys = tuple(keys)
        self._quotas = quotas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        destination = destination_of(scope)
        if not self._keys or scope["type"] != "http" or destination.access == "everyone":
            await self._app(scope, receive, send)
            return
        key = self._key(Headers(scope=scope), is_page=destination.is_page)
        meter_of(scope).charge_to(partial(self._quotas.charge, key))
        facts_of(scope).tenant = key.tenant
        if key.scope != destination.access:
            raise ProblemError(ErrorCode.FORBIDDEN, f"the scope of this key is {key.scope}")
        async with self._quotas.request(key):
            await self._app(scope, receive, send)

    def _key(self, headers: Headers, *, is_page: bool) -> ApiKey:
        """Return the key that was sent. Raises HttpProblemError UNAUTHENTICATED."""
        key = find_key(self._keys, _given(headers.getlist(API_KEY_HEADER), is_page=is_page))
        if key is None:
            raise HttpProblemError(
                ErrorCode.UNAUTHENTICATED,
                "send Authorization: Bearer <key>",
                {"WWW-Authenticate": _BASIC if is_page else "Bearer"},
            )
        return key


def _given(values: Sequence[str], *, is_page: bool) -> str:
    """Return what may be a key, empty where nothing is that could."""
    scheme, _, given = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic" and is_page:
        return _password(given.strip())
    return ""


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
