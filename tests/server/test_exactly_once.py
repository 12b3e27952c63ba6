"""One inference for one idempotency key and for one patch, whatever happens to the connection meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.inference.sessions import Session
from secondglance_server.inference.stores.protocol import Stores
from tests.server.exchange import (
    GLOBAL_IMAGE,
    REPLY,
    ask,
    assert_problem,
    bearer,
    encode,
    key_entry,
    live_server,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
    until,
)

pytestmark = pytest.mark.usefixtures("each_store")

KEY = {"Idempotency-Key": "key-1"}
Post = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


class Held(FakeEngine):
    """Waits at each call until `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.before_call = self.release.wait

    @property
    def inferences(self) -> Counter[int]:
        """By stage."""
        return Counter(call.stage for call in self.calls if call.kind == "answer")


async def post(client: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await client.post("/v1/inferences", files=parts_of(message()), headers={**KEY, **headers})


def held_by(stores: Stores) -> tuple[int, int]:
    """How many images and replies."""
    return stores.images.holding.count, stores.replies.holding.count


async def until_done(send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Send again while the answer is that the first one still runs."""
    async with asyncio.timeout(20):
        while (response := await send()).status_code == 409:
            assert_problem(response, 409, "idempotency_in_progress")
            assert response.headers["retry-after"] == "1"
            await asyncio.sleep(0.01)
    return response


async def until_gone(client: httpx.AsyncClient, stage: int) -> None:
    """The server has noticed that the client of a request left."""
    line = f'secondglance_inferences_total{{outcome="client_gone",stage="{stage}"}} 1.0'
    async with asyncio.timeout(10):
        while line not in (await client.get("/metrics")).text:
            await asyncio.sleep(0.01)


async def leave(task: asyncio.Task[httpx.Response]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_lost_answer_is_replayed() -> None:
    """The reply was written, and never read: the client asks again over another connection."""
    engine = Held()
    engine.release.set()
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url) as client:
        first = await post(client)
        async with httpx.AsyncClient(base_url=url) as again:
            second = await post(again)
        assert first.content == second.content
        patch, put = patch_for(first.json()), first.json()["patch"]["url"]
        assert (await put_patch(client, put, patch)).content == (await put_patch(client, put, patch)).content
        assert engine.inferences == {1: 1, 2: 1}


async def test_a_client_that_leaves_while_its_work_runs_finds_the_reply_when_it_comes_back() -> None:
    engine = Held()
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        leaving = asyncio.create_task(post(client))
        await until(lambda: engine.inferences[1] == 1)
        await leave(leaving)
        await until_gone(client, 1)
        assert_problem(await post(client), 409, "idempotency_in_progress")
        engine.release.set()
        draft = await until_done(lambda: post(client))
        assert draft.headers["idempotency-replayed"] == "true"
        assert engine.inferences == {1: 1}

        engine.release.clear()
        put, patch = draft.json()["patch"]["url"], patch_for(draft.json())
        leaving = asyncio.create_task(put_patch(client, put, patch))
        await until(lambda: engine.inferences[2] == 1)
        await leave(leaving)
        await until_gone(client, 2)
        assert_problem(await put_patch(client, put, patch), 409, "idempotency_in_progress")
        engine.release.set()
        final = await until_done(lambda: put_patch(client, put, patch))
        assert final.json()["answer"] == "42"
        assert engine.inferences == {1: 1, 2: 1}


async def test_a_deadline_that_passes_while_the_work_runs_costs_no_second_inference() -> None:
    engine = Held()
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        assert_problem(await post(client, **{"X-Deadline-Ms": "300"}), 504, "deadline_exceeded")
        assert engine.inferences == {1: 1}
        engine.release.set()
        assert (await until_done(lambda: post(client))).headers["idempotency-replayed"] == "true"
        assert engine.inferences == {1: 1}


async def test_a_client_that_leaves_before_its_work_runs_frees_key_and_place() -> None:
    engine = Held()
    async with live_server(engine, max_queue=1) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        holding = asyncio.create_task(ask(client, question="holding", mode="answer_only"))
        await until(lambda: engine.inferences[1] == 1)
        leaving = asyncio.create_task(post(client))
        async with asyncio.timeout(10):
            while "secondglance_queue_depth 1.0" not in (await client.get("/metrics")).text:
                await asyncio.sleep(0.01)
        assert_problem(await ask(client), 503, "busy")
        await leave(leaving)
        await until_gone(client, 1)
        again = asyncio.create_task(post(client))
        engine.release.set()
        assert "idempotency-replayed" not in (await again).headers
        assert (await holding).status_code == 200
        assert engine.inferences == {1: 2}


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
async def test_a_reset_in_the_middle_of_a_body_leaves_nothing_behind(share: float) -> None:
    engine = Held()
    engine.release.set()
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url) as client:
        whole = client.build_request("POST", "/v1/inferences", files=parts_of(message()), headers=KEY)
        body = whole.read()
        _, writer = await asyncio.open_connection("127.0.0.1", whole.url.port)
        head = "".join(f"{name}: {value}\r\n" for name, value in whole.headers.items())
        writer.write(f"POST /v1/inferences HTTP/1.1\r\n{head}\r\n".encode() + body[: int(share * len(body))])
        await writer.drain()
        writer.transport.abort()
        await until_gone(client, 1)
        assert "idempotency-replayed" not in (await post(client)).headers
        assert engine.inferences == {1: 1}


async def test_many_at_once_are_one_inference() -> None:
    engine = Held()
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        first = asyncio.create_task(post(client))
        await until(lambda: engine.inferences[1] == 1)
        rest = await asyncio.gather(*(post(client) for _ in range(10)))
        assert {response.status_code for response in rest} == {409}
        engine.release.set()
        assert (await first).status_code == 200
        assert len({(await post(client)).content for _ in range(3)}) == 1
        assert engine.inferences == {1: 1}


async def test_a_failure_while_nobody_waits_frees_the_key() -> None:
    class Failing(Held):
        def neutral_attention(self, picture):  # type: ignore[no-untyped-def]
            raise RuntimeError("the device is gone")

    engine = Failing()
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
        leaving = asyncio.create_task(post(client))
        await until(lambda: engine.inferences[1] == 1)
        await leave(leaving)
        await until_gone(client, 1)
        engine.release.set()
        assert_problem(await until_done(lambda: post(client)), 503, "engine_failed")
        assert engine.inferences == {1: 2}


def test_the_picture_is_small_enough_for_these_tests() -> None:
    """Half a body is cut above; it must be more than a head."""
    assert 100 < len(GLOBAL_IMAGE) < 60_000


async def test_what_is_deleted_is_forgotten() -> None:
    """S3: the reply came back under its idempotency key, and the image could still be asked about."""
    engine = Held()
    engine.release.set()
    async with running_client(engine) as client:
        draft = (await post(client)).json()
        if_kept = parts_of(message(image_id=draft["image_id"]), None)
        assert (await client.post("/v1/inferences", files=if_kept)).status_code == 200
        assert (await client.delete(f"/v1/inferences/{draft['id']}")).status_code == 204
        server = client.app.state.server  # type: ignore[attr-defined]
        assert held_by(server.stores) == (0, 0)
        assert len(server.two_stages._pixels) == 0
        assert_problem(await client.post("/v1/inferences", files=if_kept), 410, "image_expired")
        assert_problem(await client.get(f"/v1/inferences/{draft['id']}"), 404, "unknown_inference")
        put = put_patch(client, draft["patch"]["url"], patch_for(draft))
        assert_problem(await put, 404, "unknown_inference")
        again = await post(client)
        assert "idempotency-replayed" not in again.headers
        assert again.json()["id"] != draft["id"]
        other = {"files": parts_of(message(question="Another?")), "headers": {"Idempotency-Key": "key-2"}}
        first = (await client.post("/v1/inferences", **other)).json()  # type: ignore[arg-type]
        assert (await client.delete(f"/v1/inferences/{first['id']}")).status_code == 204
        assert (await post(client)).headers["idempotency-replayed"] == "true"  # of another inference: stays


async def test_what_has_expired_is_forgotten_when_it_is_deleted() -> None:
    """S3: an inference that went for room leaves its reply and image behind; deleting it takes them along."""
    async with running_client(FakeEngine(), max_sessions=2) as client:
        draft = (await post(client)).json()
        server = client.app.state.server  # type: ignore[attr-defined]
        for n in range(2):
            await server.stores.sessions.remember(Session(f"inf_{n}", "public", REPLY))
        assert_problem(await client.delete(f"/v1/inferences/{draft['id']}"), 410, "inference_expired")
        assert held_by(server.stores) == (0, 0)
        assert "idempotency-replayed" not in (await post(client)).headers


async def test_a_tenant_deletes_nothing_of_another() -> None:
    """S3: also where both use the same idempotency key for the same request."""
    keys = [key_entry("key-a", "a"), key_entry("key-b", "b")]
    async with running_client(FakeEngine(), keys=keys) as client:
        mine = (await post(client, **bearer("key-a"))).json()
        theirs = (await post(client, **bearer("key-b"))).json()
        for owner in ("key-a", "key-b"):
            foreign = theirs if owner == "key-a" else mine
            deleted = await client.delete(f"/v1/inferences/{foreign['id']}", headers=bearer(owner))
            assert_problem(deleted, 404, "unknown_inference")
        for owner in ("key-a", "key-b"):
            assert (await post(client, **bearer(owner))).headers["idempotency-replayed"] == "true"


async def test_each_body_is_hashed_once_and_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: log line, image id, session and idempotency each hashed all of it again, on the event loop."""
    hashed: list[tuple[int, bool]] = []
    real = hashlib.sha256

    class Watched:
        def __init__(self, data: bytes = b"", **_: object) -> None:
            self._real = real()
            self.update(data)

        def update(self, data: bytes) -> None:
            hashed.append((len(data), threading.current_thread() is threading.main_thread()))
            self._real.update(data)

        def hexdigest(self) -> str:
            return self._real.hexdigest()

    image = encode(336, 252, "PNG") + bytes(2_000_000)  # what follows the picture is ignored
    async with running_client(FakeEngine()) as client:
        monkeypatch.setattr(hashlib, "sha256", Watched)
        parts = parts_of(message(), image)
        draft = (await client.post("/v1/inferences", files=parts, headers=KEY)).json()
        assert [entry for entry in hashed if entry[0] > 10_000] == [(len(image), False)]
        hashed.clear()
        patch = patch_for(draft) + bytes(3_000_000)
        assert (await put_patch(client, draft["patch"]["url"], patch)).status_code == 200
        assert [entry for entry in hashed if entry[0] > 10_000] == [(len(patch), False)]
