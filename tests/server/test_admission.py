"""Who gets in when there is no room, and what happens to work whose time is up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from tests.hardening.wire import at_once, request, send_raw
from tests.server.exchange import (
    ask,
    assert_problem,
    live_server,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
    until,
)


@asynccontextmanager
async def full(client: httpx.AsyncClient, engine: FakeEngine) -> AsyncIterator[None]:
    """The device works on one request and the queue of one is full until the block ends."""
    release = threading.Event()
    engine.before_call = release.wait
    began = len(engine.calls)
    holding = asyncio.create_task(ask(client, question="holding", mode="answer_only"))
    await until(lambda: len(engine.calls) > began)
    waiting = asyncio.create_task(ask(client, question="waiting", mode="answer_only"))
    async with asyncio.timeout(10):
        while "secondglance_queue_depth 1.0" not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)
    try:
        yield
    finally:
        engine.before_call = None
        release.set()
        assert {(await holding).status_code, (await waiting).status_code} == {200}


async def test_a_second_stage_is_let_in_where_a_first_is_refused() -> None:
    engine = FakeEngine()
    async with running_client(engine, max_queue=1) as client:
        draft = (await ask(client)).json()
        async with full(client, engine):
            assert_problem(await ask(client), 503, "busy")
            second = asyncio.create_task(put_patch(client, draft["patch"]["url"], patch_for(draft)))
            await until(lambda: client.app.state.server.device.depth == 2)  # type: ignore[attr-defined]
        assert (await second).json()["answer"] == "42"


async def test_second_stages_are_bounded_too() -> None:
    engine = FakeEngine()
    async with running_client(engine, max_queue=1) as client:
        drafts = [(await ask(client)).json() for _ in range(2)]
        async with full(client, engine):
            first, second = [(draft["patch"]["url"], patch_for(draft)) for draft in drafts]
            waiting = asyncio.create_task(put_patch(client, *first))
            await until(lambda: client.app.state.server.device.depth == 2)  # type: ignore[attr-defined]
            refused = await put_patch(client, *second)
            assert_problem(refused, 503, "busy")
            assert int(refused.headers["retry-after"]) >= 1
        assert (await waiting).status_code == 200
        assert (await put_patch(client, *second)).status_code == 200


async def test_a_full_server_refuses_before_the_picture_is_sent() -> None:
    engine = FakeEngine()
    async with (
        live_server(engine, max_queue=1) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
        full(client, engine),
    ):
        head = request("Content-Type: multipart/form-data; boundary=x", "Content-Length: 1000000")
        answer = await send_raw(int(url.rsplit(":", 1)[1]), at_once(head))
        assert (answer.status, answer.code) == (503, "busy")
        assert b"\r\nretry-after: " in answer.data.lower()


async def test_a_request_holds_its_place_while_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a crowd would be let in at once, decoded, and only then refused."""
    release, began = threading.Event(), threading.Event()

    def slow_decode(*_: object) -> object:
        began.set()
        release.wait(10)
        raise ValueError("never shown")

    monkeypatch.setattr("secondglance_server.inference.decoding.inspect", slow_decode)
    async with running_client(FakeEngine(), max_queue=1) as client:
        first = asyncio.create_task(ask(client))
        await until(began.is_set)
        assert_problem(await ask(client), 503, "busy")
        release.set()
        assert_problem(await first, 500, "internal_error")
        assert client.app.state.server.device.depth == 0  # type: ignore[attr-defined]


async def test_work_that_is_late_never_begins() -> None:
    engine = FakeEngine()
    async with running_client(engine) as client:
        release = threading.Event()
        engine.before_call = release.wait
        holding = asyncio.create_task(ask(client, question="holding", mode="answer_only"))
        await until(lambda: len(engine.calls) == 1)
        late = await client.post(
            "/v1/inferences", files=parts_of(message(question="late")), headers={"X-Deadline-Ms": "50"}
        )
        assert assert_problem(late, 504, "deadline_exceeded")["retryable"]
        engine.before_call = None
        release.set()
        assert (await holding).status_code == 200
        await ask(client, question="after", mode="answer_only")
        assert [call.questions for call in engine.calls] == [("holding",), ("after",)]


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "soon", "", "3600001", "9" * 30, "٣"])
async def test_a_deadline_that_is_none_is_refused(given: str) -> None:
    async with running_client(FakeEngine()) as client:
        headers = {"X-Deadline-Ms": given.encode()}
        response = await client.post("/v1/inferences", files=parts_of(message()), headers=headers)
        assert_problem(response, 422, "invalid_request")


async def test_a_generous_deadline_changes_nothing() -> None:
    async with running_client(FakeEngine()) as client:
        headers = {"X-Deadline-Ms": "60000"}
        response = await client.post("/v1/inferences", files=parts_of(message()), headers=headers)
        assert response.status_code == 200


async def test_a_deadline_covers_the_upload() -> None:
    async with live_server(FakeEngine()) as url:
        form = "Content-Type: multipart/form-data; boundary=x"
        head = request(form, "Content-Length: 1000", "X-Deadline-Ms: 100")
        answer = await send_raw(int(url.rsplit(":", 1)[1]), at_once(head))
        assert (answer.status, answer.code) == (504, "deadline_exceeded")


async def test_uploads_share_a_bounded_memory() -> None:
    """Two clients stop just before the end of their bodies; the third does not fit, and fits when they go."""
    async with live_server(FakeEngine(), max_buffered_bytes=100_000) as url:
        port = int(url.rsplit(":", 1)[1])
        head = request("Content-Type: multipart/form-data; boundary=x", "Content-Length: 50000")
        writers = []
        for _ in range(2):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + bytes(49_999))
            await writer.drain()
            writers.append(writer)
        async with asyncio.timeout(20):
            while (answer := await send_raw(port, at_once(head + bytes(50_000)))).status != 503:
                await asyncio.sleep(0.01)  # their last bytes are still on their way
        assert answer.code == "busy"
        for writer in writers:
            writer.transport.abort()
        async with asyncio.timeout(20):
            while (answer := await send_raw(port, at_once(head + bytes(50_000)))).status == 503:
                await asyncio.sleep(0.01)
        assert answer.code == "malformed_request"
