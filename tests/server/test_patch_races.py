"""Two requests for one patch: repeated, rivalling, cut off, or of a session that is deleted meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from tests.server.exchange import ask, assert_problem, patch_for, put_patch, until

pytestmark = pytest.mark.usefixtures("each_store")


@asynccontextmanager
async def patch_on_the_device(
    client: httpx.AsyncClient, engine: FakeEngine
) -> AsyncIterator[tuple[dict[str, Any], asyncio.Task[httpx.Response], threading.Event]]:
    """A draft, the request with its patch that the engine is working on, and what lets it go on."""
    draft = (await ask(client)).json()
    release = threading.Event()
    engine.before_call = release.wait
    running = asyncio.create_task(put_patch(client, draft["patch"]["url"], patch_for(draft)))
    await until(lambda: engine.calls[-1].stage == 2)
    try:
        yield draft, running, release
    finally:
        release.set()


async def test_the_same_patch_twice_at_once_is_worked_on_once(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    async with patch_on_the_device(client, engine) as (draft, running, release):
        again = await put_patch(client, draft["patch"]["url"], patch_for(draft))
        assert assert_problem(again, 409, "idempotency_in_progress")["retryable"]
        release.set()
        assert (await running).json()["answer"] == "42"
        assert [call.stage for call in engine.calls].count(2) == 1


async def test_a_rivalling_patch_is_refused(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    async with patch_on_the_device(client, engine) as (draft, running, release):
        rival = await put_patch(client, draft["patch"]["url"], patch_for(draft, "green"))
        assert_problem(rival, 409, "patch_conflict")
        release.set()
        assert (await running).status_code == 200


async def test_a_deleted_inference_does_not_come_back_with_its_answer(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    async with patch_on_the_device(client, engine) as (draft, running, release):
        url = f"/v1/inferences/{draft['id']}"
        assert (await client.delete(url)).status_code == 204
        release.set()
        assert (await running).status_code == 200
        assert_problem(await client.get(url), 404, "unknown_inference")
