"""One key, one piece of work: replayed when done, told when running, freed when failed."""

from __future__ import annotations

import json

import httpx
import pytest

from secondglance_protocol.wire import InferenceResponse
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.inference.idempotency import IdempotentReplies, payload_sha256
from secondglance_server.inference.stores.memory import MemoryReplyStore
from secondglance_server.settings import ServerSettings
from tests.server.exchange import GLOBAL_IMAGE, REPLY, assert_problem, message, parts_of

pytestmark = pytest.mark.usefixtures("each_store")

KEY = {"Idempotency-Key": "key-1"}


async def post(client: httpx.AsyncClient, **changes: str) -> httpx.Response:
    return await client.post("/v1/inferences", files=parts_of(message(**changes)), headers=KEY)


async def test_the_same_request_again_is_replayed(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    """The multipart boundary differs between the two; the payload does not."""
    first, second = await post(client), await post(client)
    assert first.request.headers["content-type"] != second.request.headers["content-type"]
    assert first.content == second.content
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert [call.kind for call in engine.calls] == ["answer", "neutral"]


async def test_the_same_request_in_the_other_form_is_replayed(client: httpx.AsyncClient) -> None:
    first = await post(client)
    headers = {**KEY, "X-Question": json.dumps(message()), "Content-Type": "image/png"}
    second = await client.post("/v1/inferences", content=GLOBAL_IMAGE, headers=headers)
    assert second.headers["idempotency-replayed"] == "true"
    assert first.content == second.content


async def test_without_a_key_the_same_request_is_another_inference(client: httpx.AsyncClient) -> None:
    replies = [await client.post("/v1/inferences", files=parts_of(message())) for _ in range(2)]
    assert replies[0].json()["id"] != replies[1].json()["id"]


async def test_a_failure_frees_the_key(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.script = FakeScript(fails=lambda _: True)
    assert_problem(await post(client), 503, "engine_failed")
    engine.script = FakeScript()
    assert (await post(client)).status_code == 200


async def test_keys_of_two_tenants_do_not_meet() -> None:
    replies = IdempotentReplies(MemoryReplyStore(ServerSettings()))
    done: list[str] = []

    async def work() -> InferenceResponse:
        done.append("x")
        return REPLY

    for tenant in ("a", "b", "a"):
        await replies.once(tenant, "key", "payload", work)
    assert len(done) == 2


def test_payloads_are_told_apart_by_where_they_are_cut() -> None:
    assert payload_sha256(b"ab", b"c") != payload_sha256(b"a", b"bc")
