"""A tenant that floods the server loses what is its own: others' conversations go on."""

from __future__ import annotations

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from tests.server.exchange import (
    ask,
    assert_problem,
    bearer,
    encode,
    key_entry,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
)

pytestmark = pytest.mark.usefixtures("each_store")

MAX_SESSIONS = 6
KEYS = [key_entry("key-quiet", tenant="quiet"), key_entry("key-loud", tenant="loud")]
PICTURE = encode(64, 48)


def as_tenant(client: httpx.AsyncClient, name: str) -> None:
    client.headers.update(bearer(f"key-{name}"))


async def post(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post(
        "/v1/inferences", files=parts_of(message(), PICTURE), headers={"Idempotency-Key": key}
    )


async def test_what_a_flood_pushes_out_is_its_own() -> None:
    """One tenant could make the server forget all others' inferences, images and replies."""
    async with running_client(FakeEngine(), keys=KEYS, max_sessions=MAX_SESSIONS) as client:
        as_tenant(client, "quiet")
        draft = (await post(client, "once")).json()

        as_tenant(client, "loud")
        loud = [
            (await ask(client, upload=encode(64, 48 + n), question=f"question {n}")).json()
            for n in range(2 * MAX_SESSIONS)
        ]
        for n in range(2 * MAX_SESSIONS):
            assert (await post(client, f"key-{n}")).status_code == 200
        assert_problem(await client.get(f"/v1/inferences/{loud[1]['id']}"), 410, "inference_expired")
        again = await ask(client, upload=None, image_id=loud[1]["image_id"])
        assert_problem(again, 410, "image_expired")

        as_tenant(client, "quiet")
        replayed = await post(client, "once")
        assert replayed.headers["idempotency-replayed"] == "true"
        assert replayed.json() == draft
        assert (await ask(client, upload=None, image_id=draft["image_id"])).status_code == 200
        second = await put_patch(client, draft["patch"]["url"], patch_for(draft))
        assert (second.status_code, second.json()["stage"]) == (200, 2)
