"""Conversations with a fleet that is struck: servers killed, drained and restarted, Redis lost or hanging."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from secondglance import AsyncEdgeClient, EdgeError, EdgeSettings, Reply
from tests.hardening.chaos import DOCUMENTED_EXIT_CODES, photo
from tests.hardening.fleet import Fleet, Run, fleet, repeated_without_reason, runs_in
from tests.needs import needs_program
from tests.server.redis_server import needs_redis

pytestmark = [
    pytest.mark.live,
    pytest.mark.timeout(1800),
    needs_redis,
    needs_program("nginx", package="nginx-light"),
]

EDGE = EdgeSettings(link_aware=False, retry_wait_s=0.2, max_retry_wait_s=2, read_timeout_s=20)
AT_ONCE = 8
PACE_S = 2.0  # between the beginnings of conversations, each at most so long
TOLD_WITHIN_S = 4.0  # of an inference's end: the reply is in Redis, or will be when that is back


@dataclass(frozen=True)
class Talk:
    """How a conversation ended; `exit_code` is what the command line would return."""

    question: str
    ending: Literal["answer", "draft", "error", "wrong"]
    exit_code: int = 0
    detail: str = ""


async def talk(url: str, original: bytes, question: str) -> Talk:
    """One question about one photo, over a connection of its own."""
    try:
        async with (
            asyncio.timeout(240),
            AsyncEdgeClient(settings=EDGE.model_copy(update={"url": url})) as client,
        ):
            return ending_of(question, await client.ask(original, question))
    except EdgeError as exc:
        return Talk(question, "error", exc.exit_code, f"{type(exc).__name__}: {exc}")


def ending_of(question: str, reply: Reply) -> Talk:
    said = f"{reply.answer!r}, degraded: {reply.degraded}"
    match (reply.answer, reply.stage, reply.degraded):
        case ("42", 2, None):
            return Talk(question, "answer", detail=said)
        case ("a sign", 1, str()):
            return Talk(question, "draft", detail=said)
        case _:
            return Talk(question, "wrong", detail=said)


async def converse_while(
    n: int, fleet: Fleet, strike: Callable[[], Awaitable[None]], is_enough: Callable[[], bool]
) -> list[Talk]:
    """Hold `n` conversations, some at once, and more until what was struck is enough."""
    original, draw, numbers = photo(400, 300), random.Random(0), itertools.count()
    talks: list[Talk] = []

    async def one_after_another() -> None:
        while (number := next(numbers)) < n or not is_enough():
            await asyncio.sleep(draw.random() * PACE_S)
            talks.append(await talk(fleet.url, original, f"question {number:04}"))

    async def strikes() -> None:
        while True:
            await strike()

    striking = asyncio.create_task(strikes())
    try:
        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    finally:
        striking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await striking  # or what made a strike fail
    return talks


async def test_conversations_with_a_fleet_that_is_struck_end_as_documented(
    tmp_path: Path, is_full: bool
) -> None:
    """The right answer, the marked draft or a documented exit code; nothing is inferred twice without reason.

    Reasons are that the server that worked on it was killed, or that Redis was, or did not answer.
    """
    draw, done = random.Random(0), Counter[str]()
    names = itertools.cycle(("kill", "restart redis", "update", "pause redis"))
    async with fleet(tmp_path, 2) as struck:

        async def strike() -> None:
            name = next(names)
            await asyncio.sleep(draw.random())
            match name:
                case "kill":
                    await struck.kill(draw.choice(struck.members))
                case "update":
                    await struck.update(draw.choice(struck.members))
                case "restart redis":
                    await struck.restart_redis(draw.random())
                case _:
                    await struck.pause_redis(0.3 + 2 * draw.random())
            done[name] += 1

        talks = await converse_while(1000 if is_full else 48, struck, strike, lambda: len(done) == 4)
        runs = runs_in(struck.journal)
        endings = Counter(each.ending for each in talks)
        print(f"\n{dict(endings)} after {dict(done)}; {len(runs)} inferences")
        assert [each for each in talks if each.ending == "wrong"] == []
        assert [
            each for each in talks if each.ending == "error" and each.exit_code not in DOCUMENTED_EXIT_CODES
        ] == []
        assert endings["answer"] > len(talks) / 3
        assert repeated_without_reason(struck, runs, TOLD_WITHIN_S) == []
        answered = {(run.question, run.stage) for run in runs if run.ended_at is not None}
        for each in talks:
            assert each.ending != "answer" or {(each.question, 1), (each.question, 2)} <= answered


async def test_rolling_updates_lose_nothing(tmp_path: Path, is_full: bool) -> None:
    """One server after the other is drained and started anew: every conversation gets its right answer."""
    n_updates = 0
    async with fleet(tmp_path, 2, store_patience_s=30) as updated:

        async def update_the_next() -> None:
            nonlocal n_updates
            await updated.update(updated.members[n_updates % 2])
            n_updates += 1

        most = 4 if is_full else 2
        talks = await converse_while(
            400 if is_full else 32, updated, update_the_next, lambda: n_updates >= most
        )
        print(f"\n{len(talks)} conversations during {n_updates} updates")
        assert [each for each in talks if each.ending != "answer"] == []
        assert repeated_without_reason(updated, runs_in(updated.journal), 0) == []


def test_an_inference_that_ran_again_without_a_reason_is_found(tmp_path: Path) -> None:
    """The tests above can fail: kills and losses are reasons for what they struck, and for no more."""
    first, second = Run(1, "question", 1, 10.0, 10.1), Run(2, "question", 1, 30.0, 30.1)
    other = Run(2, "question", 2, 31.0, 31.1)

    def found(kills: dict[int, float], losses: list[float]) -> int:
        struck = Fleet("", [], None, None, tmp_path, kills, losses)
        return len(repeated_without_reason(struck, [first, second, other], TOLD_WITHIN_S))

    assert found({}, []) == 1
    assert found({1: 10.05}, []) == found({1: 12.0}, []) == found({}, [20.0]) == 0
    assert found({1: 20.0}, []) == found({2: 10.05}, []) == found({}, [31.0]) == found({}, [1.0]) == 1
