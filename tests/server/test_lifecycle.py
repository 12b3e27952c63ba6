"""The process from outside: how it stops, and that it never stands there without answering."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from typing import Any

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine, FakeScript
from tests.server.exchange import (
    ask,
    assert_problem,
    assert_still_serves,
    message,
    parts_of,
    patch_for,
    running_client,
)
from tests.server.fake_server import FakeServer, fake_server

pytestmark = pytest.mark.live

LONG_S = 30  # a bound for a busy machine, never a duration that is waited for


def post(server: FakeServer, **changes: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/inferences", files=parts_of(message(**changes)), timeout=LONG_S)


def put(server: FakeServer, draft: dict[str, Any]) -> httpx.Response:
    url, headers = server.url + draft["patch"]["url"], {"Content-Type": "image/png"}
    return httpx.put(url, content=patch_for(draft), headers=headers, timeout=LONG_S)


class Asking(threading.Thread):
    """A question in a thread of its own; `response` is None if the connection broke."""

    def __init__(self, server: FakeServer, **changes: Any) -> None:
        super().__init__(daemon=True)
        self._server, self._changes = server, changes
        self.response: httpx.Response | None = None
        self.start()
        metrics = f"{server.url}/metrics"
        running = "secondglance_requests_in_flight 2.0"  # this question and the one for the metrics
        deadline = time.monotonic() + LONG_S
        while running not in httpx.get(metrics).text:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def run(self) -> None:
        with contextlib.suppress(httpx.TransportError):
            self.response = post(self._server, **self._changes)


def stop(server: FakeServer) -> None:
    server.process.send_signal(signal.SIGTERM)
    server.wait_for("/readyz", 503)


def test_a_stopping_server_finishes_what_it_began_and_takes_nothing_new() -> None:
    with fake_server({"delay_s": 1.0}) as server:
        asking = Asking(server, mode="answer_only")
        stop(server)
        assert server.status("/healthz") == 200
        refused = post(server)
        assert_problem(refused, 503, "not_ready")
        assert refused.headers["retry-after"] == "1"
        asking.join(LONG_S)
        assert asking.response is not None
        assert asking.response.status_code == 200
        assert server.process.wait(LONG_S) == 0


def test_a_stopping_server_still_takes_the_patch_that_it_asked_for() -> None:
    """Over a new connection, and then it ends at once, long before its grace does."""
    with fake_server(shutdown_grace_s=600) as server:
        draft = post(server).json()
        stop(server)
        assert put(server, draft).json()["answer"] == "42"
        assert server.process.wait(LONG_S) == 0


def test_a_patch_that_never_comes_is_waited_for_until_the_grace_ends() -> None:
    with fake_server(shutdown_grace_s=1) as server:
        assert post(server).json()["status"] == "needs_patch"
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LONG_S) == 0
        assert time.monotonic() - began > 0.9


def test_work_that_outlives_the_grace_does_not_hold_up_the_end() -> None:
    with fake_server({"breaks": "hang"}, shutdown_grace_s=1) as server:
        Asking(server)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(LONG_S) in (0, 1)  # 1: the last resort, on a very slow machine


@pytest.mark.parametrize("breaks", ["hang", "death"])
def test_a_device_that_is_lost_ends_the_process_with_a_failure(breaks: str) -> None:
    """Those who wait are told; the supervisor starts the server again."""
    with fake_server({"breaks": breaks}, log=subprocess.PIPE, device_call_timeout_s=1) as server:
        assert_problem(post(server), 503, "not_ready")
        assert server.process.wait(LONG_S) == 1
        assert server.process.stderr is not None
        assert "device given up" in server.process.stderr.read()


@pytest.mark.parametrize("breaks", ["error", "memory"])
async def test_a_model_that_fails_is_survived(breaks: Any) -> None:
    engine = FakeEngine(FakeScript(breaks=breaks))
    async with running_client(engine) as client:
        for _ in range(3):
            response = await ask(client)
            assert assert_problem(response, 503, "engine_failed")["retryable"]
            assert response.headers["retry-after"] == "1"
        assert (await client.get("/readyz")).status_code == 200
        engine.script = FakeScript()
        await assert_still_serves(client)


async def test_a_device_that_comes_back_too_late_finds_nobody() -> None:
    """Its call was given up and its waiters told; what it then returns is nobody's."""
    engine = FakeEngine(FakeScript(breaks="hang"))
    async with running_client(engine, device_call_timeout_s=0.2) as client:
        assert_problem(await ask(client), 503, "not_ready")
        readyz = await client.get("/readyz")
        assert assert_problem(readyz, 503, "not_ready")["detail"] == "the device has not come back for 0.2 s"
        assert_problem(await ask(client), 503, "not_ready")
        engine.close()
