"""What a question costs each part of a fleet, and by arithmetic how far the fleet grows before one is full.

    python -m benchmarks.scaling [--questions 100] [--out FILE] [--docs docs/scaling.md]

Starts two servers with the embedded model, nginx and Redis on this machine (`examples/local_fleet.py`), and
asks questions that all take both stages, each about another picture. Redis's own counters (INFO, MONITOR),
the kernel's processor times and the edge's receipts are read before and after; what an idle fleet costs is
measured first and subtracted. Prints the tables and, last, one line of JSON. The times are this machine's.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pathlib
import platform
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import redis
from PIL import Image, ImageDraw

from benchmarks.instruments.marked import put_between
from examples.local_fleet import ROOT, Fleet, running_fleet
from secondglance import EdgeClient, Reply
from secondglance_eval.markdown import markdown_table
from secondglance_server.settings import ServerSettings

PHOTO = ROOT / "examples" / "photo.jpg"
QUESTION = "What is written on the red sign?"
IDLE_S = 10.0
EDGES = 8  # that ask at the same time
SESSION_TTL_S = ServerSettings().session_ttl_s
LASTING_S = 3600  # of the sessions here, so that none ends while it is measured

RATE = 10.0  # questions a second that one server answers, for the arithmetic
EDGE_RATE = 0.1  # questions a second of one edge
FLEETS = (2, 10, 100, 1000)
MAX_CLIENTS = 10_000  # Redis's own default


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one question with both stages; calls of ledgers lie on one node of a cluster."""

    redis_calls: float
    redis_ledger_calls: float
    redis_cpu_ms: float
    redis_received_bytes: float
    redis_sent_bytes: float
    redis_bytes_held: float
    nginx_cpu_ms: float
    server_cpu_ms: float
    uplink_bytes: float
    downlink_bytes: float


@dataclass(frozen=True, slots=True)
class Idle:
    """What one server costs Redis that is asked nothing, and how many connections it holds."""

    redis_calls_per_s: float
    redis_connections: float


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment; times in seconds."""

    at: float
    redis_cpu: float
    redis_in: int
    redis_out: int
    nginx_cpu: float
    server_cpu: float

    def __sub__(self, other: Reading) -> Reading:
        return Reading(*(mine - its for mine, its in zip(_values(self), _values(other), strict=True)))


def _values(reading: Reading) -> tuple[Any, ...]:
    return tuple(getattr(reading, name) for name in Reading.__slots__)


class Calls:
    """Counts the servers' calls by MONITOR: in all, and of ledgers. What scripts do inside is no call."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    @contextmanager
    def watching(self, url: str) -> Iterator[None]:
        client = redis.Redis.from_url(url)
        over = threading.Event()

        def watch() -> None:
            with client.monitor() as monitor:
                ready.set()
                for call in monitor.listen():
                    if over.is_set():
                        return
                    if call["client_type"] != "lua":
                        self.seen["all"] += 1
                        self.seen["ledger"] += "{ledger-" in call["command"]

        ready = threading.Event()
        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        ready.wait(10)
        yield
        over.set()
        redis.Redis.from_url(url).ping()  # wakes the listener
        thread.join(10)
        client.close()


def cpu_s(pid: int) -> float:
    """Processor time that the threads of a process have used, to the nanosecond."""
    threads = pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def children_of(pid: int) -> list[int]:
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def read(fleet: Fleet, store: redis.Redis) -> Reading:
    info: Any = store.info()
    nginx = int((fleet.folder / "nginx.pid").read_text())
    return Reading(
        at=time.monotonic(),
        redis_cpu=info["used_cpu_sys"] + info["used_cpu_user"],
        redis_in=info["total_net_input_bytes"],
        redis_out=info["total_net_output_bytes"],
        nginx_cpu=sum(map(cpu_s, [nginx, *children_of(nginx)])),
        server_cpu=sum(cpu_s(server.process.pid) for server in fleet.servers.values()),
    )


