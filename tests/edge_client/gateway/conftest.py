"""A gateway in a thread, before the real server with a scripted engine; apps of the official client."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
import uvicorn

from secondglance import AsyncEdgeClient, EdgeSettings
from secondglance.gateway.app import create_app
from secondglance.gateway.settings import GatewaySettings
from secondglance_server.engine.fake import FakeEngine


class LiveGateway:
    """Requests made before it is up wait in the listener's backlog."""

    def __init__(self, settings: GatewaySettings, edge: EdgeSettings) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        app = create_app(settings, AsyncEdgeClient(settings=edge))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._listener.close()


@pytest.fixture(scope="module")
def gateway_to() -> Iterator[Callable[..., str]]:
    """Start gateways to a server's URL; gives their base URL. `edge` are edge settings."""
    running: list[LiveGateway] = []

    def start(url: str, *, edge: dict[str, Any] | None = None, **settings: Any) -> str:
        edge_settings = EdgeSettings(url=url, **({"retries": 0} | (edge or {})))
        running.append(LiveGateway(GatewaySettings(**settings), edge_settings))
        return running[-1].base_url

    yield start
    for gateway in running:
        gateway.close()


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def live(serve: Any, engine: FakeEngine) -> Any:
    return serve(engine)


@pytest.fixture(scope="module")
def base_url(gateway_to: Any, live: Any) -> str:
    return gateway_to(live.url, model_names=("gpt-4o-mini",))


@pytest.fixture(scope="module")
def app(base_url: str) -> Iterator[openai.OpenAI]:
    """An app that was written for OpenAI's API and told another base URL."""
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def photo(pictures: Any) -> bytes:
    return pictures.photo((1600, 1200), quality=95)


def data_uri(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Messages:
    """Makes what apps send."""

    data_uri = staticmethod(data_uri)

    @staticmethod
    def about(*pictures: bytes | str, text: str = "What number is on the sign?") -> list[dict[str, Any]]:
        """One user message; a picture is bytes, or a URL of whatever kind."""
        urls = [picture if isinstance(picture, str) else data_uri(picture) for picture in pictures]
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return [{"role": "user", "content": [{"type": "text", "text": text}, *parts]}]


@pytest.fixture(scope="session")
def messages() -> type[Messages]:
    return Messages
