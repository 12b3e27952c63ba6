"""The page for browsers, and the server's own API behind it, so that the page asks as it does at the server.

Only for a gateway on loopback. The page sends the server's messages; they are handed on with this edge's key,
which the page never sees. Nothing is decoded or kept here.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Final

import httpx
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from secondglance.client import AsyncEdgeClient
from secondglance.gateway.errors import ApiError
from secondglance_protocol.protocol import API_PREFIX, DEADLINE_HEADER, IDEMPOTENCY_KEY_HEADER, MAX_ID_CHARS

_PAGE_PATH: Final = re.compile(r"/app(/.*)?")
_ID: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_ID_CHARS}}}")  # as servers make them
_UP: Final = ("Accept", "Content-Type", DEADLINE_HEADER, IDEMPOTENCY_KEY_HEADER)
_DOWN: Final = ("Content-Type", "Retry-After", "Idempotency-Replayed")


def is_page(path: str) -> bool:
    """Return whether a path belongs to the page's own files, which are public."""
    return _PAGE_PATH.fullmatch(path) is not None


def page_routes(client: AsyncEdgeClient) -> list[Route]:
    """Return the routes of the page and of the server's API behind it; none where no page is installed."""
    if find_spec("secondglance_web") is None:
        return []
    from secondglance_web import Page

    page = Page()
    relay = _Relay(client)

    async def show_file(request: Request) -> Response:
        reply = page.reply(request.path_params["file"], request.headers)
        if reply is None:
            raise HTTPException(404)
        return Response(reply.body, reply.status, dict(reply.headers))

    inferences = f"{API_PREFIX}/inferences"
    return [
        Route("/app", _redirect),
        Route("/app/{file:path}", show_file),
        Route(f"{API_PREFIX}/model", relay.hand_on),
        Route(inferences, relay.hand_on, methods=["POST"]),
        Route(f"{inferences}/{{inference_id}}", relay.hand_on, methods=["GET", "DELETE"]),
        Route(f"{inferences}/{{inference_id}}/patch", relay.hand_on, methods=["PUT"]),
    ]


async def _redirect(request: Request) -> Response:
    return RedirectResponse("app/", 308)


class _Relay:
    def __init__(self, client: AsyncEdgeClient) -> None:
        self._client = client

    async def hand_on(self, request: Request) -> Response:
        """Send the request to the server and its reply to the page. Raises ApiError if no reply comes."""
        if not _ID.fullmatch(request.path_params.get("inference_id", "inf")):
            raise HTTPException(404)
        headers = {name: request.headers[name] for name in _UP if name in request.headers}
        try:
            reply = await self._client.http.request(
                request.method, request.url.path, headers=headers, content=await request.body() or None
            )
        except httpx.TimeoutException as exc:
            raise ApiError(504, "the server did not answer in time", "timeout") from exc
        except httpx.HTTPError as exc:
            raise ApiError(502, "the server cannot be reached", "server_unavailable") from exc
        shown = {name: reply.headers[name] for name in _DOWN if name in reply.headers}
        return Response(reply.content, reply.status_code, shown)
