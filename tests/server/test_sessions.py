"""Sessions end by age and for room, keep the image for stage two, and belong to one tenant."""

from __future__ import annotations

from typing import Any

import pytest

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.geometry import roi_of
from secondglance_protocol.wire import ImageSize, PixelBox
from secondglance_server.engine.protocol import GateDefaults
from secondglance_server.errors import ProblemError
from secondglance_server.inference.images import EncodedImage, image_id
from secondglance_server.inference.sessions import PendingPatch, Session, new_inference_id
from secondglance_server.inference.stores.memory import MemoryImageStore, MemorySessionStore
from secondglance_server.inference.stores.protocol import Holding
from secondglance_server.settings import ServerSettings
from tests.server.exchange import REPLY, Clock


def waiting(name: str, n_bytes: int = 10) -> Session:
    roi = roi_of(PixelBox(left=0, top=0, right=1, bottom=1), ImageSize(width=2, height=2))
    image = EncodedImage("img_1", bytes(n_bytes))
    return Session(name, "tenant", REPLY, PendingPatch(image, "?", GateDefaults(), 16, (), roi))


def sessions(clock: Clock, **settings: Any) -> MemorySessionStore:
    return MemorySessionStore(ServerSettings(**settings), clock)


async def code_of(held: MemorySessionStore, tenant: str, name: str) -> ErrorCode:
    with pytest.raises(ProblemError) as caught:
        await held.recall(tenant, name)
    return caught.value.code


async def test_expired_unknown_and_foreign_sessions_are_told_apart(clock: Clock) -> None:
    held = sessions(clock)
    await held.remember(waiting("a"))
    assert (await held.claim("tenant", "a", "0f")).session.pending is not None
    assert await code_of(held, "another", "a") == ErrorCode.UNKNOWN_INFERENCE
    clock.advance(120)
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED
    assert await code_of(held, "another", "a") == ErrorCode.UNKNOWN_INFERENCE
    assert await code_of(held, "tenant", "b") == ErrorCode.UNKNOWN_INFERENCE


async def test_a_deleted_session_is_unknown(clock: Clock) -> None:
    held = sessions(clock)
    await held.remember(waiting("a"))
    await held.forget("tenant", "a")
    assert await code_of(held, "tenant", "a") == ErrorCode.UNKNOWN_INFERENCE


async def test_images_that_wait_are_held_within_the_byte_budget(clock: Clock) -> None:
    held = sessions(clock, max_session_bytes=25)
    for name in "abc":
        await held.remember(waiting(name))
    assert held.holding.n_bytes == 20
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED


async def test_an_answered_session_holds_no_image(clock: Clock) -> None:
    held = sessions(clock)
    await held.remember(Session("a", "tenant", REPLY))
    assert held.holding == Holding(1, 0)


def test_ids_do_not_repeat() -> None:
    assert len({new_inference_id() for _ in range(1000)}) == 1000


def test_the_same_bytes_of_two_tenants_have_two_ids() -> None:
    assert image_id("a", "0f") == image_id("a", "0f") != image_id("b", "0f")


async def test_an_image_is_found_by_its_tenant_only_and_until_it_expires(clock: Clock) -> None:
    store = MemoryImageStore(ServerSettings(), clock)
    image = EncodedImage(image_id("a", "0f"), b"bytes")
    await store.remember("a", image)
    clock.advance(100)
    assert await store.recall("a", image.id) is image
    clock.advance(100)  # renewed by being asked for
    assert await store.recall("a", image.id) is image
    with pytest.raises(ProblemError) as caught:
        await store.recall("b", image.id)
    assert caught.value.code == ErrorCode.IMAGE_EXPIRED
    clock.advance(120)
    with pytest.raises(ProblemError):
        await store.recall("a", image.id)
