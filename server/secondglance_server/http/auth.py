"""Who asks, what they may do and how much of it: settled before a byte of the body is read.

Without keys everyone is the one public tenant. With keys, every path but the probes wants one, whether or
not there is anything at that path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import API_KEY_HEADER
from secondglance_server.errors import ProblemError
from secondglance_server.http.observe import facts_of
from secondglance_server.http.problems import HttpProblemError
from secondglance_server.http.quotas import Quota
from secondglance_server.keys import ApiKey, find_key

PROBES: Final = frozenset({"/healthz", "/readyz"})
METRICS: Final = "/metrics"


class KeyMiddleware:
    """Sets the tenant of a request and holds its key to its scope and quotas."""

    def __init__(self, app: ASGIApp, keys: Sequence[ApiKey]) -> None:
        self._app = app
        self._quotas = {key: Quota(key) for key in keys}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._quotas or scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        key = self._key(Headers(scope=scope))
        facts_of(scope).tenant = key.tenant
        if (scope["path"] == METRICS) != (key.scope == "metrics"):
            raise ProblemError(ErrorCode.FORBIDDEN, f"the scope of this key is {key.scope}")
        quota = self._quotas[key]
        with quota.request():
            await self._app(scope, _charging(receive, quota), send)

    def _key(self, headers: Headers) -> ApiKey:
        scheme, _, given = headers.get(API_KEY_HEADER, "").partition(" ")
        key = find_key(tuple(self._quotas), given.strip())
        if scheme.lower() != "bearer" or key is None:
            raise HttpProblemError(
                ErrorCode.UNAUTHENTICATED,
                "send Authorization: Bearer <key>",
                {"WWW-Authenticate": "Bearer"},
            )
        return key


def _charging(receive: Receive, quota: Quota) -> Receive:
    async def charging() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            quota.charge(len(message.get("body", b"")))
        return message

    return charging
