"""A rolling update as docs/deploy.md has it: each server ends by SIGTERM and comes back; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.local_fleet import Server, running_nginx, running_redis, running_server
from secondglance import AsyncEdgeClient, Reply
from tests.needs import needs_module, needs_program
from tests.server.exchange import encode

pytestmark = [
    pytest.mark.live,
    needs_program("nginx", package="nginx-light"),
    needs_program("redis-server", package="redis-server"),
    needs_module("redis", package="second-glance-server[redis]"),
]

EDGES = 4
SLOW = ("-m", "tests.server.fake_server", '{"delay_s": 0.05}', "{}", "336")


class Fleet:
    """Servers by tag, each of which can be replaced by a new process at its address."""

    def __init__(self, folder: Path, settings: dict[str, str], stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._settings = settings
        self._stack = stack
        self.servers: dict[str, Server] = {}

    def start(self, tag: str) -> None:
        old = self.servers.get(tag)
        port = int(old.address.rpartition(":")[2]) if old else None
        server = running_server(tag, self._folder, program=SLOW, settings=self._settings, port=port)
        self.servers[tag] = self._stack.enter_context(server)
        self.servers[tag].wait_until_ready()

    def update(self, tag: str) -> None:
        """End the old process by SIGTERM, as a supervisor does, start the new one, and see it answer.

        A proxy leaves an address alone for a while after it was away (`fail_timeout`), so a rollout that goes
        on at once has no server at all: orchestrators wait, too (`minReadySeconds`).
        """
        process = self.servers[tag].process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        before = self.first_answers(tag)
        self.start(tag)
        deadline = time.monotonic() + 30
        while self.first_answers(tag) == before:
            assert time.monotonic() < deadline, f"server {tag} came back and is never asked"
            time.sleep(0.1)

    def first_answers(self, tag: str) -> int:
        """How many first stages this server has answered, its old process among them."""
        lines = self.servers[tag].requests()
        return sum(line.get("stage") == 1 and "inference_id" in line for line in lines)


@contextlib.contextmanager
def fleet(folder: Path) -> Iterator[tuple[str, Fleet]]:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(running_redis(folder))
        found = Fleet(folder, {"SESSIONS": redis}, stack)
        for tag in ("a", "b"):
            found.start(tag)
        addresses = {tag: server.address for tag, server in found.servers.items()}
        yield stack.enter_context(running_nginx(addresses, folder)), found


async def test_no_conversation_is_lost_while_every_server_is_replaced(tmp_path: Path) -> None:
    """A server that drained waited for its promised patches, or took them with it."""
    replies: list[Reply] = []
    over = asyncio.Event()

    async def keep_asking(url: str, edge: int) -> None:
        async with AsyncEdgeClient(url) as client:
            number = 0
            while not over.is_set():
                picture = encode(1000 + edge, 1000 + number, "JPEG")
                replies.append(await client.ask(picture, "What number?"))
                number += 1

    with fleet(tmp_path) as (url, servers):
        async with asyncio.TaskGroup() as edges:
            for edge in range(EDGES):
                edges.create_task(keep_asking(url, edge))
            for tag in ("a", "b"):
                await asyncio.to_thread(servers.update, tag)
            over.set()
    assert len(replies) > 2 * EDGES
    assert {(reply.answer, reply.stage, reply.degraded) for reply in replies} == {("42", 2, None)}
