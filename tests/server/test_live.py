"""A real uvicorn on a loopback port: slow, lying and leaving clients, and both stages over a socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.http import body
from tests.server.exchange import (
    ask,
    assert_problem,
    key_entry,
    live_server,
    message,
    parts_of,
    patch_for,
    put_patch,
    until,
)


async def raw(url: str, *chunks: bytes, end: bool = False) -> bytes:
    """Send bytes over a socket; the reply until the server closes or has said all."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        if end:
            writer.write_eof()
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            return head + await reader.readexactly(length)
    finally:
        writer.close()


def post_head(length: int | None = None, extra: str = "") -> bytes:
    framing = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    return (
        "POST /v1/inferences HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"{framing}\r\n{extra}\r\n"
    ).encode()


async def until_metrics_say(client: httpx.AsyncClient, line: str) -> None:
    async with asyncio.timeout(10):
        while line not in (await client.get("/metrics")).text:
            pass


async def test_both_stages_over_a_socket() -> None:
    async with live_server(FakeEngine()) as url, httpx.AsyncClient(base_url=url) as client:
        draft = (await ask(client)).json()
        final = await put_patch(client, draft["patch"]["url"], patch_for(draft))
        assert (final.status_code, final.json()["answer"]) == (200, "42")


async def test_a_declared_flood_is_refused_before_it_is_sent() -> None:
    """The body never comes: the declaration is enough, and the connection is not kept waiting for it."""
    async with live_server(FakeEngine()) as url:
        reply = await raw(url, post_head(10**12))
        assert b" 413 " in reply.split(b"\r\n")[0]
        assert b"connection: close" in reply.lower()
        assert json.loads(reply.split(b"\r\n\r\n", 1)[1])["code"] == "body_too_large"


async def test_a_streamed_flood_is_cut_off() -> None:
    sent = 0

    def flood() -> Iterator[bytes]:
        nonlocal sent
        while sent < 10**9:
            sent += 65536
            yield bytes(65536)

    async with live_server(FakeEngine(), max_image_bytes=1_000_000) as url:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}

        def post() -> httpx.Response:
            with httpx.Client(base_url=url) as client:
                return client.post("/v1/inferences", content=flood(), headers=headers)

        assert_problem(await asyncio.to_thread(post), 413, "body_too_large")
        assert sent < 50_000_000
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await ask(client)).status_code == 200


@pytest.mark.parametrize("length", [100_000, None])
async def test_a_body_that_does_not_come_is_not_waited_for(
    length: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_GRACE_S", 0.1)
    async with live_server(FakeEngine(), body_timeout_s=0.3) as url:
        reply = await raw(url, post_head(length), b"--x\r\n" if length else b"5\r\n--x\r\n\r\n")
        assert b" 408 " in reply.split(b"\r\n")[0]
        assert json.loads(reply.split(b"\r\n\r\n", 1)[1])["code"] == "body_timeout"


async def test_a_body_at_a_fair_pace_may_take_longer_than_the_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten bytes a second are allowed: 30 bytes that come one by one over 0.5 s outlive a grace of 0.1 s."""
    monkeypatch.setattr(body, "BODY_GRACE_S", 0.1)
    monkeypatch.setattr(body, "MIN_BODY_BYTES_PER_S", 10)
    async with live_server(FakeEngine()) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(post_head(30) + bytes(10))
        for _ in range(20):
            await asyncio.sleep(0.02)
            writer.write(b"x")
            await writer.drain()
        async with asyncio.timeout(10):
            assert b" 400 " in await reader.readline()  # it is no multipart, but it was read to its end
        writer.close()


async def test_work_for_a_client_that_left_is_not_begun() -> None:
    engine = FakeEngine()
    release = threading.Event()
    engine.before_call = release.wait
    async with live_server(engine) as url, httpx.AsyncClient(base_url=url) as client:
        holding = asyncio.create_task(ask(client, question="holding", mode="answer_only"))
        await until(lambda: len(engine.calls) == 1)
        leaving = asyncio.create_task(ask(client, question="leaving"))
        waiting = "secondglance_queue_depth 1.0"
        await until_metrics_say(client, waiting)
        leaving.cancel()
        left = 'secondglance_inferences_total{outcome="client_gone",stage="1"} 1.0'
        await until_metrics_say(client, left)
        engine.before_call = None
        release.set()
        await holding
        await ask(client, question="staying", mode="answer_only")
        assert [call.questions for call in engine.calls] == [("holding",), ("staying",)]


async def test_the_key_is_checked_before_the_body_is_read() -> None:
    async with live_server(FakeEngine(), keys=[key_entry("secret")]) as url:
        reply = await raw(url, post_head(1_000_000))  # nothing of the body comes
        assert b" 401 " in reply.split(b"\r\n")[0]


async def test_requests_of_many_clients_are_all_answered() -> None:
    async with live_server(FakeEngine()) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def converse(number: int) -> str:
            response = await client.post("/v1/inferences", files=parts_of(message(question=f"q{number}")))
            draft = response.json()
            final = await put_patch(client, draft["patch"]["url"], patch_for(draft))
            return str(final.json()["answer"])

        assert await asyncio.gather(*(converse(number) for number in range(20))) == ["42"] * 20
