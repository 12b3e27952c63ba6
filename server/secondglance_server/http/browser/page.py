"""The page for browsers at `/app/`, which comes with an extra: servers of cameras need no page."""

from __future__ import annotations

from starlette.routing import Route

from secondglance_server.errors import SettingsError
from secondglance_server.settings import ENV_PREFIX


def page_routes() -> list[Route]:
    """Return the routes of the page. Raises SettingsError where the page is not installed."""
    try:
        from secondglance_web.routes import file_routes
    except ImportError as exc:
        advice = "pip install 'second-glance-server[page]'"
        raise SettingsError(f"{ENV_PREFIX}PAGE=true: {advice} ({exc})") from exc
    return file_routes()
