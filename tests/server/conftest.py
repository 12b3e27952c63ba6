"""An app with a fake engine, reached in-process over ASGI."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from tests.server.exchange import Clock, running_client


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def client(engine: FakeEngine) -> AsyncIterator[httpx.AsyncClient]:
    async with running_client(engine) as client:
        yield client


@pytest.fixture
def clock() -> Clock:
    return Clock()
