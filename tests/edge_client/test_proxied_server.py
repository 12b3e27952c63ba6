"""The server behind the environment's proxy: reached through it, counted to the byte, errors in one line."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import trustme
from PIL import Image
from typer.testing import CliRunner

from secondglance import AsyncEdgeClient, EdgeClient, ServerUnavailableError, UsageError
from secondglance.cli import app
from secondglance.doctor.examination import Examination
from secondglance.settings import EdgeSettings
from secondglance.wire.counting import AsyncCountingTransport, CountingTransport, measuring
from secondglance.wire.proxies import added_bytes, route_to
from secondglance_server.engine.fake import FakeEngine
from tests.edge_client.echo import Echo

HOST = "server.example"  # has no address here: only the proxy knows where it is
LOGIN = "edge:p%40ss"
BODY = b"x" * 500


class Proxy(BaseHTTPRequestHandler):
    """Tunnels and forwards to one port of loopback whatever name is asked for; remembers heads and logins."""

    protocol_version = "HTTP/1.1"
    server: ProxyServer

    def do_CONNECT(self) -> None:
        self._remember()
        with socket.create_connection(("127.0.0.1", self.server.leads_to)) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            upward = threading.Thread(target=_pump, args=(self.connection, there), daemon=True)
            upward.start()
            _pump(there, self.connection)
        self.close_connection = True

    def do_POST(self) -> None:
        self._remember()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = f"http://127.0.0.1:{self.server.leads_to}{httpx.URL(self.path).raw_path.decode()}"
        headers = {name: value for name, value in self.headers.items() if not name.startswith("Proxy-")}
        reply = httpx.request(self.command, target, content=body, headers=headers, trust_env=False)
        self.send_response(reply.status_code)
        for name, value in reply.headers.items():
            if name not in ("date", "server"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.content)

    do_GET = do_PUT = do_DELETE = do_POST  # noqa: N815  # names that the standard library asks for

    def _remember(self) -> None:
        self.server.targets.append(self.path)
        self.server.logins.append(self.headers.get("Proxy-Authorization"))

    def log_message(self, *_: object) -> None:
        pass


class ProxyServer(ThreadingHTTPServer):
    def __init__(self, leads_to: int) -> None:
        super().__init__(("127.0.0.1", 0), Proxy)
        self.leads_to = leads_to
        self.targets: list[str] = []
        self.logins: list[str | None] = []

    def handle_error(self, *_: object) -> None:
        """Connections end when clients close."""


def _pump(here: socket.socket, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := here.recv(65_536):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def proxy(scheme: str, authority: trustme.CA) -> Iterator[ProxyServer]:
    """A proxy before an origin that speaks `scheme`."""
    origin = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(context)
        origin.socket = context.wrap_socket(origin.socket, server_side=True)
    with serving(origin) as port:
        found = ProxyServer(port)
        with serving(found):
            yield found


async def posted(url: httpx.URL, transport: CountingTransport | AsyncCountingTransport) -> httpx.Response:
    if isinstance(transport, CountingTransport):
        with httpx.Client(transport=transport) as client:
            return client.post(url, content=BODY)
    async with httpx.AsyncClient(transport=transport) as client:
        return await client.post(url, content=BODY)


@pytest.mark.parametrize("transport_of", [CountingTransport, AsyncCountingTransport])
@pytest.mark.parametrize("login", ["", f"{LOGIN}@"])
@pytest.mark.parametrize("port", ["", ":8443"])
async def test_e9_bytes_through_a_proxy_are_counted_and_foreseen(
    scheme, proxy, port, login, transport_of, authority, monkeypatch, relay_to
) -> None:
    """What the relay before the proxy saw is what is counted; the budget knows what a proxy adds."""
    url = httpx.URL(f"{scheme}://{HOST}{port}/v1/x")
    relay = relay_to(proxy.server_address[1])
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://{login}127.0.0.1:{relay.port}")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    route = route_to(url)
    with measuring() as exchange:
        reply = await posted(url, transport_of(ssl_context=context, proxy=route.proxy))
    assert reply.content == BODY
    up, down = relay.passed
    assert exchange.uplink_bytes == up
    assert 0 <= down - exchange.downlink_bytes < 64  # TLS: the peer's word that it closes, after ours
    head = len("POST /v1/x HTTP/1.1\r\n\r\n") + sum(
        len(name) + len(value) + 4 for name, value in reply.request.headers.raw
    )
    if scheme == "http":
        assert exchange.uplink_bytes == head + len(BODY) + added_bytes(url, route.proxy)
    else:
        handshake = exchange.uplink_bytes - head - len(BODY) - added_bytes(url, route.proxy)
        assert 0 < handshake < 3000
    assert proxy.logins == ["Basic " + base64.b64encode(b"edge:p@ss").decode() if login else None]


@pytest.mark.parametrize("client_of", [EdgeClient, AsyncEdgeClient])
async def test_e9_an_edge_behind_a_proxy_asks_through_it(client_of, serve, pictures, monkeypatch) -> None:
    """Both stages, with a budget: the server's connection took no proxy at all."""
    live = serve(FakeEngine())
    proxy = ProxyServer(live.port)
    with serving(proxy) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,[::1]")
        client = client_of(f"http://{HOST}")
        picture = pictures.noise((900, 700))
        reply = (
            client.ask(picture, "What?") if client_of is EdgeClient else await client.ask(picture, "What?")
        )
        examined = Examination(EdgeSettings(url=f"http://{HOST}"), probe_bytes=2000)
        findings = {finding.name: finding.status for finding in examined.examine()}
        client.close() if client_of is EdgeClient else await client.aclose()
    assert (reply.stage, reply.degraded) == (2, None)
    assert {httpx.URL(target).host for target in proxy.targets} == {HOST}
    assert "failed" not in findings.values()


