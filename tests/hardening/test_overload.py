"""Ten times more questions than the device can answer: few are served, nobody waits to hear no.

The engine is a fake of known capacity, the server a process of its own. Questions come at a fixed pace,
whether or not earlier ones were answered (an open loop: crowds do not slow down because a server is slow).
"""

from __future__ import annotations

import asyncio
import json
from time import monotonic

import httpx
import pytest

from tests.hardening.load import ask_at, ask_raw, peak_per_s, question
from tests.hardening.wire import percentile
from tests.server.exchange import ask, patch_for
from tests.server.fake_server import FakeServer, fake_server

pytestmark = pytest.mark.live

DELAY_S, BATCH = 0.4, 4  # of the engine: 10 answers a second
CAPACITY_PER_S = BATCH / DELAY_S
QUEUE = 8


def gauge(server: FakeServer, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"secondglance_{name} ")))


async def test_ten_times_its_capacity_does_not_hurt_a_server(is_full: bool) -> None:
    for_s = 60.0 if is_full else 4.0
    settings = {"max_queue": QUEUE, "max_batch": BATCH, "session_ttl_s": 5}
    with fake_server(
        {"delay_s": DELAY_S, "draft_entropy_nats": 0.0}, constants={"app.MAX_WAIT_MS": 20}, **settings
    ) as server:
        await ask_raw(server.port, question())  # the first one imports decoders
        peak = await peak_per_s(server.port, 2 * BATCH, for_s / 2)
        cpu_s, began = server.cpu_s, monotonic()
        tally = await ask_at(server.port, 10 * CAPACITY_PER_S, for_s)
        goodput = tally.statuses[200] / (monotonic() - began)
        refused_p99_ms = 1000 * percentile(tally.refused_s, 99)
        lag_p99_ms = 1000 * percentile(tally.lag_s, 99)
        facts = {
            "offered_per_s": 10 * CAPACITY_PER_S,
            "peak_per_s": round(peak, 1),
            "goodput_per_s": round(goodput, 1),
            "refused_p50_ms": round(1000 * percentile(tally.refused_s, 50), 1),
            "refused_p99_ms": round(refused_p99_ms, 1),
            "refused_max_ms": round(1000 * max(tally.refused_s), 1),
            "crowd_lag_p99_ms": round(lag_p99_ms, 1),
            "server_cpu_ms_per_question": round(1000 * (server.cpu_s - cpu_s) / tally.statuses.total(), 2),
            "statuses": dict(tally.statuses),
        }
        print(f"\noverload: {json.dumps(facts)}")
        assert tally.broken == {}
        assert set(tally.statuses) == {200, 503}
        assert tally.without_retry_after == 0
        if is_full:
            assert lag_p99_ms < 25, "the machine is busy with other work: its times tell nothing of a server"
            assert goodput >= 0.9 * peak
            assert refused_p99_ms < 50
        assert gauge(server, "queue_depth") == 0
        async with asyncio.timeout(30):  # every session goes when its time is up
            while await asyncio.to_thread(gauge, server, "sessions"):
                await asyncio.sleep(0.2)
        assert (await ask_raw(server.port, question())).status == 200


async def test_under_overload_a_conversation_that_began_is_finished() -> None:
    """Second stages get in beside the crowd that is refused."""
    settings = {"max_queue": QUEUE, "max_batch": BATCH}
    with fake_server({"delay_s": 0.1}, **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            drafts = [(await ask(client)).json() for _ in range(QUEUE)]
            crowd = asyncio.create_task(ask_at(server.port, 100, 2))
            await asyncio.sleep(0.5)
            puts = [
                client.put(
                    draft["patch"]["url"], content=patch_for(draft), headers={"Content-Type": "image/png"}
                )
                for draft in drafts
            ]
            assert {response.status_code for response in await asyncio.gather(*puts)} == {200}
            assert (await crowd).statuses[503] > 0
