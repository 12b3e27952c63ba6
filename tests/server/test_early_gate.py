"""The early gate: a streamed draft's region is asked for at the first doubtful token; nothing else changes.

The map is that of the prompt's last token, so it is whole before the draft's first token is said.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondglance_protocol.wire import Aggregate, InferenceResponse, Mode, RegionEvent
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.engine.protocol import (
    AnswerResult,
    GateDefaults,
    TokenStats,
)
from secondglance_server.http.streaming import wants_region_early
from secondglance_server.inference.async_engine import Answered
from secondglance_server.inference.gate import EarlyGate, is_doubtful, judge
from tests.server.doubting_engine import Doubting
from tests.server.exchange import (
    ask,
    assert_problem,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
    until,
)
from tests.server.paced_engine import PacedEngine
from tests.server.test_streaming import STREAM, events, paced_server, read, without_chance

EARLY = {"Accept": "text/event-stream;region=early"}


def asked(client: httpx.AsyncClient, headers: dict[str, str] = EARLY, **changes: Any) -> Any:
    """A streamed first stage whose region may come early, as a context manager."""
    return client.stream("POST", "/v1/inferences", files=parts_of(message(**changes)), headers=headers)


@asynccontextmanager
async def early_server(
    engine: FakeEngine | None = None, **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, PacedEngine, Any]]:
    async with paced_server(engine=engine or Doubting(), **settings) as running:
        yield running


async def whole_reply(engine: FakeEngine | None = None, **changes: Any) -> tuple[Any, Any]:
    """Both replies of a server without early gate, as JSON; None for a stage two that is not wanted."""
    async with running_client(engine or Doubting()) as client:
        first = (await ask(client, **changes)).json()
        if first["patch"] is None:
            return first, None
        return first, (await put_patch(client, first["patch"]["url"], patch_for(first))).json()


async def test_the_region_leaves_at_the_first_doubtful_token_and_the_draft_goes_on() -> None:
    """The third of five words is doubtful: its region is there before the fourth is made."""
    async with early_server() as (client, engine, _):
        engine.step(3)
        async with asked(client) as response:
            stream = events(response)
            names = [(await anext(stream)).name for _ in range(3)]
            region = RegionEvent.model_validate_json((await anext(stream)).data)
            assert (names, engine.n_running) == (["token"] * 3, 1)
            engine.step(3)
            rest = [event async for event in stream]
    assert [event.name for event in rest] == ["token", "token", "reply"]
    reply = InferenceResponse.model_validate_json(rest[-1].data)
    first, _ = await whole_reply()
    assert without_chance(json.loads(rest[-1].data)) == without_chance(first)
    assert (region.id, region.roi, region.patch) == (reply.id, reply.roi, reply.patch)
    draft = region.draft
    assert draft is not None
    assert (draft.answer, draft.status, draft.usage.completion_tokens) == ("one two three", "needs_patch", 3)
    assert (draft.confidence.value, draft.roi, draft.patch) == (2.0, reply.roi, reply.patch)


async def test_the_patch_is_answered_while_the_draft_goes_on_and_as_without_early_gate() -> None:
    async with early_server() as (client, engine, _):
        engine.step(3)
        async with asked(client, EARLY | {"Idempotency-Key": "k"}) as response:
            stream = events(response)
            region = json.loads([await anext(stream) for _ in range(4)][-1].data)
            engine.is_free = True  # but the draft waits for its step still
            second = await put_patch(client, region["patch"]["url"], patch_for(region))
            assert engine.n_running == 1
            engine.step()
            first = json.loads([event async for event in stream][-1].data)
        kept = (await client.get(f"/v1/inferences/{region['id']}")).json()
        again = await put_patch(client, region["patch"]["url"], patch_for(region))
    expected_first, expected_second = await whole_reply()
    assert without_chance(first) == without_chance(expected_first)
    assert without_chance(second.json()) == without_chance(expected_second)
    assert kept == second.json() == again.json()


@pytest.mark.parametrize(
    ("engine", "accept", "changes"),
    [
        (Doubting(), STREAM, {}),
        (Doubting(), EARLY, {"mode": "answer_only"}),
        (Doubting(), EARLY, {"gate": {"metric": "min_entropy", "aggregate": "mean", "threshold": 0.1}}),
        (Doubting(), EARLY, {"gate": {"metric": "min_entropy", "aggregate": "sum", "threshold": 0.1}}),
        (Doubting([0.1] * 5), EARLY, {}),
        (Doubting(is_off_domain=True), EARLY, {}),
        (Doubting(peak=(0.5, 0.5)), EARLY, {"image": {"width": 336, "height": 252}}),
    ],
    ids=["off", "answer only", "mean", "sum", "sure", "off-domain", "nothing to gain"],
)
async def test_no_region_leaves_early_where_the_last_token_may_still_decide(
    engine: FakeEngine, accept: dict[str, str], changes: dict[str, Any]
) -> None:
    """The stream and its reply are those of a server without early gate."""
    async with running_client(engine) as client:
        seen = read(await client.post("/v1/inferences", files=parts_of(message(**changes)), headers=accept))
    first, _ = await whole_reply(engine, **changes)
    assert [name for name, _ in seen[:5]] == ["token"] * 5
    assert "draft" not in json.dumps(seen)
    assert without_chance(seen[-1][1]) == without_chance(first)


async def test_always_asks_as_soon_as_there_is_a_token() -> None:
    async with early_server(Doubting([0.0] * 5)) as (client, engine, _):
        engine.step()
        async with asked(client, mode="always") as response:
            stream = events(response)
            assert [(await anext(stream)).name for _ in range(2)] == ["token", "region"]
            engine.step(10)
            assert [event.name async for event in stream] == ["token"] * 4 + ["reply"]


@pytest.mark.parametrize(
    "accept", ["application/json;region=early", "application/json, text/event-stream;region=early"]
)
async def test_an_unstreamed_request_waits_for_the_whole_draft(accept: str) -> None:
    async with running_client(Doubting()) as client:
        terms = parts_of(message())
        first = (await client.post("/v1/inferences", files=terms, headers={"Accept": accept})).json()
        second = await put_patch(client, first["patch"]["url"], patch_for(first))
    expected = await whole_reply()
    assert (without_chance(first), without_chance(second.json())) == tuple(map(without_chance, expected))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (["text/event-stream;region=early"], True),
        (["Text/Event-Stream ; Region=Early ; q=0.5"], True),
        (["application/json;q=0.1", "text/event-stream;q=1;region=early"], True),
        (["text/event-stream"], False),
        (["text/event-stream;region=late"], False),
        (["text/event-stream, application/json;region=early"], False),
        (["region=early"], False),
        ([], False),
    ],
    ids=str,
)
def test_the_wish_is_a_parameter_of_the_media_type(accept: list[str], wanted: bool) -> None:
    assert wants_region_early(accept) == wanted


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": "k"}], ids=["no key", "key"])
async def test_a_client_that_leaves_with_the_region_frees_its_place_and_may_send_the_patch(
    headers: dict[str, str],
) -> None:
    """Nobody waits for the rest of the draft, not even where a key could bring the client back."""
    async with early_server(max_queue=1) as (client, engine, state):
        for _ in range(2):
            engine.step(3)
            async with asked(client, EARLY | headers) as response:
                region = json.loads([event async for event in first_events(response, 4)][-1].data)
            await until(lambda: (state.n_running, engine.n_running) == (0, 0))
            engine.step(2)
            second = await put_patch(client, region["patch"]["url"], patch_for(region))
            assert (second.status_code, second.json()["answer"]) == (200, "42")
        assert engine.n_cancelled == 2
        counted = 'secondglance_inferences_total{outcome="needs_patch",stage="1"} 2.0'
        await until(lambda: counted in state.metrics.render().decode())


async def first_events(response: httpx.Response, n_events: int) -> AsyncIterator[Any]:
    stream = events(response)
    for _ in range(n_events):
        yield await anext(stream)


async def test_a_search_that_fails_is_the_streams_failure() -> None:
    async with early_server(Doubting(neutral_fails=True)) as (client, engine, state):
        engine.is_free = True
        engine.step(10)
        async with asked(client) as response:
            seen = [(event.name, json.loads(event.data)) async for event in events(response)]
        assert [name for name, _ in seen] == ["token"] * 5 + ["problem"]
        assert seen[-1][1]["code"] == "engine_failed"
        await until(lambda: state.n_running == 0)


async def test_a_draft_that_fails_after_its_region_leaves_the_patch_answerable() -> None:
    async with early_server() as (client, engine, _):
        engine.is_free, engine.fails_at = True, 4
        async with asked(client) as response:
            seen = [(event.name, json.loads(event.data)) async for event in events(response)]
        assert seen[-1][0] == "problem"
        engine.fails_at = None
        regions = [document for name, document in seen if name == "region"]
        for region in regions:  # the draft may have failed before the search was done
            second = await put_patch(client, region["patch"]["url"], patch_for(region))
            assert second.json()["answer"] == "42"
        assert_problem(await put_patch(client, "/v1/inferences/none/patch", b"x"), 404, "unknown_inference")


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=6),
    st.sampled_from(["max", "mean", "first", "sum"]),
    st.sampled_from(["auto", "always", "answer_only"]),
    st.sampled_from([None, False, True]),
    st.floats(0, 3),
    st.integers(0, 6),
)
def test_a_search_begins_at_the_first_token_that_settles_it_and_never_in_vain(
    entropies: list[float],
    aggregate: Aggregate,
    mode: Mode,
    is_off_domain: bool | None,
    threshold: float,
    opens_at: int,
) -> None:
    """Whatever comes after: what was begun is what the whole draft asks for. The map may come late, too."""
    tokens = [TokenStats(f"{n} ", value, value, value / 3) for n, value in enumerate(entropies)]
    opening = Answered(AnswerResult("", (), None, 1, 0, 0, 1.0, 0.0, is_off_domain), 0.0)
    gate = GateDefaults("min_entropy", aggregate, threshold)
    begun: list[Answered] = []

    async def search(so_far: Answered) -> str:
        begun.append(so_far)
        return "found"

    async def hear() -> str | None:
        early = EarlyGate(gate, mode, search)
        for number, token in enumerate(tokens):
            if number == opens_at:
                early.open(opening)
            early.add(token)
        found = await early.found()
        early.stop()
        return found

    found = asyncio.run(hear())
    is_wanted = mode == "always" or (
        mode == "auto" and not is_off_domain and is_doubtful(judge(tokens, gate), tokens)
    )
    settles = [mode == "always" or judge(tokens[: n + 1], gate).value > threshold for n in range(len(tokens))]
    may_be_early = (
        is_wanted and opens_at < len(tokens) and (mode == "always" or aggregate in ("max", "first"))
    )
    assert (found == "found", len(begun)) == (may_be_early, int(may_be_early))
    if may_be_early:
        n_tokens = max(settles.index(True) + 1, opens_at if opens_at else 1)
        assert [len(so_far.result.tokens) for so_far in begun] == [n_tokens]
        assert begun[0].result.text == "".join(token.text for token in tokens[:n_tokens]).strip()
