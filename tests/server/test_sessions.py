"""Stores of both kinds give the same verdicts: by age, for room, one patch and one run each, by tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace

import pytest

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.geometry import roi_of
from secondglance_protocol.wire import ImageSize, InferenceResponse, PixelBox, Roi
from secondglance_server.engine.protocol import GateDefaults
from secondglance_server.errors import ProblemError
from secondglance_server.inference.images import EncodedImage, image_id
from secondglance_server.inference.sessions import PendingPatch, Session, new_inference_id
from secondglance_server.inference.stores.protocol import Holding, PatchClaim, SessionStore, Stores
from tests.server.exchange import REPLY, Clock

Open = Callable[..., Stores]
GATE = GateDefaults(metric="margin", aggregate="sum", threshold=0.25, doubt_threshold=0.75)
IMAGE = EncodedImage("", b"")
TTL_S = 120
OVER_S = TTL_S + 0.001  # Redis holds a value to the end of its last millisecond


def reply_of(name: str, **changes: object) -> InferenceResponse:
    return REPLY.model_copy(update={"id": name, **changes})


def roi_at(left: int) -> Roi:
    return roi_of(PixelBox(left=left, top=0, right=left + 1, bottom=1), ImageSize(width=9, height=2))


def waiting(name: str, n_bytes: int = 10, tenant: str = "tenant") -> Session:
    image = EncodedImage(f"img_{name}", bytes(n_bytes))
    pending = PendingPatch(
        image,
        "?",
        GATE,
        16,
        ("tokens",),
        roi_at(0),
        n_further=3,
        regions=(roi_at(1), roi_at(2)),
        is_sharper=True,
        surest=roi_at(3),
    )
    return Session(name, tenant, reply_of(name, image_id=image.id), pending)


def further_of(session: Session) -> PendingPatch:
    """What waits after a look that left doubt."""
    assert session.pending is not None
    first, *regions = session.pending.regions
    n_further = session.pending.n_further - 1
    return replace(session.pending, roi=first, regions=tuple(regions), n_further=n_further)


def content_of(session: Session) -> tuple[object, ...]:
    """All that is in it: images are not compared by content."""
    pending = session.pending
    assert pending is not None
    return replace(session, pending=None), replace(pending, image=IMAGE), pending.image.id, pending.image.data


async def code_of(held: SessionStore, tenant: str, name: str) -> ErrorCode:
    with pytest.raises(ProblemError) as caught:
        await held.recall(tenant, name)
    return caught.value.code


async def test_what_is_claimed_is_what_was_remembered(open_each: Open) -> None:
    """A field that is added to the gate is stored, too: the second stage must judge as the first did."""
    assert [each.name for each in fields(GATE) if getattr(GATE, each.name) == each.default] == []
    held, session = open_each().sessions, waiting("a")
    pending = session.pending
    assert [each.name for each in fields(PendingPatch) if getattr(pending, each.name) == each.default] == []
    await held.remember(session)
    assert await held.recall("tenant", "a") == session.reply
    claim = await held.claim("tenant", "a", "0f")
    assert (claim.outcome, content_of(claim.session)) == ("run", content_of(session))


async def test_expired_unknown_and_foreign_sessions_are_told_apart(open_each: Open, clock: Clock) -> None:
    held = open_each().sessions
    await held.remember(waiting("a"))
    assert await held.recall("tenant", "a") == waiting("a").reply
    assert await code_of(held, "another", "a") == ErrorCode.UNKNOWN_INFERENCE
    clock.advance(OVER_S)
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED
    with pytest.raises(ProblemError) as caught:
        await held.claim("tenant", "a", "0f")
    assert caught.value.code == ErrorCode.INFERENCE_EXPIRED
    assert await code_of(held, "another", "a") == ErrorCode.UNKNOWN_INFERENCE
    assert await code_of(held, "tenant", "b") == ErrorCode.UNKNOWN_INFERENCE


async def test_a_deleted_session_is_unknown(open_each: Open) -> None:
    held = open_each().sessions
    await held.remember(waiting("a"))
    assert await held.forget("tenant", "a") == waiting("a").reply
    assert await code_of(held, "tenant", "a") == ErrorCode.UNKNOWN_INFERENCE
    with pytest.raises(ProblemError):
        await held.forget("tenant", "a")
    assert held.holding == Holding(0, 0)


async def test_images_that_wait_are_held_within_the_byte_budget(open_each: Open) -> None:
    held = open_each(max_session_bytes=25).sessions
    for name in "abc":
        await held.remember(waiting(name))
    assert held.holding == Holding(2, 20)
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED
    assert await held.recall("tenant", "b")


async def test_what_has_expired_takes_no_room(open_each: Open, clock: Clock) -> None:
    """Redis says nothing when a key expires: the counts would only ever have grown."""
    held = open_each(max_sessions=3, max_session_bytes=30).sessions
    for name in "abc":
        await held.remember(waiting(name, tenant=name))
    clock.advance(OVER_S)
    for name in "def":
        await held.remember(waiting(name))
    assert held.holding == Holding(3, 30)
    for name in "def":
        assert await held.recall("tenant", name)


async def test_who_holds_most_makes_room(open_each: Open, clock: Clock) -> None:
    held = open_each(max_sessions=4).sessions
    await held.remember(waiting("quiet", tenant="few"))
    for number in range(9):
        clock.advance(1)
        await held.remember(waiting(f"n{number}", tenant="many"))
    assert await held.recall("few", "quiet")
    assert await code_of(held, "many", "n5") == ErrorCode.INFERENCE_EXPIRED
    for number in (6, 7, 8):
        assert await held.recall("many", f"n{number}")


async def test_an_answered_session_holds_no_image(open_each: Open) -> None:
    held = open_each().sessions
    await held.remember(Session("a", "tenant", REPLY))
    assert held.holding == Holding(1, 0)
    assert (await held.claim("tenant", "a", "0f")).outcome == "answered"


async def test_a_patch_is_worked_on_once_and_replayed(open_each: Open) -> None:
    held = open_each().sessions
    await held.remember(waiting("a"))
    claims = await asyncio.gather(*(held.claim("tenant", "a", "0f") for _ in range(50)))
    assert sorted(claim.outcome for claim in claims) == ["in_progress"] * 49 + ["run"]
    assert (await held.claim("tenant", "a", "1e")).outcome == "conflict"
    (mine,) = (claim for claim in claims if claim.outcome == "run")
    second = reply_of("a", answer="second", image_id="img_a")
    await held.complete(mine, second)
    again = await held.claim("tenant", "a", "0f")
    assert (again.outcome, again.session.reply) == ("replay", second)
    assert (await held.claim("tenant", "a", "1e")).outcome == "conflict"
    assert held.holding == Holding(1, 0)
    assert await held.recall("tenant", "a") == second


async def test_after_a_look_that_left_doubt_a_further_patch_is_taken(open_each: Open) -> None:
    """Each patch is worked on once: the latest is replayed, one before it is a conflict and never a look.

    A retry of an earlier look that comes late, as on a bad link, would be taken for the next region's patch.
    """
    held, session = open_each().sessions, waiting("a")
    await held.remember(session)
    further, latest = session.pending, session.reply
    assert further is not None
    for number, patch in enumerate(["0f", "1e", "2d"]):
        claims = await asyncio.gather(*(held.claim("tenant", "a", patch) for _ in range(9)))
        assert sorted(claim.outcome for claim in claims) == ["in_progress"] * 8 + ["run"]
        (mine,) = (claim for claim in claims if claim.outcome == "run")
        assert content_of(mine.session) == content_of(
            replace(session, reply=latest, pending=further, taken=("0f", "1e")[:number])
        )
        assert (await held.claim("tenant", "a", "3c")).outcome == "conflict"
        if number:  # a late retry of the look before is told what it was told
            before = await held.claim("tenant", "a", mine.session.taken[-1])
            assert (before.outcome, before.session.reply) == ("replay", latest)
        latest = reply_of("a", answer=f"look {number}", image_id="img_a")
        waits = further_of(mine.session) if number < 2 else None
        await held.complete(mine, latest, waits)
        again = await held.claim("tenant", "a", patch)
        assert (again.outcome, again.session.reply) == ("replay", latest)
        for earlier in mine.session.taken:
            assert (await held.claim("tenant", "a", earlier)).outcome == "conflict"
        assert await held.recall("tenant", "a") == latest
        assert held.holding == Holding(1, 10 if waits else 0)
        further = waits or further
    assert (await held.claim("tenant", "a", "3c")).outcome == "conflict"


async def test_a_further_look_that_fails_waits_again(open_each: Open, clock: Clock) -> None:
    held, session = open_each().sessions, waiting("a")
    await held.remember(session)
    await held.complete(await held.claim("tenant", "a", "0f"), session.reply, further_of(session))
    for patch in ("1e", "2d"):
        claim = await held.claim("tenant", "a", patch)
        assert content_of(claim.session) == content_of(
            replace(session, pending=further_of(session), taken=("0f",))
        )
        await held.release(claim)
        assert (await held.claim("tenant", "a", "0f")).outcome == "replay"
        clock.advance(TTL_S - 1)  # renewed by what was tried
    clock.advance(1.001)
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED


async def test_what_makes_room_during_a_look_can_be_gone_on_with(open_each: Open) -> None:
    """Its picture and its earlier patches come back with the reply that asks for a further look."""
    held, session = open_each(max_sessions=1).sessions, waiting("a")
    await held.remember(session)
    further = further_of(session)
    await held.complete(await held.claim("tenant", "a", "0f"), session.reply, further)
    claim = await held.claim("tenant", "a", "1e")
    await held.remember(waiting("b"))
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED
    await held.complete(claim, session.reply, further_of(claim.session))
    assert (await held.claim("tenant", "a", "0f")).outcome == "conflict"
    assert (await held.claim("tenant", "a", "1e")).outcome == "replay"
    again = await held.claim("tenant", "a", "2d")
    assert content_of(again.session) == content_of(
        replace(session, pending=further_of(claim.session), taken=("0f", "1e"))
    )


async def test_after_a_failure_any_patch_may_come(open_each: Open, clock: Clock) -> None:
    held = open_each().sessions
    await held.remember(waiting("a"))
    await held.release(await held.claim("tenant", "a", "0f"))
    clock.advance(TTL_S - 1)  # renewed by what was tried
    claim = await held.claim("tenant", "a", "1e")
    assert (claim.outcome, content_of(claim.session)) == ("run", content_of(waiting("a")))


async def test_each_step_renews(open_each: Open, clock: Clock) -> None:
    held = open_each().sessions
    await held.remember(waiting("a"))
    clock.advance(TTL_S - 1)
    claim = await held.claim("tenant", "a", "0f")
    clock.advance(TTL_S - 1)
    await held.complete(claim, reply_of("a", image_id="img_a"))
    clock.advance(TTL_S - 1)
    assert await held.recall("tenant", "a")
    clock.advance(1.001)
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED


async def test_what_is_deleted_while_it_is_worked_on_does_not_come_back(open_each: Open) -> None:
    held = open_each().sessions
    ends: list[Callable[[PatchClaim], Awaitable[None]]] = [
        held.release,
        lambda claim: held.complete(claim, REPLY),
        lambda claim: held.complete(claim, REPLY, further_of(claim.session)),
    ]
    for end in ends:
        await held.remember(waiting("a"))
        claim = await held.claim("tenant", "a", "0f")
        await held.forget("tenant", "a")
        await end(claim)
        assert await code_of(held, "tenant", "a") == ErrorCode.UNKNOWN_INFERENCE


async def test_what_makes_room_while_it_is_worked_on_keeps_its_answer(open_each: Open) -> None:
    held = open_each(max_sessions=1).sessions
    await held.remember(waiting("a"))
    claim = await held.claim("tenant", "a", "0f")
    await held.remember(waiting("b"))
    assert await code_of(held, "tenant", "a") == ErrorCode.INFERENCE_EXPIRED
    await held.complete(claim, reply_of("a", image_id="img_a"))
    assert (await held.claim("tenant", "a", "0f")).outcome == "replay"


async def test_a_pending_image_outlives_the_id_that_named_it(open_each: Open, clock: Clock) -> None:
    """Deleted under its id, or expired: the inference that waits with it is not touched."""
    stores = open_each()
    session = waiting("a")
    assert session.pending is not None
    await stores.images.remember("tenant", session.pending.image)
    clock.advance(10)
    await stores.sessions.remember(session)
    await stores.images.forget("tenant", session.pending.image.id)
    clock.advance(TTL_S - 1)
    claim = await stores.sessions.claim("tenant", "a", "0f")
    assert content_of(claim.session) == content_of(session)
    with pytest.raises(ProblemError):
        await stores.images.recall("tenant", session.pending.image.id)


def test_ids_do_not_repeat() -> None:
    assert len({new_inference_id() for _ in range(1000)}) == 1000


def test_the_same_bytes_of_two_tenants_have_two_ids() -> None:
    assert image_id("a", "0f") == image_id("a", "0f") != image_id("b", "0f")


async def test_an_image_is_found_by_its_tenant_only_and_until_it_expires(
    open_each: Open, clock: Clock
) -> None:
    store = open_each().images
    image = EncodedImage(image_id("a", "0f"), b"bytes")
    await store.remember("a", image)
    clock.advance(100)
    assert (await store.recall("a", image.id)).data == b"bytes"
    clock.advance(100)  # renewed by being asked for
    assert (await store.recall("a", image.id)).data == b"bytes"
    with pytest.raises(ProblemError) as caught:
        await store.recall("b", image.id)
    assert caught.value.code == ErrorCode.IMAGE_EXPIRED
    clock.advance(OVER_S)
    with pytest.raises(ProblemError):
        await store.recall("a", image.id)


async def test_images_are_held_within_count_and_bytes(open_each: Open) -> None:
    store = open_each(max_sessions=2, max_stored_image_bytes=25).images
    for name in "abc":
        await store.remember("tenant", EncodedImage(name, bytes(10)))
    assert store.holding == Holding(2, 20)
    await store.remember("tenant", EncodedImage("d", bytes(20)))
    assert store.holding == Holding(1, 20)
    with pytest.raises(ProblemError):
        await store.recall("tenant", "c")
    await store.forget("tenant", "d")
    await store.forget("tenant", "d")
    assert store.holding == Holding(0, 0)


async def test_a_key_is_claimed_once_and_replayed(open_each: Open, clock: Clock) -> None:
    store = open_each().replies
    claims = await asyncio.gather(*(store.claim("tenant", "key", "0f") for _ in range(50)))
    assert sorted(claim.outcome for claim in claims) == ["in_progress"] * 49 + ["run"]
    assert (await store.claim("tenant", "key", "1e")).outcome == "mismatch"
    assert (await store.claim("another", "key", "1e")).outcome == "run"
    (mine,) = (claim for claim in claims if claim.outcome == "run")
    await store.complete(mine, REPLY)
    again = await store.claim("tenant", "key", "0f")
    assert (again.outcome, again.reply) == ("replay", REPLY)
    assert (await store.claim("tenant", "key", "1e")).outcome == "mismatch"
    clock.advance(OVER_S)
    assert (await store.claim("tenant", "key", "1e")).outcome == "run"


async def test_a_key_that_was_freed_takes_any_payload(open_each: Open) -> None:
    store = open_each().replies
    await store.release(await store.claim("tenant", "key", "0f"))
    assert (await store.claim("tenant", "key", "1e")).outcome == "run"


async def test_a_reply_is_forgotten_by_its_inference_and_tenant(open_each: Open) -> None:
    store = open_each().replies
    for key in ("key-1", "key-2"):
        await store.complete(await store.claim("tenant", key, "0f"), reply_of(key))
    assert await store.forget("another", "key-1") is None
    assert await store.forget("tenant", "nothing") is None
    assert await store.forget("tenant", "key-1") == reply_of("key-1")
    assert await store.forget("tenant", "key-1") is None
    assert (await store.claim("tenant", "key-1", "1e")).outcome == "run"
    assert (await store.claim("tenant", "key-2", "0f")).outcome == "replay"
