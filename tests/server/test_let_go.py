"""What is refused is not kept: no body stays in memory because of the failure that it led to."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from secondglance_server.engine.fake import FakeEngine
from tests.server.exchange import ask, running_client


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def test_a_refused_body_is_freed_at_once(no_collector: None) -> None:
    """Failures and their tasks held each other, and the bodies, until the collector came."""
    async with running_client(FakeEngine()) as client:
        before = len(_failures())
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        statuses = [
            (await client.post("/v1/inferences", content=b"p" * 100_000, headers=form)).status_code,
            (await ask(client, upload=b"no picture" * 10_000)).status_code,
            (await ask(client, image={"width": 0, "height": 0})).status_code,
        ]
        assert statuses == [400, 415, 422]
        assert len(_failures()) == before


def _failures() -> list[str]:
    # by type(): isinstance asks lazy modules for their class, which warns
    return [type(each).__name__ for each in gc.get_objects() if issubclass(type(each), BaseException)]
