"""How a reply leaves: whole as JSON, or as server-sent events where the client accepts those.

The head of a stream goes out with its first event, so what fails before has its own status. Later failures
are an event. A client that leaves ends its stream and, where nobody can come back for the reply, the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from secondglance_protocol.events import EARLY_REGION, EVENT_STREAM, written
from secondglance_protocol.wire import InferenceResponse, RegionEvent, TokenEvent
from secondglance_server.engine.protocol import TokenStats
from secondglance_server.http.observe import facts_of, problem_of
from secondglance_server.http.problems import problem_document
from secondglance_server.inference.facts import RequestFacts
from secondglance_server.inference.two_stages import Tell

REPLAYED_HEADER = "Idempotency-Replayed"

# Proxies hold back what they buffer; nginx is told by the second.
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Work: TypeAlias = Callable[[Tell | None], Awaitable[tuple[InferenceResponse, bool]]]
"""Gives the reply, and whether it is a replay."""

_Told: TypeAlias = "asyncio.Queue[TokenStats | InferenceResponse | None]"
"""What there is of the reply, None once it is whole."""


async def respond(request: Request, work: Work) -> Response:
    """Do `work` and return its reply in the form that the request accepts. Raises what `work` raises.

    A stream is returned when its first event is there.
    """
    if not accepts_events(request.headers.getlist("accept")):
        reply, is_replay = await work(None)
        return Response(reply.model_dump_json(), media_type="application/json", headers=_replayed(is_replay))
    facts = facts_of(request.scope)
    told: _Told = asyncio.Queue()
    working = asyncio.ensure_future(work(told.put_nowait))
    working.add_done_callback(lambda _: told.put_nowait(None))
    try:
        first = await told.get()
        is_replay = working.result()[1] if first is None else False
    except BaseException:
        working.cancel()
        raise
    if first is not None:
        facts.note_first_token()
    return _EventStream(first, told, working, facts, _replayed(is_replay))


def accepts_events(accept: Sequence[str]) -> bool:
    """Return whether the Accept fields prefer events to JSON; of equals the one that is named first."""
    preferred, most = "application/json", 0.0
    for part in ",".join(accept).split(","):
        name, *parameters = part.strip().lower().split(";")
        if name.strip() in (EVENT_STREAM, "application/json") and _quality(parameters) > most:
            preferred, most = name.strip(), _quality(parameters)
    return preferred == EVENT_STREAM


def wants_region_early(accept: Sequence[str]) -> bool:
    """Return whether the Accept fields ask for a region as soon as it is known that one is wanted."""
    parts = ",".join(accept).lower().replace(" ", "").replace("\t", "").split(",")
    return any(EARLY_REGION in part.split(";")[1:] for part in parts if part.startswith(EVENT_STREAM))


def _quality(parameters: Sequence[str]) -> float:
    """Return the weight of a media range, 1 where none can be read."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 1.0
    return 1.0


class _EventStream(StreamingResponse):
    """The events of one reply; ends the work that it waits for when it ends itself."""

    def __init__(
        self,
        first: TokenStats | InferenceResponse | None,
        told: _Told,
        working: asyncio.Future[tuple[InferenceResponse, bool]],
        facts: RequestFacts,
        headers: dict[str, str],
    ) -> None:
        super().__init__(self._events(first), media_type=EVENT_STREAM, headers=_STREAM_HEADERS | headers)
        self._told = told
        self._working = working
        self._facts = facts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._working.cancel()  # does nothing to what is done

    async def _events(self, news: TokenStats | InferenceResponse | None) -> AsyncIterator[bytes]:
        is_region_sent = False
        while news is not None:
            if isinstance(news, TokenStats):
                event = TokenEvent(text=news.text, min_entropy=max(0.0, news.min_entropy))
                yield written("token", event.model_dump_json())
            else:
                is_region_sent = True
                yield _region(news, draft=news)
            news = await self._told.get()
        try:
            reply, _ = self._working.result()
        except Exception as exc:  # outermost boundary of a request whose head is sent
            problem = problem_of(exc, self._facts)
            yield written("problem", problem_document(problem, self._facts.request_id).model_dump_json())
            return
        if reply.patch is not None and not is_region_sent:
            yield _region(reply)
        yield written("reply", reply.model_dump_json())


def _region(reply: InferenceResponse, draft: InferenceResponse | None = None) -> bytes:
    assert reply.roi is not None
    assert reply.patch is not None, "only what asks for a region is told of it"
    event = RegionEvent(id=reply.id, roi=reply.roi, patch=reply.patch, draft=draft)
    return written("region", event.model_dump_json(exclude=None if draft else {"draft"}))


def _replayed(is_replay: bool) -> dict[str, str]:
    return {REPLAYED_HEADER: "true"} if is_replay else {}
