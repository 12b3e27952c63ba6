"""The gateway's page: open on loopback, and the server's own API behind it with the edge's key."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from secondglance import AsyncEdgeClient, EdgeSettings
from secondglance.gateway.app import create_app
from secondglance.gateway.settings import GatewaySettings
from secondglance.wire.reading import MAX_REPLY_BYTES
from secondglance_server.engine.fake import FakeEngine
from secondglance_web import CONTENT_SECURITY_POLICY, Page
from tests.server.exchange import (
    GLOBAL_IMAGE,
    bearer,
    key_entry,
    message,
    parts_of,
    patch_for,
    running_client,
)

INFERENCES = "/v1/inferences"


@asynccontextmanager
async def gateway(transport: httpx.AsyncBaseTransport, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway in this process, whose edge has the key `edge-key`."""
    edge = EdgeSettings(url="http://127.0.0.1", api_key="edge-key", retries=0)
    app = create_app(GatewaySettings(**settings), AsyncEdgeClient(settings=edge, transport=transport))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8001") as client,
    ):
        yield client


async def test_the_page_asks_in_two_stages_with_the_edges_key() -> None:
    async with running_client(FakeEngine(), keys=[key_entry("edge-key")]) as server:
        transport = httpx.ASGITransport(server.app)  # type: ignore[attr-defined]
        async with gateway(transport) as client:
            assert (await client.get("/v1/model")).json()["protocol_version"] == 1
            key = {"Idempotency-Key": "once"}
            asked = message(mode="always")
            first = (await client.post(INFERENCES, files=parts_of(asked), headers=key)).json()
            again = await client.post(INFERENCES, files=parts_of(asked), headers=key)
            assert (again.json()["id"], again.headers["idempotency-replayed"]) == (first["id"], "true")
            patch, kind = patch_for(first), {"Content-Type": "image/png"}
            second = await client.put(first["patch"]["url"], content=patch, headers=kind)
            assert (second.status_code, second.json()["stage"]) == (200, 2)
            assert second.json()["usage"]["received_bytes"] == len(patch)
            assert (await client.get(f"{INFERENCES}/{first['id']}")).json() == second.json()
            assert (await client.delete(f"{INFERENCES}/{first['id']}")).status_code == 204


async def test_the_page_may_send_the_picture_as_the_body_and_the_question_as_a_header() -> None:
    """The gateway handed on which form the server takes, but not the header that holds the question."""
    async with running_client(FakeEngine(), keys=[key_entry("edge-key")]) as server:
        transport = httpx.ASGITransport(server.app)  # type: ignore[attr-defined]
        async with gateway(transport) as client:
            assert (await client.get("/v1/model")).json()["raw_image"] is True
            headers = {"X-Question": json.dumps(message(mode="always")), "Content-Type": "image/png"}
            first = (await client.post(INFERENCES, content=GLOBAL_IMAGE, headers=headers)).json()
            assert (first["stage"], first["usage"]["received_bytes"]) == (1, len(GLOBAL_IMAGE))
            held = {"X-Question": json.dumps(message(image_id=first["image_id"]))}
            assert (await client.post(INFERENCES, headers=held)).json()["image_id"] == first["image_id"]


async def test_the_servers_refusals_come_through_as_they_are() -> None:
    async with (
        running_client(FakeEngine(), keys=[key_entry("another")]) as server,
        gateway(httpx.ASGITransport(server.app)) as client,  # type: ignore[attr-defined]
    ):
        reply = await client.get("/v1/model")
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated")


async def test_a_server_that_is_away_is_said_so() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("late", request=request)

    for handler, status in ((away, 502), (slow, 504)):
        async with gateway(httpx.MockTransport(handler)) as client:
            assert (await client.get("/v1/model")).status_code == status


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, b"x" * (MAX_REPLY_BYTES + 1)), ({"Content-Encoding": "gzip"}, gzip.compress(bytes(10_000)))],
)
async def test_a_hostile_servers_reply_is_bounded_on_its_way_to_the_page(headers, body: bytes) -> None:
    """H1: what the conversation refuses was handed on whole, and unpacked on the way."""

    def server(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(body))

    async with gateway(httpx.MockTransport(server)) as client:
        for method, path in (("GET", "/v1/model"), ("POST", INFERENCES), ("PUT", f"{INFERENCES}/a/patch")):
            assert (await client.request(method, path)).status_code == 502


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a%2Fb", "a%20b", "%C3%A9", "x" * 129])
async def test_no_id_leads_to_another_path_of_the_server(name: str) -> None:
    asked: list[str] = []

    def server(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        return httpx.Response(200, json={})

    async with gateway(httpx.MockTransport(server)) as client:
        request = client.build_request("PUT", "http://127.0.0.1:8001", content=b"x")
        request.url = httpx.URL(
            scheme="http", host="127.0.0.1", port=8001, raw_path=f"{INFERENCES}/{name}/patch".encode()
        )
        assert (await client.send(request)).status_code == 404
    assert asked == []


async def test_the_pages_key_for_the_gateway_does_not_reach_the_server() -> None:
    seen: list[str] = []

    def server(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        assert "cookie" not in request.headers
        return httpx.Response(200, json={})

    async with gateway(httpx.MockTransport(server), api_key="gateway-key") as client:
        opened = await client.get("/app/")
        assert opened.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert (await client.get("/v1/model")).status_code == 401
        headers = {**bearer("gateway-key"), "Cookie": "a=b"}
        assert (await client.get("/v1/model", headers=headers)).status_code == 200
    assert seen == ["Bearer edge-key"]


async def test_only_pages_of_this_machine_may_ask() -> None:
    """The page's files are public; what asks the server is guarded as all of the gateway is."""

    def server(request: httpx.Request) -> httpx.Response:
        raise AssertionError("no request may get here")

    async with gateway(httpx.MockTransport(server)) as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            assert (await client.get("/app/", headers=headers)).status_code == 200
            assert (await client.put(f"{INFERENCES}/inf/patch", headers=headers)).status_code == 403
            assert (await client.post(INFERENCES, headers=headers)).status_code == 403


async def test_a_crop_that_is_too_large_is_not_taken() -> None:
    def server(request: httpx.Request) -> httpx.Response:
        raise AssertionError("no request may get here")

    async with gateway(httpx.MockTransport(server), max_body_bytes=1000) as client:
        assert (await client.put(f"{INFERENCES}/inf/patch", content=b"x" * 1001)).status_code == 413


async def test_a_gateway_for_other_machines_has_no_page() -> None:
    async with running_client(FakeEngine(), keys=[key_entry("edge-key")]) as server:
        transport = httpx.ASGITransport(server.app)  # type: ignore[attr-defined]
        async with gateway(transport, host="0.0.0.0", api_key="gateway-key") as client:
            assert (await client.get("/app/")).status_code == 401
            headers = bearer("gateway-key")
            for path in ("/app", "/app/", *(f"/app/{name}" for name in Page().names), "/v1/model"):
                assert (await client.get(path, headers=headers)).status_code == 404
