"""Plays a scenario through the Python edge's conversation and writes down every step that it takes.

Pictures are stand-ins: a region at a size and a quality is a short text that says so. A head is taken as 512
bytes. Clock, dice, random
names and today's date are fixed, so that every edge has to take the same steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeAlias
from unittest.mock import patch

from secondglance.conversation import failures
from secondglance.conversation.conversation import Conversation, typical_size
from secondglance.conversation.known_server import KnownServer
from secondglance.conversation.requests import Ask
from secondglance.conversation.steps import (
    Answered,
    Arrived,
    Compute,
    ExchangeResult,
    Lost,
    Pause,
    Send,
    Step,
)
from secondglance.errors import BadImageError, EdgeError
from secondglance.pictures import encoding, original
from secondglance.pictures.budget import PixelBudget
from secondglance.retry import parse_retry_after
from secondglance.settings import EdgeSettings

Scenario: TypeAlias = dict[str, Any]
Taken: TypeAlias = dict[str, Any]

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
FIRST_MOMENT_S = 1000.0
RANDOM = "random"  # stands for every idempotency key that is drawn


def play(scenario: Scenario) -> tuple[list[Taken], list[Taken]]:
    """Return the steps of all conversations of a scenario, and what each ended with."""
    return _Stage(scenario).play()


def body_of(exchange: dict[str, Any]) -> bytes:
    """Return a reply's body: `json`, or `text` made of pieces, each so many times."""
    if "json" in exchange:
        return json.dumps(exchange["json"]).encode()
    return b"".join(piece.encode() * times for piece, times in exchange.get("text", ()))


@dataclass
class _Drawn:
    size: tuple[int, int]
    where: str
    picture: dict[str, Any]

    def written(self, format_: str, quality: int | None) -> bytes:
        width, height = self.size
        start = self.picture.get("start", "")
        text = f"{start}{format_} {width}x{height} q{quality or 0} {self.where} "
        size = width * height * (quality or 200) // self.picture.get("divisor", 40_000)
        return text.ljust(size, ".").encode()


class _Original:
    """What `Original` is to a conversation, without a picture."""

    notes = ()

    def __init__(self, source: dict[str, Any], max_pixels: int) -> None:
        self._picture = source
        if source.get("broken"):
            raise BadImageError("the picture cannot be read")
        self.size = (source["width"], source["height"])
        self.encoded_bytes = source["bytes"]

    def content_key(self) -> str | None:
        key = self._picture.get("key", "a picture")
        return key if key is None else str(key)

    def global_image(self, budget: PixelBudget) -> _Drawn:
        return _Drawn(budget.fit(self.size), "all", self._picture)

    def patch(self, pixels: tuple[int, int, int, int], budget: PixelBudget) -> _Drawn:
        left, top, right, bottom = pixels
        size = budget.fit((right - left, bottom - top))
        return _Drawn(size, f"{left},{top},{right},{bottom}", self._picture)

    def close(self) -> None: ...


def _write(image: _Drawn, format_: str, quality: int | None, _: str) -> bytes:
    return image.written(format_, quality)


class _Stage:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._settings = EdgeSettings(url="http://edge.test", **scenario.get("settings", {}))
        self._known = KnownServer(max_images=self._settings.remembered_images)
        self._exchanges: Iterator[dict[str, Any]] = iter(scenario["exchanges"])
        self._now = FIRST_MOMENT_S
        self._taken: list[Taken] = []

    def play(self) -> tuple[list[Taken], list[Taken]]:
        with ExitStack() as fixed:
            fixed.enter_context(patch.object(original, "Original", _Original))
            fixed.enter_context(patch.object(encoding, "_write", _write))
            at_now = partial(parse_retry_after, now=NOW)
            fixed.enter_context(patch.object(failures, "parse_retry_after", at_now))
            ends = [self._converse(terms) for terms in self._scenario["asks"]]
        assert next(self._exchanges, None) is None, f"{self._scenario['name']}: a reply is left"
        return self._taken, ends

    def _converse(self, terms: dict[str, Any]) -> Taken:
        values = {**terms, "include": tuple(terms.get("include", ()))}
        conversation = Conversation(
            self._scenario["picture"],
            Ask(self._scenario["question"], **values),
            known=self._known,
            settings=self._settings,
            clock=lambda: self._now,
            draw=lambda: self._scenario["draw"],
            on_token=(lambda _: None) if self._scenario["streams"] else None,
        )
        steps = conversation.run()
        try:
            step = next(steps)
            while True:
                self._taken.append(_shown(step))
                try:
                    done = self._perform(step)
                except EdgeError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(done)
        except StopIteration as stop:
            return {"reply": json.loads(json.dumps(stop.value.to_dict()))}
        except EdgeError as error:
            facts = {"code": error.code, "request_id": error.request_id, "retry_after_s": error.retry_after_s}
            return {"error": {"kind": type(error).__name__, "message": str(error), **facts}}

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Compute):
            return step.work()
        if isinstance(step, Pause):
            self._now += step.seconds
        return self._exchange(step) if isinstance(step, Send) else None

    def _exchange(self, send: Send) -> ExchangeResult:
        exchange = next(self._exchanges, None)
        assert exchange is not None, f"{self._scenario['name']}: no reply is left for {send}"
        self._now += exchange.get("after_s", 0.25)
        if "lost" in exchange:
            return Lost(exchange["lost"], exchange["detail"], exchange.get("uplink_bytes", 0))
        body = body_of(exchange)
        headers = exchange.get("headers", {})
        return Arrived(exchange["status"], headers, body, typical_size(send), len(body))


def _shown(step: Step) -> Taken:
    if isinstance(step, Pause):
        return {"kind": "pause", "seconds": step.seconds, "reason": step.reason}
    if isinstance(step, Compute):
        return {"kind": "compute", "what": step.what}
    if isinstance(step, Answered):
        return {"kind": "answered", "stage": step.reply.stage}
    headers = dict(step.headers)
    if len(headers.get("Idempotency-Key", "")) == 16:
        headers["Idempotency-Key"] = RANDOM
    return {
        "kind": "send",
        "stage": step.stage,
        "request": f"{step.method} {step.path}",
        "headers": headers,
        "body": step.body.decode(),
        "deadline": step.deadline,
    }
