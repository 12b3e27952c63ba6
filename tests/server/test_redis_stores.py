"""What only a shared store must do: leases and fencing, two versions, one node for each script, an end."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from redis.crc import key_slot

from secondglance_protocol.errors import ErrorCode
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.errors import ProblemError, SettingsError
from secondglance_server.inference.images import EncodedImage
from secondglance_server.inference.readiness import Readiness, look_at
from secondglance_server.inference.stores.opening import open_stores
from secondglance_server.inference.stores.protocol import Holding, Stores
from secondglance_server.inference.stores.redis import connection, leases, records, sessions
from secondglance_server.inference.stores.redis.connection import Connection
from secondglance_server.inference.stores.redis.opening import redis_stores
from secondglance_server.settings import ServerSettings, load_settings
from tests.server.exchange import (
    REPLY,
    Clock,
    ask,
    assert_problem,
    bearer,
    key_entry,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
)
from tests.server.fake_redis import FakeRedis, be_patient, tell_time_by
from tests.server.test_sessions import OVER_S, TTL_S, code_of, content_of, further_of, reply_of, waiting

LEASE_S = ServerSettings().inference_deadline_s + leases.MARGIN_S
KEY = {"Idempotency-Key": "key-1"}


@pytest.fixture
def shared(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FakeRedis:
    be_patient(monkeypatch)
    tell_time_by(clock, monkeypatch)
    return FakeRedis()


def server(shared: FakeRedis, *, schema: int = connection.SCHEMA, **settings: Any) -> Stores:
    return redis_stores(ServerSettings(**settings), lambda *_: None, client=shared.client(), schema=schema)


# Leases.


async def test_a_dead_servers_claim_is_taken_over_and_what_it_completes_late_is_refused(
    shared: FakeRedis, clock: Clock
) -> None:
    one, other = server(shared).sessions, server(shared).sessions
    await one.remember(waiting("a"))
    late = await one.claim("tenant", "a", "0f")
    clock.advance(LEASE_S - 0.1)
    assert (await other.claim("tenant", "a", "0f")).outcome == "in_progress"
    assert (await other.claim("tenant", "a", "1e")).outcome == "conflict"
    clock.advance(0.2)
    taken = await other.claim("tenant", "a", "0f")
    assert taken.outcome == "run"
    await one.complete(late, reply_of("a", answer="late", image_id="img_a"))
    await one.release(late)
    assert (await one.claim("tenant", "a", "0f")).outcome == "in_progress"
    in_time = reply_of("a", answer="in time", image_id="img_a")
    await other.complete(taken, in_time)
    assert await one.recall("tenant", "a") == in_time


async def test_a_dead_servers_further_look_is_taken_over_with_its_picture(
    shared: FakeRedis, clock: Clock
) -> None:
    """What the first server says late takes nothing from the second one: not its claim, not the picture."""
    one, other = server(shared).sessions, server(shared).sessions
    session = waiting("a")
    await one.remember(session)
    await one.complete(await one.claim("tenant", "a", "0f"), session.reply, further_of(session))
    late = await one.claim("tenant", "a", "1e")
    clock.advance(LEASE_S + 0.1)
    taken = await other.claim("tenant", "a", "2d")
    assert (taken.outcome, taken.session.taken) == ("run", ("0f",))
    await one.complete(late, reply_of("a", answer="late", image_id="img_a"))
    await one.complete(late, reply_of("a", answer="late", image_id="img_a"), further_of(late.session))
    await one.release(late)
    assert (await one.claim("tenant", "a", "2d")).outcome == "in_progress"
    await other.release(taken)
    claim = await one.claim("tenant", "a", "1e")
    assert content_of(claim.session) == content_of(taken.session)


async def test_a_look_that_is_told_twice_is_kept_once(shared: FakeRedis) -> None:
    """A connection that breaks makes the client run a script again: the picture was kept for nothing."""
    one = server(shared)
    held, session = one.sessions, waiting("a")
    await held.remember(session)
    first = await held.claim("tenant", "a", "0f")
    for _ in "12":
        await held.complete(first, session.reply, further_of(session))
        assert held.holding == Holding(1, 10)
    second = await held.claim("tenant", "a", "1e")
    for _ in "12":
        await held.complete(second, reply_of("a", image_id="img_a"))
        assert held.holding == Holding(1, 0)
    assert await shared.client().keys("*image:*") == []


async def test_the_picture_of_a_deleted_inference_does_not_come_back_with_a_further_look(
    shared: FakeRedis,
) -> None:
    held, session = server(shared).sessions, waiting("a")
    await held.remember(session)
    claim = await held.claim("tenant", "a", "0f")
    await held.forget("tenant", "a")
    await held.complete(claim, session.reply, further_of(session))
    assert await shared.client().keys("*image:*") == []


async def test_a_dead_servers_key_is_taken_over_likewise(shared: FakeRedis, clock: Clock) -> None:
    one, other = server(shared).replies, server(shared).replies
    late = await one.claim("tenant", "key", "0f")
    clock.advance(LEASE_S - 0.1)
    assert (await other.claim("tenant", "key", "0f")).outcome == "in_progress"
    assert (await other.claim("tenant", "key", "1e")).outcome == "mismatch"
    clock.advance(0.2)
    taken = await other.claim("tenant", "key", "0f")
    assert taken.outcome == "run"
    for _ in range(2):  # while the other works, and when it is done
        await one.complete(late, reply_of("late"))
        await one.release(late)
        await other.complete(taken, reply_of("in time"))
    assert (await one.claim("tenant", "key", "0f")).reply == reply_of("in time")


async def test_a_claim_lives_as_long_as_its_server_works_on_it(
    shared: FakeRedis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may take longer than the deadline of who asked; the work is not done twice."""
    monkeypatch.setattr(leases.time, "monotonic", clock)
    one, other = server(shared), server(shared)
    await one.sessions.remember(waiting("a"))
    claims = await one.sessions.claim("tenant", "a", "0f"), await one.replies.claim("tenant", "key", "0f")
    for _ in range(6):
        clock.advance(0.6 * LEASE_S)
        await one.check()
        assert (await other.sessions.claim("tenant", "a", "0f")).outcome == "in_progress"
        assert (await other.replies.claim("tenant", "key", "0f")).outcome == "in_progress"
    await one.sessions.complete(claims[0], reply_of("a", image_id="img_a"))
    await one.replies.complete(claims[1], REPLY)
    assert (await other.sessions.claim("tenant", "a", "0f")).outcome == "replay"
    assert (await other.replies.claim("tenant", "key", "0f")).outcome == "replay"


