"""An app with a fake engine, reached in-process over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.stores.opening import open_stores
from secondglance_server.inference.stores.protocol import Stores
from secondglance_server.settings import ServerSettings
from tests.server.exchange import Clock, running_client
from tests.server.fake_redis import FakeRedis, tell_time_by

Kind = Literal["memory", "redis"]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(params=["memory", "redis"])
def each_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """Run the test with each kind of store behind the servers that it starts."""
    kind: Kind = request.param
    if kind == "redis":
        FakeRedis().stand_in(monkeypatch)
    return kind


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with running_client(engine) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_each(each_store: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stores]:
    """Open the stores of a server with these settings, of each kind, that live by `clock`."""
    tell_time_by(clock, monkeypatch)

    def open_them(**settings: Any) -> Stores:
        return open_stores(ServerSettings(**settings), clock=clock)

    return open_them
