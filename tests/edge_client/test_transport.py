"""The byte count against an independent witness: a TCP relay between the edge and a live HTTP server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import httpcore
import httpx
import pytest
import trustme

from lab.relay.faults import Reset
from secondglance.wire.counting import (
    AsyncCountingStream,
    AsyncCountingTransport,
    CountingStream,
    CountingTransport,
    measuring,
)
from tests.edge_client.echo import Echo

BODY = bytes(range(256)) * 400  # 102,400 bytes: several slices, several TLS records


class QuietServer(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Cut connections are what these tests are about."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module", params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def ssl_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def port(scheme: str, authority: trustme.CA) -> Iterator[int]:
    server = QuietServer(("127.0.0.1", 0), Echo)
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_the_count_equals_the_relays_to_the_byte(scheme, port, relay_to, ssl_context) -> None:
    """Kept-alive requests on two connections; under TLS with handshakes, tickets and record headers."""
    for _ in range(2):
        relay = relay_to(port)
        up = down = 0
        with httpx.Client(transport=CountingTransport(ssl_context=ssl_context)) as client:
            for _ in range(3):
                with measuring() as exchange:
                    assert client.post(f"{scheme}://127.0.0.1:{relay.port}", content=BODY).content == BODY
                assert min(exchange.uplink_bytes, exchange.downlink_bytes) > len(BODY)
                up, down = up + exchange.uplink_bytes, down + exchange.downlink_bytes
                assert len(relay.connections) == 1
                assert (up, down) == relay.passed


async def test_the_async_count_equals_the_relays_to_the_byte(scheme, port, relay_to, ssl_context) -> None:
    relay = relay_to(port)
    up = down = 0
    async with httpx.AsyncClient(transport=AsyncCountingTransport(ssl_context=ssl_context)) as client:
        for _ in range(3):
            with measuring() as exchange:
                assert (await client.post(f"{scheme}://127.0.0.1:{relay.port}", content=BODY)).content == BODY
            up, down = up + exchange.uplink_bytes, down + exchange.downlink_bytes
            assert len(relay.connections) == 1
            assert (up, down) == relay.passed


async def test_concurrent_conversations_do_not_mix_their_bytes(scheme, port, ssl_context) -> None:
    """Ten tasks share a client; each sends a body of its own size and counts its own bytes."""

    async def bytes_sent(client: httpx.AsyncClient, size: int) -> int:
        with measuring() as exchange:
            await client.post(f"{scheme}://127.0.0.1:{port}", content=b"x" * size)
        return exchange.uplink_bytes

    sizes = [10_000 * n for n in range(1, 11)]
    async with httpx.AsyncClient(transport=AsyncCountingTransport(ssl_context=ssl_context)) as client:
        counts = await asyncio.gather(*(bytes_sent(client, size) for size in sizes))
    for size, count in zip(sizes, counts, strict=True):
        assert size < count < size + 3_000


def test_bytes_of_a_request_that_fails_are_counted_too(scheme, port, relay_to, ssl_context) -> None:
    relay = relay_to(port, Reset("up", 50_000))
    with httpx.Client(transport=CountingTransport(ssl_context=ssl_context)) as client:
        with measuring() as exchange, pytest.raises(httpx.TransportError):
            client.post(f"{scheme}://127.0.0.1:{relay.port}", content=BODY * 100)
        assert exchange.uplink_bytes >= 50_000


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that accepts, reads nothing and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("size", [10, 50_000_000], ids=["while reading", "while writing"])
def test_a_deadline_ends_an_exchange_that_no_single_timeout_would(silent_port: int, size: int) -> None:
    with httpx.Client(transport=CountingTransport(), timeout=60) as client:
        started = time.monotonic()
        with measuring(started + 0.2), pytest.raises(httpx.TimeoutException):
            client.post(f"http://127.0.0.1:{silent_port}", content=b"x" * size)
        assert time.monotonic() - started < 10


@pytest.mark.parametrize("size", [10, 50_000_000], ids=["while reading", "while writing"])
async def test_a_deadline_ends_an_async_exchange_too(silent_port: int, size: int) -> None:
    async with httpx.AsyncClient(transport=AsyncCountingTransport(), timeout=60) as client:
        started = time.monotonic()
        with measuring(started + 0.2), pytest.raises(httpx.TimeoutException):
            await client.post(f"http://127.0.0.1:{silent_port}", content=b"x" * size)
        assert time.monotonic() - started < 10


def test_a_deadline_in_the_past_connects_nowhere(silent_port: int) -> None:
    with httpx.Client(transport=CountingTransport()) as client:
        with measuring(time.monotonic() - 1) as exchange, pytest.raises(httpx.ConnectTimeout):
            client.get(f"http://127.0.0.1:{silent_port}")
        assert exchange.uplink_bytes == 0


class Recorder(httpcore.NetworkStream, httpcore.AsyncNetworkStream):
    """Takes every write and remembers its size and its timeout."""

    def __init__(self) -> None:
        self.writes: list[tuple[int, float | None]] = []

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.writes.append((len(buffer), timeout))


class AsyncRecorder(Recorder):
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.writes.append((len(buffer), timeout))


async def test_a_slow_upload_may_last_as_long_as_bytes_move() -> None:
    """A timeout is granted anew for each slice; for a whole body it would end a slow link's upload."""
    blocking, awaited = Recorder(), AsyncRecorder()
    CountingStream(blocking).write(b"x" * 40_000, timeout=60)
    await AsyncCountingStream(awaited).write(b"x" * 40_000, timeout=60)
    assert blocking.writes == awaited.writes == [(16_384, 60), (16_384, 60), (7_232, 60)]


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
def test_an_untrusted_certificate_is_a_connect_error(authority, port, scheme) -> None:
    transport = CountingTransport(ssl_context=ssl.create_default_context())
    with (
        httpx.Client(transport=transport) as client,
        pytest.raises(httpx.ConnectError, match=r"(?i)certificate"),
    ):
        client.post(f"https://127.0.0.1:{port}", content=b"")


@pytest.mark.parametrize("scheme", ["https"], indirect=True)
async def test_an_untrusted_certificate_is_an_async_connect_error(port, scheme) -> None:
    transport = AsyncCountingTransport(ssl_context=ssl.create_default_context())
    async with httpx.AsyncClient(transport=transport) as client:
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate"):
            await client.post(f"https://127.0.0.1:{port}", content=b"")


def test_nobody_listening_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free_port = listener.getsockname()[1]
    with httpx.Client(transport=CountingTransport()) as client, pytest.raises(httpx.ConnectError):
        client.get(f"http://127.0.0.1:{free_port}")
