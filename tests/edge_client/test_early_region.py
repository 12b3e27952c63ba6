"""A region that is asked for while the draft goes on: sent at once, and nothing is lost by it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from secondglance import AsyncEdgeClient, EdgeClient, Hooks, Token
from secondglance.conversation.steps import Send
from secondglance.settings import EdgeSettings
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.events import EVENT_STREAM, written
from tests.edge_client.test_streaming import Asked, Cut
from tests.server.doubting_engine import WORDS, Doubting


@pytest.fixture(scope="module")
def url(serve: Any) -> str:
    """A server that takes a while for a token, so that the draft goes on."""
    return str(serve(Doubting(token_delay_s=0.1)).url)


@pytest.fixture
def photo(pictures: Any) -> bytes:
    return pictures.photo((2000, 1500))


@pytest.mark.parametrize("is_async", [False, True])
async def test_the_patch_is_sent_at_once_and_the_answer_is_the_same(
    url: str, photo: bytes, is_async: bool
) -> None:
    """Over sockets."""
    replies, told = {}, {}
    for is_early in (False, True):
        settings = EdgeSettings(url=url, early_region=is_early)
        tokens: list[Token] = []
        hooks = Hooks(on_token=tokens.append)
        if is_async:
            async with AsyncEdgeClient(settings=settings, hooks=hooks) as client:
                replies[is_early] = await client.ask(photo, "What?")
        else:
            with EdgeClient(settings=settings, hooks=hooks) as blocking:
                replies[is_early] = blocking.ask(photo, "What?")
        told[is_early] = {
            stage: "".join(token.text for token in tokens if token.stage == stage) for stage in (1, 2)
        }
    early, whole = replies[True], replies[False]
    assert (early.answer, early.stage, early.roi, early.degraded) == (whole.answer, 2, whole.roi, None)
    assert told[False] == {1: WORDS, 2: "42"}
    # The third word is doubtful; the neutral prompt's map waits for the step that runs.
    assert early.draft_answer in ("one two three", "one two three four")
    assert told[True] == {1: early.draft_answer, 2: "42"}
    assert whole.draft_answer == WORDS
    assert early.receipt.requests == whole.receipt.requests


def test_further_questions_go_on_over_new_connections(url: str, photo: bytes) -> None:
    """A stream that is left unread takes its connection along; the next question finds another.

    Nobody listens to tokens: the draft is asked for as a stream all the same, the second answer is not.
    """
    seen: list[Send] = []
    hooks = Hooks(on_request=seen.append)
    with EdgeClient(settings=EdgeSettings(url=url, early_region=True), hooks=hooks) as client:
        for _ in range(3):
            reply = client.ask(photo, "What?")
            assert (reply.answer, reply.receipt.retries) == ("42", 0)
            assert reply.draft_answer != WORDS
    accepted = {send.stage: send.headers.get("Accept") for send in seen}
    assert accepted == {"setup": None, "stage1": "text/event-stream;region=early", "stage2": None}


def test_a_server_that_streams_nothing_is_asked_all_the_same(
    server: Any, settings: EdgeSettings, photo: bytes
) -> None:
    early = settings.model_copy(update={"early_region": True})
    with EdgeClient(settings=early, transport=httpx.MockTransport(server)) as client:
        assert client.ask(photo, "What?").answer == "final"


class EarlyServer:
    """Streams a draft whose region comes early; `fails` on patches, or on a draft that is asked for again."""

    def __init__(self, scripted: Any, fault: Callable[..., httpx.Response], *fails: str) -> None:
        self.scripted, self.fault, self.fails = scripted, fault, fails
        self.asked: list[tuple[str, str | None, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        response = self.scripted(request)
        if request.method == "GET" or response.status_code != 200:
            return response
        question = request.headers.get("x-question") or request.content.decode("latin-1")
        self.asked.append((request.method, request.headers.get("accept"), question))
        is_again = request.method == "POST" and "answer_only" in question
        if (request.method == "PUT" and "PUT" in self.fails) or (is_again and "again" in self.fails):
            return self.fault(ErrorCode.UNREADABLE_IMAGE)
        if request.method == "PUT" or is_again:
            return response
        draft = {**response.json(), "answer": "a"}
        region = {name: draft[name] for name in ("id", "roi", "patch")} | {"draft": draft}
        events = written("token", '{"text":"a","min_entropy":2}') + written("region", json.dumps(region))
        return httpx.Response(200, headers={"Content-Type": EVENT_STREAM}, stream=Cut(events, len(events)))


@pytest.mark.parametrize("fails", [(), ("PUT",), ("PUT", "again")], ids=repr)
def test_a_patch_that_fails_leaves_the_whole_draft(
    server: Any, fault: Any, settings: EdgeSettings, photo: bytes, fails: tuple[str, ...]
) -> None:
    """What follows the region is not read (it would break here). The draft is asked for again, by the id."""
    early = EarlyServer(server, fault, *fails)
    asked = Asked(early, settings.model_copy(update={"early_region": True}), photo)
    methods = [method for method, _, _ in early.asked]
    if not fails:
        assert (asked.reply.answer, methods) == ("final", ["POST", "PUT"])
        return
    assert (asked.reply.stage, bool(asked.reply.degraded), methods) == (1, True, ["POST", "PUT", "POST"])
    assert asked.reply.answer == ("a" if "again" in fails else "draft")
    assert early.asked[-1][1] is None  # no stream: its beginning has been told
    assert "image_id" in early.asked[-1][2]
    assert asked.text(1) == "a"
    assert asked.reply.roi is not None


@pytest.mark.parametrize(
    "region", [b"{}", b"[", b'{"id": "a", "roi": null, "patch": null}', b'{"draft": {}}'], ids=repr
)
def test_a_region_that_makes_no_sense_is_a_failure_of_the_server(
    server: Any, settings: EdgeSettings, photo: bytes, region: bytes
) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return server(request)
        data = b"event: region\ndata: " + region + b"\n\n"
        return httpx.Response(200, headers={"Content-Type": EVENT_STREAM}, content=data)

    asked = Asked(handler, replace_retries(settings), photo)
    assert "makes no sense" in str(asked.error)


def replace_retries(settings: EdgeSettings) -> EdgeSettings:
    return settings.model_copy(update={"retries": 0})
