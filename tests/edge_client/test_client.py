"""Both clients against a scripted server. Every test runs with the blocking and with the async driver."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from PIL import Image
from starlette.datastructures import Headers

from secondglance import (
    AsyncEdgeClient,
    BadImageError,
    BusyError,
    EdgeClient,
    EdgeSettings,
    NotAllowedError,
    ProtocolError,
    Reply,
    ServerUnavailableError,
    TimedOutError,
    UplinkBudgetError,
    UsageError,
)
from secondglance.conversation.steps import Pause
from secondglance.pictures.original import Original
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import MAX_DEADLINE_MS, PROTOCOL_VERSION
from secondglance_protocol.wire import EncodingRecipe, InferenceRequest, Recipes
from secondglance_server.telemetry.tracing import parse_traceparent

Ask = Callable[..., Reply]


class Asker:
    """One client of either kind; `ask` blocks for both."""

    def __init__(self, kind: str, server: Any, settings: EdgeSettings) -> None:
        self.pauses: list[Pause] = []
        options: dict[str, Any] = {
            "settings": settings,
            "transport": httpx.MockTransport(server),
            "observe": self.observe,
        }
        self._client = EdgeClient(**options) if kind == "blocking" else AsyncEdgeClient(**options)

    def observe(self, step: Any) -> None:
        if isinstance(step, Pause):
            self.pauses.append(step)

    def __call__(self, source: Any, question: str = "What is on the sign?", **terms: Any) -> Reply:
        if isinstance(self._client, EdgeClient):
            return self._client.ask(source, question, **terms)
        return asyncio.run(self._client.ask(source, question, **terms))


@pytest.fixture(params=["blocking", "async"])
def ask(request: pytest.FixtureRequest, server, settings) -> Asker:
    return Asker(request.param, server, settings)


@pytest.fixture(scope="module")
def photo(pictures) -> bytes:
    return pictures.photo((640, 480))


def test_an_unsure_server_gets_the_region_from_the_original(ask, server, photo) -> None:
    reply = ask(photo)
    assert (reply.answer, reply.stage, reply.degraded) == ("final", 2, None)
    assert (reply.draft_answer, reply.draft_confidence.value) == ("draft", 1.5)
    assert reply.roi.pixels == server.pixels
    [first], [put] = server.requests["first"], server.requests["patch"]
    asked = InferenceRequest.model_validate_json(server.parts(first)["request"])
    assert (asked.question, asked.image.width, asked.image.height) == ("What is on the sign?", 640, 480)
    assert Image.open(io.BytesIO(server.parts(first)["image"])).size == (224, 168)
    assert put.url.path == "/v1/inferences/inf_1/patch"
    assert put.headers["content-type"] == "image/webp"
    sent = Image.open(io.BytesIO(put.content))
    with Original(photo) as original:
        crop = original.crop((100, 50, 300, 250))
    assert sent.size == crop.size == (200, 200)


def test_a_patch_in_a_lossless_format_is_the_crop_to_the_pixel(ask, server, photo) -> None:
    server.formats = ("image/png",)
    ask(photo)
    with Original(photo) as original:
        crop = original.crop((100, 50, 300, 250))
    sent = Image.open(io.BytesIO(server.requests["patch"][0].content))
    assert sent.format == "PNG"
    assert sent.tobytes() == crop.tobytes()


def test_a_sure_server_is_sent_nothing_more(ask, server, photo) -> None:
    server.is_sure = True
    reply = ask(photo)
    assert (reply.answer, reply.stage, reply.roi) == ("draft", 1, None)
    assert reply.receipt.stage2 is None
    assert server.requests["patch"] == []


def test_the_server_is_told_how_long_an_answer_is_wanted(ask, server, fault, photo) -> None:
    """So that it does not begin what nobody waits for; what is left counts, not what was given."""
    server.faults["first"] = [fault(ErrorCode.BUSY, retry_after="1")]
    ask(photo, timeout_s=30)
    first, again, patch = (
        int(request.headers["x-deadline-ms"])
        for request in (*server.requests["first"], *server.requests["patch"])
    )
    assert 30_000 >= first > again + 500
    assert again >= patch > 0


def test_without_a_deadline_none_is_sent_and_a_day_is_sent_as_the_longest_that_servers_take(
    ask, server, photo
) -> None:
    ask(photo)
    assert not any(
        "x-deadline-ms" in request.headers for sent in server.requests.values() for request in sent
    )
    ask(photo, timeout_s=86_400)
    assert server.requests["patch"][-1].headers["x-deadline-ms"] == str(MAX_DEADLINE_MS)


def of_trace(server: Any) -> list[str]:
    """The trace header of every request."""
    return [request.headers["traceparent"] for requests in server.requests.values() for request in requests]


@pytest.mark.parametrize("kind", ["blocking", "async"])
def test_a_conversation_is_one_trace_and_each_request_a_span_of_it(kind, server, settings, photo) -> None:
    ask = Asker(kind, server, settings.model_copy(update={"trace": True}))
    replies = [ask(photo), ask(photo)]
    contexts = [parse_traceparent(Headers({"traceparent": value})) for value in of_trace(server)]
    assert None not in contexts, "the server's own reader takes them"
    assert len({context.span_id for context in contexts}) == len(contexts) == 5
    assert {context.trace_id for context in contexts} == {reply.trace_id for reply in replies}
    assert len({reply.to_dict()["trace_id"] for reply in replies}) == 2


def test_without_tracing_no_bytes_go_into_it_and_the_server_names_the_trace(ask, server, photo) -> None:
    """70 bytes of each request named a trace that nobody had asked for."""
    named = f"00-{'a' * 32}-{'b' * 16}-00"
    server.headers = {"traceresponse": named}
    assert ask(photo).trace_id == "a" * 32
    server.headers = {"traceresponse": named + "\x1b[2J"}
    assert ask(photo).trace_id == ""
    assert not any("traceparent" in sent.headers for sent in itertools.chain(*server.requests.values()))


def test_the_callers_own_span_is_gone_on_with(ask, server, photo) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("of the caller") as span:
        reply = ask(photo)
    ids = span.get_span_context()
    assert reply.trace_id == f"{ids.trace_id:032x}"
    assert set(of_trace(server)) == {f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"}
    ask(photo)
    assert "traceparent" not in server.requests["first"][-1].headers


def test_the_servers_recipes_are_followed_to_the_pixel(ask, server, photo) -> None:
    server.pixels = type(server.pixels)(left=0, top=0, right=460, bottom=460)
    server.recipes = Recipes(
        image=EncodingRecipe(format="jpeg", quality=20, scale=0.5),
        patch=EncodingRecipe(format="webp", quality=50, scale=0.25),
    )
    assert ask(photo).stage == 2
    image = Image.open(io.BytesIO(server.parts(server.requests["first"][0])["image"]))
    patch = Image.open(io.BytesIO(server.requests["patch"][0].content))
    assert (image.format, image.size) == ("JPEG", (112, 84))
    assert (patch.format, patch.size) == ("WEBP", (112, 112))


def test_terms_reach_the_server(ask, server, photo) -> None:
    ask(photo, mode="answer_only", threshold=0.25, max_new_tokens=5, include=["tokens"])
    document = json.loads(server.parts(server.requests["first"][0])["request"])
    assert document == {
        "question": "What is on the sign?",
        "image": {"width": 640, "height": 480},
        "mode": "answer_only",
        "gate": {"threshold": 0.25},
        "max_new_tokens": 5,
        "include": ["tokens"],
    }


def test_nothing_of_the_originals_metadata_is_sent(ask, server, pictures) -> None:
    """Camera, place and thumbnail stay at the edge: no EXIF, ICC, XMP or comment in either upload."""
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif[0x0112] = 3
    data = pictures.encode(
        pictures.noise((640, 480)), "JPEG", exif=exif, comment=b"SecretComment", xmp=b"<x>SecretXmp</x>"
    )
    assert data.count(b"Secret") == 3
    ask(data)
    uploads = [server.parts(server.requests["first"][0])["image"], server.requests["patch"][0].content]
    for upload in uploads:
        assert b"Secret" not in upload
        assert Image.open(io.BytesIO(upload)).info.keys() <= {
            "jfif",
            "jfif_version",
            "jfif_unit",
            "jfif_density",
            "progressive",
            "progression",
            "loop",  # of WebP: every file has these two
            "background",
        }


def test_the_server_is_asked_once_what_it_takes(ask, server, photo, pictures) -> None:
    ask(photo)
    ask(pictures.photo((100, 100), seed=5))
    assert len(server.requests["model"]) == 1


def test_a_second_question_about_the_same_picture_uploads_no_picture(
    ask, server, photo, tmp_path: Path
) -> None:
    path = tmp_path / "same.jpg"
    path.write_bytes(photo)
    ask(photo)
    reply = ask(path, "And what colour is it?")
    assert reply.answer == "final"
    parts = server.parts(server.requests["first"][1])
    assert "image" not in parts
    assert json.loads(parts["request"])["image_id"].startswith("img_")


def test_a_server_that_forgot_the_picture_is_sent_it_again_unasked(ask, server, photo) -> None:
    ask(photo)
    server.held.clear()
    reply = ask(photo)
    assert (reply.answer, reply.degraded) == ("final", None)
    with_id, with_image = server.requests["first"][1:]
    assert "image" not in server.parts(with_id)
    assert "image" in server.parts(with_image)
    assert with_id.headers["idempotency-key"] != with_image.headers["idempotency-key"]
    assert reply.receipt.stage1.requests == 2
    assert reply.receipt.stage1.retries == 0


def test_a_decoded_picture_is_uploaded_each_time(ask, server, pictures) -> None:
    """It has no encoded bytes to know it by."""
    image = pictures.noise((640, 480))
    ask(image)
    ask(image)
    assert all("image" in server.parts(request) for request in server.requests["first"])


@pytest.mark.parametrize(
    "breakage",
    [
        httpx.ConnectError("nobody"),
        httpx.ConnectTimeout("slow"),
        httpx.ReadError("cut"),
        httpx.RemoteProtocolError("cut"),
        httpx.WriteError("cut"),
        ErrorCode.BODY_TIMEOUT,
        ErrorCode.RATE_LIMITED,
        ErrorCode.INTERNAL_ERROR,
        ErrorCode.BUSY,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.IDEMPOTENCY_IN_PROGRESS,
        502,
    ],
    ids=str,
)
@pytest.mark.parametrize("route", ["model", "first", "patch"])
def test_a_passing_fault_is_retried_and_counted(ask, server, fault, photo, route: str, breakage: Any) -> None:
    server.faults[route] = [as_fault(breakage, fault), as_fault(breakage, fault)]
    reply = ask(photo)
    assert (reply.answer, reply.degraded) == ("final", None)
    assert (reply.receipt.retries, reply.receipt.requests) == (2, 5)
    assert len(ask.pauses) == 2
    assert len({request.headers.get("idempotency-key") for request in server.requests["first"]}) == 1


def as_fault(breakage: Any, fault: Any) -> httpx.Response | Exception:
    if isinstance(breakage, Exception):
        return breakage
    return httpx.Response(breakage, content=b"<html>") if isinstance(breakage, int) else fault(breakage)


BROKEN_FOR_GOOD = [
    (httpx.ConnectError("nobody"), 3, ServerUnavailableError, 69),
    (httpx.ReadError("cut"), 3, ServerUnavailableError, 69),
    (httpx.ReadTimeout("slow"), 1, TimedOutError, 124),
    (ErrorCode.INTERNAL_ERROR, 3, ServerUnavailableError, 69),
    (ErrorCode.BUSY, 3, BusyError, 75),
    (ErrorCode.RATE_LIMITED, 3, BusyError, 75),
    (ErrorCode.DEADLINE_EXCEEDED, 3, TimedOutError, 124),
    (ErrorCode.UNAUTHENTICATED, 1, NotAllowedError, 77),
    (ErrorCode.FORBIDDEN, 1, NotAllowedError, 77),
    (ErrorCode.IMAGE_TOO_LARGE, 1, BadImageError, 65),
    (ErrorCode.UNREADABLE_IMAGE, 1, BadImageError, 65),
    (ErrorCode.INVALID_REQUEST, 1, UsageError, 2),
    (404, 1, ProtocolError, 69),
    (200, 1, ProtocolError, 69),
]


@pytest.mark.parametrize(("breakage", "attempts", "error", "exit_code"), BROKEN_FOR_GOOD, ids=str)
@pytest.mark.parametrize("route", ["model", "first"])
def test_a_lasting_fault_before_the_draft_is_raised(
    ask,
    server,
    fault,
    photo,
    route: str,
    breakage: Any,
    attempts: int,
    error: type[Exception],
    exit_code: int,
) -> None:
    server.faults[route] = [as_fault(breakage, fault) for _ in range(attempts)]
    with pytest.raises(error) as raised:
        ask(photo)
    assert raised.value.exit_code == exit_code
    assert len(server.requests[route]) == attempts


@pytest.mark.parametrize(("breakage", "attempts", "error", "exit_code"), BROKEN_FOR_GOOD, ids=str)
def test_a_lasting_fault_after_the_draft_degrades_or_raises_if_strict(
    ask, server, fault, photo, breakage: Any, attempts: int, error: type[Exception], exit_code: int
) -> None:
    server.faults["patch"] = [as_fault(breakage, fault) for _ in range(attempts)]
    reply = ask(photo)
    assert (reply.answer, reply.stage) == ("draft", 1)
    assert reply.degraded
    assert reply.roi is not None
    assert reply.receipt.stage2.requests == attempts
    server.faults["patch"] = [as_fault(breakage, fault) for _ in range(attempts)]
    with pytest.raises(error):
        ask(photo, strict=True)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.INFERENCE_EXPIRED,
        ErrorCode.PATCH_CONFLICT,
        ErrorCode.UNKNOWN_INFERENCE,
        ErrorCode.PATCH_SIZE_MISMATCH,
    ],
)
def test_a_refused_patch_degrades_at_once(ask, server, fault, photo, code: ErrorCode) -> None:
    server.faults["patch"] = [fault(code)]
    reply = ask(photo)
    assert reply.answer == "draft"
    assert "scripted" in reply.degraded
    assert len(server.requests["patch"]) == 1


def test_a_region_outside_the_picture_degrades(ask, server, pictures) -> None:
    reply = ask(pictures.photo((310, 240)))
    assert reply.answer == "draft"
    assert "box" in reply.degraded


def test_retry_after_is_honoured_up_to_its_limit(ask, server, fault, photo) -> None:
    server.faults["first"] = [fault(ErrorCode.BUSY, retry_after="0")]
    assert ask(photo).answer == "final"
    server.faults["first"] = [fault(ErrorCode.BUSY, retry_after="121")]
    with pytest.raises(BusyError):
        ask(photo)
    assert len(ask.pauses) == 1


def test_a_wait_beyond_the_callers_patience_is_not_begun(ask, server, fault, photo) -> None:
    server.faults["first"] = [fault(ErrorCode.BUSY, retry_after="60")]
    with pytest.raises(BusyError):
        ask(photo, timeout_s=5)
    assert ask.pauses == []
    server.faults["patch"] = [fault(ErrorCode.BUSY, retry_after="60")]
    assert ask(photo, timeout_s=5).degraded


def test_a_deadline_that_has_passed_is_a_timeout_before_and_a_draft_after_the_first_answer(
    ask, server, photo
) -> None:
    with pytest.raises(TimedOutError, match=r"1e-09 s"):
        ask(photo, timeout_s=1e-9)
    assert server.requests == {}


def test_a_small_uplink_budget_lowers_quality_then_gives_up_the_patch(ask, server, photo) -> None:
    server.pixels = type(server.pixels)(left=0, top=0, right=440, bottom=440)
    plenty = ask(photo)
    first, patch = (len(server.requests[route][0].content) for route in ("first", "patch"))
    assert plenty.degraded is None
    server.held.clear()
    tight = ask(photo, max_uplink_bytes=first + 4096 + patch // 2)
    assert tight.degraded is None
    assert len(server.requests["patch"][1].content) <= patch // 2 + 2048
    server.held.clear()
    tighter = ask(photo, max_uplink_bytes=first + 4096)
    assert tighter.answer == "draft"
    assert "max_uplink_bytes" in tighter.degraded
    assert len(server.requests["patch"]) == 2
    with pytest.raises(UplinkBudgetError):
        ask(photo, max_uplink_bytes=100)  # less than any question needs, also about a picture that is held


def test_retries_stop_at_the_uplink_budget(ask, server, fault, photo) -> None:
    """A failed upload has cost its bytes, so the budget that carried it once need not carry it twice."""
    ask(photo)
    first = len(server.requests["first"][0].content)
    server.held.clear()
    server.faults["first"] = [fault(ErrorCode.IMAGE_EXPIRED), fault(ErrorCode.BUSY)]
    with pytest.raises(BusyError):
        ask(photo, max_uplink_bytes=first + 4096)
    assert len(server.requests["first"]) == 3


@pytest.mark.parametrize("question", ["", "a\0b", "x" * 4097, "é" * 2049])
def test_a_question_that_the_contract_forbids_is_refused_before_anything_is_uploaded(
    ask, server, photo, question: str
) -> None:
    with pytest.raises(UsageError, match="question"):
        ask(photo, question)
    assert server.requests["first"] == []


@pytest.mark.parametrize("source", [b"no picture", "/nowhere/at/all.jpg", 42, None])
def test_a_source_that_is_no_picture_is_refused_without_a_request(ask, server, source: Any) -> None:
    with pytest.raises(BadImageError):
        ask(source)
    assert server.requests == {}


def test_a_newer_protocol_is_refused_with_advice(ask, server, photo) -> None:
    document = json.loads(server._model(None).content) | {"protocol_version": PROTOCOL_VERSION + 1}
    server.faults["model"] = [httpx.Response(200, json=document)]
    with pytest.raises(ProtocolError, match="update"):
        ask(photo)


def test_a_patch_address_on_another_server_is_not_followed(ask, server, photo) -> None:
    server.patch_url = "http://elsewhere.test/v1/inferences/inf_1/patch"
    reply = ask(photo)
    assert "address" in reply.degraded
    assert server.requests["patch"] == []


def test_an_endless_reply_is_cut_off(ask, server, photo) -> None:
    server.faults["first"] = [httpx.Response(200, content=b" " * (9 * 1024 * 1024))]
    with pytest.raises(ProtocolError, match="exceeds"):
        ask(photo)


def test_a_refused_picture_makes_the_client_ask_again_what_the_server_takes(
    ask, server, fault, photo
) -> None:
    """The server was restarted with a model that takes smaller pictures."""
    ask(photo)
    server.held.clear()
    server.faults["first"] = [fault(ErrorCode.IMAGE_EXPIRED), fault(ErrorCode.IMAGE_TOO_LARGE)]
    with pytest.raises(BadImageError):
        ask(photo)
    server.side = 112
    assert ask(photo).answer == "final"
    assert Image.open(io.BytesIO(server.parts(server.requests["first"][-1])["image"])).size == (112, 84)


def test_the_key_travels_as_a_bearer_token_and_in_no_repr(server, photo, settings) -> None:
    with EdgeClient(settings=settings, api_key="s3cret", transport=httpx.MockTransport(server)) as client:
        client.ask(photo, "What?")
    assert {request.headers["authorization"] for request in server.requests["first"]} == {"Bearer s3cret"}
    assert "s3cret" not in repr(EdgeSettings(api_key="s3cret"))


def test_the_contracts_timeouts_reach_the_transport(ask, server, photo) -> None:
    ask(photo)
    timeouts = [
        request.extensions["timeout"] for requests in server.requests.values() for request in requests
    ]
    assert all((timeout["connect"], timeout["read"]) == (5.0, 60.0) for timeout in timeouts)


def test_a_base_url_with_a_path_is_kept(server, photo, settings) -> None:
    """Behind a reverse proxy the API may live below a prefix; the patch address is relative to it too."""
    with EdgeClient(
        "http://edge.test/glance", settings=settings, transport=httpx.MockTransport(server)
    ) as client:
        assert client.ask(photo, "What?").answer == "final"
    assert server.requests["first"][0].url.path == "/glance/v1/inferences"
    assert server.requests["patch"][0].url.path == "/glance/v1/inferences/inf_1/patch"


@pytest.mark.parametrize("url", ["", "no url", "ftp://host", "http://"])
def test_a_url_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="URL"):
        EdgeClient(url or " ")


def test_the_model_can_be_asked_for(server, settings) -> None:
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        assert client.model().name == "scripted"
        assert client.model() is client.model()


async def test_the_async_client_closes_and_knows_the_model(server, settings) -> None:
    async with AsyncEdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        assert (await client.model()).name == "scripted"


def test_a_reply_is_plain_json(ask, photo) -> None:
    document = json.loads(json.dumps(ask(photo).to_dict()))
    assert document["answer"] == "final"
    assert document["stage"] == 2
    assert document["draft_answer"] == "draft"
    assert document["roi"]["pixels"] == {"left": 100, "top": 50, "right": 300, "bottom": 250}
    assert document["receipt"]["original_bytes"] == len(photo)
    assert document["receipt"]["stage2"]["requests"] == 1
    assert document["degraded"] is None


async def test_an_ask_that_is_cancelled_while_its_picture_opens_leaves_no_file_open(
    photo: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that stops at a wrong key cancels its other questions; their files stayed open for a while."""
    has_begun, may_go_on, is_closed = threading.Event(), threading.Event(), threading.Event()

    class SlowlyOpened(Original):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            has_begun.set()
            may_go_on.wait(timeout=10)

        def close(self) -> None:
            super().close()
            is_closed.set()

    monkeypatch.setattr("secondglance.pictures.original.Original", SlowlyOpened)
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    async with AsyncEdgeClient(transport=httpx.MockTransport(lambda _: httpx.Response(500))) as client:
        asking = asyncio.create_task(client.ask(path, "What?"))
        assert await asyncio.to_thread(has_begun.wait, 10)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        may_go_on.set()
        assert await asyncio.to_thread(is_closed.wait, 10)
