"""A Redis in this process for tests: the scripts run for real, and the time can be a test's clock."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from redis.asyncio import Redis

from secondglance_server.inference.stores.redis import connection, opening
from tests.server.exchange import Clock

URL = "redis://fake/0"
_WHERE_TIME_IS_READ = ("_helpers", "_socket._base", "commands_mixins.server_mixin")


class FakeRedis:
    """One Redis; every client of `client` sees the same data."""

    def __init__(self) -> None:
        self.server = FakeServer()

    def client(self, url: str = URL) -> Redis:
        assert url == URL
        return FakeAsyncRedis(server=self.server)  # type: ignore[no-any-return]

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Servers that are made from now on, without further settings, share this Redis."""
        be_patient(monkeypatch)
        monkeypatch.setenv("SECONDGLANCE_SERVER_SESSIONS", URL)
        monkeypatch.setattr(opening, "client_of", self.client)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no Redis that is away."""
    monkeypatch.setattr(connection, "TIMEOUT_S", 30.0)
    monkeypatch.setattr(connection, "_PATIENCE_S", 60.0)


def tell_time_by(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every fake Redis read `clock`."""
    for module in _WHERE_TIME_IS_READ:
        shown = SimpleNamespace(**{**vars(time), "time": clock})
        monkeypatch.setattr(f"fakeredis.{module}.time", shown)
