"""Who may ask, how much at once and how large; everything refused has OpenAI's error shape."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from secondglance import AsyncEdgeClient, EdgeSettings, UsageError
from secondglance.gateway.app import create_app
from secondglance.gateway.settings import ENV_PREFIX, GatewaySettings, load_gateway_settings

Gateway = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def gateway(server: Any) -> Gateway:
    """The app in this process, in front of the scripted server."""

    @asynccontextmanager
    async def start(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
        edge = AsyncEdgeClient(
            settings=EdgeSettings(url="http://edge.test", retries=0), transport=httpx.MockTransport(server)
        )
        app = create_app(GatewaySettings(**settings), edge)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8001") as client,
        ):
            yield client

    return start


def assert_error(response: httpx.Response, status: int, code: str | None) -> dict[str, Any]:
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code), response.text
    assert error.keys() == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"].startswith("req_")
    return error


async def test_without_a_key_only_local_names_are_answered(gateway: Gateway) -> None:
    """A web page whose name was pointed at 127.0.0.1 sends its own name as Host."""
    async with gateway() as client:
        for host in ("127.0.0.1:8001", "localhost:8001", "localhost", "[::1]:8001"):
            assert (await client.get("/v1/models", headers={"Host": host})).status_code == 200, host
        foreign = [
            "evil.example:8001",
            "evil.example",
            "127.0.0.1.evil.example",
            "",
            "127.0.0.1:",
            "localhost:x",
        ]
        foreign += [
            "localhost:80@evil",
            "localhost:80:evil",
            "evil:localhost",
            "[::1]evil",
            "localhost:80/evil",
        ]
        foreign += ["localhost.", "localhost:80 ", "[::1", "::1", "127.0.0.2", "a@localhost", "localhost#:80"]
        for host in foreign:
            assert_error(await client.get("/v1/models", headers={"Host": host}), 403, "forbidden_host")


async def test_without_a_key_no_page_of_another_origin_is_answered(gateway: Gateway) -> None:
    """S9: a browser lets every page post forms to loopback; it says in Origin whose page it was."""
    routes = [
        ("POST", "/v1/files"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("DELETE", "/v1/files/x"),
    ]
    foreign = ["http://evil.example", "null", "", "http://localhost:80@evil", "http://localhost.evil.example"]
    foreign += [
        "file://",
        "http://127.0.0.1:8001/",
        "localhost",
        "chrome-extension://abc",
        "http://[::1]evil",
    ]
    async with gateway() as client:
        for (method, path), origin in itertools.product(routes, foreign):
            files = {"file": ("a.png", b"1")} if path == "/v1/files" else None
            response = await client.request(method, path, headers={"Origin": origin}, files=files)
            assert_error(response, 403, "forbidden_origin")
        both = [("Origin", "http://localhost"), ("Origin", "http://evil.example")]
        assert_error(await client.get("/v1/models", headers=both), 403, "forbidden_origin")
        for origin in ("http://localhost:3000", "http://127.0.0.1:8001", "https://[::1]"):
            assert (await client.get("/v1/models", headers={"Origin": origin})).status_code == 200


async def test_with_a_key_every_route_but_health_wants_it(gateway: Gateway) -> None:
    async with gateway(api_key="right", host="0.0.0.0") as client:
        routes = [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/v1/files"), ("GET", "/")]
        for method, path in routes:
            for value in ("", "right", "Bearer", "Bearer wrong", "Basic right", "Bearer rightright"):
                refused = await client.request(method, path, headers={"Authorization": value})
                assert_error(refused, 401, "invalid_api_key")
        right = {"Authorization": "Bearer right", "Host": "anything.example"}
        assert (await client.get("/v1/models", headers=right)).status_code == 200
        assert (await client.get("/healthz")).json() == {"status": "ok"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "camera.local"])
def test_listening_beyond_loopback_needs_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="SECONDGLANCE_EDGE_GATEWAY_API_KEY"):
        load_gateway_settings(host=host)
    assert load_gateway_settings(host=host, api_key="secret").host == host
    for local in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert load_gateway_settings(host=local).is_on_loopback


def test_a_wrong_setting_is_named_and_a_key_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_EDGE_GATEWAY_MAX_REQUESTS", "lots")
    monkeypatch.setenv("SECONDGLANCE_EDGE_GATEWAY_API_KEY", "")
    with pytest.raises(UsageError, match="SECONDGLANCE_EDGE_GATEWAY_MAX_REQUESTS='lots'") as raised:
        load_gateway_settings()
    assert "API_KEY=***" in str(raised.value)


@pytest.mark.parametrize("name", GatewaySettings.model_fields)
def test_a_misspelt_variable_is_named_with_the_nearest_setting(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Walked. It was ignored, so whoever set it believed that it worked."""
    misspelt = f"{ENV_PREFIX}{name.upper()}X"
    monkeypatch.setenv(misspelt, "1")
    with pytest.raises(
        UsageError, match=f"^{misspelt} is no setting; the nearest one is {ENV_PREFIX}{name.upper()}$"
    ):
        load_gateway_settings()


async def test_what_is_too_large_is_413_declared_or_streamed(gateway: Gateway) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield bytes(100)

    async with gateway(max_body_bytes=1000, max_files_bytes=100) as client:
        declared = await client.post("/v1/chat/completions", content=bytes(1001))
        assert_error(declared, 413, "body_too_large")
        assert declared.headers["connection"] == "close"
        assert_error(await client.post("/v1/chat/completions", content=body()), 413, "body_too_large")
        kept = await client.post("/v1/files", files={"file": ("a.jpg", bytes(101))})
        assert_error(kept, 413, "file_too_large")


