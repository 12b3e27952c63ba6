"""Request ids, one log line a request, metrics that count what happened."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from secondglance_server.engine.fake import FakeEngine, FakeScript
from tests.server.exchange import GLOBAL_IMAGE, ORIGINAL, ask, encode, patch_for, put_patch
from tests.server.listening import captured_log, lines


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    with captured_log() as stream:
        yield stream


async def samples(client: httpx.AsyncClient) -> dict[str, float]:
    """Every sample as `name{label="value",...}` with sorted labels."""
    text = (await client.get("/metrics")).text
    return {
        sample.name + "".join(f"|{key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_each_request_is_one_line_of_json(log: io.StringIO, client: httpx.AsyncClient) -> None:
    draft = (await ask(client)).json()
    await put_patch(client, draft["patch"]["url"], patch_for(draft))
    await client.get("/nope")
    first, second, missing = lines(log)
    assert (first["stage"], first["outcome"], first["status"]) == (1, "needs_patch", 200)
    assert first["confidence"]["min_entropy"] == 2.0
    assert first["confidence"].keys() >= {"min_entropy", "shannon", "margin"}
    assert first["inference_id"] == second["inference_id"] == draft["id"]
    assert (second["stage"], second["outcome"]) == (2, "answered")
    assert (missing["route"], missing["error"], missing["status"]) == ("unmatched", "route_not_found", 404)
    assert first["received_bytes"] == draft["usage"]["received_bytes"]
    assert first["sent_bytes"] > 100


async def test_a_broken_body_is_one_line_too(log: io.StringIO, client: httpx.AsyncClient) -> None:
    """The multipart parser used to add a warning with bytes of the body."""
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    for body in (b"--cut\r\nA;B: c\r\n\r\n", b"--cUt", b"--cut\r\n\r\nx\r\n--cut."):
        await client.post("/v1/inferences", content=body, headers=headers)
    assert len(lines(log)) == 3
    assert "python_multipart" not in log.getvalue()


async def test_an_upload_with_broken_tags_is_one_line_too(
    log: io.StringIO, client: httpx.AsyncClient
) -> None:
    """Pillow warns of each tag number once: a client could fill the log with 65,536 of them."""
    reaches_too_far = struct.pack("<HHII", 0xFE00, 2, 1000, 5000)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + reaches_too_far + bytes(4)
    with pytest.warns(UserWarning, match="Skipping tag 65024"):
        Image.open(io.BytesIO(encode(20, 10, "JPEG", exif=exif))).getexif()
    assert (await ask(client, upload=encode(20, 10, "JPEG", exif=exif))).status_code == 200
    assert len(lines(log)) == 1
    assert "Skipping tag" not in log.getvalue()


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [("abc-1.2_3:4", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("ü", False), ("", False)],
)
async def test_a_decent_request_id_is_kept(client: httpx.AsyncClient, given: str, is_kept: bool) -> None:
    response = await client.get("/healthz", headers={"X-Request-Id": given.encode()})
    came_back = response.headers["x-request-id"]
    assert (came_back == given) is is_kept
    assert came_back


async def test_metrics_count_what_happened(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    first = await ask(client)
    draft = first.json()
    patch = patch_for(draft)
    second = await put_patch(client, draft["patch"]["url"], patch)
    await put_patch(client, draft["patch"]["url"], patch)
    engine.script = FakeScript(draft_entropy_nats=0.0)
    sure = await ask(client)
    junk = await ask(client, upload=b"junk")
    found = await samples(client)
    expected = {
        "secondglance_inferences_total|outcome=needs_patch|stage=1": 1,
        "secondglance_inferences_total|outcome=answered|stage=1": 1,
        "secondglance_inferences_total|outcome=failed|stage=1": 1,
        "secondglance_inferences_total|outcome=answered|stage=2": 1,
        "secondglance_inferences_total|outcome=replayed|stage=2": 1,
        "secondglance_rejections_total|code=unsupported_media_type": 1,
        "secondglance_received_bytes_total|stage=2": 2 * len(patch),
        "secondglance_sent_bytes_total|stage=1": sum(len(r.content) for r in (first, sure, junk)),
        "secondglance_sent_bytes_total|stage=2": 2 * len(second.content),
        "secondglance_gate_value_count|metric=shannon|stage=1": 2,
        "secondglance_phase_seconds_count|phase=queue|stage=2": 1,
        "secondglance_request_seconds_count|method=POST|route=/v1/inferences": 3,
        "secondglance_queue_depth": 0,
        "secondglance_queue_limit": 64,
        "secondglance_sessions": 2,
        "secondglance_session_bytes": 0,
        "secondglance_stored_images": 1,
        "secondglance_stored_image_bytes": len(GLOBAL_IMAGE),
        "secondglance_ready": 1,
        "secondglance_requests_in_flight": 1,  # the one that asks
        "secondglance_prefix_cache_bytes": 0,
        "secondglance_model_info|device=none|dtype=none|family=fake|model=fake": 1,
    }
    assert {name: found.get(name) for name in expected} == expected


async def test_pixels_tell_what_was_asked_for_and_what_stayed_at_the_edge(client: httpx.AsyncClient) -> None:
    """Two questions about one original: the second needs no upload, its patch is offered and never sent."""
    draft = (await ask(client)).json()
    patch = patch_for(draft)  # scaled to the offer, as an edge does it
    width, height = Image.open(io.BytesIO(patch)).size
    await put_patch(client, draft["patch"]["url"], patch)
    await ask(client, upload=None, image_id=draft["image_id"])
    found = await samples(client)
    assert found["secondglance_original_pixels_total"] == 2 * ORIGINAL["width"] * ORIGINAL["height"]
    assert found["secondglance_uploaded_pixels_total|stage=1"] == 336 * 252
    assert found["secondglance_uploaded_pixels_total|stage=2"] == width * height
    assert found["secondglance_asked_pixels_total"] == 2 * width * height


async def test_what_waits_for_a_patch_is_shown_in_bytes(
    client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    await ask(client)
    engine.held_bytes = 4321
    found = await samples(client)
    assert found["secondglance_session_bytes"] == len(GLOBAL_IMAGE)
    assert found["secondglance_prefix_cache_bytes"] == 4321


async def test_labels_do_not_grow_with_what_clients_invent(client: httpx.AsyncClient) -> None:
    for path in ("/a", "/b", "/v1/inferences/inf_1"):
        await client.request("BREW", path)
    text = (await client.get("/metrics")).text
    assert 'route="unmatched"' in text
    assert "BREW" not in text
    assert "inf_1" not in text


def test_logging_is_left_alone_by_the_app() -> None:
    """Only the command line configures it: programs that embed the app keep their own handlers."""
    source = Path(__file__).parents[2] / "server"
    users = [path.name for path in source.rglob("*.py") if "configure_logging(" in path.read_text()]
    assert sorted(users) == ["cli.py", "logs.py"]
