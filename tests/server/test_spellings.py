"""Whatever a path looks like, every layer takes it for the route that runs, or it is refused at the door."""

from __future__ import annotations

import asyncio
import io
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.http.door import _RULES, _STAGES
from secondglance_server.serving import uvicorn_config
from secondglance_server.settings import ServerSettings
from tests.server.exchange import assert_problem, bearer, key_entry, running_client, until
from tests.server.listening import captured_log, lines

PATHS = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
    "/v1/model",
    "/v1/inferences",
    "/v1/inferences/inf_1",
    "/v1/inferences/inf_1/patch",
    "/app",
    "/app/app.js",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "post", "PUTT"]
KEYS = [key_entry("asks", "asks"), key_entry("scrapes", "scrapes", scope="metrics")]

# Written down once more, for what the app believes is tested here.
OPEN = {"/healthz", "/readyz", "/app", "/app/{file:path}"}
STAGES = {("POST", "/v1/inferences"), ("PUT", "/v1/inferences/{inference_id}/patch")}


def spellings(path: str) -> Iterator[str]:
    """The path itself and what somebody may send in its place."""
    yield path
    head, _, last = path.rpartition("/")
    for code in ("%0A", "%0a", "%0D", "%0D%0A", "%00", "%09", "%1F", "%7F", "%C2%85", "%20", "%0A%0A"):
        yield f"{path}{code}"
        yield f"{head}/{code}{last}"
        yield f"/{code}{path[1:]}"
    for code in (
        "%2F",
        "%2f",
        "/",
        "/.",
        "/..",
        "%2E",
        "//",
        ";a",
        "%3Fa",
        "?a",
        "?",
        "%23",
        "#",
        "%",
        "%zz",
    ):
        yield f"{path}{code}"
    yield from (f"/{path}", f"//x{path}", f"/.{path}", f"/x/..{path}", f"/%2e%2e{path}", f"/x%2F..{path}")
    yield from (path.upper(), path.title(), path.replace("/", "%2F"), path[1:], path.replace("/", "\\"))
    yield from (f"{head}/%{ord(last[0]):02x}{last[1:]}", f"{head}/%25{ord(last[0]):02x}{last[1:]}")
    yield from (f"{path}%E2%80%A8", f"{path}%FF", f"{head}/\u200b{last}".encode().decode("latin-1"))
    yield from (
        f"http://x{path}",
        f"HTTPS://x:80{path}",
        f"http://x/{path}",
        f"http://a@x{path}",
        f"http:{path}",
    )
    yield from (
        f"http:{path}",
        f"http://x{path}%0A",
        f"ftp://x{path}",
        f"http://x?{path}",
        f"http://x{path}#a",
    )
    yield from ("*", "*%0A", "http://x", "x:80")


CASES = [
    (method, target)
    for path in PATHS
    for target, method in zip(dict.fromkeys(spellings(path)), itertools.cycle(METHODS), strict=False)
]
CASES += [(method, target) for method in METHODS[:6] for path in PATHS for target in spellings(path)]
CASES = [(method, target) for method, target in dict.fromkeys(CASES) if target.isascii()]


@dataclass
class Ran:
    """The routes whose code ran: method, template and the length of the body that it could read."""

    routes: list[tuple[str, str, int]]


def spied(app: FastAPI) -> Ran:
    """In place of its own code, each route notes that it ran."""
    ran = Ran([])
    for route in app.routes:
        template = route.path  # type: ignore[attr-defined]  # all have one

        async def spy(scope: Scope, receive: Receive, send: Send, template: str = template) -> None:
            body = await Request(scope, receive).body()
            ran.routes.append((scope["method"], template, len(body)))
            await PlainTextResponse("ran")(scope, receive, send)

        route.app = spy  # type: ignore[attr-defined]
    return ran


@asynccontextmanager
async def listening(**settings: Any) -> AsyncIterator[tuple[FastAPI, Ran, int]]:
    app = create_app(ServerSettings(port=0, page=True, **settings), FakeEngine())
    ran = spied(app)
    server = uvicorn.Server(uvicorn_config(app, app.state.server.settings))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield app, ran, server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


