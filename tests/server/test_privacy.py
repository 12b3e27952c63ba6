"""Nothing that a client sent in confidence is written anywhere: planted texts are searched for in the log (at
its most talkative), the metrics, the spans and every problem document."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from PIL import ExifTags, Image

from secondglance_server.engine.fake import FakeEngine, FakeScript
from secondglance_server.telemetry.otel import OtelTracer
from tests.server.exchange import (
    bearer,
    both_forms,
    key_entry,
    message,
    parts_of,
    patch_for,
    put_patch,
    running_client,
)
from tests.server.listening import captured_log, lines

KEY = "planted-api-key"
WRONG_KEY = "planted-wrong-key"
QUESTION = "planted-question"
FILE_NAME = "planted-file-name"
DESCRIPTION = "planted-description"
GPS_DATE = "1977:01:02"  # of the position; its degrees are below
LATITUDE, LONGITUDE = (51.0, 37.0, 8642.0625), (7.0, 41.0, 9753.0625)  # no clock and no duration says these
ANSWER = "planted-answer"

PLANTED = {
    KEY,
    WRONG_KEY,
    QUESTION,
    FILE_NAME,
    DESCRIPTION,
    GPS_DATE,
    ANSWER,
    str(LATITUDE[2]),
    str(LONGITUDE[2]),
    "planted-id",
    "planted-part",
}


def photo(orientation: int = 1, colour: str = "red", size: tuple[int, int] = (336, 252)) -> bytes:
    """A JPEG that says where it was taken and what of."""
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = DESCRIPTION
    exif[ExifTags.Base.Orientation] = orientation
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "N", LATITUDE
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "E", LONGITUDE
    gps[ExifTags.GPS.GPSDateStamp] = GPS_DATE
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG", exif=exif)
    assert DESCRIPTION.encode() in buffer.getvalue()
    assert GPS_DATE.encode() in buffer.getvalue()
    return buffer.getvalue()


def parts(image: bytes, request: dict[str, Any] | str | None = None) -> dict[str, Any]:
    given = parts_of(message(question=QUESTION) if request is None else request, image)
    given["image"] = (f"{FILE_NAME}.jpg", image, "image/jpeg")
    return given


async def everything_that_may_happen(client: httpx.AsyncClient, engine: FakeEngine) -> list[httpx.Response]:
    """Answers of both stages and one refusal or failure of each kind; all replies that are no answers."""

    def fail() -> None:
        raise RuntimeError(f"cannot tokenize {QUESTION} of {FILE_NAME}")

    async def post(files: dict[str, Any], **options: Any) -> httpx.Response:
        return await client.post("/v1/inferences", files=files, **options)

    first = await post(parts(photo()))
    draft = first.json()
    assert first.status_code == 200, first.text
    second = await put_patch(client, draft["patch"]["url"], patch_for(draft))
    assert second.status_code == 200, second.text
    refused = [
        await post(parts(photo(orientation=6))),
        await post(parts(photo()[:400])),
        await post(parts(photo(), message(question=QUESTION, mode=QUESTION))),
        await post(parts(photo(), f'{{"question": "{QUESTION}')),
        await post(parts(photo()) | {"planted-part": (FILE_NAME, b"x", "text/plain")}),
        await post(parts(photo()), headers={"Content-Type": f"multipart/form-data; {QUESTION}"}),
        await post(parts(photo()), headers={"Authorization": f"Bearer {WRONG_KEY}"}),
        await post(parts(photo()), headers={"Authorization": f"Basic {WRONG_KEY}"}),
        await post(parts(photo()), headers={"Idempotency-Key": f"{QUESTION} with a blank"}),
        await client.get("/v1/inferences/planted-id"),
        await client.put(
            "/v1/inferences/planted-id/patch", content=photo(), headers={"Content-Type": "image/jpeg"}
        ),
        await client.get(f"/{QUESTION}", params={"key": KEY}),
        await client.request("PLANTED-QUESTION", "/v1/model"),
    ]
    engine.before_call = fail
    refused += [await post(parts(photo(colour="blue")))]
    assert [reply.status_code for reply in refused if reply.status_code < 400] == []
    assert {400, 401, 404, 405, 422, 503} <= {reply.status_code for reply in refused}
    return refused


@both_forms
@pytest.mark.parametrize("level", ["info", "debug"])
async def test_nothing_planted_is_written_anywhere(level: str, form: str) -> None:
    """At debug level Pillow used to write the EXIF tags of every upload into the log."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    engine = FakeEngine(FakeScript(draft=ANSWER, answer=ANSWER))
    headers = {"Authorization": f"Bearer {KEY}"}
    with captured_log(level) as log:
        async with running_client(
            engine,
            form=form,
            headers=headers,
            tracer=OtelTracer(provider),
            keys=[key_entry(KEY), key_entry("scrape", scope="metrics")],
        ) as client:
            refused = await everything_that_may_happen(client, engine)
            metrics = (await client.get("/metrics", headers=bearer("scrape"))).text
            spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    ours = [line for line in log.getvalue().splitlines() if not is_the_tests_own(line)]
    assert len(lines(log)) == len(refused) + 3
    assert "RuntimeError at" in str(lines(log, "failure")[0]["chain"])
    found = {
        "log": planted_in("\n".join(ours)),
        "metrics": planted_in(metrics),
        "spans": planted_in(spans),
        "problems": planted_in("".join(reply.text for reply in refused)),
    }
    assert {place: words for place, words in found.items() if words} == {}


def planted_in(text: str) -> set[str]:
    encoded: list[Callable[[bytes], bytes]] = [base64.b64encode, base64.b16encode]
    lowered = text.lower()
    return {
        word
        for word in PLANTED
        if word in lowered or any(encode(word.encode()).decode().lower() in lowered for encode in encoded)
    }


def is_the_tests_own(line: str) -> bool:
    """The client's libraries log, too, in this process: those lines are not the server's."""
    return any(f'"logger": "{name}' in line for name in ("httpx", "httpcore", "asyncio"))


def test_what_is_planted_is_found() -> None:
    """The search above can fail."""
    assert planted_in(f"a {QUESTION.upper()}") == {QUESTION}
    assert planted_in(base64.b64encode(KEY.encode()).decode()) == {KEY}