async def test_a_lease_is_longer_than_the_inference_deadline_whatever_that_is(
    shared: FakeRedis, clock: Clock
) -> None:
    """Also than the session's time to live: what is worked on is there."""
    one = server(shared, inference_deadline_s=2 * TTL_S).sessions
    await one.remember(waiting("a"))
    claim = await one.claim("tenant", "a", "0f")
    clock.advance(2 * TTL_S)
    assert (await one.claim("tenant", "a", "0f")).outcome == "in_progress"
    await one.complete(claim, reply_of("a", image_id="img_a"))
    assert (await one.claim("tenant", "a", "0f")).outcome == "replay"


async def test_what_could_not_be_told_is_told_when_redis_is_back(shared: FakeRedis) -> None:
    one, other = server(shared), server(shared)
    for name in "abc":
        await one.sessions.remember(waiting(name))
    done, failed = [await one.sessions.claim("tenant", name, "0f") for name in "ab"]
    kept, freed = [await one.replies.claim("tenant", name, "0f") for name in ("key-1", "key-2")]
    shared.server.connected = False
    second = reply_of("a", answer="second", image_id="img_a")
    await one.sessions.complete(done, second)
    await one.sessions.release(failed)
    await one.replies.complete(kept, REPLY)
    await one.replies.release(freed)
    with pytest.raises(ProblemError) as caught:
        await one.sessions.claim("tenant", "c", "0f")
    assert (caught.value.code, caught.value.retry_after_s) == (ErrorCode.NOT_READY, 1.0)
    shared.server.connected = True
    await one.check()
    assert (await other.sessions.claim("tenant", "a", "0f")).session.reply == second
    assert (await other.sessions.claim("tenant", "b", "1e")).outcome == "run"
    assert (await other.sessions.claim("tenant", "c", "0f")).outcome == "run"
    assert (await other.replies.claim("tenant", "key-1", "0f")).reply == REPLY
    assert (await other.replies.claim("tenant", "key-2", "1e")).outcome == "run"


