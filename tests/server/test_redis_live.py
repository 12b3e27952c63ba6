"""A real redis-server behind the real server: races, nodes of a cluster, TLS and passwords, away and back."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.engine.loader import load_engine
from secondglance_server.inference.stores.protocol import Holding, Stores
from secondglance_server.inference.stores.redis.opening import redis_stores
from secondglance_server.settings import ServerSettings
from secondglance_server.testing import free_port
from tests.server.exchange import (
    ask,
    assert_problem,
    encode,
    patch_for,
    put_patch,
    running_client,
)
from tests.server.redis_server import needs_redis, redis_server
from tests.server.test_redis_stores import everything
from tests.server.test_sessions import content_of, reply_of, waiting

pytestmark = [pytest.mark.live, needs_redis]

BOUND_S = 2.5  # for one answer of a server whose Redis hangs, and what a busy machine adds
BUSY_S = 5.0


def stores_of(url: str, **settings: Any) -> Stores:
    return redis_stores(ServerSettings(sessions=url, **settings), lambda *_: None)


async def test_fifty_servers_race_for_one_patch_and_one_key(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        fleet = [stores_of(redis.url) for _ in range(50)]
        await fleet[0].sessions.remember(waiting("a"))
        claims = await asyncio.gather(*(each.sessions.claim("tenant", "a", "0f") for each in fleet))
        assert Counter(claim.outcome for claim in claims) == {"run": 1, "in_progress": 49}
        (mine,) = (claim for claim in claims if claim.outcome == "run")
        assert content_of(mine.session) == content_of(waiting("a"))
        keys = await asyncio.gather(*(each.replies.claim("tenant", "key", "0f") for each in fleet))
        assert Counter(claim.outcome for claim in keys) == {"run": 1, "in_progress": 49}
        for each in fleet:
            await each.close()


async def test_every_verb_works_on_a_node_of_a_cluster(tmp_path: Path) -> None:
    """Redis itself refuses there what lies on two nodes, though one node may hold them all."""
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as redis:
        with redis.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with asyncio.timeout(20):
                while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                    await asyncio.sleep(0.02)
            with pytest.raises(Exception, match="slot"):
                client.eval("return 1", 2, "a", "b")
        stores = stores_of(redis.url, max_sessions=6)
        await everything(stores)
        await stores.close()


async def test_a_connection_that_is_encrypted_and_has_a_name_and_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    leaf = authority.issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(tmp_path / "cert.pem"))
    options += ("--tls-key-file", str(tmp_path / "key.pem"), "--tls-auth-clients", "no")
    options += (
        "--user",
        *["edge", "on", ">right", "~sg*", "+@all", "-@admin", "-@dangerous"],
        "--user",
        *["default", "off"],
    )
    with redis_server(tmp_path, *options):
        where, trusted = f"127.0.0.1:{port}/0", f"ssl_ca_certs={tmp_path / 'ca.pem'}"
        good = f"rediss://edge:right@{where}?{trusted}"
        async with running_client(FakeEngine(), sessions=good) as client:
            assert (await client.get("/readyz")).status_code == 200
            draft = (await ask(client)).json()
            assert (await put_patch(client, draft["patch"]["url"], patch_for(draft))).status_code == 200
        for bad in (f"rediss://edge:wrong@{where}?{trusted}", f"rediss://edge:right@{where}"):
            async with running_client(FakeEngine(), sessions=bad) as client:
                assert_problem(await client.get("/readyz"), 503, "not_ready")
                assert_problem(await ask(client), 503, "not_ready")
    assert "right" not in caplog.text
    assert "wrong" not in caplog.text


async def timed(send: Any) -> tuple[httpx.Response, float]:
    began = time.monotonic()
    return await send, time.monotonic() - began


async def until_ready(client: httpx.AsyncClient, status: int) -> httpx.Response:
    async with asyncio.timeout(20):
        while (response := await client.get("/readyz")).status_code != status:
            await asyncio.sleep(0.02)
    return response


async def test_a_redis_that_is_killed_is_missed_at_once_and_taken_up_again(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        async with running_client(FakeEngine(), sessions=redis.url) as client:
            draft = (await ask(client)).json()
            redis.kill()
            for _ in range(2):
                refused, took_s = await timed(put_patch(client, draft["patch"]["url"], patch_for(draft)))
                assert_problem(refused, 503, "not_ready")
                assert int(refused.headers["retry-after"]) >= 1
                assert took_s < BUSY_S
            not_ready = await until_ready(client, 503)
            assert "store" in not_ready.json()["detail"]
            assert_problem(await ask(client), 503, "not_ready")
            redis.start()
            await until_ready(client, 200)
            # It was kept in memory only: the inference is unknown, and the next one works.
            lost = await put_patch(client, draft["patch"]["url"], patch_for(draft))
            assert_problem(lost, 404, "unknown_inference")
            draft = (await ask(client)).json()
            again = await put_patch(client, draft["patch"]["url"], patch_for(draft))
            assert again.json()["answer"] == "42"


async def test_a_redis_that_hangs_holds_nobody_up_for_long_and_loses_nothing(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        async with running_client(FakeEngine(), sessions=redis.url) as client:
            draft = (await ask(client)).json()
            redis.pause()
            refused, took_s = await timed(put_patch(client, draft["patch"]["url"], patch_for(draft)))
            assert_problem(refused, 503, "not_ready")
            assert took_s < BOUND_S + BUSY_S
            assert "store" in (await until_ready(client, 503)).json()["detail"]
            began = time.monotonic()
            assert_problem(await ask(client), 503, "not_ready")
            assert time.monotonic() - began < 1, "a server that knows does not ask again"
            redis.resume()
            await until_ready(client, 200)
            # The claim that Redis heard of late is given back, and the same patch is answered.
            async with asyncio.timeout(20):
                while (answered := await put_patch(client, draft["patch"]["url"], patch_for(draft))).is_error:
                    assert_problem(answered, 409, "idempotency_in_progress")
                    await asyncio.sleep(0.05)
            assert answered.json()["answer"] == "42"


async def test_a_full_redis_is_busy_and_says_so(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--maxmemory-policy", "noeviction") as redis:
        async with running_client(FakeEngine(), sessions=redis.url) as client:
            draft = (await ask(client)).json()
            redis.client().config_set("maxmemory", "1mb")
            refused = await ask(client)
            assert_problem(refused, 503, "busy")
            assert refused.headers["retry-after"] == "1"
            redis.client().config_set("maxmemory", "0")
            assert (await put_patch(client, draft["patch"]["url"], patch_for(draft))).status_code == 200


async def test_sessions_take_little(tmp_path: Path) -> None:
    """What waits for a patch, with a picture of 5 kB, and its reply by idempotency key, as Redis counts."""
    n_sessions = 200
    with redis_server(tmp_path) as redis, redis.client() as client:
        stores = stores_of(redis.url)
        await conversations(stores, range(n_sessions))
        await stores.check()
        assert stores.sessions.holding.count == n_sessions
        of_keys = {"link", "reply", "replies"}  # the last is a ledger
        by_part: Counter[str] = Counter()
        for key in client.scan_iter(count=1000):
            _, kind, tag = key.decode().split(":")[:3]
            part = tag.strip("{}").removeprefix("ledger-") if tag.startswith("{ledger-") else kind
            by_part[part] += client.memory_usage(key, samples=0)
        for_keys = sum(size for part, size in by_part.items() if part in of_keys) / n_sessions
        for_session = by_part.total() / n_sessions - for_keys
        print(f"{for_session:.0f} bytes for a session, {for_keys:.0f} for its key: {dict(by_part)}")
        assert 5000 < for_session <= 8000
        assert for_keys <= 2000
        await stores.close()


async def test_sessions_that_expire_leave_redis_empty(tmp_path: Path, is_full: bool) -> None:
    n_sessions, ttl_s = (100_000, 60.0) if is_full else (40, 1.0)
    with redis_server(tmp_path) as redis, redis.client() as client:
        stores = stores_of(redis.url, session_ttl_s=ttl_s, max_sessions=n_sessions, max_session_bytes=10**9)
        began = time.monotonic()
        for first in range(0, n_sessions, 40):
            await conversations(stores, range(first, first + 40))
        most = int(client.info("memory")["used_memory_peak"])
        print(f"{n_sessions} sessions in {time.monotonic() - began:.0f} s, at most {most} bytes in Redis")
        async with asyncio.timeout(7 * ttl_s + 10):
            while client.dbsize():
                await asyncio.sleep(0.2)
        await stores.check()
        assert stores.sessions.holding == stores.images.holding == stores.replies.holding == Holding()
        await stores.close()


async def conversations(stores: Stores, numbers: range) -> None:
    for first in range(numbers.start, numbers.stop, 40):
        await asyncio.gather(*(one_conversation(stores, number) for number in range(first, first + 40)))


async def one_conversation(stores: Stores, number: int) -> None:
    """As far as the patch, the largest that is stored of it."""
    session = waiting(f"inf_{number:022}", n_bytes=0)
    assert session.pending is not None
    image = type(session.pending.image)(f"img_{number:040}", number.to_bytes(8, "big") * 625)
    reply = reply_of(session.id, image_id=image.id, answer="a sign with a number", roi=session.pending.roi)
    pending = type(session.pending)(
        image, "What number is on the red sign?", session.pending.gate, 64, (), session.pending.roi
    )
    claim = await stores.replies.claim("tenant", f"key-{number}", "0f" * 32)
    await stores.images.remember("tenant", image)
    await stores.sessions.remember(type(session)(session.id, "tenant", reply, pending))
    await stores.replies.complete(claim, reply)


async def test_the_second_stage_on_another_server_costs_one_prefill_and_gives_the_same_answer(
    tmp_path: Path,
) -> None:
    """The embedded model: key/value prefixes stay with the first server, the picture travels."""
    photo = encode(336, 252, "JPEG")
    replies = {}
    with redis_server(tmp_path) as redis:
        async with (
            running_client(load_engine("embedded"), sessions=redis.url) as one,
            running_client(load_engine("embedded"), sessions=redis.url) as other,
        ):
            for name, second in (("same", one), ("other", other)):
                first = await ask(one, upload=photo, mode="always")
                assert first.json()["status"] == "needs_patch", first.text
                answered = await put_patch(second, first.json()["patch"]["url"], patch_for(first.json()))
                assert answered.status_code == 200, answered.text
                replies[name] = answered.json()
    same, elsewhere = replies["same"], replies["other"]
    assert elsewhere["answer"] == same["answer"]
    assert elsewhere["confidence"] == pytest.approx(same["confidence"])
    assert elsewhere["usage"]["prompt_tokens"] == same["usage"]["prompt_tokens"]
    assert same["usage"]["cached_tokens"] > 0 == elsewhere["usage"]["cached_tokens"]
