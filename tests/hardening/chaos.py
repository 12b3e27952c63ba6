"""Conversations over a link that breaks: what is done to each, how it may end, how often the engine ran.

The edge, the relay and the server are the real ones, over sockets on loopback; only the engine is a fake
that counts. Each conversation has a relay and a question of its own, so that inferences can be told apart.
"""

from __future__ import annotations

import asyncio
import io
import random
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import httpx
from PIL import Image

from lab.relay.faults import Cut, Direction, Duplicate, Fault, Reset, Schedule, Slice, Stall
from lab.relay.relay import Relay
from secondglance import AsyncEdgeClient, EdgeError, EdgeSettings, Reply
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest, AnswerResult, EngineError
from tests.server.exchange import live_server

Ending = Literal["answer", "draft", "error"]

SCRIPT = FakeScript(draft="a sign", answer="42", delay_s=0.03)  # long enough to be interrupted
DOCUMENTED_EXIT_CODES = {69, 75, 124}  # of what a link can do; 2, 65 and 77 would be wrong here
AT_ONCE = 12

# Not aware of the link: what a slow machine is sent would be smaller, and end before many of the points.
EDGE = EdgeSettings(
    link_aware=False, retry_wait_s=0.02, max_retry_wait_s=0.1, read_timeout_s=20, connect_timeout_s=20
)


class CountingEngine(FakeEngine):
    """Counts what it was asked to infer, by question and stage."""

    def __init__(self) -> None:
        super().__init__(SCRIPT)
        self.inferences: Counter[tuple[str, int]] = Counter()
        self._lock = threading.Lock()

    def answer(self, requests: Sequence[AnswerRequest]) -> list[AnswerResult | EngineError]:
        with self._lock:
            self.inferences.update((each.question, 1 if each.patch is None else 2) for each in requests)
        return super().answer(requests)


@dataclass(frozen=True)
class Trouble:
    """What a conversation meets. `endings`: how it may end then."""

    name: str
    schedule: Schedule
    endings: frozenset[Ending]
    patience_s: float = 20.0  # of the edge, for each read


@dataclass(frozen=True)
class Result:
    """How a conversation ended. `exit_code` is what the command line would return."""

    trouble: Trouble
    question: str
    ending: Ending
    exit_code: int
    detail: str
    inferences: tuple[int, int]  # of stage one, of stage two
    is_struck: bool  # a connection was cut or reset by the relay

    def complaints(self) -> list[str]:
        """What a conversation must never do, and this one did."""
        found = []
        if self.ending not in self.trouble.endings:
            found.append(f"ended with {self.ending}")
        if self.ending == "error" and self.exit_code not in DOCUMENTED_EXIT_CODES:
            found.append(f"exit code {self.exit_code}")
        found += [f"{n} inferences in stage {stage}" for stage, n in enumerate(self.inferences, 1) if n > 1]
        if self.ending == "answer" and self.inferences != (1, 1):
            found.append("answered without both inferences")
        return [f"{self.question} after {self.trouble.name}: {each} ({self.detail})" for each in found]


