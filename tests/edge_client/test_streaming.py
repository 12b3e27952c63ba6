"""Answers as they come: tokens once and in order, the same replies, the failures of streams that break."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from secondglance import AsyncEdgeClient, BadImageError, EdgeClient, EdgeError, Hooks, ProtocolError, Token
from secondglance.cli import app
from secondglance.conversation.conversation import Conversation
from secondglance.conversation.known_server import KnownServer
from secondglance.conversation.requests import Ask
from secondglance.conversation.steps import Arrived
from secondglance.settings import EdgeSettings
from secondglance_protocol.errors import ERRORS, ErrorCode
from secondglance_protocol.events import EVENT_STREAM, written
from secondglance_protocol.wire import TimingMs, TokenEvent
from secondglance_server.engine.fake import FakeEngine, FakeScript

WORDS = {"POST": "a draft of words", "PUT": "the final answer"}


class Streaming:
    """A scripted server that streams `WORDS` to who wants events; use as an `httpx.MockTransport` handler.

    `cuts` are how many bytes of the next streams arrive before the connection breaks; `problems` come after
    the first token.
    """

    def __init__(self, scripted: Any, fault: Any) -> None:
        self.scripted = scripted
        self.fault = fault
        self.cuts: list[int] = []
        self.problems: list[tuple[str, ErrorCode]] = []
        self.keys: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        response = self.scripted(request)
        if request.method == "GET" or response.status_code != 200:
            return response
        assert request.headers["accept"] == EVENT_STREAM
        self.keys.append(request.headers.get("idempotency-key"))
        words = WORDS[request.method].split()
        tokens = [(f" {word}" if number else word, 0.5 + number) for number, word in enumerate(words)]
        parts = [written("token", TokenEvent(text=t, min_entropy=e).model_dump_json()) for t, e in tokens]
        reply = {**response.json(), "answer": " ".join(words)}
        last = written("reply", json.dumps(reply))
        if self.problems and self.problems[0][0] == request.method:
            problem = self.fault(self.problems.pop(0)[1])
            parts, last = parts[:1], written("problem", problem.text)
        return stream(b"".join(parts) + last, self.cuts.pop(0) if self.cuts else None)


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Bytes in crumbs, and then a broken connection if there are more."""

    def __init__(self, data: bytes, n_bytes: int | None) -> None:
        self.data, self.n_bytes = data, n_bytes

    def __iter__(self) -> Iterator[bytes]:
        arriving = self.data if self.n_bytes is None else self.data[: self.n_bytes]
        yield from (arriving[at : at + 7] for at in range(0, len(arriving), 7))
        if self.n_bytes is not None:
            raise httpx.ReadError("cut")

    async def __aiter__(self) -> Any:
        for part in self:
            yield part


def stream(data: bytes, n_bytes: int | None = None) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": EVENT_STREAM}, stream=Cut(data, n_bytes))


@pytest.fixture
def streaming(server: Any, fault: Any) -> Streaming:
    return Streaming(server, fault)


class Asked:
    """One question, and the tokens that were told of it."""

    def __init__(self, handler: Any, settings: EdgeSettings, photo: bytes, **terms: Any) -> None:
        self.tokens: list[Token] = []
        hooks = Hooks(on_token=self.tokens.append)
        with EdgeClient(settings=settings, transport=httpx.MockTransport(handler), hooks=hooks) as client:
            try:
                self.reply = client.ask(photo, "What?", **terms)
            except EdgeError as exc:
                self.error = exc

    def text(self, stage: int) -> str:
        return "".join(token.text for token in self.tokens if token.stage == stage)


@pytest.fixture
def photo(pictures: Any) -> bytes:
    return pictures.photo((640, 480))


@pytest.mark.parametrize("mode", ["auto", "answer_only"])
def test_the_tokens_of_both_stages_are_told_and_the_reply_is_the_last_event(
    streaming: Streaming, settings: EdgeSettings, photo: bytes, mode: str
) -> None:
    asked = Asked(streaming, settings, photo, mode=mode)
    assert asked.text(1) == asked.reply.draft_answer == WORDS["POST"]
    assert asked.text(2) == (WORDS["PUT"] if mode == "auto" else "")
    assert asked.reply.answer == (WORDS["PUT"] if mode == "auto" else WORDS["POST"])
    assert [token.min_entropy for token in asked.tokens][:3] == [0.5, 1.5, 2.5]
    assert [token.stage for token in asked.tokens] == sorted(token.stage for token in asked.tokens)


