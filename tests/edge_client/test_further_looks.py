"""Further looks as the edge sees them: how many it asks for, when it stops, and which answer it returns."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from secondglance import AsyncEdgeClient, EdgeClient, EdgeError, Hooks
from secondglance.cli import app
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import MAX_ROUNDS
from secondglance_protocol.wire import EncodingRecipe, PixelBox, Recipes
from tests.edge_client.conftest import ScriptedServer, problem

BOXES = [
    PixelBox(left=100 * number, top=50, right=100 * number + 200, bottom=250) for number in range(MAX_ROUNDS)
]


class LookingServer(ScriptedServer):
    """Asks for another region after each patch until the rounds that were allowed are over, or it is sure.

    `answers` is what it makes of each look. As the contract says, its replies name the surest one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.max_rounds: int | None = MAX_ROUNDS
        self.boxes = list(BOXES)
        self.answers: list[tuple[str, float]] = [("one", 2.0), ("two", 1.5), ("three", 1.8), ("four", 1.9)]
        self.knows_rounds = True
        self.allowed = 1
        self.n_looks = 0

    def _model(self, request: httpx.Request) -> httpx.Response:
        document = super()._model(request).json()
        del document["max_rounds"]
        if self.max_rounds is not None:
            document["max_rounds"] = self.max_rounds
        return httpx.Response(200, json=document)

    def _first(self, request: httpx.Request) -> httpx.Response:
        asked = json.loads(self.parts(request)["request"])
        if "max_rounds" in asked and not self.knows_rounds:
            return problem(ErrorCode.INVALID_REQUEST)
        self.allowed, self.n_looks, self.pixels = asked.get("max_rounds", 1), 0, self.boxes[0]
        return super()._first(request)

    def _patch(self, request: httpx.Request) -> httpx.Response:
        self.n_looks += 1
        answer, value = min(self.answers[: self.n_looks], key=lambda each: each[1])
        document = self._reply(answer, value, 2, None, None, "img").json()
        document["doubtful"] = value > 0.5
        if self.n_looks != self.allowed and value > 0.5:
            self.pixels = self.boxes[self.n_looks]
            asks = super()._first(self.requests["first"][-1]).json()
            document |= {"status": "needs_patch", "patch": asks["patch"], "roi": asks["roi"]}
        return httpx.Response(200, json=document)

    @property
    def sent(self) -> list[bytes]:
        """The patches that came."""
        return [request.content for request in self.requests["patch"]]

    @property
    def asked_rounds(self) -> list[int | None]:
        """What each first request said."""
        requests = self.requests["first"]
        return [json.loads(self.parts(each)["request"]).get("max_rounds") for each in requests]


@pytest.fixture
def server() -> LookingServer:
    return LookingServer()


@pytest.fixture
def photo(pictures: Any) -> bytes:
    return bytes(pictures.photo((800, 600)))


@pytest.fixture(params=["blocking", "async"])
def ask(request: pytest.FixtureRequest, settings: Any, server: LookingServer) -> Callable[..., Any]:
    """Ask with either client, on other terms if they are given."""

    def blocking(photo: bytes, hooks: Hooks | None = None, **terms: Any) -> Any:
        with EdgeClient(settings=settings, transport=httpx.MockTransport(server), hooks=hooks) as client:
            return client.ask(photo, "What?", **terms)

    async def awaited(photo: bytes, hooks: Hooks | None = None, **terms: Any) -> Any:
        transport = httpx.MockTransport(server)
        async with AsyncEdgeClient(settings=settings, transport=transport, hooks=hooks) as client:
            return await client.ask(photo, "What?", **terms)

    if request.param == "blocking":
        return blocking
    return lambda *a, **k: asyncio.run(awaited(*a, **k))


@pytest.mark.parametrize("terms", [{}, {"max_rounds": 1}])
def test_without_the_wish_nothing_on_the_wire_changes(
    ask: Any, server: LookingServer, photo: bytes, terms: Any
) -> None:
    reply = ask(photo, **terms)
    assert server.asked_rounds == [None]
    assert (reply.answer, len(server.sent)) == ("one", 1)
    assert "looks" not in reply.to_dict()
    assert "further_looks" not in reply.to_dict()["receipt"]


