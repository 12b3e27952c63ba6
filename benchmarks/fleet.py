"""Two servers behind nginx that share a Redis, beside one server alone: throughput, latency, processor time.

    python -m benchmarks.fleet [--conversations 120] [--edges 8] [--batch 1]

The engine is the fake one with calls of 30 ms, so that the device is the limit and not this machine: with
`--batch 1` an answer is a call, a conversation three (draft, neutral prompt, second answer). Each side first
answers one client at a time, for latency, then `--edges` at a time, for throughput. Clients, servers, nginx
and Redis share this machine's cores; their processor time is counted apart. What Redis was asked and sent is
its own count. Needs nginx and redis-server. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from tests.hardening.fleet import Fleet, fleet
from tests.server.exchange import message, parts_of, patch_for

CALL_S = 0.03
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def processor_s(pid: int) -> float:
    """Return what a process and its children that ended have used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(each) for each in fields[11:15]) * _TICK_S


class Clients:
    """Conversations over one pool of connections; `seconds` are those of each request, by its stage."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=60)
        self._patch = b""
        self._n = 0
        self.seconds: dict[int, list[float]] = {1: [], 2: []}

    async def converse(self) -> None:
        """Ask, and send the patch."""
        self._n += 1
        parts, key = parts_of(message(question=f"question {self._n}")), {"Idempotency-Key": f"key-{self._n}"}
        began = time.perf_counter()
        draft = await self._http.post("/v1/inferences", files=parts, headers=key)
        self.seconds[1].append(time.perf_counter() - began)
        draft.raise_for_status()
        self._patch = self._patch or patch_for(draft.json())
        began = time.perf_counter()
        answer = await self._http.put(
            draft.json()["patch"]["url"], content=self._patch, headers={"Content-Type": "image/png"}
        )
        self.seconds[2].append(time.perf_counter() - began)
        answer.raise_for_status()
        assert answer.json()["stage"] == 2

    async def run(self, n: int, at_once: int) -> float:
        """Hold `n` conversations, return the seconds that they took."""
        left = iter(range(n))

        async def one_after_another() -> None:
            for _ in left:
                await self.converse()

        began = time.perf_counter()
        await asyncio.gather(*(one_after_another() for _ in range(at_once)))
        return time.perf_counter() - began

    async def close(self) -> None:
        await self._http.aclose()


async def measure(running: Fleet, url: str, conversations: int, edges: int) -> dict[str, Any]:
    """Return one side's figures."""
    clients = Clients(url)
    await clients.run(10, 2)  # connections, scripts, imports
    clients.seconds = {1: [], 2: []}
    await clients.run(conversations // 3, 1)
    p50_ms = {stage: 1e3 * statistics.median(times) for stage, times in clients.seconds.items()}
    before, mine = used(running), time.process_time()
    redis_before = redis_counts(running)
    seconds = await clients.run(conversations, edges)
    after = used(running)
    figures: dict[str, Any] = {
        "conversations_per_s": round(conversations / seconds, 2),
        "p50_ms": {str(stage): round(ms, 2) for stage, ms in p50_ms.items()},
        "client_cpu_share": round((time.process_time() - mine) / seconds, 3),
        "cpu_ms_per_conversation": {
            name: round(1e3 * (after[name] - before[name]) / conversations, 2) for name in after
        },
    }
    if running.redis:
        counts = redis_counts(running)
        figures["redis_per_conversation"] = {
            name: round((counts[name] - redis_before[name]) / conversations, 1) for name in counts
        }
    await clients.close()
    return figures


def used(running: Fleet) -> dict[str, float]:
    """Return processor seconds so far, by what used them."""
    found = {"servers": sum(processor_s(each.process.pid) for each in running.members if each.process)}
    if running.redis:
        found["redis"] = processor_s(running.redis.pid)
        found["nginx"] = sum(processor_s(pid) for pid in running.nginx_pids())
    return found


def redis_counts(running: Fleet) -> dict[str, float]:
    if running.redis is None:
        return {}
    with running.redis.client() as client:
        stats, commands = client.info("stats"), client.info("commandstats")
    return {
        "scripts": float(commands["cmdstat_evalsha"]["calls"]),
        "bytes_in": float(stats["total_net_input_bytes"]),
        "bytes_out": float(stats["total_net_output_bytes"]),
    }


@asynccontextmanager
async def side(n_servers: int, batch: int) -> AsyncIterator[tuple[Fleet, str]]:
    """One alone, reached directly; or several, through nginx."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SECONDGLANCE_SERVER_MAX_BATCH"] = str(batch)
        alone = n_servers == 1
        async with fleet(
            Path(folder), n_servers, delay_s=CALL_S, is_shared=not alone, keepalive=0 if alone else 32
        ) as running:
            yield running, f"http://127.0.0.1:{running.members[0].port}" if alone else running.url


async def compare(conversations: int, edges: int, batch: int) -> dict[str, Any]:
    sides = {}
    for name, n_servers in (("one alone", 1), ("two, nginx, Redis", 2)):
        async with side(n_servers, batch) as (running, url):
            sides[name] = await measure(running, url, conversations, edges)
    alone, two = sides.values()
    return {
        "edges": edges,
        "conversations": conversations,
        "batch": batch,
        "call_ms": 1e3 * CALL_S,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "sides": sides,
        "speed_up": round(two["conversations_per_s"] / alone["conversations_per_s"], 2),
        "added_p50_ms": {
            stage: round(two["p50_ms"][stage] - alone["p50_ms"][stage], 2) for stage in ("1", "2")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--conversations", type=int, default=120)
    parser.add_argument("--edges", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    result = asyncio.run(compare(given.conversations, given.edges, given.batch))
    table = Table("", *result["sides"])
    for row in ("conversations_per_s", "p50_ms", "client_cpu_share", "cpu_ms_per_conversation"):
        table.add_row(row, *(str(figures[row]) for figures in result["sides"].values()))
    Console(width=160).print(table)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