def pictures(count: int) -> Iterator[bytes]:
    """The photo with another mark in its corner each time, so that no picture is known."""
    with Image.open(PHOTO) as original:
        small = original.convert("RGB").resize((2000, 1500))
    for number in range(count):
        marked = small.copy()
        ImageDraw.Draw(marked).rectangle((0, 0, 200, 200), fill=(number % 256, number // 256 * 16, 128))
        encoded = io.BytesIO()
        marked.save(encoded, "JPEG", quality=90)
        yield encoded.getvalue()


def ask_all(url: str, count: int) -> list[Reply]:
    """Ask about so many pictures, EDGES at a time."""
    with EdgeClient(url) as edge, ThreadPoolExecutor(EDGES) as edges:
        replies = list(edges.map(lambda picture: edge.ask(picture, QUESTION, mode="always"), pictures(count)))
    if any(reply.stage != 2 or reply.degraded for reply in replies):
        raise RuntimeError("a question did not take both stages")
    return replies


def measure(questions: int) -> tuple[Cost, Idle]:
    """Start a fleet, ask, and return the costs."""
    settings = {"SESSION_TTL_S": str(LASTING_S), "MAX_SESSIONS": str(4 * questions + 1000)}
    with running_fleet(settings=settings) as fleet, redis.Redis.from_url(fleet.redis) as store:
        ask_all(fleet.url, 4)  # scripts are loaded, connections open
        before = read(fleet, store)
        time.sleep(IDLE_S)
        idle = read(fleet, store) - before
        idle_calls = Calls()
        with idle_calls.watching(fleet.redis):
            time.sleep(IDLE_S)

        held = store.info("memory")["used_memory_dataset"]
        before = read(fleet, store)
        replies = ask_all(fleet.url, questions)
        spent = read(fleet, store) - before
        held = store.info("memory")["used_memory_dataset"] - held

        # MONITOR costs Redis time itself, so calls are counted in a run of their own.
        calls, began = Calls(), time.monotonic()
        with calls.watching(fleet.redis):
            ask_all(fleet.url, questions)
        watched_s = time.monotonic() - began
        connections = len(store.client_list()) - 1  # without this one
    return costs_of(spent, idle, held, replies, calls, idle_calls, watched_s), Idle(
        redis_calls_per_s=idle_calls.seen["all"] / IDLE_S / len(fleet.servers),
        redis_connections=connections / len(fleet.servers),
    )


def costs_of(
    spent: Reading,
    idle: Reading,
    held: int,
    replies: list[Reply],
    calls: Calls,
    idle_calls: Calls,
    watched_s: float,
) -> Cost:
    """Return what one question costs, without what the idle fleet costs in the same time."""
    asked, share = len(replies), spent.at / idle.at

    def each(name: str, scale: float = 1.0) -> float:
        return scale * (getattr(spent, name) - share * getattr(idle, name)) / asked

    def called(kind: str) -> float:
        return (calls.seen[kind] - idle_calls.seen[kind] * watched_s / IDLE_S) / asked

    return Cost(
        redis_calls=called("all"),
        redis_ledger_calls=called("ledger"),
        redis_cpu_ms=each("redis_cpu", 1000),
        redis_received_bytes=each("redis_in"),
        redis_sent_bytes=each("redis_out"),
        redis_bytes_held=held / asked,
        nginx_cpu_ms=each("nginx_cpu", 1000),
        server_cpu_ms=each("server_cpu", 1000),
        uplink_bytes=sum(reply.receipt.uplink_bytes for reply in replies) / asked,
        downlink_bytes=sum(reply.receipt.downlink_bytes for reply in replies) / asked,
    )


def cost_table(cost: Cost, idle: Idle) -> str:
    rows = [
        ("Redis: calls from servers", f"{cost.redis_calls:.1f}"),
        ("of these on the node of the ledgers", f"{cost.redis_ledger_calls:.1f}"),
        ("Redis: processor time", f"{cost.redis_cpu_ms:.2f} ms"),
        (
            "Redis: received and sent",
            f"{cost.redis_received_bytes:,.0f} and {cost.redis_sent_bytes:,.0f} bytes",
        ),
        (f"Redis: memory for SESSION_TTL_S ({SESSION_TTL_S:.0f} s)", f"{cost.redis_bytes_held:,.0f} bytes"),
        ("nginx: processor time", f"{cost.nginx_cpu_ms:.2f} ms"),
        ("server: processor time, embedded model", f"{cost.server_cpu_ms:.0f} ms"),
        ("edge: sent and received", f"{cost.uplink_bytes:,.0f} and {cost.downlink_bytes:,.0f} bytes"),
        ("each idle server: calls to Redis a second", f"{idle.redis_calls_per_s:.1f}"),
        ("each server: connections to Redis", f"{idle.redis_connections:.1f}"),
    ]
    return markdown_table(("of one question with both stages", "measured"), rows)


def fleet_table(cost: Cost, idle: Idle) -> str:
    """Return what fleets of several sizes ask of their parts, by multiplication."""
    rows = []
    for servers in FLEETS:
        rate = servers * RATE
        rows.append(
            (
                f"{servers:,}",
                f"{rate / EDGE_RATE:,.0f}",
                f"{rate:,.0f}",
                f"{rate * cost.redis_calls + servers * idle.redis_calls_per_s:,.0f}",
                f"{redis_cores(cost, idle, servers):.2f}",
                f"{rate * SESSION_TTL_S * cost.redis_bytes_held / 1e9:.2f} GB",
                f"{8e-6 * rate * (cost.redis_received_bytes + cost.redis_sent_bytes):,.0f} Mbit/s",
                f"{rate * cost.nginx_cpu_ms / 1000:.2f}",
                f"{8e-6 * rate * (cost.uplink_bytes + cost.downlink_bytes):,.0f} Mbit/s",
            )
        )
    head = (
        "servers",
        "edges",
        "questions/s",
        "Redis calls/s",
        "Redis cores",
        "Redis memory",
        "to and from Redis",
        "nginx cores",
        "to and from edges",
    )
    return markdown_table(head, rows)


def redis_cores(cost: Cost, idle: Idle, servers: float) -> float:
    """Return the cores that calls take; an idle server's are as dear as the others."""
    worth_questions = RATE + idle.redis_calls_per_s / cost.redis_calls
    return servers * worth_questions * cost.redis_cpu_ms / 1000


def limits(cost: Cost, idle: Idle) -> dict[str, float]:
    """Return how many servers fill each part, the first one first."""
    found = {
        "one core of Redis, which runs scripts on one": 1 / redis_cores(cost, idle, 1),
        f"Redis's connections (`maxclients` {MAX_CLIENTS:,})": MAX_CLIENTS / idle.redis_connections,
        "16 cores of nginx": 16 / (RATE * cost.nginx_cpu_ms / 1000),
        "64 GB of Redis": 64e9 / (RATE * SESSION_TTL_S * cost.redis_bytes_held),
        "10 Gbit/s between edges and nginx": 10e9 / (8 * RATE * (cost.uplink_bytes + cost.downlink_bytes)),
    }
    return dict(sorted(found.items(), key=lambda limit: limit[1]))


def limits_table(cost: Cost, idle: Idle) -> str:
    rows = [(name, f"{servers:,.0f}") for name, servers in limits(cost, idle).items()]
    return markdown_table(("what is full first", "at so many servers"), rows)


def machine() -> str:
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}, load {load:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--docs", type=pathlib.Path)
    arguments = parser.parse_args()
    cost, idle = measure(arguments.questions)
    tables = {
        "costs": cost_table(cost, idle),
        "fleets": fleet_table(cost, idle),
        "limits": limits_table(cost, idle),
    }
    document = {
        "questions": arguments.questions,
        "edges": EDGES,
        "machine": machine(),
        "redis": redis.__version__,
        "cost": asdict(cost),
        "idle": asdict(idle),
        "limits": limits(cost, idle),
    }
    for name, table in tables.items():
        print(table, "\n")
        if arguments.docs:
            put_between(arguments.docs, name, table)
    if arguments.out:
        arguments.out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