@pytest.mark.parametrize("rounds", [2, 3, 4])
def test_each_region_is_sent_and_has_a_line_in_the_receipt(
    ask: Any, server: LookingServer, photo: bytes, rounds: int
) -> None:
    seen: list[str] = []
    reply = ask(photo, Hooks(on_answer=lambda reply: seen.append(reply.status)), max_rounds=rounds)
    assert server.asked_rounds == [rounds]
    assert len(set(server.sent)) == rounds
    assert [look.roi.pixels for look in reply.looks] == BOXES[:rounds]
    assert (reply.answer, reply.stage, reply.degraded) == ("two", 2, None)
    assert reply.roi.pixels == BOXES[1], "the region of the answer that counts"
    assert seen == ["needs_patch"] * rounds + ["answered"]
    document = reply.to_dict()
    assert [box["pixels"] for box in document["looks"]] == [box.model_dump() for box in BOXES[:rounds]]
    receipt = document["receipt"]
    assert [line["requests"] for line in receipt["further_looks"]] == [1] * (rounds - 1)
    assert receipt["requests"] == 2 + rounds


def test_a_sure_answer_ends_it(ask: Any, server: LookingServer, photo: bytes) -> None:
    server.answers[1] = ("sure", 0.1)
    reply = ask(photo, max_rounds=4)
    assert (reply.answer, len(reply.looks), reply.doubtful) == ("sure", 2, False)


@pytest.mark.parametrize(
    ("wanted", "known", "sent"), [(4, 2, 2), (9, 99, MAX_ROUNDS), (2, 1, None), (3, None, None)]
)
def test_no_more_is_asked_for_than_both_sides_know(
    ask: Any, server: LookingServer, photo: bytes, wanted: int, known: int | None, sent: int | None
) -> None:
    """A server that names no number is an older one: it would refuse the field."""
    server.max_rounds, server.knows_rounds = known, known is not None
    reply = ask(photo, max_rounds=wanted)
    assert server.asked_rounds == [sent]
    assert len(reply.looks) == (sent or 1)


def test_a_server_that_was_replaced_by_an_older_one_is_asked_once_without(
    ask: Any, server: LookingServer, photo: bytes
) -> None:
    server.knows_rounds = False
    reply = ask(photo, max_rounds=3)
    assert server.asked_rounds == [3, None]
    assert (reply.answer, reply.degraded, reply.receipt.stage1.requests) == ("one", None, 2)


def test_what_it_takes_is_asked_again_after_that(server: LookingServer, settings: Any, photo: bytes) -> None:
    server.knows_rounds = False
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        client.ask(photo, "What?", max_rounds=3)
        server.max_rounds = None
        client.ask(photo, "What?", max_rounds=3)
    assert server.asked_rounds == [3, None, None]
    assert len(server.requests["model"]) == 2


def test_a_request_that_is_wrong_otherwise_is_refused_as_ever(
    ask: Any, server: LookingServer, photo: bytes
) -> None:
    server.faults["first"] = [problem(ErrorCode.INVALID_REQUEST), problem(ErrorCode.INVALID_REQUEST)]
    with pytest.raises(EdgeError) as caught:
        ask(photo, max_rounds=2)
    assert caught.value.code == ErrorCode.INVALID_REQUEST
    assert len(server.requests["first"]) == 2


@pytest.mark.parametrize("rounds", [0, -1])
def test_a_number_that_makes_no_sense_is_refused_unsent(
    ask: Any, server: LookingServer, photo: bytes, rounds: int
) -> None:
    with pytest.raises(EdgeError, match="max_rounds"):
        ask(photo, max_rounds=rounds)
    assert not server.requests["first"]


