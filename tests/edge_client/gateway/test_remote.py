"""Pictures by URL: from listed hosts only, and never a way into the edge's own network."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from secondglance.gateway.app import remote_pictures
from secondglance.gateway.errors import ApiError
from secondglance.gateway.files import FileStore
from secondglance.gateway.messages import ImagePart, ImageUrl
from secondglance.gateway.pictures import load_picture
from secondglance.gateway.settings import GatewaySettings
from secondglance.wire import remote as remote_module


class Site(http.server.BaseHTTPRequestHandler):
    """A host of pictures that also redirects, floods and fails."""

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        if self.path == "/picture":
            self._answer(200, b"picture")
        elif self.path.startswith("/to?"):
            self._answer(302, b"", Location=self.path[4:])
        elif self.path == "/flood":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(65_536))
            except OSError:
                return
        else:
            self._answer(404, b"")

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[Any]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def port(site: Any) -> int:
    site.seen.clear()
    return site.server_port


async def fetch(url: str, *hosts: str, **settings: Any) -> bytes:
    gateway = GatewaySettings(allowed_hosts=hosts, **settings)
    remote = remote_pictures(gateway)
    files = FileStore(max_bytes=gateway.max_files_bytes)
    try:
        return await load_picture(ImagePart(image_url=ImageUrl(url=url)), files, remote)
    finally:
        await remote.aclose()


async def refusal(url: str, *hosts: str, **settings: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        await fetch(url, *hosts, **settings)
    assert raised.value.status == 400
    return raised.value


async def test_a_listed_host_is_fetched_without_keys_or_cookies(site: Any, port: int) -> None:
    assert await fetch(f"http://127.0.0.1:{port}/picture", f"127.0.0.1:{port}") == b"picture"
    names = {name.lower() for name in site.seen[0][1]}
    assert not names & {"authorization", "cookie"}


async def test_nothing_is_fetched_without_a_list(site: Any, port: int) -> None:
    error = await refusal(f"http://127.0.0.1:{port}/picture")
    assert error.code == "remote_url_not_allowed"
    assert site.seen == []


async def test_a_host_is_listed_with_its_default_port_only(site: Any, port: int) -> None:
    error = await refusal(f"http://127.0.0.1:{port}/picture", "127.0.0.1")
    assert error.code == "remote_url_not_allowed"
    assert site.seen == []


async def test_a_name_that_leads_to_a_private_address_is_refused_unless_allowed(site: Any, port: int) -> None:
    """Listing the name is not enough: whoever runs its DNS could point it into this network."""
    url = f"http://localhost:{port}/picture"
    error = await refusal(url, f"localhost:{port}")
    assert "private address" in str(error)
    assert site.seen == []
    assert await fetch(url, f"localhost:{port}", allow_private=True) == b"picture"


async def test_the_address_that_was_judged_is_the_one_connected_to(
    site: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers differently the second time (DNS rebinding) is asked once."""
    asked = []

    async def lookup(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(remote_module.anyio, "getaddrinfo", lookup)
    url = f"http://pictures.example:{port}/picture"
    assert await fetch(url, f"pictures.example:{port}", allow_private=True) == b"picture"
    assert asked == ["pictures.example"]
    assert site.seen[0][1]["Host"] == f"pictures.example:{port}"
    assert "private address" in str(await refusal(url, f"pictures.example:{port}"))


async def test_a_redirect_is_followed_within_the_list_and_not_elsewhere(site: Any, port: int) -> None:
    here = f"127.0.0.1:{port}"
    assert await fetch(f"http://{here}/to?/picture", here) == b"picture"
    for target in (f"http://localhost:{port}/picture", "http://169.254.169.254/meta", "file:///etc/passwd"):
        site.seen.clear()
        await refusal(f"http://{here}/to?{target}", here)
        assert [path for path, _ in site.seen] == [f"/to?{target}"]
    await refusal(f"http://{here}/to?/to?/to?/to?/picture", here)


async def test_size_and_time_are_bounded(port: int) -> None:
    here = f"127.0.0.1:{port}"
    assert "more than 100000" in str(await refusal(f"http://{here}/flood", here, max_fetch_bytes=100_000))
    slow = await refusal(f"http://{here}/flood", here, max_fetch_bytes=10**12, fetch_timeout_s=0.2)
    assert "within 0.2 s" in str(slow)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://{here}/picture",
        "http://user:word@{here}/picture",
        "http:///picture",
        "http://{here}/404",
        "http://[",
    ],
)
async def test_odd_urls_and_failures_are_400(port: int, url: str) -> None:
    here = f"127.0.0.1:{port}"
    await refusal(url.replace("{here}", here), here)


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
    ],
)
def test_public_addresses_are_told_from_private_ones(address: str, is_public: bool) -> None:
    assert remote_module._is_public(address) is is_public


def test_the_route_fetches_only_what_is_allowed(
    gateway_to: Any, live: Any, site: Any, port: int, messages: Any
) -> None:
    """Through the official client, from the app's request to the site's log."""
    base_url = gateway_to(live.url, allowed_hosts=(f"127.0.0.1:{port}",))
    asked = messages.about(f"http://127.0.0.1:{port}/picture")
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as app:
        with pytest.raises(openai.BadRequestError) as raised:
            app.chat.completions.create(model="second-glance", messages=asked)
        assert raised.value.code == "invalid_image", "fetched, and no picture"
    assert [path for path, _ in site.seen] == ["/picture"]
