"""What browsers need: the page at /app, and leave for pages of other origins (CORS), both off by default."""

from __future__ import annotations

import itertools
import re
import sys

import httpx
import pytest

from secondglance_protocol.reasons import REASONS
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.errors import SettingsError
from secondglance_server.settings import load_settings
from secondglance_web import CONTENT_SECURITY_POLICY, Page
from tests.server.exchange import (
    GLOBAL_IMAGE,
    ask,
    assert_problem,
    bearer,
    key_entry,
    message,
    parts_of,
    running_client,
)

ORIGIN = "https://app.example.com"
KEYS = [key_entry("key-a", "a")]
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,idempotency-key",
}


async def test_there_is_no_page_unless_it_is_wanted() -> None:
    async with running_client(FakeEngine()) as client:
        for path in ("/app", "/app/", "/app/index.html"):
            assert_problem(await client.get(path), 404, "route_not_found")


async def test_the_page_is_served_without_a_key_and_nothing_else_is() -> None:
    """A browser that opens an address sends no key; the page asks its user for one."""
    async with running_client(FakeEngine(), page=True, keys=KEYS) as client:
        opened = await client.get("/app/")
        assert (opened.status_code, opened.headers["content-type"]) == (200, "text/html; charset=utf-8")
        for name in Page().names:
            assert (await client.get(f"/app/{name}")).status_code == 200, name
            assert (await client.head(f"/app/{name}")).content == b""
        assert_problem(await client.get("/v1/model"), 401, "unauthenticated")
        assert_problem(await client.post("/app/index.html"), 405, "method_not_allowed")


async def test_the_address_without_a_slash_leads_to_the_page() -> None:
    async with running_client(FakeEngine(), page=True) as client:
        moved = await client.get("/app")
        assert (moved.status_code, moved.headers["location"]) == (308, "app/")
        assert str(moved.url.join(moved.headers["location"])) == "http://test/app/"


@pytest.mark.parametrize(
    "path",
    ["/app/nothing", "/app/../pyproject.toml", "/app/%2e%2e/pyproject.toml", "/app/src/",
     "/app/page/index.html", "/app//etc/passwd", "/app/src/..%2f..%2fREADME.md", "/app/INDEX.HTML"],
)  # fmt: skip
async def test_nothing_but_the_pages_files_is_found(path: str) -> None:
    async with running_client(FakeEngine(), page=True) as client:
        request = client.build_request("GET", "http://test")
        request.url = httpx.URL(scheme="http", host="test", raw_path=path.encode())
        assert_problem(await client.send(request), 404, "route_not_found")


async def test_every_file_comes_with_the_strict_policy() -> None:
    async with running_client(FakeEngine(), page=True) as client:
        for name in Page().names:
            headers = (await client.get(f"/app/{name}")).headers
            assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY, name
            assert headers["x-content-type-options"] == "nosniff"
    rules = dict(rule.split(" ", 1) for rule in CONTENT_SECURITY_POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert not re.search(r"https?:|\*|data:", CONTENT_SECURITY_POLICY), "third parties are kept out"


async def test_a_file_is_sent_again_only_when_it_has_changed() -> None:
    async with running_client(FakeEngine(), page=True) as client:
        first = await client.get("/app/")
        again = await client.get("/app/", headers={"If-None-Match": first.headers["etag"]})
        other = await client.get("/app/", headers={"If-None-Match": '"another"'})
    assert (again.status_code, again.content) == (304, b"")
    assert (other.status_code, other.content) == (200, first.content)


async def test_a_client_that_takes_no_gzip_gets_the_same_file() -> None:
    async with running_client(FakeEngine(), page=True) as client:
        for name, coding in itertools.product(Page().names, ("identity", "gzip;q=0", "br")):
            plain = await client.get(f"/app/{name}", headers={"Accept-Encoding": coding})
            assert "content-encoding" not in plain.headers
            assert plain.content == (await client.get(f"/app/{name}")).content


def test_a_server_without_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from secondglance_server.app import create_app

    for name in ("secondglance_web", "secondglance_web.routes"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=r"PAGE=true: pip install 'second-glance-server\[page\]'"):
        create_app(load_settings(page=True), FakeEngine())


def cors_headers(response: httpx.Response) -> set[str]:
    return {name for name in response.headers if name.startswith("access-control-")}


async def test_without_the_setting_no_origin_gets_leave() -> None:
    async with running_client(FakeEngine()) as client:
        client.headers["Origin"] = ORIGIN
        assert cors_headers(await ask(client)) == set()
        assert_problem(await client.options("/v1/inferences", headers=PREFLIGHT), 405, "method_not_allowed")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_preflight_is_answered_before_keys_are_looked_at(method: str) -> None:
    """A browser sends the preflight without the key that it asks about."""
    names = "authorization,content-type,idempotency-key,traceparent,x-deadline-ms,x-question,x-request-id"
    asked = {**PREFLIGHT, "Access-Control-Request-Method": method, "Access-Control-Request-Headers": names}
    async with running_client(FakeEngine(), cors_origins=(ORIGIN,), keys=KEYS) as client:
        answer = await client.options("/v1/inferences", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert method in answer.headers["access-control-allow-methods"]
    assert set(names.split(",")) <= set(answer.headers["access-control-allow-headers"].lower().split(", "))
    assert "access-control-allow-credentials" not in answer.headers


async def test_every_reply_may_be_read_refusals_too() -> None:
    """A page could not tell a refused key from a dead link: both were "Failed to fetch"."""
    async with running_client(FakeEngine(), cors_origins=(ORIGIN,), keys=KEYS) as client:
        client.headers["Origin"] = ORIGIN
        key = bearer("key-a")
        replies = [
            await client.post("/v1/inferences", files=parts_of(message()), headers=key),
            await client.post("/v1/inferences", files=parts_of(message())),
            await client.get("/v1/nowhere", headers=key),
            await client.post("/v1/inferences", content=b"x", headers=key),
            await client.put("/v1/inferences/inf_0/patch", content=GLOBAL_IMAGE, headers=key),
        ]
    assert [reply.status_code for reply in replies] == [200, 401, 404, 415, 415]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert {"retry-after", "x-request-id"} <= set(
            reply.headers["access-control-expose-headers"].lower().split(", ")
        )
        assert "origin" in reply.headers["vary"].lower()


@pytest.mark.parametrize(
    "origin",
    ["https://app.example.com.evil.example", "https://evil.example", "http://app.example.com", "null",
     "https://app.example.com:8443", "https://xapp.example.com", "https://APP.example.com", "*", ""],
)  # fmt: skip
async def test_no_other_origin_gets_leave(origin: str) -> None:
    async with running_client(FakeEngine(), cors_origins=(ORIGIN,)) as client:
        preflight = await client.options("/v1/inferences", headers={**PREFLIGHT, "Origin": origin})
        client.headers["Origin"] = origin
        reply = await ask(client)
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in {**preflight.headers, **reply.headers}


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "https://*.example.com", "https://app.example.com/", "https://app.example.com/app",
     "app.example.com", "ftp://app.example.com", "https://App.example.com", "https://user@app.example.com",
     "https://app.example.com:443", "http://app.example.com:80", "https://app.example.com:0", "", "file://"],
)  # fmt: skip
def test_an_origin_that_no_browser_sends_stops_the_start(origin: str) -> None:
    with pytest.raises(SettingsError, match="CORS_ORIGINS"):
        load_settings(cors_origins=(origin,))


