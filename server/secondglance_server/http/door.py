"""The door: what a request is, decided once, before any other layer looks at it.

The route that will run is found with the router's own rules on the scope that the router gets. Key scope,
admission, body limit and the label in logs and metrics are looked up from that route, so no layer can take a
path for another one than the router does. What nothing here knows is closed: a route without a rule wants a
key of scope `ask`, and its body is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import API_PREFIX
from secondglance_server.errors import ProblemError
from secondglance_server.inference.async_engine import Stage

INFERENCES: Final = f"{API_PREFIX}/inferences"
INFERENCE: Final = f"{INFERENCES}/{{inference_id}}"
PATCH: Final = f"{INFERENCE}/patch"

# The router's patterns end in `$`, which also matches before a final newline; nothing good has any of these.
CONTROL_CHARACTERS: Final = r"\x00-\x1f\x7f-\x9f"
"""As a character class of regular expressions, in Python and in JSON schemas."""
_CONTROL = re.compile(f"[{CONTROL_CHARACTERS}]")


@dataclass(frozen=True, slots=True)
class Destination:
    """What every layer knows of a request: the route that will run, and what follows from it.

    `route` is the template. `access`: who may ask. `stage`: the stage that the request's body is for; None
    where no body is read. `is_page`: people open it in a browser.
    """

    route: str = "unmatched"
    access: Literal["everyone", "ask", "metrics"] = "ask"
    stage: Stage | None = None
    is_page: bool = False


_UNMATCHED = Destination()

# By template, for every method, the ones that are refused included.
_RULES: Final[Mapping[str, Destination]] = {
    rule.route: rule
    for rule in (
        Destination("/healthz", access="everyone"),
        Destination("/readyz", access="everyone"),
        Destination("/metrics", access="metrics"),
        Destination("/docs", is_page=True),
        Destination("/openapi.json", is_page=True),
        Destination("/redoc", is_page=True),
        Destination("/app", access="everyone"),
        Destination("/app/{file:path}", access="everyone"),
    )
}
_STAGES: Final[Mapping[tuple[str, str], Stage]] = {("POST", INFERENCES): 1, ("PUT", PATCH): 2}

PROBES: Final = frozenset({"/healthz", "/readyz"})


def destination_of(scope: Scope) -> Destination:
    """Return what the door decided; of a request that it refused, nothing is known."""
    destination = scope.get("state", {}).get("destination", _UNMATCHED)
    assert isinstance(destination, Destination)
    return destination


class DoorMiddleware:
    """Decides the destination of each request; `routes` are the router's own.

    HEAD is answered wherever GET is, without the body. Raises ProblemError MALFORMED_REQUEST for a path that
    holds control characters.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _CONTROL.search(scope["path"]):
            raise ProblemError(ErrorCode.MALFORMED_REQUEST, "the path holds control characters")
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        scope["state"]["destination"] = self._destination(scope)
        await self._app(scope, receive, send)

    def _destination(self, scope: Scope) -> Destination:
        route, is_allowed = self._route(scope)
        template = getattr(route, "path", None)
        if template is None:
            return _UNMATCHED
        rule = _RULES.get(template, Destination(template))
        stage = _STAGES.get((scope["method"], template)) if is_allowed else None
        return replace(rule, stage=stage)

    def _route(self, scope: Scope) -> tuple[BaseRoute | None, bool]:
        """Return the route that the router will take, and whether it takes the method."""
        of_other_method = None
        for route in self._routes:
            match, _ = route.matches(scope)
            if match is Match.FULL:
                return route, True
            if match is Match.PARTIAL and of_other_method is None:
                of_other_method = route
        return of_other_method, False


def _without_body(send: Send) -> Send:
    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return send_head
