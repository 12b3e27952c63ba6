"""Each row of the error table, produced over HTTP; after each, the next good request is answered."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import httpx
import pytest
from PIL import Image

from secondglance_protocol.errors import ERRORS, ErrorCode
from secondglance_server.engine.fake import FakeEngine, FakeScript
from tests.needs import needs_linux
from tests.server.exchange import (
    GLOBAL_IMAGE,
    ask,
    assert_problem,
    assert_still_serves,
    bearer,
    both_forms,
    encode,
    key_entry,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
    until,
)

JSON = {"Content-Type": "application/json"}


def png_claiming(width: int, height: int) -> bytes:
    """A valid one-bit PNG of that size; all black, so a few kilobytes even when huge."""
    raw = zlib.compress(bytes((width + 7) // 8 + 1) * height, 1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", raw) + chunk(b"IEND", b"")


def with_exif_orientation(orientation: int, format_name: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(64, 48, format_name, exif=exif)


def animated(format_name: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "blue")]
    frames[0].save(buffer, format_name, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@dataclass
class Case:
    """One way to fail. `send` gets a client whose engine is `engine`."""

    code: ErrorCode
    send: Callable[[httpx.AsyncClient, FakeEngine], Awaitable[httpx.Response]]
    name: str


CASES: list[Case] = []


def case(code: ErrorCode) -> Callable[[Any], Any]:
    def register(send: Any) -> Any:
        CASES.append(Case(code, send, send.__name__))
        return send

    return register


def upload_case(code: ErrorCode, name: str, upload: Callable[[], bytes]) -> None:
    async def send(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
        return await ask(client, upload=upload())

    CASES.append(Case(code, send, name))


def request_case(code: ErrorCode, name: str, **changes: Any) -> None:
    async def send(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
        return await ask(client, **changes)

    CASES.append(Case(code, send, name))


upload_case(ErrorCode.IMAGE_TOO_LARGE, "bomb", lambda: png_claiming(16384, 16384))
upload_case(ErrorCode.IMAGE_TOO_LARGE, "bomb_beyond_pillows_limit", lambda: png_claiming(10_000, 10_000))
upload_case(ErrorCode.IMAGE_TOO_LARGE, "too_many_pixels", lambda: png_claiming(2001, 2000))
upload_case(ErrorCode.IMAGE_TOO_LARGE, "side_too_long", lambda: png_claiming(8193, 300))
upload_case(ErrorCode.IMAGE_SHAPE_REFUSED, "one_pixel", lambda: encode(1, 1))
upload_case(ErrorCode.IMAGE_SHAPE_REFUSED, "side_too_short", lambda: encode(100, 1))
upload_case(ErrorCode.IMAGE_SHAPE_REFUSED, "too_narrow", lambda: encode(403, 2))
upload_case(ErrorCode.UNREADABLE_IMAGE, "truncated_png", lambda: encode(64, 48)[:-30])


def with_one_bit_turned(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


upload_case(ErrorCode.UNREADABLE_IMAGE, "truncated_jpeg", lambda: encode(640, 480, "JPEG")[:-200])
upload_case(ErrorCode.UNREADABLE_IMAGE, "truncated_webp", lambda: encode(64, 48, "WEBP")[:-20])
upload_case(ErrorCode.UNREADABLE_IMAGE, "signature_only", lambda: b"\x89PNG\r\n\x1a\n")
upload_case(
    ErrorCode.UNREADABLE_IMAGE, "damaged_pixels", lambda: with_one_bit_turned(encode(64, 48, "PNG"), 60)
)
upload_case(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "gif", lambda: encode(64, 48, "GIF"))
upload_case(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "bmp_labelled_png", lambda: encode(64, 48, "BMP"))
upload_case(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "text", lambda: b"not an image")
upload_case(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "no_bytes", lambda: b"")
upload_case(
    ErrorCode.UNSUPPORTED_MEDIA_TYPE, "polyglot_starting_as_pdf", lambda: b"%PDF-1.7\n" + GLOBAL_IMAGE
)
upload_case(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "animated_png", lambda: animated("PNG"))
upload_case(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "animated_webp", lambda: animated("WEBP"))
upload_case(ErrorCode.UNORIENTED_IMAGE, "turned_jpeg", lambda: with_exif_orientation(6))
upload_case(ErrorCode.UNORIENTED_IMAGE, "mirrored_png", lambda: with_exif_orientation(2, "PNG"))
upload_case(ErrorCode.UNORIENTED_IMAGE, "turned_webp", lambda: with_exif_orientation(3, "WEBP"))
upload_case(ErrorCode.BODY_TOO_LARGE, "declared", lambda: GLOBAL_IMAGE + bytes(4 * 1024 * 1024))

request_case(ErrorCode.INVALID_REQUEST, "empty_question", question="")
request_case(ErrorCode.INVALID_REQUEST, "question_of_4097_bytes", question="x" * 4097)
request_case(ErrorCode.INVALID_REQUEST, "question_of_4098_bytes_in_2049_characters", question="é" * 2049)
request_case(ErrorCode.INVALID_REQUEST, "question_with_nul", question="what\0")
request_case(ErrorCode.INVALID_REQUEST, "no_size", image=None)
request_case(ErrorCode.INVALID_REQUEST, "unknown_field", surprise=True)
request_case(ErrorCode.INVALID_REQUEST, "too_many_tokens", max_new_tokens=65)
request_case(ErrorCode.INVALID_REQUEST, "metric_without_threshold", gate={"metric": "margin"})
request_case(ErrorCode.INVALID_REQUEST, "image_and_image_id", image_id="img_1")
request_case(ErrorCode.INVALID_REQUEST, "neither_image_nor_image_id", upload=None)
request_case(ErrorCode.IMAGE_EXPIRED, "unknown_image_id", upload=None, image_id="img_1")


@case(ErrorCode.BODY_TOO_LARGE)
async def streamed(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return await client.post("/v1/inferences", content=endless(), headers=headers)


@case(ErrorCode.BODY_TOO_LARGE)
async def declared_far_beyond_any_number(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "9" * 5000}
    return await client.post("/v1/inferences", content=b"", headers=headers)


@case(ErrorCode.BODY_TOO_LARGE)
async def patch_declared(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    draft = (await ask(client)).json()
    return await put_patch(client, draft["patch"]["url"], bytes(16 * 1024 * 1024 + 1))


@case(ErrorCode.IMAGE_TOO_LARGE)
async def patch_of_too_many_pixels(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    draft = (await ask(client)).json()
    return await put_patch(client, draft["patch"]["url"], png_claiming(5001, 5000))


@case(ErrorCode.MALFORMED_REQUEST)
async def content_length_that_lies(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "10"}
    return await client.post("/v1/inferences", content=b"--x--", headers=headers)


@case(ErrorCode.MALFORMED_REQUEST)
async def content_length_that_is_no_number(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "-1"}
    return await client.post("/v1/inferences", content=b"", headers=headers)


@case(ErrorCode.MALFORMED_REQUEST)
async def broken_json(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    return await client.post("/v1/inferences", files=parts_of("{"))


@case(ErrorCode.MALFORMED_REQUEST)
async def json_that_is_not_utf8(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    return await client.post("/v1/inferences", files=parts_of(b'{"question": "\xff"}'))


@case(ErrorCode.MALFORMED_REQUEST)
async def three_parts(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    parts = parts_of(message()) | {"more": ("more", b"x")}
    return await client.post("/v1/inferences", files=parts)


@case(ErrorCode.MALFORMED_REQUEST)
async def cut_multipart(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n{}'
    return await client.post("/v1/inferences", content=body, headers=headers)


@case(ErrorCode.MALFORMED_REQUEST)
async def two_questions(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = [("X-Question", json.dumps(message())), ("X-Question", json.dumps(message(mode="always")))]
    headers.append(("Content-Type", "image/png"))
    return await client.post("/v1/inferences", content=GLOBAL_IMAGE, headers=headers)


@case(ErrorCode.MALFORMED_REQUEST)
async def empty_question_header(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"X-Question": "", "Content-Type": "image/png"}
    return await client.post("/v1/inferences", content=GLOBAL_IMAGE, headers=headers)


@case(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
async def a_question_header_beside_parts(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    parts = parts_of(message()) | {"more": ("more", b"x")}  # three parts stay what they are
    headers = {"X-Question": json.dumps(message())}
    return await client.post("/v1/inferences", files=parts, headers=headers)


@case(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
async def a_picture_that_does_not_say_it_is_one(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"X-Question": json.dumps(message())}
    return await client.post("/v1/inferences", content=GLOBAL_IMAGE, headers=headers)


@case(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
async def a_picture_without_its_question(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return await client.post("/v1/inferences", content=GLOBAL_IMAGE, headers=headers)


@case(ErrorCode.INVALID_REQUEST)
async def another_part(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    return await client.post("/v1/inferences", files={"picture": ("x", b"x")})


@case(ErrorCode.INVALID_REQUEST)
async def idempotency_key_too_long(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Idempotency-Key": "k" * 129}
    return await client.post("/v1/inferences", files=parts_of(message()), headers=headers)


@case(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
async def json_body(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    return await client.post("/v1/inferences", json=message())


@case(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
async def compressed_body(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Content-Encoding": "gzip"}
    return await client.post("/v1/inferences", files=parts_of(message()), headers=headers)


@case(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
async def patch_without_an_image_type(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    draft = (await ask(client)).json()
    return await put_patch(client, draft["patch"]["url"], patch_for(draft), content_type="text/plain")


@case(ErrorCode.ROUTE_NOT_FOUND)
async def no_such_route(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    return await client.get("/v2/model")


@case(ErrorCode.METHOD_NOT_ALLOWED)
async def wrong_method(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    response = await client.post("/v1/inferences/inf_1")
    assert response.headers["allow"] == "DELETE, GET, HEAD"
    return response


@case(ErrorCode.UNKNOWN_INFERENCE)
async def patch_for_an_unknown_id(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    return await put_patch(client, "/v1/inferences/inf_1/patch", GLOBAL_IMAGE)


@case(ErrorCode.STAGE_CONFLICT)
async def patch_that_nobody_asked_for(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    sure = (await ask(client, mode="answer_only")).json()
    return await put_patch(client, f"/v1/inferences/{sure['id']}/patch", GLOBAL_IMAGE)


@case(ErrorCode.PATCH_CONFLICT)
async def second_patch(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    draft = (await ask(client)).json()
    await put_patch(client, draft["patch"]["url"], patch_for(draft, "blue"))
    return await put_patch(client, draft["patch"]["url"], patch_for(draft, "green"))


@case(ErrorCode.PATCH_SIZE_MISMATCH)
async def patch_larger_than_the_offer(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    draft = (await ask(client)).json()
    pixels = draft["roi"]["pixels"]
    crop = encode(pixels["right"] - pixels["left"], pixels["bottom"] - pixels["top"])
    return await put_patch(client, draft["patch"]["url"], crop)


@case(ErrorCode.PATCH_SIZE_MISMATCH)
async def patch_of_another_shape(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    draft = (await ask(client)).json()
    return await put_patch(client, draft["patch"]["url"], encode(336, 100))


@case(ErrorCode.UNREADABLE_IMAGE)
async def patch_cut_short(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    draft = (await ask(client)).json()
    patch = patch_for(draft)
    return await put_patch(client, draft["patch"]["url"], patch[: len(patch) // 2])


@case(ErrorCode.IDEMPOTENCY_MISMATCH)
async def key_of_another_request(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    headers = {"Idempotency-Key": "k"}
    await client.post("/v1/inferences", files=parts_of(message()), headers=headers)
    other = parts_of(message(question="Another?"))
    return await client.post("/v1/inferences", files=other, headers=headers)


@asynccontextmanager
async def held(client: httpx.AsyncClient, engine: FakeEngine) -> AsyncIterator[None]:
    """A request on the device that does not end before the block does."""
    release = threading.Event()
    engine.before_call = release.wait
    calls = len(engine.calls)
    first = asyncio.create_task(
        client.post("/v1/inferences", files=parts_of(message()), headers={"Idempotency-Key": "held"})
    )
    try:
        await until(lambda: len(engine.calls) > calls)
        yield
    finally:
        engine.before_call = None
        release.set()
        assert (await first).status_code == 200


@case(ErrorCode.IDEMPOTENCY_IN_PROGRESS)
async def key_of_a_running_request(client: httpx.AsyncClient, engine: FakeEngine) -> httpx.Response:
    async with held(client, engine):
        headers = {"Idempotency-Key": "held"}
        return await client.post("/v1/inferences", files=parts_of(message()), headers=headers)


@case(ErrorCode.ENGINE_FAILED)
async def failing_engine(client: httpx.AsyncClient, engine: FakeEngine) -> httpx.Response:
    engine.script = FakeScript(fails=lambda _: True)
    response = await ask(client)
    engine.script = FakeScript()
    return response


@case(ErrorCode.INTERNAL_ERROR)
async def bug_in_the_server(client: httpx.AsyncClient, _: FakeEngine) -> httpx.Response:
    parts = client.app.state.server  # type: ignore[attr-defined]
    working, parts.two_stages = parts.two_stages, object()
    response = await ask(client)
    parts.two_stages = working
    assert "object" not in response.text
    return response


@both_forms
@pytest.mark.parametrize("failure", CASES, ids=lambda failure: f"{failure.code}-{failure.name}")
async def test_a_failure_is_answered_as_the_table_says(
    client: httpx.AsyncClient, engine: FakeEngine, failure: Case
) -> None:
    response = await failure.send(client, engine)
    problem = assert_problem(response, ERRORS[failure.code].status, failure.code)
    assert problem["retryable"] == ERRORS[failure.code].retryable
    assert problem["title"] == ERRORS[failure.code].title
    await assert_still_serves(client)


async def test_a_full_queue_refuses_at_once() -> None:
    engine = FakeEngine()
    async with running_client(engine, max_queue=1) as client, held(client, engine):
        waiting = asyncio.create_task(ask(client))
        await until(lambda: client.app.state.server.device.depth == 1)  # type: ignore[attr-defined]
        elapsed_s = []
        for _ in range(5):
            began = perf_counter()
            response = await ask(client)
            elapsed_s.append(perf_counter() - began)
            assert_problem(response, 503, "busy")
            assert int(response.headers["retry-after"]) >= 1
        assert min(elapsed_s) < 0.05
        waiting.cancel()


async def test_a_missed_deadline_is_told() -> None:
    engine = FakeEngine()
    async with running_client(engine, inference_deadline_s=0.3) as client:
        release = threading.Event()
        engine.before_call = release.wait
        assert_problem(await ask(client), 504, "deadline_exceeded")
        engine.before_call = None
        release.set()
        await assert_still_serves(client)


async def test_an_expired_inference_is_told_from_an_unknown_one() -> None:
    async with running_client(FakeEngine(), max_sessions=1) as client:
        first = (await ask(client)).json()
        await ask(client)
        url = first["patch"]["url"]
        assert_problem(await put_patch(client, url, patch_for(first)), 410, "inference_expired")
        assert_problem(await client.get(f"/v1/inferences/{first['id']}"), 410, "inference_expired")
        await assert_still_serves(client)


async def test_without_a_key_nothing_is_told() -> None:
    async with running_client(FakeEngine(), keys=[key_entry("secret")]) as client:
        assert_problem(await client.get("/v1/model"), 401, "unauthenticated")
        assert (await client.get("/v1/model", headers=bearer("secret"))).status_code == 200


async def test_a_server_without_its_model_is_not_ready(client: httpx.AsyncClient) -> None:
    parts = client.app.state.server  # type: ignore[attr-defined]
    working, parts.two_stages, parts.readiness.state = parts.two_stages, None, "loading"
    assert_problem(await client.get("/readyz"), 503, "not_ready")
    response = await ask(client)
    assert_problem(response, 503, "not_ready")
    assert response.headers["retry-after"] == "1"
    assert (await client.get("/healthz")).status_code == 200
    parts.two_stages, parts.readiness.state = working, "ready"
    await assert_still_serves(client)


@needs_linux
async def test_a_bomb_is_refused_in_no_time_and_memory(client: httpx.AsyncClient) -> None:
    """16384 x 16384 pixels would decode to 805 MB."""
    bomb = png_claiming(16384, 16384)
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def peak_kb() -> int:
        return int(next(line for line in status.read_text().splitlines() if "VmHWM" in line).split()[1])

    await ask(client)
    reset.write_text("5")  # the peak starts again at what is in use now
    before_kb = peak_kb()
    began = perf_counter()
    assert_problem(await ask(client, upload=bomb), 413, "image_too_large")
    assert perf_counter() - began < 1.0
    assert peak_kb() - before_kb < 100_000


def test_every_row_has_a_test() -> None:
    elsewhere = {
        ErrorCode.BUSY,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.INFERENCE_EXPIRED,
        ErrorCode.UNAUTHENTICATED,
        ErrorCode.NOT_READY,
        ErrorCode.BODY_TIMEOUT,  # test_live.py
        ErrorCode.HEADERS_TIMEOUT,  # hardening/test_abuse.py
        ErrorCode.HEADERS_TOO_LARGE,  # hardening/test_abuse.py
        ErrorCode.FORBIDDEN,  # test_keys.py
        ErrorCode.RATE_LIMITED,  # test_keys.py
    }
    assert {failure.code for failure in CASES} | elsewhere == set(ErrorCode)
