"""Replies as server-sent events: as they come, equal to those that come whole, and as well guarded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.events import EVENT_STREAM, Event, EventReader, written
from secondglance_protocol.wire import InferenceResponse, RegionEvent, TokenEvent
from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.engine.protocol import AnswerRequest
from secondglance_server.http.streaming import accepts_events
from secondglance_server.serving import uvicorn_config
from secondglance_server.settings import ServerSettings
from tests.server.exchange import (
    GLOBAL_IMAGE,
    ask,
    assert_problem,
    encode,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
    until,
)
from tests.server.gated_engine import GatedEngine
from tests.server.paced_engine import PacedEngine, put_in_front

STREAM = {"Accept": EVENT_STREAM}
WORDS = "one two three four five"


@asynccontextmanager
async def paced_server(
    script: FakeScript | None = None, *, engine: FakeEngine | None = None, **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, PacedEngine, Any]]:
    """A client of a real uvicorn, the engine whose tokens a test gives out, and the app's state."""
    behind = engine or FakeEngine(script or FakeScript(draft=WORDS))
    app = create_app(ServerSettings(port=0, **settings), behind)
    paced = put_in_front(app)
    server = uvicorn.Server(uvicorn_config(app, app.state.server.settings))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    try:
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=20) as client:
            yield client, paced, app.state.server
    finally:
        paced.is_free = True
        paced.step(1000)
        server.should_exit = True
        await serving


def asked(client: httpx.AsyncClient, headers: dict[str, str] = STREAM, **changes: Any) -> Any:
    """A streamed first stage, as a context manager."""
    return client.stream("POST", "/v1/inferences", files=parts_of(message(**changes)), headers=headers)


async def events(response: httpx.Response) -> AsyncIterator[Event]:
    reader = EventReader()
    async for data in response.aiter_raw():
        for event in reader.feed(data):
            yield event


def read(response: httpx.Response) -> list[tuple[str, Any]]:
    """All events of a stream that has ended."""
    return [(event.name, json.loads(event.data)) for event in EventReader().feed(response.content)]


def without_chance(reply: dict[str, Any]) -> dict[str, Any]:
    """A reply without what differs between two runs of the same: ids, times."""
    offer = reply["patch"] and {**reply["patch"], "url": None, "expires_at": None}
    return {**reply, "id": None, "timing_ms": None, "patch": offer}


async def test_each_token_arrives_before_the_next_one_is_made() -> None:
    """Must be true 5: the first event is there with the first token, not with the answer."""
    async with paced_server() as (client, engine, _):
        streaming = asked(client)
        sending = asyncio.ensure_future(streaming.__aenter__())
        await until(lambda: engine.n_running == 1)
        assert not sending.done()  # the head waits for the first token
        engine.step()
        response = await sending
        assert (response.status_code, response.headers["content-type"]) == (
            200,
            f"{EVENT_STREAM}; charset=utf-8",
        )
        assert response.headers["x-accel-buffering"] == "no"
        stream = events(response)
        texts = [json.loads((await anext(stream)).data)["text"]]
        for _ in WORDS.split()[1:]:
            assert engine.n_running == 1
            engine.step()
            event = await anext(stream)
            assert event.name == "token"
            texts.append(TokenEvent.model_validate_json(event.data).text)
        assert [text.strip() for text in texts] == WORDS.split()
        engine.step()
        assert [event.name async for event in stream] == ["region", "reply"]
        await streaming.__aexit__(None, None, None)


@pytest.mark.parametrize("mode", ["auto", "answer_only", "always"])
@pytest.mark.parametrize("entropy", [0.01, 2.0])
@pytest.mark.parametrize("include", [[], ["tokens", "relevance"]])
async def test_a_streamed_reply_is_the_one_that_comes_whole(
    mode: str, entropy: float, include: list[str]
) -> None:
    """Both stages, with all that a reply may hold; the last event is the reply as it would come whole."""
    script = FakeScript(draft=WORDS, draft_entropy_nats=entropy)
    async with running_client(FakeEngine(script)) as client:
        terms = message(mode=mode, include=include)
        whole = (await ask(client, **terms)).json()
        streamed = await client.post("/v1/inferences", files=parts_of(terms), headers=STREAM)
        *before, (last, reply) = read(streamed)
        assert last == "reply"
        assert without_chance(reply) == without_chance(whole)
        assert InferenceResponse.model_validate(reply).model_dump_json() == json.dumps(
            reply, separators=(",", ":"), ensure_ascii=False
        )
        assert (await client.get(f"/v1/inferences/{reply['id']}")).json() == reply
        tokens = [document for name, document in before if name == "token"]
        assert [token["text"].strip() for token in tokens] == WORDS.split()
        assert max(token["min_entropy"] for token in tokens) == reply["confidence"]["min_entropy"]
        regions = [document for name, document in before if name == "region"]
        wanted = [{name: reply[name] for name in ("id", "roi", "patch")}] if reply["patch"] else []
        assert regions == wanted
        assert all(RegionEvent.model_validate_json(json.dumps(region)) for region in regions)
        if reply["patch"]:
            await _assert_same_second_stage(client, reply, whole)


