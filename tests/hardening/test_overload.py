"""Ten times more questions than the device can answer: few are served, nobody waits to hear no.

The engine is a fake of known capacity, the server a process of its own. Questions come at a fixed pace,
whether or not earlier ones were answered (an open loop: crowds do not slow down because a server is slow).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

import httpx

from tests.hardening.wire import percentile
from tests.server.exchange import message, parts_of, patch_for
from tests.server.fake_server import FakeServer, fake_server

DELAY_S, BATCH = 0.4, 4  # of the engine: 10 answers a second
CAPACITY_PER_S = BATCH / DELAY_S
QUEUE = 8
PICTURE = parts_of(message())


@dataclass
class Tally:
    """What came back, and how long each kind took."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    drafts: list[dict[str, object]] = field(default_factory=list)

    def add(self, response: httpx.Response, elapsed_s: float) -> None:
        self.statuses[response.status_code] += 1
        if response.status_code == 200:
            self.drafts.append(response.json())
        else:
            self.refused_s.append(elapsed_s)
            self.without_retry_after += int(response.headers.get("retry-after", "0")) < 1


async def ask_at(client: httpx.AsyncClient, per_s: float, for_s: float) -> Tally:
    """Ask `per_s` questions a second; return when all have been answered."""
    tally, began = Tally(), monotonic()

    async def ask() -> None:
        sent = monotonic()
        try:
            response = await client.post("/v1/inferences", files=PICTURE)
        except httpx.TransportError as exc:
            tally.broken[type(exc).__name__] += 1
        else:
            tally.add(response, monotonic() - sent)

    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * for_s)):
            await asyncio.sleep(began + number / per_s - monotonic())
            group.create_task(ask())
    return tally


async def peak_per_s(client: httpx.AsyncClient, for_s: float) -> float:
    """Answers a second to as many clients as fit, each of which asks when it was answered."""
    ends_at, n_answers = monotonic() + for_s, 0

    async def one_after_the_other() -> None:
        nonlocal n_answers
        while monotonic() < ends_at:
            response = await client.post("/v1/inferences", files=PICTURE)
            n_answers += response.status_code == 200

    began = monotonic()
    await asyncio.gather(*(one_after_the_other() for _ in range(2 * BATCH)))
    return n_answers / (monotonic() - began)


def gauge(server: FakeServer, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"secondglance_{name} ")))


async def test_ten_times_its_capacity_does_not_hurt_a_server(is_full: bool) -> None:
    for_s = 60.0 if is_full else 4.0
    settings = {"max_queue": QUEUE, "max_batch": BATCH, "session_ttl_s": 5, "max_wait_ms": 20}
    limits = httpx.Limits(max_connections=900)
    with fake_server({"delay_s": DELAY_S, "draft_entropy_nats": 0.0}, **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:
            await client.post("/v1/inferences", files=PICTURE)  # the first one imports decoders
            peak = await peak_per_s(client, for_s / 2)
            cpu_s, began = server.cpu_s, monotonic()
            tally = await ask_at(client, 10 * CAPACITY_PER_S, for_s)
            goodput = tally.statuses[200] / (monotonic() - began)
            refused_p99_ms = 1000 * percentile(tally.refused_s, 99)
            facts = {
                "offered_per_s": 10 * CAPACITY_PER_S,
                "peak_per_s": round(peak, 1),
                "goodput_per_s": round(goodput, 1),
                "refused_p50_ms": round(1000 * percentile(tally.refused_s, 50), 1),
                "refused_p99_ms": round(refused_p99_ms, 1),
                "server_cpu_ms_per_question": round(
                    1000 * (server.cpu_s - cpu_s) / tally.statuses.total(), 2
                ),
                "statuses": dict(tally.statuses),
            }
            print(f"\noverload: {json.dumps(facts)}")
            assert tally.broken == {}
            assert set(tally.statuses) == {200, 503}
            assert tally.without_retry_after == 0
            if is_full:  # times and rates are for an idle machine
                assert goodput >= 0.9 * peak
                assert refused_p99_ms < 50
            assert gauge(server, "queue_depth") == 0
            async with asyncio.timeout(30):  # every session goes when its time is up
                while await asyncio.to_thread(gauge, server, "sessions"):
                    await asyncio.sleep(0.2)
            assert (await client.post("/v1/inferences", files=PICTURE)).status_code == 200


async def test_under_overload_a_conversation_that_began_is_finished() -> None:
    """Second stages get in beside the crowd that is refused."""
    settings = {"max_queue": QUEUE, "max_batch": BATCH}
    with fake_server({"delay_s": 0.1}, **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            drafts = [(await client.post("/v1/inferences", files=PICTURE)).json() for _ in range(QUEUE)]
            crowd = asyncio.create_task(ask_at(client, 100, 2))
            await asyncio.sleep(0.5)
            puts = [
                client.put(
                    draft["patch"]["url"], content=patch_for(draft), headers={"Content-Type": "image/png"}
                )
                for draft in drafts
            ]
            assert {response.status_code for response in await asyncio.gather(*puts)} == {200}
            assert (await crowd).statuses[503] > 0
