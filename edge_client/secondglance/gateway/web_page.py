"""The page for browsers, and the server's own API behind it, so that the page asks as it does at the server.

Only for a gateway on loopback. The page sends the server's messages; they are handed on with this edge's key,
which the page never sees. Nothing is decoded or kept here.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from secondglance.client import AsyncEdgeClient
from secondglance.conversation.steps import Arrived, Send
from secondglance.gateway.errors import ApiError
from secondglance_protocol.protocol import (
    API_PREFIX,
    DEADLINE_HEADER,
    IDEMPOTENCY_KEY_HEADER,
    MAX_ID_CHARS,
    QUESTION_HEADER,
)

_PAGE_PATH: Final = re.compile(r"/app(/.*)?")
_ID: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ID_CHARS}}}")  # as servers make them
_UP: Final = ("Content-Type", DEADLINE_HEADER, IDEMPOTENCY_KEY_HEADER, QUESTION_HEADER)
_DOWN: Final = ("Content-Type", "Retry-After", "Idempotency-Replayed")


def is_page(path: str) -> bool:
    """Return whether a path belongs to the page's own files, which are public."""
    return _PAGE_PATH.fullmatch(path) is not None


def page_routes(client: AsyncEdgeClient) -> list[Route]:
    """Return the routes of the page and of the server's API behind it; none where no page is installed."""
    if find_spec("secondglance_web") is None:
        return []
    from secondglance_web.routes import file_routes

    relay = _Relay(client)
    inferences = f"{API_PREFIX}/inferences"
    return [
        *file_routes(),
        Route(f"{API_PREFIX}/model", relay.hand_on),
        Route(inferences, relay.hand_on, methods=["POST"]),
        Route(f"{inferences}/{{inference_id}}", relay.hand_on, methods=["GET", "DELETE"]),
        Route(f"{inferences}/{{inference_id}}/patch", relay.hand_on, methods=["PUT"]),
    ]


class _Relay:
    def __init__(self, client: AsyncEdgeClient) -> None:
        self._client = client

    async def hand_on(self, request: Request) -> Response:
        """Send the request to the server and its reply to the page. Raises ApiError if no reply comes."""
        if not _ID.fullmatch(request.path_params.get("inference_id", "inf")):
            raise HTTPException(404)
        headers = {name: request.headers[name] for name in _UP if name in request.headers}
        send = Send("setup", request.method, request.url.path, headers, await request.body())
        reply = await self._client.exchange(send)
        if isinstance(reply, Arrived):
            shown = {name: reply.headers[name.lower()] for name in _DOWN if name.lower() in reply.headers}
            return Response(reply.body, reply.status, shown)
        if reply.kind == "timeout":
            raise ApiError(504, "the server did not answer in time", "timeout")
        raise ApiError(502, "the server cannot be reached", "server_unavailable")
