"""The ways to get an answer that are compared, each through the edge's own client or its parts.

pair         stage one, and the region where the server is unsure
global-only  stage one alone
always       stage one and the region, whether the server is sure or not
original     the file as it is, whole; the server scales it
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias

import httpx
from PIL import Image

from secondglance import EdgeClient, EdgeSettings
from secondglance.conversation.requests import Ask, first_request
from secondglance.conversation.steps import Send, Step
from secondglance.pictures.encoding import Encoded
from secondglance.wire.counting import CountingTransport, measuring
from secondglance_protocol.protocol import MAX_QUESTION_HEADER_BYTES
from secondglance_protocol.wire import Mode

Method: TypeAlias = Literal["pair", "global-only", "always", "original"]
METHODS: tuple[Method, ...] = ("pair", "global-only", "always", "original")
_MODES: dict[Method, Mode] = {"pair": "auto", "global-only": "answer_only", "always": "always"}
_PATIENCE_S = 600.0  # a whole original on the slowest link


@dataclass(frozen=True, slots=True)
class Cost:
    """One answer's price. `body_up`: without request lines and headers; `elapsed_s`: until the answer."""

    answer: str
    stage: int
    requests: int
    body_up: int
    http_up: int
    http_down: int
    elapsed_s: float


class Asker(Protocol):
    """`open` connects and learns what the server takes, so that what follows is warm."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def open(self) -> None: ...
    def ask(self, jpeg: bytes, question: str) -> Cost: ...


class _Pair:
    """The edge's client in one of its modes.

    Retries are off: a count of two tries would be nobody's. So is its knowledge of the link: methods and
    links are compared at the same bytes.
    """

    def __init__(self, url: str, mode: Mode) -> None:
        settings = EdgeSettings(url=url, retries=0, read_timeout_s=_PATIENCE_S, link_aware=False)
        self._client = EdgeClient(settings=settings, observe=self._observe)
        self._mode = mode
        self._body_up = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _observe(self, step: Step) -> None:
        if isinstance(step, Send):
            self._body_up += len(step.body)

    def open(self) -> None:
        self._client.model()

    def ask(self, jpeg: bytes, question: str) -> Cost:
        self._body_up = 0
        started = time.monotonic()
        reply = self._client.ask(jpeg, question, mode=self._mode, strict=True)
        elapsed_s = time.monotonic() - started
        receipt = reply.receipt
        counts = (receipt.requests, self._body_up, receipt.uplink_bytes, receipt.downlink_bytes)
        return Cost(reply.answer, reply.stage, *counts, elapsed_s)


class _Original:
    """One POST of the whole file through the same counting transport."""

    def __init__(self, url: str) -> None:
        timeout = httpx.Timeout(_PATIENCE_S)
        self._http = httpx.Client(base_url=url, transport=CountingTransport(), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def open(self) -> None:
        self._http.get("/v1/model").raise_for_status()

    def ask(self, jpeg: bytes, question: str) -> Cost:
        started = time.monotonic()
        with Image.open(BytesIO(jpeg)) as header:
            size = header.size
        picture = Encoded(jpeg, "image/jpeg", size, None)
        ask = Ask(question, mode="answer_only")
        send = first_request(ask, size, picture, deadline=None, header_room=MAX_QUESTION_HEADER_BYTES)
        with measuring() as exchange:
            response = self._http.post(send.path, headers=dict(send.headers), content=send.body)
        response.raise_for_status()
        counts = (len(send.body), exchange.uplink_bytes, exchange.downlink_bytes)
        return Cost(response.json()["answer"], 1, 1, *counts, time.monotonic() - started)


def asker(method: Method) -> Callable[[str], Asker]:
    """Return what makes the asker of `method` for a server's URL."""
    if method == "original":
        return _Original
    return lambda url: _Pair(url, _MODES[method])
