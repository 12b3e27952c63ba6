"""API keys: who asks. Checked before the body is read; without keys everyone is the one public tenant."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from server.middleware.observe import facts_of
from server.problems import ProblemError
from server.request_facts import Tenant
from shared.errors import ErrorCode
from shared.protocol import API_KEY_HEADER, API_PREFIX


class KeyMiddleware:
    """Guards everything under the API prefix; health, metrics and docs stay open. `keys`: tenant -> key."""

    def __init__(self, app: ASGIApp, keys: Mapping[Tenant, str]) -> None:
        self._app = app
        self._keys = {tenant: key.encode() for tenant, key in keys.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._keys and scope["type"] == "http" and scope["path"].startswith(f"{API_PREFIX}/"):
            facts_of(scope).tenant = self._tenant(Headers(scope=scope))
        await self._app(scope, receive, send)

    def _tenant(self, headers: Headers) -> Tenant:
        scheme, _, given = headers.get(API_KEY_HEADER, "").partition(" ")
        key = given.strip().encode()
        # Every key is compared, in constant time, so that the time taken tells nothing.
        matches = [tenant for tenant, known in self._keys.items() if hmac.compare_digest(known, key)]
        if scheme.lower() != "bearer" or not matches:
            raise ProblemError(
                ErrorCode.UNAUTHENTICATED,
                "send Authorization: Bearer <key>",
                {"WWW-Authenticate": "Bearer"},
            )
        return matches[0]