@pytest.mark.parametrize("strict", [True, False])
def test_the_budget_ends_further_looks_in_silence_and_is_never_exceeded(
    ask: Any, server: LookingServer, photo: bytes, strict: bool
) -> None:
    """Budgets from one look to all: what is sent fits, and the largest is enough for all."""
    ask(photo, max_rounds=4)
    heads = 600  # at most, of a request
    whole = sum(len(request.content) + heads for each in server.requests.values() for request in each)
    least = whole - sum(len(patch) + heads for patch in server.sent[1:])
    n_looks = []
    for budget in (least, (least + whole) // 2, whole):
        server.requests.clear()
        reply = ask(photo, max_rounds=4, max_uplink_bytes=budget, strict=strict)
        assert (reply.degraded, reply.stage) == (None, 2)
        sent = [request for each in server.requests.values() for request in each]
        assert sum(len(request.content) for request in sent) < budget
        n_looks.append(len(reply.looks))
    assert n_looks[0] < n_looks[-1] == 4


def test_where_it_ends_early_the_region_is_that_of_the_answer(
    server: LookingServer, settings: Any, photo: bytes
) -> None:
    """The last reply asks for a region that was never sent: that one is not the answer's."""
    server.answers = [("one", 1.5), ("two", 2.0), ("three", 1.9), ("four", 1.8)]
    server.boxes[2] = server.boxes[0]
    settings = settings.model_copy(update={"patch_quality": 85})
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        reply = client.ask(photo, "What?", max_rounds=4)
    assert [look.roi.pixels for look in reply.looks] == BOXES[:2]
    assert reply.roi is not None
    assert (reply.answer, reply.roi.pixels, reply.final.status) == ("one", BOXES[0], "needs_patch")
    assert reply.degraded is None


@pytest.mark.parametrize(
    "code", [ErrorCode.PATCH_CONFLICT, ErrorCode.INFERENCE_EXPIRED, ErrorCode.ENGINE_FAILED]
)
def test_a_further_look_that_fails_leaves_the_answer_that_there_is(
    ask: Any, server: LookingServer, photo: bytes, code: ErrorCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older server of a fleet says conflict; the answer of the look before is not lost."""
    answer = server._patch
    monkeypatch.setattr(
        server, "_patch", lambda request: problem(code) if server.n_looks >= 1 else answer(request)
    )
    reply = ask(photo, max_rounds=3)
    assert (reply.answer, reply.stage, len(reply.looks)) == ("one", 2, 1)
    assert reply.degraded is not None
    assert reply.roi.pixels == BOXES[0]
    with pytest.raises(EdgeError):
        ask(photo, max_rounds=3, strict=True)


def test_the_same_bytes_are_never_sent_as_another_look(ask: Any, server: LookingServer) -> None:
    """Of a picture that is the same everywhere; a server would give the earlier reply again, for ever."""
    buffer = io.BytesIO()
    Image.new("RGB", (800, 600), "grey").save(buffer, "PNG")
    reply = ask(buffer.getvalue(), max_rounds=4)
    assert len(set(server.sent)) == len(server.sent) == len(reply.looks) == 2  # the second one leaner
    assert (reply.answer, reply.degraded) == ("two", None)


def test_a_region_that_is_asked_for_again_is_sent_sharper(
    ask: Any, server: LookingServer, photo: bytes
) -> None:
    small = EncodingRecipe(format="webp", quality=30, scale=0.25)
    server.recipes, server.boxes[1] = Recipes(patch=small), server.boxes[0]
    ask(photo, max_rounds=3)
    sizes = [Image.open(io.BytesIO(patch)).size for patch in server.sent]
    assert sizes == [(112, 112), (200, 200), (112, 112)]
    assert len(server.sent[1]) > 2 * len(server.sent[0])


def test_further_regions_go_leaner_unless_an_encoding_is_set(
    server: LookingServer, settings: Any, photo: bytes
) -> None:
    """At quality 85 a look costs twice the bytes and finds nothing more (benchmarks/rounds.py)."""
    sizes = {}
    for name, chosen in (("free", settings), ("set", settings.model_copy(update={"patch_quality": 85}))):
        server.requests.clear()
        with EdgeClient(settings=chosen, transport=httpx.MockTransport(server)) as client:
            client.ask(photo, "What?", max_rounds=3)
        sizes[name] = [len(patch) for patch in server.sent]
    assert sizes["free"][0] == sizes["set"][0]
    assert all(free < 0.8 * full for free, full in zip(sizes["free"][1:], sizes["set"][1:], strict=True))


def test_a_server_that_wants_more_than_was_allowed_is_not_obeyed(
    ask: Any, server: LookingServer, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers *= 3
    monkeypatch.setattr(LookingServer, "allowed", property(lambda _: 12, lambda *_: None), raising=False)
    reply = ask(photo, max_rounds=3)
    assert len(server.sent) == 3
    assert (len(reply.looks), reply.answer) == (2, "two")
    assert reply.degraded is not None


def test_the_command_asks_for_as_many_looks_as_it_is_told(
    server: LookingServer, photo: bytes, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--save-sent` keeps each look's bytes: under one name only the last one's were left."""
    transport = httpx.MockTransport(server)
    monkeypatch.setattr("secondglance.client.CountingTransport", lambda **_: transport)
    path, kept = tmp_path / "photo.jpg", tmp_path / "sent"
    path.write_bytes(photo)
    arguments = ["ask", str(path), "What?", "--max-rounds", "3", "--json", "--save-sent", str(kept)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    reply = json.loads(result.stdout)
    assert (reply["answer"], len(reply["looks"])) == ("two", 3)
    names = ("stage2-body", "stage2-look2-body", "stage2-look3-body")
    assert [(kept / name).read_bytes() for name in names] == server.sent
