"""What one question costs: a fleet on this machine, and the counters of its parts before and after."""

from __future__ import annotations

import io
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
from dataclasses import dataclass
from typing import Any

import redis
from PIL import Image, ImageDraw

from benchmarks.scaling.arithmetic import Cost, Idle
from examples.local_fleet import ROOT, Fleet, running_fleet
from secondglance import EdgeClient, Reply

PHOTO = ROOT / "examples" / "photo.jpg"
QUESTION = "What is written on the red sign?"
IDLE_S = 10.0
EDGES = 8  # that ask at the same time
LASTING_S = 3600  # of the sessions here, so that none ends while it is measured


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


def machine() -> str:
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {model[1] if model else platform.machine()}, load {load:.1f}"
