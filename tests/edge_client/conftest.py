"""What several edge tests share: pictures, a scripted server, the real one, relays that count and cut."""

from __future__ import annotations

import contextlib
import io
import json
import random
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image

from lab.relay.faults import Fault, Schedule
from lab.relay.relay import Relay, relaying
from secondglance.settings import EdgeSettings
from secondglance_protocol.errors import ERRORS, ErrorCode, problem_type
from secondglance_protocol.protocol import MEDIA_TYPES, PROTOCOL_VERSION
from secondglance_protocol.wire import (
    Box,
    Confidence,
    DefaultGate,
    ImageBudget,
    InferenceRequest,
    InferenceResponse,
    Limits,
    ModelResponse,
    PatchOffer,
    PixelBox,
    Problem,
    Recipes,
    Roi,
    TimingMs,
    Usage,
)
from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.serving import uvicorn_config
from secondglance_server.settings import ServerSettings


class Pictures:
    """Pictures noisy enough that a shift by one pixel shows."""

    @staticmethod
    def noise(size: tuple[int, int], *, mode: str = "RGB", seed: int = 0) -> Image.Image:
        """Blocky noise that survives JPEG: no two neighbouring blocks alike."""
        coarse = (max(1, size[0] // 3), max(1, size[1] // 3))
        bands = len(Image.new(mode, (1, 1)).getbands())
        data = random.Random(seed).randbytes(coarse[0] * coarse[1] * bands)
        return Image.frombytes(mode, coarse, data).resize(size, Image.Resampling.BICUBIC)

    @staticmethod
    def encode(
        image: Image.Image, kind: str = "JPEG", *, orientation: int | None = None, **options: Any
    ) -> bytes:
        """The picture as a file's bytes, with an EXIF orientation if one is given."""
        if orientation is not None:
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    @classmethod
    def photo(cls, size: tuple[int, int] = (640, 480), *, seed: int = 0, **options: Any) -> bytes:
        """A JPEG file."""
        return cls.encode(cls.noise(size, seed=seed), "JPEG", **options)


@pytest.fixture(scope="session")
def pictures() -> type[Pictures]:
    return Pictures


def problem(code: ErrorCode, **headers: str) -> httpx.Response:
    """The server's answer for `code`; keyword names become headers (`retry_after="3"`)."""
    row = ERRORS[code]
    document = Problem(
        type=problem_type(code),
        title=row.title,
        status=row.status,
        detail="scripted",
        code=code,
        request_id="req_1",
        retryable=row.retryable,
    )
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(row.status, content=document.model_dump_json(), headers=named)


class ScriptedServer:
    """Speaks the contract from memory: unsure at stage one, sure at stage two, and as broken as a test asks.

    `faults[route]` ("model", "first", "patch") are answered or raised before the route works again.
    Use as an `httpx.MockTransport` handler.
    """

    def __init__(self) -> None:
        self.faults: dict[str, list[httpx.Response | Exception]] = defaultdict(list)
        self.requests: dict[str, list[httpx.Request]] = defaultdict(list)
        self.pixels = PixelBox(left=100, top=50, right=300, bottom=250)
        self.side = 224
        self.patch_url = "/v1/inferences/inf_1/patch"
        self.patch_side = 448
        self.formats = MEDIA_TYPES
        self.held: set[str] = set()
        self.is_sure = False
        self.raw_image = True
        self.max_header_bytes = 16_384
        self.recipes: Recipes | None = None
        self.headers: dict[str, str] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        route = {"GET": "model", "POST": "first", "PUT": "patch"}[request.method]
        request.read()
        self.requests[route].append(request)
        if self.faults[route]:
            fault = self.faults[route].pop(0)
            if isinstance(fault, Exception):
                raise fault
            return fault
        return getattr(self, f"_{route}")(request)

    @staticmethod
    def parts(request: httpx.Request) -> dict[str, bytes]:
        """The request and picture of a POST; parts are read by the standard library, not by our twin."""
        if "x-question" in request.headers:
            named = {"request": request.headers["x-question"].encode()}
            return named | ({"image": request.content} if "content-type" in request.headers else {})
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        message = message_from_bytes(head + request.content)
        return {
            part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
            for part in message.get_payload()
        }

    def _model(self, _: httpx.Request) -> httpx.Response:
        def budget(side: int) -> ImageBudget:
            return ImageBudget(max_width=side, max_height=side, max_bytes=2**22, formats=self.formats)

        limits = dict.fromkeys(Limits.model_fields, 1) | {
            "max_image_bytes": 2**22,
            "max_aspect_ratio": 200.0,
            "min_side_pixels": 2,
            "max_header_bytes": self.max_header_bytes,
        }
        model = ModelResponse(
            protocol_version=PROTOCOL_VERSION,
            name="scripted",
            family="scripted",
            image=budget(self.side),
            patch=budget(self.patch_side),
            gate=DefaultGate(metric="min_entropy", aggregate="max", threshold=0.5),
            limits=Limits(**limits),
            raw_image=self.raw_image,
            recipes=self.recipes,
        )
        return httpx.Response(200, content=model.model_dump_json())

    def _first(self, request: httpx.Request) -> httpx.Response:
        parts = self.parts(request)
        asked = InferenceRequest.model_validate_json(parts["request"])
        if asked.image_id is not None and asked.image_id not in self.held:
            return problem(ErrorCode.IMAGE_EXPIRED)
        image_id = asked.image_id or f"img_{len(parts['image'])}"
        self.held.add(image_id)
        if self.is_sure or asked.mode == "answer_only":
            return self._reply("draft", 0.1, 1, None, None, image_id)
        offer = PatchOffer(
            url=self.patch_url,
            max_width=self.patch_side,
            max_height=self.patch_side,
            max_bytes=2**22,
            formats=self.formats,
            expires_at=datetime.now(UTC) + timedelta(seconds=120),
        )
        return self._reply(
            "draft", 1.5, 1, Roi(box=Box(x0=0, y0=0, x1=1, y1=1), pixels=self.pixels), offer, image_id
        )

    def _patch(self, request: httpx.Request) -> httpx.Response:
        return self._reply("final", 0.1, 2, None, None, "img")

    def _reply(
        self, answer: str, value: float, stage: Any, roi: Any, patch: Any, image_id: str
    ) -> httpx.Response:
        response = InferenceResponse(
            id="inf_1",
            status="needs_patch" if patch else "answered",
            stage=stage,
            answer=answer,
            confidence=Confidence(
                metric="min_entropy",
                aggregate="max",
                value=value,
                threshold=0.5,
                min_entropy=value,
                shannon=value,
                margin=0.3,
            ),
            roi=roi,
            patch=patch,
            image_id=image_id,
            usage=Usage(received_bytes=1, prompt_tokens=1, cached_tokens=0, completion_tokens=1),
            timing_ms=TimingMs(),
            model="scripted",
        )
        document = json.loads(response.model_dump_json())
        document["from_a_newer_server"] = True
        return httpx.Response(200, json=document, headers=self.headers)


class Live:
    """A server in a thread; requests made before it is up wait in the listener's backlog."""

    def __init__(
        self, settings: ServerSettings, engine: FakeEngine, tls: tuple[str, str] | None, port: int
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        certificate, key = tls or (None, None)
        app = create_app(settings, engine)
        config = uvicorn_config(app, settings, ssl_certfile=certificate, ssl_keyfile=key)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Live]]:
    """Serve the real app with an engine on loopback, `port` 0 a free one; `tls` names certificate and key."""
    running: list[Live] = []

    def start(
        engine: FakeEngine, *, tls: tuple[str, str] | None = None, port: int = 0, **settings: Any
    ) -> Live:
        running.append(Live(ServerSettings(**settings), engine, tls, port))
        return running[-1]

    yield start
    for live in running:
        live.close()


@pytest.fixture
def relay_to() -> Iterator[Callable[..., Relay]]:
    """Start relays to a port on loopback, each connection with the faults given; closed after the test."""
    with contextlib.ExitStack() as running:

        def start(port: int, *each: Fault, by_connection: Mapping[int, tuple[Fault, ...]] = {}) -> Relay:
            return running.enter_context(relaying("127.0.0.1", port, schedule=Schedule(each, by_connection)))

        yield start


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
def fault() -> Callable[..., httpx.Response]:
    """Make the problem document of an error code."""
    return problem


@pytest.fixture
def settings() -> EdgeSettings:
    """Defaults, except that retries come at once."""
    return EdgeSettings(url="http://edge.test", retry_wait_s=0.001, max_retry_wait_s=0.002)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not depend on the environment they run in."""
    for name in ("SECONDGLANCE_URL", "SECONDGLANCE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    # On a busy machine loopback looks slow; what is sent shall not depend on that. test_link has it on.
    monkeypatch.setenv("SECONDGLANCE_EDGE_LINK_AWARE", "false")