def test_origins_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "SECONDGLANCE_SERVER_CORS_ORIGINS"
    monkeypatch.setenv(variable, '["https://app.example.com", "http://localhost:8080", "http://[::1]:8080"]')
    assert load_settings().cors_origins[1:] == ("http://localhost:8080", "http://[::1]:8080")
    monkeypatch.setenv(variable, "https://app.example.com")
    with pytest.raises(SettingsError, match=f"{variable}: not a JSON list of origins"):
        load_settings()


MAX_FIRST_LOAD_BYTES = 60_000


def test_the_first_load_is_small() -> None:
    """What a browser fetches to show the page, without the icons; a phone on a thin link opens it."""
    page = Page()
    names = {name for name in page.names if not name.startswith("icon")}
    sent = {name: page.reply(name, {"accept-encoding": "gzip"}) for name in names}
    total = sum(len(reply.body) for reply in sent.values() if reply)
    print(f"{total} bytes in {len(names)} files")
    assert total <= MAX_FIRST_LOAD_BYTES


def text_of(name: str) -> str:
    reply = Page().reply(name, {})
    assert reply is not None
    return reply.body.decode()


def test_the_page_keeps_every_file_for_when_there_is_no_network() -> None:
    """A module that nobody kept breaks the whole page, and only where there is no network."""
    (listed,) = re.findall(r"FILES = \[(.*?)\]", text_of("sw.js"), re.DOTALL)
    kept = set(re.findall(r'"([^"]+)"', listed))
    only_node = "src/sharp.js"
    assert kept == (Page().names - {"index.html", "sw.js", only_node}) | {"./"}


def test_every_file_that_is_named_exists_and_nothing_is_inline_or_foreign() -> None:
    """The policy would block it, and nobody would see why."""
    names = Page().names
    index = text_of("index.html")
    named = set(re.findall(r'(?:src|href)="([^"]+)"', index))
    assert named
    assert named <= names
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)|javascript:|data:", index)
    for name in names:
        if name.endswith(".js"):
            imported = re.findall(r'from "\./([^"]+)"', text_of(name))
            folder = name.rpartition("/")[0]
            assert {f"{folder}/{each}".lstrip("/") for each in imported} <= names, name
        if not name.endswith((".png", ".svg")):
            assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}/", text_of(name)), name
    icons = re.findall(r'"src": "([^"]+)"', text_of("manifest.webmanifest"))
    assert icons
    assert set(icons) <= names


def test_the_page_says_reasons_as_the_protocol_does() -> None:
    (block,) = re.findall(r"REASONS = \{(.*?)\n\}", text_of("src/doubt.js"), re.DOTALL)
    assert dict(re.findall(r'(\w+): "([^"]+)"', block)) == dict(REASONS)
