"""An open loop of questions over raw sockets: crowds do not slow down because a server is slow.

Light, so that beside a server on the same machine the server is what is measured; and it says how late it
was itself.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic

import httpx

from tests.server.exchange import message, parts_of

BROKEN = (OSError, asyncio.IncompleteReadError)


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    retry_after_s: int  # 0: the header was not there
    body: bytes


@dataclass
class Tally:
    """What came back, and how long each refusal took from the attempt to connect to its last byte.

    `lag_s`: how late each question was sent, by the crowd's own fault.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    drafts: list[dict[str, object]] = field(default_factory=list)

    def add(self, answered: Answered, elapsed_s: float) -> None:
        self.statuses[answered.status] += 1
        if answered.status == 200:
            self.drafts.append(json.loads(answered.body))
        else:
            self.refused_s.append(elapsed_s)
            self.without_retry_after += answered.retry_after_s < 1


def question() -> bytes:
    """A good first request, as it goes over the wire."""
    built = httpx.Request("POST", "http://x/v1/inferences", files=parts_of(message()))
    body = built.read()
    lines = [
        "POST /v1/inferences HTTP/1.1",
        "Host: x",
        f"Content-Type: {built.headers['Content-Type']}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def ask_raw(port: int, request: bytes) -> Answered:
    """Over a connection of its own. Raises BROKEN if no whole reply comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await reader.readexactly(int(headers["content-length"]))
    finally:
        writer.close()
    return Answered(int(status_line.split(" ")[1]), int(headers.get("retry-after", 0)), body)


async def ask_at(port: int, per_s: float, for_s: float) -> Tally:
    """Ask `per_s` questions a second; return when all have been answered."""
    tally, request, began = Tally(), question(), monotonic()

    async def ask(due: float) -> None:
        sent = monotonic()
        tally.lag_s.append(sent - due)
        try:
            answered = await ask_raw(port, request)
        except BROKEN as exc:
            tally.broken[type(exc).__name__] += 1
        else:
            tally.add(answered, monotonic() - sent)

    async with asyncio.timeout(for_s + 60), asyncio.TaskGroup() as group:
        for number in range(int(per_s * for_s)):
            due = began + number / per_s
            await asyncio.sleep(due - monotonic())
            group.create_task(ask(due))
    return tally


async def peak_per_s(port: int, n_clients: int, for_s: float) -> float:
    """Answers a second to clients each of which asks when it was answered."""
    request, began = question(), monotonic()

    async def one_after_the_other() -> int:
        n_answers = 0
        while monotonic() < began + for_s:
            n_answers += (await ask_raw(port, request)).status == 200
        return n_answers

    answers = await asyncio.gather(*(one_after_the_other() for _ in range(n_clients)))
    return sum(answers) / (monotonic() - began)