def photo(width: int = 1600, height: int = 1200) -> bytes:
    """A JPEG so noisy that its patch is the larger part of what travels."""
    noise = random.Random(0).randbytes(width // 4 * (height // 4) * 3)
    coarse = Image.frombytes("RGB", (width // 4, height // 4), noise)
    buffer = io.BytesIO()
    coarse.resize((width, height)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


async def converse(n_conversations: int, *, seed: int = 0) -> list[Result]:
    """As many conversations, a few at once, against one server; each with the next kind of trouble."""
    engine, original = CountingEngine(), photo()
    async with live_server(engine) as url:
        port = int(url.rsplit(":", 1)[1])
        clean = await _clean_conversation(port, original)
        troubles = _troubles(clean, n_conversations, random.Random(seed))
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int, trouble: Trouble) -> Result:
            async with room:
                return await _converse(port, original, _question(number), trouble, engine)

        results = await asyncio.gather(*(one(number, trouble) for number, trouble in enumerate(troubles)))
        await _until_idle(url)
    # Counted again at the end: a second inference may have been under way when a conversation ended.
    return [replace(result, inferences=_counted(engine, result.question)) for result in results]


async def _until_idle(url: str) -> None:
    """Nothing runs or waits any more: whatever was done to the links, no request is left behind."""
    idle = {"secondglance_requests_in_flight 1.0", "secondglance_queue_depth 0.0"}  # one asks for the metrics
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=url) as client:
        while not idle <= set((await client.get("/metrics")).text.splitlines()):
            await asyncio.sleep(0.05)


async def _clean_conversation(port: int, original: bytes) -> Reply:
    async with (
        Relay("127.0.0.1", port) as relay,
        AsyncEdgeClient(settings=EDGE.model_copy(update={"url": relay.url})) as client,
    ):
        reply = await client.ask(original, _question(9999))
        assert (reply.answer, reply.stage, reply.degraded) == (SCRIPT.answer, 2, None)
        assert relay.passed == (reply.receipt.uplink_bytes, reply.receipt.downlink_bytes)
        return reply


async def _converse(
    port: int, original: bytes, question: str, trouble: Trouble, engine: CountingEngine
) -> Result:
    async with Relay("127.0.0.1", port, schedule=trouble.schedule) as relay:
        settings = EDGE.model_copy(update={"url": relay.url, "read_timeout_s": trouble.patience_s})
        try:
            async with asyncio.timeout(60), AsyncEdgeClient(settings=settings) as client:
                reply = await client.ask(original, question)
        except EdgeError as exc:
            ending: Ending = "error"
            exit_code, detail = exc.exit_code, f"{type(exc).__name__}: {exc}"
        else:
            ending, exit_code = _ending_of(reply), 0
            detail = f"{reply.answer!r}, degraded: {reply.degraded}"
        is_struck = any(connection.outcome in ("cut", "reset") for connection in relay.connections)
    return Result(trouble, question, ending, exit_code, detail, _counted(engine, question), is_struck)


def _question(number: int) -> str:
    """All equally long: a point in one conversation is the same point in another."""
    return f"question {number:04}"


def _ending_of(reply: Reply) -> Ending:
    if (reply.answer, reply.stage, reply.degraded) == (SCRIPT.answer, 2, None):
        return "answer"
    assert (reply.answer, reply.stage) == (SCRIPT.draft, 1), "a wrong answer"
    assert reply.degraded, "a draft that does not say so"
    return "draft"


def _counted(engine: CountingEngine, question: str) -> tuple[int, int]:
    return engine.inferences[question, 1], engine.inferences[question, 2]


_ANSWER = frozenset[Ending]({"answer"})
_ANY = frozenset[Ending]({"answer", "draft", "error"})


def _troubles(clean: Reply, n: int, draw: random.Random) -> list[Trouble]:
    """Every kind in turn, at points spread over the three requests and, within each, over its bytes."""

    def point(direction: Direction) -> int:
        stages = clean.receipt.stages
        lengths = [stage.uplink_bytes if direction == "up" else stage.downlink_bytes for stage in stages]
        stage = draw.randrange(len(stages))
        # The ends are where a reply is awaited while the engine works: worth more than one byte's share.
        within = draw.choice((0, lengths[stage], draw.randint(0, lengths[stage])))
        return sum(lengths[:stage]) + within

    def end_of_request() -> int:
        """Of stage one or of stage two."""
        setup, first, second = (stage.uplink_bytes for stage in clean.receipt.stages)
        return setup + first + draw.choice((0, second))

    def once(name: str, *faults: Fault) -> Trouble:
        """Only the first connection is in trouble: trying again must help."""
        return Trouble(name, Schedule(by_connection={0: faults}), _ANSWER)

    def either() -> Direction:
        return draw.choice(("up", "down"))

    def make(kind: int) -> Trouble:
        way = either()
        at = point(way)
        match kind:
            case 0:
                return once(f"cut {way} at {at}", Cut(way, at))
            case 1:
                return once(f"reset {way} at {at}", Reset(way, at))
            case 10:  # a request has arrived whole: cut while it is decoded, waits, or is on the device
                wait_s = draw.random() * 3 * SCRIPT.delay_s
                at = end_of_request()
                return once(f"cut up {wait_s:.3f} s after {at}", Cut("up", at, wait_s))
            case 11:
                wait_s = draw.random() * 3 * SCRIPT.delay_s
                at = end_of_request()
                return once(f"reset up {wait_s:.3f} s after {at}", Reset("up", at, wait_s))
            case 2:
                return once(f"stall {way} at {at}", Stall(way, at, 0.2))
            case 3:
                size = draw.choice((1, 7, 100, 1000)) if way == "down" else draw.choice((200, 1000, 4000))
                return once(f"slices {way} of {size}", Slice(size, direction=way))
            case 4:
                return once("duplicate alongside", Duplicate("alongside"))
            case 5:
                return once("duplicate afterwards", Duplicate("afterwards"))
            case 6:
                again = either()
                schedule = {0: (Cut(way, at),), 1: (Reset(again, point(again)),)}
                return Trouble(f"cut {way} at {at}, then reset", Schedule(by_connection=schedule), _ANSWER)
            case 7:
                return once(f"duplicate, reset {way} at {at}", Duplicate("alongside"), Reset(way, at))
            case 8:
                return Trouble(f"stall {way} at {at} for good", Schedule(each=(Stall(way, at),)), _ANY, 1.0)
            case _:
                return Trouble(f"always reset {way} at {at}", Schedule(each=(Reset(way, at),)), _ANY)

    return [make(number % 12) for number in range(n)]
