"""`secondglance-server fleet-status`: one line for each server, exit 1 if one is not ready."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from secondglance_server.cli import cli
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.fleet_status import ServerStatus, notes_on
from secondglance_server.testing import free_port
from tests.server.exchange import key_entry, live_server

NOBODY = f"http://127.0.0.1:{free_port()}"


async def run(*arguments: str) -> Result:
    command = ["fleet-status", "--timeout-s", "5", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, cli, command, catch_exceptions=False)


async def documented(*urls: str) -> tuple[int, dict[str, Any]]:
    ran = await run("--json", *urls)
    return ran.exit_code, json.loads(ran.stdout)


async def test_all_servers_are_asked_and_told_apart() -> None:
    async with (
        live_server(FakeEngine(), server_tag="a", max_queue=7) as a,
        live_server(FakeEngine(), server_tag="b", max_sessions=9) as b,
    ):
        exit_code, told = await documented(a, f"{b}/")
        table = (await run(a, b)).stdout.splitlines()
    assert (exit_code, told["ready"], told["notes"]) == (0, True, [])
    one, other = told["servers"]
    assert [(one["url"], one["tag"]), (other["url"], other["tag"])] == [(a, "a"), (b, "b")]
    assert one["model"] == other["model"] == "fake"
    assert (one["numbers"]["queue_limit"], other["numbers"]["sessions_limit"]) == (7, 9)
    assert [line.split()[:3] for line in table[1:]] == [[a, "a", "ready"], [b, "b", "ready"]]


async def test_one_that_is_away_is_a_line_and_exit_code_1() -> None:
    async with live_server(FakeEngine(), server_tag="a") as a:
        exit_code, told = await documented(NOBODY, a)
        ran = await run(NOBODY, a)
    assert (exit_code, ran.exit_code, told["ready"]) == (1, 1, False)
    assert [server["is_ready"] for server in told["servers"]] == [False, True]
    assert "refused" in told["servers"][0]["reason"]
    assert "NOT READY" in ran.stdout.splitlines()[1]


async def test_keys_come_from_the_environment_and_each_goes_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [key_entry("asks"), key_entry("measures", scope="metrics")]
    async with live_server(FakeEngine(), keys=keys) as url:
        exit_code, told = await documented(url)
        assert exit_code == 0, "readiness needs no key"
        assert told["servers"][0]["numbers"] is None
        assert "401" in told["servers"][0]["reason"]
        monkeypatch.setenv("SECONDGLANCE_API_KEY", "asks")
        monkeypatch.setenv("SECONDGLANCE_METRICS_KEY", "measures")
        _, told = await documented(url)
    (server,) = told["servers"]
    assert (server["model"], server["reason"]) == ("fake", "")
    assert server["numbers"]["memory_bytes"] > 0


@contextmanager
def something_else(body: bytes) -> Iterator[str]:
    """A web server that says the same of everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{}",
        b"[1]",
        b'{"name": "x\x1b[2J"}',
        b'{"status": "\x1b[2J"}',
        b"\xff",
        b"a{",
        b"secondglance_x y",
    ],
)
async def test_whatever_answers_is_shown_as_a_line_and_controls_no_terminal(body: bytes) -> None:
    with something_else(body) as url:
        ran = await run(url)
        assert ran.exit_code == 1, "a page of somebody else is no readiness"
        assert ran.stdout.splitlines()[1].startswith(url)
        assert "\x1b" not in ran.stdout


def test_what_no_fleet_should_be_is_noted() -> None:
    def server(**facts: Any) -> ServerStatus:
        same = {"url": "", "is_ready": True, "reason": "", "numbers": None}
        return ServerStatus(**same | {"tag": "a", "version": "1", "model": "m"} | facts)

    assert notes_on([server(), server(tag="b")]) == []
    assert notes_on([server(), server(tag="b", model="n")]) == ["the servers differ in model: m, n"]
    assert notes_on([server(), server(tag="b", version="2")]) == ["the servers differ in version: 1, 2"]
    assert notes_on([server(), server()]) == ["the tag a is used by 2 servers"]
    assert notes_on([server(tag=None, model=None), server()]) == [], "what is not known differs from nothing"
