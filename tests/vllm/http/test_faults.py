"""What vLLM's workers may do to the server: 503, not ready, an end with 1; no process stays."""

from __future__ import annotations

import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from benchmarks.instruments.processes import ROOT, ServerProcess
from secondglance import EdgeClient
from tests.vllm.faults import FAULT_FILE, WRONG_KEYS
from tests.vllm.http.conftest import vllm_serving

PHOTO = ROOT / "examples" / "photo.jpg"
TRUTH = json.loads((ROOT / "examples" / "photo.json").read_text())
HANG_S = 60.0
END_S = 120.0


@pytest.fixture(params=["exception", "memory", "hang", "death"])
def faulty(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> Iterator[tuple[str, ServerProcess, pathlib.Path]]:
    """A server whose model breaks when the file appears; for one fault its keys are also read wrongly."""
    fault = tmp_path / "fault"
    environment = {FAULT_FILE: str(fault)}
    if request.param == "hang":  # longer than a step takes on a busy machine
        environment["SECONDGLANCE_SERVER_DEVICE_CALL_TIMEOUT_S"] = str(HANG_S)
    if request.param == "exception":
        environment[WRONG_KEYS] = "1"
    with vllm_serving(
        tmp_path / "server.log", module="tests.vllm.faulty_server", environment=environment
    ) as server:
        yield request.param, server, fault


def test_a_broken_worker_ends_as_documented(faulty: tuple[str, ServerProcess, pathlib.Path]) -> None:
    """Those who wait get 503; the server is not ready, ends with 1, and takes all its processes along."""
    name, server, fault = faulty
    if name == "exception":
        check_that_it_only_answers(server)
    else:
        with EdgeClient(server.url) as client:
            assert client.ask(PHOTO, TRUTH["question"]).answer == TRUTH["answer"]
    family, shown = server.family(), small_photo()
    assert len(family) >= 3, "server, scheduler, worker"
    fault.write_text(name)
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda number: post(server.url, number, shown), range(4)))
    assert {reply.status_code for reply in replies if reply is not None} <= {503}
    assert any(reply is not None for reply in replies)
    assert server.process.wait(END_S) == 1
    print(f"\n{name}: ended after {time.monotonic() - began:.1f} s")
    assert "device given up" in server.log.read_text()
    deadline = time.monotonic() + END_S
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < deadline, "a process stayed"
        time.sleep(0.2)


def post(url: str, number: int, shown: bytes) -> httpx.Response | None:
    """Ask by hand: the edge would try again. None where the connection broke."""
    request = {"question": f"What is number {number}?", "image": {"width": 640, "height": 480}}
    parts = {
        "request": (None, json.dumps(request), "application/json"),
        "image": ("photo.jpg", shown, "image/jpeg"),
    }
    try:
        return httpx.post(f"{url}/v1/inferences", files=parts, timeout=HANG_S + 60)
    except httpx.TransportError:
        return None


def small_photo() -> bytes:
    from PIL import Image

    from benchmarks.instruments.edges import fitted, jpeg

    with Image.open(PHOTO) as photo:
        return jpeg(fitted(photo.convert("RGB"), {"max_width": 224, "max_height": 224}))


def check_that_it_only_answers(server: ServerProcess) -> None:
    """Keys read as another backend lays them out: the check notices, and the server only answers."""
    ready, model = (httpx.get(f"{server.url}{path}").json() for path in ("/readyz", "/v1/model"))
    assert ready["status"] == "ready"
    assert "failed its check" in ready["answers_only"]
    assert model["answers_only"] == ready["answers_only"]
    assert "regions are off" in server.log.read_text()
    with EdgeClient(server.url) as client:
        reply = client.ask(PHOTO, TRUTH["question"])
        assert (reply.stage, reply.roi) == (1, None)
        assert client.ask(PHOTO, TRUTH["coarse_question"]).answer == TRUTH["coarse_answer"]