async def status_of(port: int, method: str, target: str, body: bytes, **headers: str) -> int:
    """The status of one request on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = {"Host": "x", "Connection": "close", "Content-Length": str(len(body)), **headers}
    head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    async with asyncio.timeout(20):
        data = await reader.read()
    writer.transport.abort()
    return int(data.split(b" ", 2)[1])


@dataclass(frozen=True)
class Seen:
    """One request: what came back, which routes ran with how much of its body, and its line of the log."""

    method: str
    target: str
    key: str
    status: int
    ran: tuple[tuple[str, str, int], ...]
    line: dict[str, Any] | None


async def walk(port: int, ran: Ran, log: io.StringIO, cases: list[tuple[str, str]]) -> list[Seen]:
    answers = {}
    for n, (method, target, key) in enumerate((*case, key) for case in cases for key in ("asks", "scrapes")):
        ran.routes.clear()
        headers = {"Authorization": f"Bearer {key}", "X-Request-Id": f"walk-{n}"}
        status = await status_of(port, method, target, bytes(64), **headers)
        answers[f"walk-{n}"] = (method, target, key, status, tuple(ran.routes))
    by_id = {line["request_id"]: line for line in lines(log)}
    return [Seen(*answer, by_id.get(request_id)) for request_id, answer in answers.items()]


def test_the_rules_name_routes_that_are_there() -> None:
    there = {route.path for route in create_app(ServerSettings(page=True)).routes}  # type: ignore[attr-defined]
    assert there >= set(_RULES) | {template for _, template in _STAGES}
    named = {
        template.replace("{inference_id}", "inf_1").replace("{file:path}", "app.js") for template in there
    }
    assert set(PATHS) == named
    assert len(CASES) >= 2000


@pytest.mark.parametrize("state", ["open", "draining", "full"])
async def test_every_layer_believes_what_the_router_does(state: str) -> None:
    """S1: the router took a path with a final newline for the route, and no layer in front of it did: no
    limit on the body, no admission, served while draining, and `/metrics` for a key that only may ask.

    Each request has a body that is over every limit. So a route of a stage must never run here, and no other
    route may see a byte of it. The log line and the key's scope must name the route that ran.
    """
    cases = {"open": CASES, "draining": CASES[::3], "full": CASES[::5]}[state]
    with captured_log() as log:
        async with listening(keys=KEYS, max_image_bytes=10, max_patch_bytes=10) as (app, ran, port):
            if state == "draining":
                app.state.server.readiness.drain()
            if state == "full":
                app.state.server.device._max_queue = 0
            seen = await walk(port, ran, log, cases)
    assert len(seen) >= 2000 or state != "open"
    for request in seen:
        believed = disagreement(request)
        assert believed is None, f"{believed}: {request}"
    assert sum(bool(request.ran) for request in seen) >= 30
    stages = {request.line["stage"] for request in seen if request.line and "stage" in request.line}
    assert stages == {1, 2}
    for request in seen:
        if request.line and request.line.get("stage") == 1:
            assert request.status == (413 if state == "open" else 503), request


def disagreement(request: Seen) -> str | None:
    """What two layers believe differently, or None."""
    line = request.line
    if line is None:  # the parser refused it
        return None if (request.status, request.ran) == (400, ()) else "nothing was logged"
    if len(request.ran) != (request.status == 200):
        return "what was sent is not what ran"
    if not request.ran:
        return None if request.status in (400, 403, 404, 405, 413, 503) else "another refusal"
    method, template, n_bytes = request.ran[0]
    wanted_key = "scrapes" if template == "/metrics" else "asks"
    if line["route"] != template or (request.key != wanted_key and template not in OPEN):
        return "logged or let in as another route"
    if method != {"HEAD": "GET"}.get(request.method, request.method):
        return "another method ran"
    return "a body over its limit was read" if n_bytes or (method, template) in STAGES else None


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
async def test_control_characters_in_a_path_are_refused_wherever_they_stand(code: int) -> None:
    """S1, at the door itself: whatever server is in front of the app."""
    async with running_client(FakeEngine(), keys=KEYS) as client:
        for path in (f"/metrics{chr(code)}", f"/{chr(code)}metrics", f"/v1/inferences/{chr(code)}/patch"):
            response = await client.post(quote(path), headers=bearer("asks"))
            assert_problem(response, 400, "malformed_request")
