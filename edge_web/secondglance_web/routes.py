"""The page's files at /app/, for servers made with Starlette: the Second Glance server and the gateway.

Starlette is theirs; this package needs it for nothing else.
"""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from secondglance_web import Page


def file_routes() -> list[Route]:
    """Return the routes of the files, which are public: they hold no secret, and a browser sends no key."""
    page = Page()

    async def show_file(request: Request) -> Response:
        reply = page.reply(request.path_params["file"], request.headers)
        if reply is None:
            raise HTTPException(404)
        return Response(reply.body, reply.status, dict(reply.headers))

    return [Route("/app", _redirect), Route("/app/{file:path}", show_file)]


async def _redirect(request: Request) -> Response:
    """Send the browser to where relative links lead to the page's files, behind a proxy's prefix, too."""
    return RedirectResponse("app/", 308)
