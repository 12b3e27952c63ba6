"""Which inference requests are let in, decided from their headers: a refusal must not wait for an upload.

A full or draining server still takes second stages: their first half is done and a client holds the picture
for it. Not covered: keys and quotas, which come before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import DEADLINE_HEADER, MAX_DEADLINE_MS
from secondglance_server.errors import ProblemError
from secondglance_server.http.door import destination_of
from secondglance_server.http.observe import facts_of
from secondglance_server.inference.async_engine import Stage


class AdmissionMiddleware:
    """`admit` is entered around a request and raises ProblemError for a stage that is not taken now."""

    def __init__(self, app: ASGIApp, admit: Callable[[Stage], AbstractContextManager[None]]) -> None:
        self._app = app
        self._admit = admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stage = destination_of(scope).stage
        if stage is not None:
            facts = facts_of(scope)
            facts.stage = stage
            facts.deadline = _deadline(Headers(scope=scope).get(DEADLINE_HEADER), facts.deadline)
            with self._admit(stage):
                await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _deadline(given: str | None, otherwise: float) -> float:
    if given is None:
        return otherwise
    if not (given.isascii() and given.isdigit() and len(given) < 10 and 1 <= int(given) <= MAX_DEADLINE_MS):
        raise ProblemError(ErrorCode.INVALID_REQUEST, f"{DEADLINE_HEADER}: 1 to {MAX_DEADLINE_MS}")
    return time.monotonic() + int(given) / 1000