def test_a_stream_cut_anywhere_is_a_lost_reply_and_no_token_is_told_twice(
    streaming: Streaming, settings: EdgeSettings, photo: bytes
) -> None:
    """The retry repeats the key, so the server works once; of the draft nothing is lost."""
    for n_bytes in range(0, 460, 46):
        streaming.cuts, streaming.keys = [n_bytes, n_bytes + 11], []
        asked = Asked(streaming, settings, photo)
        assert (asked.text(1), asked.text(2)) == (WORDS["POST"], WORDS["PUT"])
        assert asked.reply.answer == WORDS["PUT"]
        assert asked.reply.receipt.stage1.retries == 2
        assert len(set(streaming.keys[:3])) == 1


def test_a_second_stream_that_stays_broken_leaves_the_draft(
    streaming: Streaming, settings: EdgeSettings, photo: bytes
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            streaming.cuts = [70]
        return streaming(request)

    asked = Asked(handler, settings, photo)
    assert (asked.reply.answer, asked.reply.stage) == (WORDS["POST"], 1)
    assert "broke" in (asked.reply.degraded or "")
    assert asked.text(2) == "the"
    assert isinstance(Asked(handler, settings, photo, strict=True).error, EdgeError)


@pytest.mark.parametrize(
    "code", [ErrorCode.ENGINE_FAILED, ErrorCode.INTERNAL_ERROR, ErrorCode.UNREADABLE_IMAGE]
)
def test_a_problem_event_is_the_failure_that_it_names(
    streaming: Streaming, settings: EdgeSettings, photo: bytes, code: ErrorCode
) -> None:
    """Tried again where its table row says so, and no token is told twice; else the error of its code."""
    streaming.problems = [("POST", code)]
    asked = Asked(streaming, settings, photo)
    if ERRORS[code].retryable:
        assert (asked.text(1), asked.reply.answer) == (WORDS["POST"], WORDS["PUT"])
    else:
        assert (asked.text(1), asked.error.code) == ("a", code)
        assert isinstance(asked.error, BadImageError)


def test_a_server_that_streams_nothing_is_asked_all_the_same(
    server: Any, settings: EdgeSettings, photo: bytes
) -> None:
    """One from before streams answers in JSON."""
    asked = Asked(server, settings, photo)
    assert (asked.reply.answer, asked.tokens) == ("final", [])


def test_without_a_listener_no_stream_is_asked_for(server: Any, settings: EdgeSettings, photo: bytes) -> None:
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        client.ask(photo, "What?")
    accepted = {request.headers.get("accept") for sent in server.requests.values() for request in sent}
    assert accepted == {None}


HOSTILE: dict[str, bytes] = {
    "a token that is none": b"event: token\ndata: {}\n\n",
    "an uncertainty that is none": b'event: token\ndata: {"text": "a", "min_entropy": -1}\n\n',
    "no JSON": b"event: token\ndata: [\n\n",
    "no UTF-8": b"event: token\ndata: \xff\n\n",
    "a problem that is none": b"event: problem\ndata: {}\n\n",
    "a reply that is none": b"event: reply\ndata: {}\n\n",
    "a line without an end": b"data: " + b"x" * 9_000_000,
    "endless tokens": written("token", '{"text":"a","min_entropy":0}') * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_stream_costs_one_answer(
    name: str, server: Any, settings: EdgeSettings, photo: bytes
) -> None:
    """As H: bounded and typed where it enters."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return server(request)
        return httpx.Response(200, headers={"Content-Type": EVENT_STREAM}, content=HOSTILE[name])

    asked = Asked(handler, settings, photo)
    assert isinstance(asked.error, ProtocolError)


def test_a_stream_that_ends_before_its_reply_is_a_lost_reply(
    server: Any, settings: EdgeSettings, photo: bytes
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return server(request) if request.method == "GET" else stream(b": nothing\n\n")

    asked = Asked(handler, settings, photo)
    assert "broke" in str(asked.error)


async def test_the_async_client_tells_the_same(
    streaming: Streaming, settings: EdgeSettings, photo: bytes
) -> None:
    streaming.cuts = [100]
    tokens: list[Token] = []
    transport = httpx.MockTransport(streaming)
    hooks = Hooks(on_token=tokens.append)
    async with AsyncEdgeClient(settings=settings, transport=transport, hooks=hooks) as client:
        reply = await client.ask(photo, "What?")
    assert tokens == Asked(streaming, settings, photo).tokens
    assert reply.answer == WORDS["PUT"]
    await asyncio.sleep(0)


def test_what_a_listener_raises_ends_the_question(
    streaming: Streaming, settings: EdgeSettings, photo: bytes
) -> None:
    def stop(_: Token) -> None:
        raise ZeroDivisionError

    transport = httpx.MockTransport(streaming)
    with EdgeClient(settings=settings, transport=transport, hooks=Hooks(on_token=stop)) as client:
        with pytest.raises(ZeroDivisionError):
            client.ask(photo, "What?")
        assert client.with_options(hooks=Hooks(on_token=lambda _: None)).ask(photo, "What?").answer


@pytest.fixture(scope="module")
def url(serve: Any) -> str:
    url: str = serve(FakeEngine(FakeScript(draft="a sign post", answer="forty two"))).url
    return url


def test_a_real_server_streams_to_a_real_client(url: str, photo: bytes, pictures: Any) -> None:
    """Over a socket: the reply equals the one that comes whole, and the receipt counts the stream's bytes."""
    big = pictures.photo((2000, 1500))
    tokens: list[Token] = []
    with EdgeClient(url) as client:
        whole = client.ask(big, "What?")
        streamed = client.with_options(hooks=Hooks(on_token=tokens.append)).ask(big, "What?")
    assert [(token.stage, token.text) for token in tokens] == [
        (1, "a"),
        (1, " sign"),
        (1, " post"),
        (2, "forty"),
        (2, " two"),
    ]
    assert (streamed.answer, streamed.draft_answer, streamed.roi) == (
        whole.answer,
        whole.draft_answer,
        whole.roi,
    )
    assert streamed.receipt.stage2 is not None
    assert streamed.receipt.stage2.downlink_bytes > whole.receipt.stage2.downlink_bytes


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


def test_ask_prints_tokens_as_they_come(url: str, pictures: Any, tmp_path: Path) -> None:
    """The draft, and on a line of its own the second answer; a sure draft once."""
    path = tmp_path / "a.jpg"
    path.write_bytes(pictures.photo((2000, 1500)))
    ran = run(path, "What?", "--stream", "--url", url)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "a sign post\nforty two\n", "")
    once = run(path, "What?", "--stream", "--url", url, "--mode", "answer_only")
    assert (once.exit_code, once.stdout) == (0, "a sign post\n")
    lines = [
        json.loads(line)
        for line in run(path, "What?", "--stream", "--json", "--url", url).stdout.splitlines()
    ]
    assert [line["token"]["stage"] for line in lines[:-1]] == [1, 1, 1, 2, 2]
    assert lines[-1]["answer"] == "forty two"


def test_what_a_stream_says_is_safe_for_a_terminal(serve: Any, pictures: Any, tmp_path: Path) -> None:
    """H4: an escape sequence in two tokens is none either; the last line is the answer."""
    script = FakeScript(draft="a\x1b ]52;c;x\x07 b", draft_entropy_nats=0.0)
    path = tmp_path / "a.jpg"
    path.write_bytes(pictures.photo())
    ran = run(path, "What?", "--stream", "--url", serve(FakeEngine(script)).url)
    assert ran.exit_code == 0
    assert "\x1b" not in ran.stdout
    assert "\x07" not in ran.stdout


def test_ask_ends_the_line_of_a_stream_that_fails(
    streaming: Streaming, pictures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming.problems = [("POST", ErrorCode.UNREADABLE_IMAGE)]
    path = tmp_path / "a.jpg"
    path.write_bytes(pictures.photo())
    with_mock(monkeypatch, streaming)
    ran = run(path, "What?", "--stream")
    assert (ran.exit_code, ran.stdout) == (65, "a\n")
    streaming.problems = [("PUT", ErrorCode.UNREADABLE_IMAGE)]
    ran = run(path, "What?", "--stream")
    assert (ran.exit_code, ran.stdout) == (0, "a draft of words\nthe\na draft of words\n")
    assert "stage two failed" in ran.stderr


def with_mock(monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
    """Let every client of this process talk to `handler`."""
    monkeypatch.setattr("secondglance.client.CountingTransport", lambda **_: httpx.MockTransport(handler))


def test_the_link_is_not_taken_for_faster_by_the_time_that_follows_the_first_token(
    settings: EdgeSettings, photo: bytes
) -> None:
    """Of a stream, only the server's time before the first token lies before the reply's first byte."""

    def learnt(is_streamed: bool, timing: TimingMs) -> float | None:
        known = KnownServer(max_images=1)
        conversation = Conversation(photo, Ask("What?"), known=known, settings=settings)
        arrived = Arrived(200, {}, b"", 50_000, 1000, waited_s=2.0, is_streamed=is_streamed)
        conversation._learn(arrived, timing)
        return known.link.seconds_for(50_000)

    whole = learnt(False, TimingMs(prefill=400))
    assert learnt(True, TimingMs(prefill=400, generate=5000, localize=100)) == whole
    assert learnt(False, TimingMs(prefill=400, generate=1000)) != whole