async def test_a_claim_whose_client_left_while_redis_was_asked_is_given_back(
    shared: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script has run, and nobody hears that the claim is theirs."""
    one, other = server(shared), server(shared)
    await one.sessions.remember(waiting("a"))
    run, asked = Connection.run, asyncio.Event()

    async def slow(self: Connection, *args: Any) -> Any:
        answer = await run(self, *args)
        asked.set()
        await asyncio.sleep(60)
        return answer

    for claim in (one.sessions.claim("tenant", "a", "0f"), one.replies.claim("tenant", "key", "0f")):
        asked.clear()
        with monkeypatch.context() as patched:
            patched.setattr(Connection, "run", slow)
            leaving = asyncio.ensure_future(claim)
            await asked.wait()
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
    assert (await other.sessions.claim("tenant", "a", "0f")).outcome == "in_progress"
    await one.check()
    assert (await other.sessions.claim("tenant", "a", "0f")).outcome == "run"
    assert (await other.replies.claim("tenant", "key", "0f")).outcome == "run"


async def test_after_a_restart_of_redis_a_reply_that_comes_late_is_kept_and_a_session_is_not(
    shared: FakeRedis,
) -> None:
    """Redis has forgotten all. A reply under its key spares the next inference; a session is unknown."""
    one = server(shared)
    await one.sessions.remember(waiting("a"))
    session, key = await one.sessions.claim("tenant", "a", "0f"), await one.replies.claim("t", "key", "0f")
    await shared.client().flushall()
    await one.sessions.complete(session, reply_of("a", image_id="img_a"))
    await one.replies.complete(key, REPLY)
    assert await code_of(one.sessions, "tenant", "a") == ErrorCode.UNKNOWN_INFERENCE
    assert (await one.replies.claim("t", "key", "0f")).outcome == "replay"


# What is stored, and for how long.


async def everything(stores: Stores) -> None:
    """Use every verb, with a session in each state left behind."""
    session = waiting("a")
    assert session.pending is not None
    await stores.images.remember("tenant", session.pending.image)
    await stores.images.recall("tenant", session.pending.image.id)
    for name in "abcdef":
        await stores.sessions.remember(waiting(name))
    await stores.sessions.recall("tenant", "a")
    await stores.sessions.complete(
        await stores.sessions.claim("tenant", "b", "0f"), reply_of("b", image_id="img_b")
    )
    await stores.sessions.release(await stores.sessions.claim("tenant", "c", "0f"))
    await stores.sessions.claim("tenant", "d", "0f")
    await stores.sessions.complete(
        await stores.sessions.claim("tenant", "f", "0f"),
        reply_of("f", image_id="img_f"),
        further_of(waiting("f")),
    )
    await stores.sessions.claim("tenant", "f", "1e")
    await stores.sessions.forget("tenant", "e")
    for name in ("k1", "k2", "k3"):
        await stores.replies.complete(await stores.replies.claim("tenant", name, "0f"), reply_of(name))
    await stores.replies.release(await stores.replies.claim("tenant", "k4", "0f"))
    await stores.replies.claim("tenant", "k5", "0f")
    await stores.replies.forget("tenant", "k1")
    await stores.images.forget("tenant", "img_z")
    key = key_entry("key", requests_per_min=9, bytes_per_min=9, max_concurrent=9)
    async with stores.quotas.request(key):
        stores.quotas.charge(key, 5)
    for number in range(4):  # with room for six, others go
        await stores.sessions.remember(waiting(f"n{number}"))
        await stores.images.remember("tenant", EncodedImage(f"img_n{number}", bytes(10)))
        await stores.replies.complete(
            await stores.replies.claim("tenant", f"n{number}", "0f"), reply_of(f"n{number}")
        )
    await stores.check()


async def test_nothing_outlives_its_time(shared: FakeRedis, clock: Clock) -> None:
    """Each key has an end; pictures, questions and answers after the time to live, ids after some of them."""
    stores, redis = server(shared), shared.client()
    await everything(stores)
    left_ms = {key.decode(): await redis.pttl(key) for key in await redis.keys()}
    assert len(left_ms) > 30
    assert min(left_ms.values()) > 0, "a key without an end"
    contents = {key: ms for key, ms in left_ms.items() if key.split(":")[1] in ("session", "image", "reply")}
    assert {key.split(":")[1] for key in contents} == {"session", "image", "reply"}
    assert max(contents.values()) <= 1000 * TTL_S
    clock.advance(OVER_S + 1)
    assert {key.split(b":")[1] for key in await redis.keys()} <= {b"gone"}
    clock.advance(5 * TTL_S)
    assert await redis.dbsize() == 0


async def test_all_keys_of_a_script_lie_on_one_node_of_a_cluster(
    shared: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hash tags: by inference, image, key or ledger; and what is not of one tag is spread."""
    asked: list[tuple[str, list[str]]] = []
    run = Connection.run

    async def noted(self: Connection, script: Any, keys: Any, *args: Any) -> Any:
        asked.append((script.verb, list(keys)))
        return await run(self, script, keys, *args)

    monkeypatch.setattr(Connection, "run", noted)
    await everything(server(shared, max_sessions=6))
    assert len({verb for verb, _ in asked}) > 20
    assert {verb: keys for verb, keys in asked if len({key_slot(key.encode()) for key in keys}) != 1} == {}
    stored = [key.decode() for key in await shared.client().keys()]
    assert len({key_slot(key.encode()) for key in stored}) > 6
    assert {key for key in stored if "{" not in key} == set()


async def test_no_key_shows_what_a_client_chose(shared: FakeRedis) -> None:
    """An idempotency key may say anything, and `KEYS` and slow logs are read by many."""
    stores = server(shared)
    await stores.replies.complete(await stores.replies.claim("tenant", "born-1970", "0f"), REPLY)
    assert not [key for key in await shared.client().keys() if b"born" in key]


# Two versions.


async def test_servers_of_two_schemas_share_one_redis(
    shared: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes on with its own; the other's inference is expired, not unknown, so the edge asks again."""
    old, new = server(shared), server(shared, schema=connection.SCHEMA + 1)
    await old.sessions.remember(waiting("a"))
    await new.sessions.remember(waiting("b"))
    for stores, mine, theirs in ((old, "a", "b"), (new, "b", "a")):
        assert (await stores.sessions.claim("tenant", mine, "0f")).outcome == "run"
        assert await code_of(stores.sessions, "tenant", theirs) == ErrorCode.INFERENCE_EXPIRED
        assert await code_of(stores.sessions, "tenant", "c") == ErrorCode.UNKNOWN_INFERENCE


async def test_what_a_newer_server_adds_is_passed_over(
    shared: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one schema: fields of replies, of what waits, of the hash; a patch goes to the older server."""
    pending, reply = records.packed_pending, records.packed_reply

    def with_more(packed: bytes) -> bytes:
        return packed[:-1] + b',"added":{"by":"a newer server"}}'

    async def remembered_by_a_newer_one() -> None:
        with monkeypatch.context() as newer:
            newer.setattr(sessions, "packed_pending", lambda each: with_more(pending(each)))
            newer.setattr(
                sessions,
                "packed_reply",
                lambda each: zlib.compress(with_more(zlib.decompress(reply(each)))),
            )
            await server(shared).sessions.remember(waiting("a"))
        (key,) = await shared.client().keys("*session:*a}")
        await shared.client().hset(key, "added", "1")

    await remembered_by_a_newer_one()
    older = server(shared).sessions
    claim = await older.claim("tenant", "a", "0f")
    assert claim.session.pending is not None
    assert (claim.outcome, claim.session.pending.question) == ("run", "?")
    await older.complete(claim, reply_of("a", image_id="img_a"))
    assert await older.recall("tenant", "a") == reply_of("a", image_id="img_a")


# How the servers before further looks claim a patch; ARGV as of `sessions._CLAIM`.
OLDER_CLAIM = """
local held = redis.call('HMGET', KEYS[1], 'reply', 'pending', 'patch', 'owner', 'until')
local reply, pending, patch, owner = held[1], held[2], held[3], held[4]
if not reply then return 'gone' end
if not pending then
  if not patch then return 'answered' end
  return patch == ARGV[1] and 'replay' or 'conflict'
end
return 'run'
"""


async def test_an_older_server_sees_no_patch_to_work_on_in_a_further_look(shared: FakeRedis) -> None:
    """It replays the latest look or says conflict; it never takes a further patch for the first one."""
    held, session = server(shared).sessions, waiting("a")
    older = shared.client().register_script(OLDER_CLAIM)

    async def seen(patch: str) -> str:
        (key,) = await shared.client().keys("*session:*a}")
        return str((await older(keys=[key], args=[patch])).decode())

    await held.remember(session)
    assert await seen("0f") == "run"
    await held.complete(await held.claim("tenant", "a", "0f"), session.reply, further_of(session))
    for _ in range(2):  # while it waits, and while it is worked on
        assert [await seen(patch) for patch in ("0f", "1e")] == ["replay", "conflict"]
        await held.claim("tenant", "a", "1e")


@pytest.mark.parametrize("field", ["reply", "pending"])
async def test_what_cannot_be_read_is_expired(shared: FakeRedis, field: str) -> None:
    stores = server(shared)
    await stores.sessions.remember(waiting("a"))
    (key,) = await shared.client().keys("*session:*a}")
    await shared.client().hset(key, field, b"{}")
    with pytest.raises(ProblemError) as caught:
        await stores.sessions.claim("tenant", "a", "0f")
    assert caught.value.code == ErrorCode.INFERENCE_EXPIRED


# Two servers over HTTP.


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRedis]:
    """Servers that are started in the test share this Redis."""
    redis = FakeRedis()
    redis.stand_in(monkeypatch)
    yield redis
    redis.server.connected = True


async def test_any_server_goes_on_where_another_stopped(fleet: FakeRedis) -> None:
    engines = FakeEngine(), FakeEngine()
    async with running_client(engines[0]) as one, running_client(engines[1]) as other:
        first = await one.post("/v1/inferences", files=parts_of(message()), headers=KEY)
        again = await other.post("/v1/inferences", files=parts_of(message()), headers=KEY)
        assert again.headers["idempotency-replayed"] == "true"
        assert again.json() == first.json()
        draft = first.json()
        assert (await other.get(f"/v1/inferences/{draft['id']}")).json() == draft
        answered = await put_patch(other, draft["patch"]["url"], patch_for(draft))
        assert (answered.json()["answer"], answered.json()["stage"]) == ("42", 2)
        assert (await put_patch(one, draft["patch"]["url"], patch_for(draft))).json() == answered.json()
        rival = await put_patch(one, draft["patch"]["url"], patch_for(draft, "green"))
        assert_problem(rival, 409, "patch_conflict")
        follow_up = await ask(other, upload=None, image_id=draft["image_id"])
        assert follow_up.status_code == 200
        assert (await other.delete(f"/v1/inferences/{draft['id']}")).status_code == 204
        assert_problem(await one.get(f"/v1/inferences/{draft['id']}"), 404, "unknown_inference")
        assert_problem(await ask(one, upload=None, image_id=draft["image_id"]), 410, "image_expired")
    assert [[call.stage for call in engine.calls if call.kind == "answer"] for engine in engines] == [
        [1],
        [2, 1],
    ]


async def test_nothing_of_one_tenant_is_there_for_another_on_another_server(fleet: FakeRedis) -> None:
    keys = [key_entry("key-a", "a"), key_entry("key-b", "b")]
    async with (
        running_client(FakeEngine(), keys=keys, headers=bearer("key-a")) as mine,
        running_client(FakeEngine(), keys=keys, headers=bearer("key-b")) as theirs,
    ):
        draft = (await mine.post("/v1/inferences", files=parts_of(message()), headers=KEY)).json()
        assert_problem(await theirs.get(f"/v1/inferences/{draft['id']}"), 404, "unknown_inference")
        patch = put_patch(theirs, draft["patch"]["url"], patch_for(draft))
        assert_problem(await patch, 404, "unknown_inference")
        assert_problem(await theirs.delete(f"/v1/inferences/{draft['id']}"), 404, "unknown_inference")
        assert_problem(await ask(theirs, upload=None, image_id=draft["image_id"]), 410, "image_expired")
        other = await theirs.post("/v1/inferences", files=parts_of(message()), headers=KEY)
        assert "idempotency-replayed" not in other.headers


async def test_a_key_has_its_quotas_once_in_the_whole_fleet(fleet: FakeRedis) -> None:
    keys = [
        key_entry("key-r", requests_per_min=2),
        key_entry("key-b", bytes_per_min=100),
        key_entry("key-c", max_concurrent=1),
    ]
    engine = FakeEngine()
    async with running_client(engine, keys=keys) as one, running_client(FakeEngine(), keys=keys) as other:
        for client in (one, other):
            assert (await client.get("/v1/model", headers=bearer("key-r"))).status_code == 200
        for client in (one, other):
            refused = await client.get("/v1/model", headers=bearer("key-r"))
            assert_problem(refused, 429, "rate_limited")
            assert 1 <= int(refused.headers["retry-after"]) <= 30
        sent = await one.post("/v1/inferences", files=parts_of(message()), headers=bearer("key-b"))
        assert sent.status_code == 200
        await one.app.state.server.stores.quotas.tell()  # type: ignore[attr-defined]
        refused = await other.post("/v1/inferences", files=parts_of(message()), headers=bearer("key-b"))
        assert_problem(refused, 429, "rate_limited")
        assert int(refused.headers["retry-after"]) > 60
        quotas = one.app.state.server.stores.quotas  # type: ignore[attr-defined]
        async with quotas.request(keys[2]):
            assert_problem(await other.get("/v1/model", headers=bearer("key-c")), 429, "rate_limited")
        assert (await other.get("/v1/model", headers=bearer("key-c"))).status_code == 200


async def test_a_draining_server_hands_over(fleet: FakeRedis) -> None:
    """Alone it waits for the patch that it asked for; in a fleet another server takes it."""
    async with running_client(FakeEngine()) as one, running_client(FakeEngine()) as other:
        draft = (await ask(one)).json()
        state = one.app.state.server  # type: ignore[attr-defined]
        state.readiness.drain()
        assert state.owes_nothing
        assert (await put_patch(other, draft["patch"]["url"], patch_for(draft))).json()["answer"] == "42"
    async with running_client(FakeEngine(), sessions="memory") as alone:
        await ask(alone)
        assert not alone.app.state.server.owes_nothing  # type: ignore[attr-defined]


async def test_without_redis_each_request_is_refused_and_the_server_recovers_by_itself(
    fleet: FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    async with running_client(engine) as client:
        draft = (await ask(client)).json()
        state = client.app.state.server  # type: ignore[attr-defined]
        fleet.server.connected = False
        n_calls = len(engine.calls)
        for response in (
            await client.get(f"/v1/inferences/{draft['id']}"),
            await put_patch(client, draft["patch"]["url"], patch_for(draft)),
            await ask(client),
            await client.delete(f"/v1/inferences/{draft['id']}"),
        ):
            assert_problem(response, 503, "not_ready")
            assert response.headers["retry-after"] == "1"
        assert len(engine.calls) == n_calls, "the device worked on what could not be remembered"
        await look_at(state.stores.check, state.readiness)
        not_ready = assert_problem(await client.get("/readyz"), 503, "not_ready")
        assert not_ready["detail"] == connection.AWAY
        assert (await client.get("/healthz")).status_code == 200
        refused = await put_patch(client, draft["patch"]["url"], patch_for(draft))
        assert_problem(refused, 503, "not_ready")
        fleet.server.connected = True
        await look_at(state.stores.check, state.readiness)
        assert (await client.get("/readyz")).status_code == 200
        assert (await put_patch(client, draft["patch"]["url"], patch_for(draft))).json()["answer"] == "42"
        metrics = (await client.get("/metrics")).text
        assert 'secondglance_store_operations_total{outcome="away",verb="claim"} 1.0' in metrics
        assert "secondglance_sessions 1.0" in metrics


async def test_a_draining_server_stays_draining_whatever_redis_does() -> None:
    readiness = Readiness(state="draining")

    async def away() -> None:
        raise connection.store_away()

    await look_at(away, readiness)
    assert readiness.reason == "the server is shutting down"


# Settings.


@pytest.mark.parametrize("url", ["http://user:secret@host", "redis://user:secret@host:port"])
def test_a_bad_url_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SECONDGLANCE_SERVER_SESSIONS", url)
    with pytest.raises(SettingsError) as caught:
        open_stores(load_settings())
    assert "SECONDGLANCE_SERVER_SESSIONS=***" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_no_setting_shows_the_password() -> None:
    settings = load_settings(sessions="rediss://user:secret@host:6380/1?ssl_ca_certs=/ca.pem")
    assert "secret" not in f"{settings!r} {settings}"
    assert open_stores(settings).is_shared
