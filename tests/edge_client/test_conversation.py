"""The conversation on its own: steps in, steps out, a clock that only the test moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from secondglance.conversation.conversation import Conversation
from secondglance.conversation.known_server import KnownServer
from secondglance.conversation.requests import Ask, _multipart
from secondglance.conversation.steps import Answered, Arrived, Compute, Lost, Pause, Send, Step
from secondglance.errors import BusyError, EdgeError, TimedOutError
from secondglance.pictures.original import Original
from secondglance.reply import Reply
from secondglance.settings import EdgeSettings
from secondglance_protocol.errors import ErrorCode
from secondglance_server.http.multipart import parse_parts


class Stage:
    """Performs steps against a scripted server; each exchange takes `exchange_s` on the clock."""

    def __init__(self, server: Callable[[httpx.Request], httpx.Response], settings: EdgeSettings) -> None:
        self.now = 1000.0
        self.exchange_s = 0.0
        self.steps: list[Step] = []
        self._server = server
        self._settings = settings
        self._known = KnownServer(max_images=8)

    def play(self, source: Any, **terms: Any) -> Reply:
        conversation = Conversation(
            source,
            Ask("What?", **terms),
            known=self._known,
            settings=self._settings,
            clock=lambda: self.now,
            draw=lambda: 0.0,
        )
        run = conversation.run()
        step = next(run)
        try:
            while True:
                self.steps.append(step)
                step = run.send(self._perform(step))
        except StopIteration as stop:
            return stop.value

    def of_kind(self, kind: type[Any]) -> list[Any]:
        return [step for step in self.steps if isinstance(step, kind)]

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Compute):
            return step.work()
        if isinstance(step, Pause):
            self.now += step.seconds
            return None
        if isinstance(step, Answered):
            return None
        self.now += self.exchange_s
        if step.deadline is not None and self.now >= step.deadline:
            return Lost("timeout", "too late", uplink_bytes=len(step.body))
        request = httpx.Request(
            step.method, f"http://edge.test{step.path}", headers=dict(step.headers), content=step.body
        )
        try:
            response = self._server(request)
        except httpx.TransportError as exc:
            return Lost("network", str(exc))
        return Arrived(
            response.status_code, dict(response.headers), response.content, len(step.body) + 200, 300
        )


@pytest.fixture
def stage(server) -> Stage:
    return Stage(server, EdgeSettings(url="http://edge.test"))


@pytest.fixture(scope="module")
def photo(pictures) -> bytes:
    return pictures.photo((640, 480))


def test_retries_wait_half_a_second_then_one(stage, server, fault, photo) -> None:
    server.faults["first"] = [fault(ErrorCode.INTERNAL_ERROR), httpx.ReadError("cut")]
    assert stage.play(photo).answer == "final"
    assert [pause.seconds for pause in stage.of_kind(Pause)] == [0.5, 1.0]


def test_retry_after_replaces_the_wait(stage, server, fault, photo) -> None:
    server.faults["first"] = [fault(ErrorCode.BUSY, retry_after="119")]
    assert stage.play(photo).answer == "final"
    assert [pause.seconds for pause in stage.of_kind(Pause)] == [119.0]


def test_retries_of_one_upload_share_a_key_and_the_exact_bytes(stage, server, fault, photo) -> None:
    server.faults["first"] = [fault(ErrorCode.BUSY)]
    stage.play(photo)
    first, again = (step for step in stage.of_kind(Send) if step.stage == "stage1")
    assert first == again


def test_every_send_carries_the_one_deadline(stage, photo) -> None:
    stage.play(photo, timeout_s=30.0)
    assert {send.deadline for send in stage.of_kind(Send)} == {1030.0}


@pytest.mark.parametrize(
    ("exchange_s", "outcome"), [(3.0, "final"), (4.0, "draft"), (5.1, None), (11.0, None)]
)
def test_the_deadline_bounds_both_stages_together(
    stage, photo, exchange_s: float, outcome: str | None
) -> None:
    """Ten seconds for three exchanges: enough, enough for the draft, too few for that."""
    stage.exchange_s = exchange_s
    if outcome is None:
        with pytest.raises(TimedOutError):
            stage.play(photo, timeout_s=10.0)
        return
    reply = stage.play(photo, timeout_s=10.0)
    assert reply.answer == outcome
    assert (reply.degraded is None) == (outcome == "final")


def test_a_wait_that_would_outlast_the_deadline_is_not_begun(stage, server, fault, photo) -> None:
    server.faults["first"] = [fault(ErrorCode.BUSY, retry_after="30")]
    with pytest.raises(BusyError):
        stage.play(photo, timeout_s=10.0)
    assert stage.of_kind(Pause) == []


def test_stages_are_timed_and_counted_apart(stage, server, fault, photo) -> None:
    stage.exchange_s = 0.25
    server.faults["patch"] = [fault(ErrorCode.BUSY)]
    receipt = stage.play(photo).receipt
    assert [round(spent.elapsed_ms) for spent in receipt.stages] == [250, 250, 1000]
    assert [(spent.requests, spent.retries) for spent in receipt.stages] == [(1, 0), (1, 0), (2, 1)]
    sends = stage.of_kind(Send)
    assert receipt.stage2.uplink_bytes == 2 * (len(sends[-1].body) + 200)
    assert receipt.uplink_bytes == sum(len(send.body) + 200 for send in sends)
    assert receipt.downlink_bytes == 4 * 300
    totals = receipt.to_dict()
    assert totals["elapsed_ms"] == pytest.approx(1500)
    assert (totals["requests"], totals["retries"]) == (4, 1)


def test_parts_are_inside_the_body_that_is_sent(stage, photo) -> None:
    stage.play(photo)
    _, first, patch = stage.of_kind(Send)
    assert [part.name for part in first.parts] == ["request.json", "image.webp"]
    assert [part.data for part in first.parts] == [first.headers["X-Question"].encode(), first.body]
    assert [part.data for part in patch.parts] == [patch.body]


def test_parts_of_stage_one_are_framed_in_few_bytes(stage, server, photo) -> None:
    """Framing was a sixth of all bytes sent: random boundary, file names, media types, a long key."""
    server.raw_image = False
    stage.play(photo)
    _, first, _ = stage.of_kind(Send)
    assert len(first.body) - sum(len(part.data) for part in first.parts) <= 130
    assert len(first.headers["Content-Type"]) <= len("multipart/form-data; boundary=") + 2
    assert len(first.headers["Idempotency-Key"]) == 16
    assert parse_parts(first.headers["Content-Type"], first.body) == {
        "request": first.parts[0].data,
        "image": first.parts[1].data,
    }


@pytest.mark.parametrize("taken", range(0, 24, 3))
def test_no_content_can_end_its_part(taken) -> None:
    """A short boundary may stand in a picture or a question; then another one is taken."""
    hostile = b"".join(b"\r\n--%d\r\n--%d--\r\n" % (number, number) for number in range(taken))
    question = "".join(f"--{number}" for number in range(0, taken + 2, 2))
    document = b'{"question":"%s"}' % question.encode()
    boundary, body = _multipart({"request": document, "image": hostile})
    parsed = parse_parts(f"multipart/form-data; boundary={boundary}", body)
    assert parsed == {"request": document, "image": hostile}


def test_a_step_says_what_happens_without_the_question_or_the_bytes(stage, photo) -> None:
    """Progress lines and logs may be shown to others."""
    stage.play(photo)
    for step in stage.steps:
        assert "What?" not in str(step) + repr(step)
        assert len(repr(step)) < 1000


def test_giving_up_midway_closes_the_original(server, photo, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []
    monkeypatch.setattr(Original, "close", lambda self: closed.append(self))
    run = Conversation(photo, Ask("What?"), known=KnownServer(max_images=0), settings=EdgeSettings()).run()
    opening = next(run)
    assert isinstance(opening, Compute)
    run.send(opening.work())
    run.close()
    assert len(closed) == 1


def test_known_images_are_bounded_and_the_oldest_goes_first() -> None:
    known = KnownServer(max_images=2)
    for key in ("a", "b", "a", "c"):
        known.remember_image(key, f"id_{key}")
    assert [known.image_id(key) for key in ("a", "b", "c")] == ["id_a", None, "id_c"]
    known.forget_image("a")
    known.remember_image(None, "id")
    assert known.image_id("a") is None
    assert known.image_id(None) is None
    unused = KnownServer(max_images=0)
    unused.remember_image("a", "id")
    assert unused.image_id("a") is None


def test_errors_of_the_tree_are_caught_by_its_root(stage, server, fault, photo) -> None:
    server.faults["first"] = [fault(ErrorCode.FORBIDDEN)]
    with pytest.raises(EdgeError) as raised:
        stage.play(photo)
    assert raised.value.code == "forbidden"
