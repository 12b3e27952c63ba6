"""What the tests of the server send and check: pictures, requests, an app in this process."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from secondglance_protocol.geometry import fit_within
from secondglance_protocol.wire import Confidence, ImageSize, InferenceResponse, TimingMs, Usage
from secondglance_server.app import create_app
from secondglance_server.engine.protocol import Engine
from secondglance_server.errors import ProblemError
from secondglance_server.http.multipart import parse_parts
from secondglance_server.keys import ApiKey, hash_key
from secondglance_server.serving import uvicorn_config
from secondglance_server.settings import ServerSettings
from secondglance_server.telemetry.tracing import Tracer

ORIGINAL = {"width": 4000, "height": 3000}
QUESTION = "What number is on the red sign?"

REPLY = InferenceResponse(
    id="inf_1",
    status="answered",
    stage=1,
    answer="42",
    confidence=Confidence(
        metric="margin", aggregate="max", value=0, threshold=0, min_entropy=0, shannon=0, margin=0
    ),
    roi=None,
    patch=None,
    image_id="img_1",
    usage=Usage(received_bytes=0, prompt_tokens=0, cached_tokens=0, completion_tokens=0),
    timing_ms=TimingMs(),
    model="fake",
)


def encode(
    width: int, height: int, format_name: str = "PNG", mode: str = "RGB", color: str = "red", **options: Any
) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height), color).save(buffer, format_name, **options)
    return buffer.getvalue()


GLOBAL_IMAGE = encode(336, 252)


def message(**changes: Any) -> dict[str, Any]:
    return {"question": QUESTION, "image": ORIGINAL} | changes


def parts_of(request: dict[str, Any] | str | bytes, image: bytes | None = GLOBAL_IMAGE) -> dict[str, Any]:
    """Multipart parts for httpx's `files`."""
    text = json.dumps(request) if isinstance(request, dict) else request
    parts: dict[str, Any] = {"request": ("request.json", text, "application/json")}
    if image is not None:
        parts["image"] = ("image", image, "image/png")
    return parts


async def ask(
    client: httpx.AsyncClient, *, upload: bytes | None = GLOBAL_IMAGE, **changes: Any
) -> httpx.Response:
    return await client.post("/v1/inferences", files=parts_of(message(**changes), upload))


def patch_for(reply: dict[str, Any], color: str = "blue") -> bytes:
    """A crop of the size that the reply asks for, within its offer."""
    pixels, offer = reply["roi"]["pixels"], reply["patch"]
    region = ImageSize(width=pixels["right"] - pixels["left"], height=pixels["bottom"] - pixels["top"])
    size = fit_within(region, **{name: offer[name] for name in ("max_width", "max_height", "max_pixels")})
    return encode(size.width, size.height, color=color)


async def put_patch(
    client: httpx.AsyncClient, url: str, patch: bytes, content_type: str = "image/png"
) -> httpx.Response:
    return await client.put(url, content=patch, headers={"Content-Type": content_type})


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The response is a problem document of this code, whole and consistent."""
    problem = response.json()
    assert (response.status_code, problem.get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem.keys() == {"type", "title", "status", "detail", "code", "request_id", "retryable"}
    return dict(problem)


async def assert_still_serves(client: httpx.AsyncClient) -> None:
    """The next good request is answered."""
    reply = await ask(client)
    assert reply.status_code == 200, reply.text


def key_entry(key: str, tenant: str = "tenant", **limits: Any) -> ApiKey:
    """The settings' entry of a key."""
    return ApiKey(tenant=tenant, sha256=hash_key(key), **limits)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


both_forms = pytest.mark.parametrize("form", ["multipart", "raw"])
"""Of the fixture `client`: each test with either form of stage one."""


class RawForm(httpx.ASGITransport):
    """Sends what tests give as parts the other way: the image as the body, the request in a header.

    What is no multipart of these two parts goes as it is.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await super().handle_async_request(_in_raw_form(request))


def _in_raw_form(request: httpx.Request) -> httpx.Request:
    if not isinstance(request.stream, httpx.SyncByteStream):
        return request
    headers = {name: value for name, value in request.headers.items() if name not in _OF_MULTIPART}
    try:
        parts = parse_parts(request.headers.get("content-type", ""), request.read())
    except ProblemError:
        return request
    if not {"request"} <= parts.keys() <= {"request", "image"} or b"\n" in parts["request"]:
        return request
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"x-question", parts["request"]))
    if "image" in parts:
        raw.append((b"content-type", b"image/png"))
    return httpx.Request(request.method, request.url, headers=raw, content=parts.get("image", b""))


_OF_MULTIPART = {"content-type", "content-length", "transfer-encoding"}


@asynccontextmanager
async def running_client(
    engine: Engine,
    *,
    form: str = "multipart",
    headers: dict[str, str] | None = None,
    tracer: Tracer | None = None,
    **settings: Any,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app whose lifespan runs; failures of the app are raised in the test."""
    app = create_app(ServerSettings(**settings), engine, tracer=tracer)
    transport = RawForm(app) if form == "raw" else httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport,
            base_url="http://test",
            headers=headers,
        ) as client,
    ):
        client.app = app  # type: ignore[attr-defined]  # for tests that look inside
        yield client


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread or task is about to bring about."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def live_server(engine: Engine, **settings: Any) -> AsyncIterator[str]:
    """The base URL of a real uvicorn on a free loopback port, in this process."""
    app = create_app(ServerSettings(port=0, **settings), engine)
    server = uvicorn.Server(uvicorn_config(app, app.state.server.settings))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        await serving