@pytest.mark.parametrize(
    "value", ["socks5://proxy.example:1080", "gopher://proxy.example", "http://x:notaport"]
)
@pytest.mark.parametrize(
    "make", [EdgeClient, AsyncEdgeClient, lambda url: Examination(EdgeSettings(url=url))]
)
def test_e9_a_proxy_that_cannot_be_used_is_one_line(make, value: str, monkeypatch) -> None:
    """For the server as for cameras and hooks: a line that names the variable, and exit 2 (a usage error)."""
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(UsageError, match=r"^ALL_PROXY cannot be used: [ -~]+$"):
        make(f"http://{HOST}")
    make("http://127.0.0.1:9")  # loopback is direct


@pytest.mark.parametrize("client_of", [EdgeClient, AsyncEdgeClient])
def test_e9_certificates_that_cannot_be_read_are_one_line(client_of, monkeypatch, tmp_path) -> None:
    (tmp_path / "ca.pem").write_bytes(b"no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        client_of(f"https://{HOST}")


def test_e9_a_proxy_that_refuses_or_is_away_is_a_failed_connection(monkeypatch, settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
    for url in (f"http://{HOST}", f"https://{HOST}"):
        with EdgeClient(url, settings=settings) as client, pytest.raises(ServerUnavailableError):
            client.ask(Image.new("RGB", (300, 300)), "What?")


LOGINS = [
    "http://me:p%40ss-word@192.0.2.1:9/",
    "http://me:p@ss-word@192.0.2.1:9/",
    "http://me:p/ss-word@[::1/",
]
LOGINS += ["http://192.0.2.1:9/?token=p-ss-word", "ftp://me:p-ss-word@192.0.2.1/", "http://me:ss-word@:9:8/"]


@pytest.mark.parametrize(
    "command", [["ask", "--dry-run"], ["ask", "--dry-run", "--json"], ["ask"], ["doctor"]]
)
@pytest.mark.parametrize("url", LOGINS)
def test_e8_no_command_shows_the_secret_of_the_servers_address(command, url, tmp_path, monkeypatch) -> None:
    """E8: `ask --dry-run` printed the password; a message about a wrong URL repeated it."""
    monkeypatch.setenv("SECONDGLANCE_EDGE_CONNECT_TIMEOUT_S", "0.2")
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRIES", "0")
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    subject = [] if command[0] == "doctor" else [str(tmp_path / "a.png"), "What?"]
    ran = CliRunner().invoke(app, [*command, *subject, "--url", url])
    assert "ss-word" not in ran.output
    assert "Traceback" not in ran.output
    assert ran.output
