"""A fleet on loopback: servers in processes of their own, one Redis, nginx before them; all can be struck.

Each request goes to the next server, so that stages land anywhere. Servers write to a journal what their
engine begins and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from secondglance_server.settings import ENV_PREFIX
from secondglance_server.testing import free_port
from tests.server.redis_server import RedisServer

ROOT = Path(__file__).parents[2]
DEADLINE_S = 5.0  # of an inference; a dead server's claims are free five seconds after it
GRACE_S = 20
PATIENCE_S = 120  # of the test with a process on a busy machine

_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  client_max_body_size 17m; proxy_request_buffering off; proxy_http_version 1.1;
  proxy_connect_timeout 2s; proxy_read_timeout 65s; proxy_next_upstream error;
  upstream fleet {{ {servers} {keepalive} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://fleet; proxy_set_header Connection ""; }}
  }}
}}
"""


@dataclass
class Member:
    """One server's process, at a port that stays."""

    port: int
    environment: dict[str, str]
    arguments: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.hardening.journal_server", *self.arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            stderr=subprocess.DEVNULL,
        )

    def send(self, signal_number: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal_number)

    async def ended(self) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, PATIENCE_S)

    async def until_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient() as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get(f"http://127.0.0.1:{self.port}/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.05)


@dataclass
class Fleet:
    """What runs, and what was done to it: `kills` by process, `losses` of Redis, on the monotonic clock."""

    url: str
    members: list[Member]
    nginx: subprocess.Popen[bytes] | None
    redis: RedisServer | None
    journal: Path
    kills: dict[int, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)

    def nginx_pids(self) -> list[int]:
        """Return its master and its worker (Linux)."""
        assert self.nginx is not None
        children = Path(f"/proc/{self.nginx.pid}/task/{self.nginx.pid}/children").read_text()
        return [self.nginx.pid, *map(int, children.split())]

    async def kill(self, member: Member) -> None:
        """Without a word (-9), and start it again."""
        assert member.process is not None
        self.kills[member.process.pid] = time.monotonic()
        member.send(signal.SIGKILL)
        await member.ended()
        member.start()
        await member.until_ready()

    async def update(self, member: Member) -> None:
        """As a rolling update does: drain, wait for the end, start anew, wait until it is ready."""
        member.send(signal.SIGTERM)
        assert await member.ended() == 0
        member.start()
        await member.until_ready()

    async def restart_redis(self, away_s: float) -> None:
        assert self.redis is not None
        self.losses.append(time.monotonic())
        self.redis.kill()
        await asyncio.sleep(away_s)
        await asyncio.to_thread(self.redis.start)

    async def pause_redis(self, for_s: float) -> None:
        assert self.redis is not None
        self.losses.append(time.monotonic())
        self.redis.pause()
        await asyncio.sleep(for_s)
        self.redis.resume()


@contextlib.asynccontextmanager
async def fleet(
    folder: Path,
    n_servers: int,
    *,
    delay_s: float = 0.03,
    store_patience_s: float = 0,
    is_shared: bool = True,
    keepalive: int = 0,
) -> AsyncIterator[Fleet]:
    """Yields a ready fleet; without `is_shared` there is no Redis, and servers keep all in memory.

    `store_patience_s`: how long they wait for Redis, their own constants if 0.
    """
    redis = RedisServer(folder) if is_shared else None
    journal = folder / "journal"
    journal.touch()
    settings = {
        "SESSIONS": redis.url if redis else "memory",
        "INFERENCE_DEADLINE_S": str(DEADLINE_S),
        "SHUTDOWN_GRACE_S": str(GRACE_S),
        "MAX_SESSIONS": "100000",
        "MAX_QUEUE": "256",
    }
    members = []
    for _ in range(n_servers):
        port = free_port()
        named = {f"{ENV_PREFIX}{name}": value for name, value in {**settings, "PORT": str(port)}.items()}
        members.append(Member(port, named, (str(journal), str(delay_s), str(store_patience_s))))
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _NGINX.format(
            folder=folder,
            port=port,
            servers=" ".join(f"server 127.0.0.1:{member.port} max_fails=0;" for member in members),
            keepalive=f"keepalive {keepalive};" if keepalive else "",
        )
    )
    nginx = subprocess.Popen(["nginx", "-e", str(folder / "nginx.log"), "-c", str(configuration)])
    try:
        for member in members:
            member.start()
        for member in members:
            await member.until_ready()
        yield Fleet(f"http://127.0.0.1:{port}", members, nginx, redis, journal)
    finally:
        nginx.terminate()
        nginx.wait()
        for member in members:
            if member.process is not None:
                member.process.kill()
                member.process.wait()
        if redis is not None:
            redis.resume()
            redis.kill()


@dataclass(frozen=True)
class Run:
    """One inference of one process: `ended_at` is None if it never ended."""

    process: int
    question: str
    stage: int
    began_at: float
    ended_at: float | None


def runs_in(journal: Path) -> list[Run]:
    """Return what the engines of the fleet did, in the order in which they began."""
    began: dict[tuple[str, ...], float] = {}
    ended: dict[tuple[str, ...], float] = {}
    for line in journal.read_text().splitlines():
        what, at, *run = line.split("\t")
        (began if what == "began" else ended)[tuple(run)] = float(at)
    return [
        Run(int(process), question, int(stage), at, ended.get((process, number, stage, question)))
        for (process, number, stage, question), at in sorted(began.items(), key=lambda each: each[1])
    ]


def repeated_without_reason(fleet: Fleet, runs: Sequence[Run], patience_s: float) -> list[str]:
    """Inferences that ran again though nothing had happened to the first: the fleet's broken promises.

    A reason is that its process was killed before a reply could be told to Redis, within `patience_s`, or
    that Redis forgot everything or did not answer in between.
    """
    found = []
    last: dict[tuple[str, int], Run] = {}
    for run in runs:
        before = last.get((run.question, run.stage))
        last[run.question, run.stage] = run
        if before is None:
            continue
        killed_at = fleet.kills.get(before.process)
        was_killed = killed_at is not None and killed_at < (before.ended_at or killed_at + 1) + patience_s
        was_lost = any(before.began_at - patience_s < lost < run.began_at for lost in fleet.losses)
        if not (was_killed or was_lost):
            found.append(f"{run.question} in stage {run.stage}: {before}, then {run}")
    return found
