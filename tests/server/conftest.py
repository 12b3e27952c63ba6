"""An app with a fake engine, reached in-process over ASGI."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.stores.opening import open_stores
from secondglance_server.inference.stores.protocol import Stores
from secondglance_server.settings import ServerSettings
from tests.server.exchange import Clock, running_client
from tests.server.fake_redis import FakeRedis, be_patient, tell_time_by
from tests.server.redis_server import RedisServer, needs_redis, redis_server

Kind = Literal["memory", "redis", "real redis"]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what uses a store with each kind; with a real Redis, too, unless the test moves its clock."""
    if "each_store" not in metafunc.fixturenames:
        return
    kinds: list[Any] = ["memory", "redis"]
    named = inspect.signature(metafunc.function).parameters
    if "open_each" in named and "clock" not in named:
        kinds.append(pytest.param("real redis", marks=[pytest.mark.live, needs_redis]))
    metafunc.parametrize("each_store", kinds, indirect=True)


@pytest.fixture(scope="session")
def real_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def each_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kind:
    """The kind of store behind the servers that the test starts."""
    be_patient(monkeypatch)
    kind: Kind = request.param
    if kind == "redis":
        FakeRedis().stand_in(monkeypatch)
    elif kind == "real redis":
        running: RedisServer = request.getfixturevalue("real_redis")
        with running.client() as client:
            client.flushall()
        monkeypatch.setenv("SECONDGLANCE_SERVER_SESSIONS", running.url)
    return kind


@pytest.fixture
def form() -> str:
    """How the client sends stage one: "multipart" or "raw"."""
    return "multipart"


@pytest.fixture
async def client(engine: FakeEngine, form: str) -> AsyncIterator[httpx.AsyncClient]:
    async with running_client(engine, form=form) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_each(
    each_store: Kind, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Stores]]:
    """Open stores with these settings, of each kind. All but a real Redis live by `clock`."""
    tell_time_by(clock, monkeypatch)
    opened: list[Stores] = []

    def open_them(**settings: Any) -> Stores:
        opened.append(open_stores(ServerSettings(**settings), clock=clock))
        return opened[-1]

    yield open_them
    for stores in opened:
        await stores.close()
