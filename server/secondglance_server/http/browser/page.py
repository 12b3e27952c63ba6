"""The page for browsers at `/app/`. Its files are public: they hold no secret, and a browser sends no key."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from secondglance_server.errors import SettingsError
from secondglance_server.http.door import APP, APP_FILE
from secondglance_server.settings import ENV_PREFIX


def page_routes() -> list[Route]:
    """Return the routes of the page. Raises SettingsError where the page is not installed."""
    try:
        from secondglance_web import Page  # an extra: servers of cameras need no page
    except ImportError as exc:
        advice = "pip install 'second-glance-server[page]'"
        raise SettingsError(f"{ENV_PREFIX}PAGE=true: {advice} ({exc})") from exc
    page = Page()

    async def show_file(request: Request) -> Response:
        reply = page.reply(request.path_params["file"], request.headers)
        if reply is None:
            raise HTTPException(404)
        return Response(reply.body, reply.status, dict(reply.headers))

    return [Route(APP, _redirect), Route(APP_FILE, show_file)]


async def _redirect(request: Request) -> Response:
    """Send the browser to where relative links lead to the page's files, behind a proxy's prefix, too."""
    return RedirectResponse(f"{APP.removeprefix('/')}/", 308)
