"""Request ids, one log line a request with nothing private in it, metrics that count what happened."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.engine.fake import FakeEngine, FakeScript
from server.logs import configure_logging
from tests.server.exchange import ask, message, parts_of, patch_for, put_patch


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What a configured server writes to stderr."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("info")
    yield stream
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(log: io.StringIO, event: str = "request") -> list[dict[str, object]]:
    parsed = [json.loads(line) for line in log.getvalue().splitlines()]
    return [line for line in parsed if line["event"] == event and line["logger"].startswith("server")]


async def test_each_request_is_one_line_of_json(log: io.StringIO, client: httpx.AsyncClient) -> None:
    draft = (await ask(client)).json()
    await put_patch(client, draft["patch"]["url"], patch_for(draft))
    await client.get("/nope")
    first, second, missing = lines(log)
    assert (first["stage"], first["outcome"], first["status"]) == (1, "needs_patch", 200)
    assert first["confidence"]["min_entropy"] == 2.0  # type: ignore[index]
    assert first["confidence"].keys() >= {"min_entropy", "shannon", "margin"}  # type: ignore[attr-defined]
    assert first["inference_id"] == second["inference_id"] == draft["id"]
    assert (second["stage"], second["outcome"]) == (2, "answered")
    assert (missing["route"], missing["error"], missing["status"]) == ("unmatched", "route_not_found", 404)
    assert first["received_bytes"] == draft["usage"]["received_bytes"]
    assert first["sent_bytes"] > 100  # type: ignore[operator]


async def test_nothing_private_is_logged(
    log: io.StringIO, client: httpx.AsyncClient, engine: FakeEngine
) -> None:
    secret = "my-very-private-question"

    def fail() -> None:
        raise RuntimeError(f"cannot tokenize {secret}")

    parts = parts_of(message(question=secret))
    parts["image"] = ("private-name.jpg", *parts["image"][1:])
    await client.post("/v1/inferences", files=parts)
    engine.before_call = fail
    await client.post("/v1/inferences", files=parts)
    await client.post("/v1/inferences", files=parts_of(message(question=secret, mode="x")))
    await client.post("/v1/inferences", files=parts_of('{"question": "' + secret))
    assert len(lines(log)) == 4
    assert "RuntimeError at" in str(lines(log, "failure")[0]["chain"])
    assert secret not in log.getvalue()
    assert "private-name" not in log.getvalue()


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
    draft = (await ask(client)).json()
    patch = patch_for(draft)
    await put_patch(client, draft["patch"]["url"], patch)
    engine.script = FakeScript(draft_entropy_nats=0.0)
    await ask(client)
    await ask(client, upload=b"junk")
    text = (await client.get("/metrics")).text
    for line in [
        'secondglance_inferences_total{outcome="needs_patch",stage="1"} 1.0',
        'secondglance_inferences_total{outcome="answered",stage="1"} 1.0',
        'secondglance_inferences_total{outcome="answered",stage="2"} 1.0',
        'secondglance_inferences_total{outcome="failed",stage="1"} 1.0',
        'secondglance_rejections_total{code="unsupported_media_type"} 1.0',
        f'secondglance_received_bytes_total{{stage="2"}} {float(len(patch))}',
        'secondglance_gate_value_count{metric="shannon",stage="1"} 2.0',
        'secondglance_phase_seconds_count{phase="queue",stage="2"} 1.0',
        "secondglance_queue_depth 0.0",
        "secondglance_sessions 2.0",
    ]:
        assert line in text.splitlines(), line


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