async def _assert_same_second_stage(
    client: httpx.AsyncClient, streamed: dict[str, Any], whole: dict[str, Any]
) -> None:
    patch = patch_for(whole)
    second = (await put_patch(client, whole["patch"]["url"], patch)).json()
    headers = STREAM | {"Content-Type": "image/png"}
    response = await client.put(streamed["patch"]["url"], content=patch, headers=headers)
    assert [name for name, _ in read(response)] == ["token", "reply"]
    assert without_chance(read(response)[-1][1]) == without_chance(second)
    again = await client.put(streamed["patch"]["url"], content=patch, headers=headers)
    assert read(again) == read(response)[-1:]


FAULTS: dict[str, dict[str, Any]] = {
    "no picture": {"upload": b"no picture"},
    "an unknown image": {"upload": None, "image_id": "img_unknown"},
    "too many tokens": {"max_new_tokens": 10_000},
    "no question": {"question": ""},
    "too large": {"upload": encode(4000, 4000)},
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_fails_before_the_first_token_fails_as_it_does_whole(fault: str) -> None:
    async with running_client(FakeEngine()) as client:
        whole = await ask(client, **FAULTS[fault])
        changes = dict(FAULTS[fault])
        upload = changes.pop("upload", GLOBAL_IMAGE)
        parts = parts_of(message(**changes), upload)
        streamed = await client.post("/v1/inferences", files=parts, headers=STREAM)
        problem = assert_problem(streamed, whole.status_code, whole.json()["code"])
        assert problem["detail"] == whole.json()["detail"]


@pytest.mark.parametrize(
    ("failure", "code", "is_logged"),
    [(None, "engine_failed", True), (ZeroDivisionError("bug"), "internal_error", True)],
)
async def test_a_failure_after_the_first_token_is_the_last_event(
    failure: Exception | None, code: str, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The status is out: the problem document comes as an event; log, metrics and request id agree."""
    async with paced_server() as (client, engine, state):
        engine.is_free, engine.fails_at = True, 2
        engine.failure = failure or engine.failure
        with caplog.at_level("INFO", logger="secondglance_server.requests"):
            async with asked(client) as response:
                seen = [(event.name, json.loads(event.data)) async for event in events(response)]
            await until(lambda: state.n_running == 0 and any(r.message == "request" for r in caplog.records))
        assert [name for name, _ in seen] == ["token", "token", "problem"]
        problem = seen[-1][1]
        assert (problem["code"], problem["request_id"]) == (code, response.headers["x-request-id"])
        assert any(record.message == "failure" for record in caplog.records) == is_logged
        (line,) = [record for record in caplog.records if record.message == "request"]
        assert (line.error, line.status) == (code, 200)  # type: ignore[attr-defined]
        rendered = state.metrics.render().decode()
        assert f'secondglance_rejections_total{{code="{code}"}} 1.0' in rendered
        assert 'secondglance_inferences_total{outcome="failed",stage="1"} 1.0' in rendered
        engine.fails_at = None
        assert (await ask(client)).status_code == 200


async def test_a_deadline_that_passes_in_the_middle_is_an_event() -> None:
    async with paced_server() as (client, engine, state):
        engine.step()
        async with asked(client, STREAM | {"X-Deadline-Ms": "1500"}) as response:
            seen = [(event.name, json.loads(event.data)) async for event in events(response)]
        assert [name for name, _ in seen] == ["token", "problem"]
        assert seen[-1][1]["code"] == "deadline_exceeded"
        await until(lambda: state.n_running == 0 and engine.n_running == 0)


async def test_a_client_that_leaves_in_the_middle_frees_its_place() -> None:
    """Must be true 5: without a key nobody can come back for the reply, so its answer is given up, too."""
    async with paced_server(max_queue=1) as (client, engine, state):
        for _ in range(3):
            engine.step()
            async with asked(client) as response:
                await anext(events(response))
                assert (state.n_running, engine.n_running) == (1, 1)
            await until(lambda: (state.n_running, engine.n_running) == (0, 0))
        assert engine.n_cancelled == 3
        assert state.device.depth == 0
        rendered = state.metrics.render().decode()
        assert 'secondglance_inferences_total{outcome="client_gone",stage="1"} 3.0' in rendered
        engine.is_free = True
        assert (await ask(client)).status_code == 200


async def until_the_reply_is_kept(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """The engine is done a moment before the reply can be replayed; a retry waits, as an edge does."""
    async with asyncio.timeout(10):
        while True:
            async with asked(client, headers) as response:
                if response.status_code != 409:
                    return
            await asyncio.sleep(0.01)


async def test_a_client_with_a_key_that_lost_its_stream_finds_the_reply() -> None:
    """A cut stream is a lost reply: the retry waits for the work that goes on, and is sent what was kept."""
    async with paced_server() as (client, engine, state):
        headers = STREAM | {"Idempotency-Key": "k"}
        engine.step()
        async with asked(client, headers) as response:
            await anext(events(response))
        await until(lambda: state.n_running == 0)
        async with asked(client, headers) as response:
            await response.aread()
            assert_problem(response, 409, ErrorCode.IDEMPOTENCY_IN_PROGRESS)
        engine.is_free = True
        engine.step(10)
        await until(lambda: engine.n_running == 0)
        await until_the_reply_is_kept(client, headers)
        async with asked(client, headers) as response:
            assert response.headers["idempotency-replayed"] == "true"
            seen = [event async for event in events(response)]
        assert [event.name for event in seen] == ["region", "reply"]
        whole = await client.post(
            "/v1/inferences", files=parts_of(message()), headers={"Idempotency-Key": "k"}
        )
        assert whole.text == seen[-1].data
        assert "secondglance_sessions 1.0" in state.metrics.render().decode()


async def test_a_second_stage_that_was_left_in_the_middle_can_be_sent_again() -> None:
    async with paced_server(FakeScript(answer=WORDS)) as (client, engine, state):
        engine.step(10)
        first = (await ask(client)).json()
        patch, headers = patch_for(first), STREAM | {"Content-Type": "image/png"}
        url = first["patch"]["url"]
        engine._steps = asyncio.Semaphore(1)
        async with client.stream("PUT", url, content=patch, headers=headers) as response:
            await anext(events(response))
        await until(lambda: state.n_running == 0)
        engine.is_free = True
        engine.step(10)
        await until(lambda: engine.n_running == 0)
        again = await client.put(url, content=patch, headers=headers)
        assert read(again)[-1][1]["answer"] == WORDS


async def test_a_draining_server_ends_its_streams() -> None:
    """Drain: what streams is owed; new first stages are refused before a byte of a stream."""
    async with paced_server() as (client, engine, state):
        engine.step()
        async with asked(client) as response:
            stream = events(response)
            await anext(stream)
            state.readiness.drain()
            assert not state.owes_nothing
            async with asked(client) as other:
                await other.aread()
                assert_problem(other, 503, ErrorCode.NOT_READY)
            engine.step(10)
            assert [event.name async for event in stream][-1] == "reply"


async def test_the_first_tokens_time_is_measured_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with running_client(FakeEngine()) as client:
        with caplog.at_level("INFO", logger="secondglance_server.requests"):
            await ask(client)
            await client.post("/v1/inferences", files=parts_of(message()), headers=STREAM)
        whole, streamed = [record for record in caplog.records if record.message == "request"]
        assert not hasattr(whole, "first_token_ms")
        assert 0 < streamed.first_token_ms <= streamed.elapsed_ms  # type: ignore[attr-defined]
        rendered = (await client.get("/metrics")).text
        assert 'secondglance_first_token_seconds_count{stage="1"} 1.0' in rendered


async def test_an_answer_without_tokens_streams_its_reply() -> None:
    async with running_client(FakeEngine(FakeScript(draft=""))) as client:
        response = await client.post(
            "/v1/inferences", files=parts_of(message(mode="answer_only")), headers=STREAM
        )
        assert [name for name, _ in read(response)] == ["reply"]


async def test_a_client_of_http_1_0_is_sent_events_until_the_connection_closes() -> None:
    """Strict HTTP: HTTP/1.0 knows no chunks."""
    async with paced_server() as (client, engine, _):
        engine.is_free = True
        request = client.build_request("POST", "/v1/inferences", files=parts_of(message()), headers=STREAM)
        body = b"".join([part async for part in request.stream])
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        head = [b"POST /v1/inferences HTTP/1.0", b"Host: a", b"Accept: text/event-stream"]
        head += [b"Content-Type: " + request.headers["content-type"].encode()]
        head += [b"Content-Length: %d" % len(body), b"", b""]
        writer.write(b"\r\n".join(head) + body)
        answer, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert b"transfer-encoding" not in answer.lower()
        assert [event.name for event in EventReader().feed(content)][-2:] == ["region", "reply"]


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (["text/event-stream"], True),
        (["Text/Event-Stream ; q=0.1"], True),
        (["text/event-stream;charset=utf-8"], True),
        (["text/event-stream, application/json"], True),
        (["text/event-stream", "application/json;q=0.9"], True),
        (["application/json, text/event-stream"], False),
        (["application/json", "text/event-stream;q=1"], False),
        (["text/event-stream;q=0.5, application/json"], False),
        (["application/json;q=0.2, text/event-stream;q=0.3"], True),
        (["text/event-stream;q=0"], False),
        (["text/event-stream;q=nan"], False),
        (["*/*"], False),
        (["text/*"], False),
        (["text/event-streams"], False),
        ([""], False),
        ([], False),
    ],
    ids=str,
)
def test_events_are_for_those_who_prefer_them(accept: list[str], wanted: bool) -> None:
    assert accepts_events(accept) == wanted


@given(st.lists(st.text(max_size=60), max_size=4))
def test_no_accept_field_is_an_error(accept: list[str]) -> None:
    assert accepts_events(accept) in (True, False)


@given(
    st.lists(st.tuples(st.sampled_from(["token", "region", "reply", "problem"]), st.text()), max_size=6),
    st.integers(1, 40),
    st.booleans(),
)
def test_a_stream_is_read_as_it_was_written_however_it_is_cut(
    sent: list[tuple[Any, str]], n_bytes: int, crlf: bool
) -> None:
    """Texts of any characters, in pieces of any length, with line ends of proxies that rewrite them."""
    data = b"".join(written(name, json.dumps(text, ensure_ascii=False)) for name, text in sent)
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    reader = EventReader()
    seen = [event for at in range(0, len(data), n_bytes) for event in reader.feed(data[at : at + n_bytes])]
    assert [(event.name, json.loads(event.data)) for event in seen] == sent


def test_comments_and_unknown_fields_of_a_stream_are_passed_over() -> None:
    """Some proxies send comments to keep a connection open."""
    data = b": ping\n\nid: 7\nretry: 5\nevent: token\ndata: 1\ndata: 2\n\ndata: 3\n\nevent: reply\ndata: cut"
    assert EventReader().feed(data) == [Event("token", "1\n2"), Event("message", "3")]


async def test_a_request_that_fails_on_the_device_before_a_token_has_its_status() -> None:
    def fails(request: AnswerRequest) -> bool:
        return True

    async with running_client(FakeEngine(replace(FakeScript(), fails=fails))) as client:
        response = await client.post("/v1/inferences", files=parts_of(message()), headers=STREAM)
        assert_problem(response, 503, ErrorCode.ENGINE_FAILED)


async def test_through_the_device_queue_a_token_leaves_before_the_next_is_decoded() -> None:
    """The engine waits before each token: whatever a client has seen by then was sent at once.

    A client that leaves without a key has its row taken off the device between two steps.
    """
    engine = GatedEngine(FakeScript(draft=WORDS))
    app = create_app(ServerSettings(port=0), engine)
    server = uvicorn.Server(uvicorn_config(app, app.state.server.settings))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=20) as client:
        engine.gate.release()
        async with asked(client) as response:
            stream = events(response)
            for number, word in enumerate(WORDS.split()[:3], 1):
                assert json.loads((await anext(stream)).data)["text"].strip() == word
                assert engine.n_steps == number
                if number < 3:
                    engine.gate.release()
        await until(lambda: app.state.server.n_running == 0)
        engine.gate.release(2)
        await until(lambda: engine.dropped == [0])
        assert engine.n_steps <= 5
        engine.open()
        async with asked(client) as response:
            assert [event.name async for event in events(response)][-1] == "reply"
    server.should_exit = True
    await serving