async def test_requests_beyond_the_limit_are_429_and_the_place_is_given_back(
    gateway: Gateway, server: Any
) -> None:
    release = asyncio.Event()
    entered = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        entered.set()
        await release.wait()
        yield b"{}"

    async with gateway(max_requests=1, max_waiting=0) as client:
        held = asyncio.create_task(client.post("/v1/chat/completions", content=slow_body()))
        await entered.wait()
        refused = await client.post("/v1/chat/completions", json={})
        assert_error(refused, 429, "rate_limit_exceeded")
        assert refused.headers["retry-after"] == "1"
        release.set()
        await held
        assert_error(await client.post("/v1/chat/completions", json={}), 400, "missing_required_parameter")


async def test_requests_wait_for_a_place_in_order_and_not_for_ever(gateway: Gateway, server: Any) -> None:
    """U12: a ninth request was refused at once; other servers queue."""
    ended: list[str] = []

    def held_until(release: asyncio.Event) -> AsyncIterator[bytes]:
        async def body() -> AsyncIterator[bytes]:
            await release.wait()
            yield b"{}"

        return body()

    async def asked(name: str, release: asyncio.Event) -> int:
        response = await client.post("/v1/chat/completions", content=held_until(release))
        ended.append(name)
        return response.status_code

    first, others = asyncio.Event(), asyncio.Event()
    others.set()
    async with gateway(max_requests=1, max_waiting=2, max_wait_s=0.5) as client:
        tasks = [asyncio.create_task(asked("first", first))]
        for name in ("second", "third"):
            await asyncio.sleep(0.01)
            tasks.append(asyncio.create_task(asked(name, others)))
        await asyncio.sleep(0.01)
        too_many = await client.post("/v1/chat/completions", json={})
        assert_error(too_many, 429, "rate_limit_exceeded")
        first.set()
        assert set(await asyncio.gather(*tasks)) == {415}
        assert ended == ["first", "second", "third"]

        never = asyncio.Event()
        holding = asyncio.create_task(asked("holding", never))
        await asyncio.sleep(0.01)
        late = await client.post("/v1/chat/completions", json={})
        assert_error(late, 429, "rate_limit_exceeded")
        assert "within 0.5 s" in late.json()["error"]["message"]
        never.set()
        await holding
        assert_error(await client.post("/v1/chat/completions", json={}), 400, "missing_required_parameter")


async def test_a_body_that_does_not_arrive_is_408(gateway: Gateway) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with gateway(body_timeout_s=0.05) as client:
        assert_error(await client.post("/v1/chat/completions", content=stuck()), 408, "body_timeout")


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/v1/nothing", {}, 404, "unknown_url"),
        ("GET", "/v1/models/", {}, 404, "model_not_found"),
        ("PUT", "/v1/files", {}, 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", {}, 405, "method_not_allowed"),
        ("GET", "/v1/files/file-1", {}, 404, "file_not_found"),
        ("DELETE", "/v1/files/file-1", {}, 404, "file_not_found"),
        ("POST", "/v1/files", {"data": {"purpose": "vision"}}, 400, "missing_required_parameter"),
        ("POST", "/v1/chat/completions", {"content": b"{}"}, 415, "unsupported_media_type"),
        ("POST", "/v1/chat/completions", {"json": []}, 400, "invalid_json"),
        ("POST", "/v1/chat/completions", {"json": {"model": "fake"}}, 400, "missing_required_parameter"),
    ],
)
async def test_whatever_goes_wrong_has_the_official_shape(
    gateway: Gateway, method: str, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    async with gateway() as client:
        assert_error(await client.request(method, path, **options), status, code)


async def test_a_form_or_json_that_cannot_be_parsed_is_400(gateway: Gateway) -> None:
    async with gateway() as client:
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        assert_error(await client.post("/v1/files", content=b"--y", headers=form), 400, None)
        json = {"Content-Type": "application/json"}
        for body in (b"", b"{", b'{"model": "\xff"}', b"[" * 100_000):
            refused = await client.post("/v1/chat/completions", content=body, headers=json)
            assert_error(refused, 400, "invalid_json")


async def test_uploads_are_bounded_and_the_oldest_go_first(gateway: Gateway) -> None:
    async with gateway(max_files_bytes=250) as client:
        ids = []
        for n in range(3):
            stored = await client.post("/v1/files", files={"file": (f"{n}.jpg", bytes(100))})
            ids.append(stored.json()["id"])
        listed = (await client.get("/v1/files")).json()["data"]
        assert [stored["id"] for stored in listed] == [ids[2], ids[1]]
        assert (await client.delete(f"/v1/files/{ids[1]}")).status_code == 200
        await client.post("/v1/files", files={"file": ("3.jpg", bytes(150))})
        assert (await client.get(f"/v1/files/{ids[2]}")).status_code == 200


async def test_when_the_app_hangs_up_the_conversation_ends(server: Any, pictures: Any, messages: Any) -> None:
    """The server's answer never comes; the edge's request to it must be dropped, not waited for."""
    dropped, asked = asyncio.Event(), asyncio.Event()

    async def never(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return server(request)
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            dropped.set()
        raise AssertionError

    edge = AsyncEdgeClient(settings=EdgeSettings(url="http://e.test"), transport=httpx.MockTransport(never))
    app = create_app(GatewaySettings(), edge)
    document = {"model": "second-glance", "messages": messages.about(pictures.photo((400, 300)))}
    request = httpx.Request("POST", "http://127.0.0.1/v1/chat/completions", json=document)
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    events.put_nowait({"type": "http.request", "body": request.content, "more_body": False})

    async def send(message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "query_string": b"",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
    }
    serving = asyncio.create_task(app(scope, events.get, send))
    async with asyncio.timeout(20):
        await asked.wait()
        events.put_nowait({"type": "http.disconnect"})
        await dropped.wait()
        await serving
    await edge.aclose()
