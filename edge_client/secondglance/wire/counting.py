"""HTTP transports that count every byte where it is handed to the socket, TLS and retries included.

The bytes of a request land in the `Exchange` of the `measuring` block around it, whichever connection
carries them, so conversations that share a client do not mix. An exchange's deadline bounds every single
read and write; without one a slow link may take as long as bytes move.

Not counted: what the kernel adds (TCP and IP headers, retransmitted segments).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from secondglance.wire.tls import AsyncTlsStream, TlsStream

_SLICE_BYTES = 16_384  # a timeout holds for one slice, not for a whole upload
_KEEPALIVE_S = 4.0  # below the 5 s after which common servers close an idle connection
_MAX_CONNECTIONS = 100


@dataclass(slots=True)
class Exchange:
    """Bytes handed to and taken from sockets so far; times are on `time.monotonic`'s clock."""

    deadline: float | None = None
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    began_at: float | None = None
    answered_at: float | None = None

    @property
    def waited_s(self) -> float | None:
        """From the first byte of the request to the first byte of the reply, without connecting and TLS."""
        if self.began_at is None or self.answered_at is None:
            return None
        return self.answered_at - self.began_at

    def write_begins(self) -> None:
        if self.began_at is None:
            self.began_at = time.monotonic()

    def bytes_came(self, count: int) -> None:
        self.downlink_bytes += count
        if self.answered_at is None:
            self.answered_at = time.monotonic()

    def handshake_ended(self) -> None:
        """What was timed so far was TLS."""
        self.began_at = self.answered_at = None

    def bounded(self, timeout: float | None, expired: type[httpcore.TimeoutException]) -> float | None:
        """`timeout`, cut to what the deadline leaves. Raises `expired` if that is nothing."""
        if self.deadline is None:
            return timeout
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise expired("the deadline has passed")
        return left if timeout is None else min(timeout, left)


_current: ContextVar[Exchange | None] = ContextVar("edge_client_exchange", default=None)


@contextmanager
def measuring(deadline: float | None = None) -> Iterator[Exchange]:
    """Count the bytes of the requests made inside the block by this thread or task."""
    exchange = Exchange(deadline)
    token = _current.set(exchange)
    try:
        yield exchange
    finally:
        _current.reset(token)


def _exchange() -> Exchange:
    return _current.get() or Exchange()  # unmeasured traffic is counted into nothing


class CountingStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = _exchange()
        data = self._stream.read(max_bytes, exchange.bounded(timeout, httpcore.ReadTimeout))
        exchange.bytes_came(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = _exchange()
        exchange.write_begins()
        for start in range(0, len(buffer), _SLICE_BYTES):
            data = buffer[start : start + _SLICE_BYTES]
            self._stream.write(data, exchange.bounded(timeout, httpcore.WriteTimeout))
            exchange.uplink_bytes += len(data)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = TlsStream(self, ssl_context, server_hostname)
        stream.handshake(timeout)
        _exchange().handshake_ended()
        return stream

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class AsyncCountingStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = _exchange()
        data = await self._stream.read(max_bytes, exchange.bounded(timeout, httpcore.ReadTimeout))
        exchange.bytes_came(len(data))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = _exchange()
        exchange.write_begins()
        for start in range(0, len(buffer), _SLICE_BYTES):
            data = buffer[start : start + _SLICE_BYTES]
            await self._stream.write(data, exchange.bounded(timeout, httpcore.WriteTimeout))
            exchange.uplink_bytes += len(data)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        stream = AsyncTlsStream(self, ssl_context, server_hostname)
        await stream.handshake(timeout)
        _exchange().handshake_ended()
        return stream

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class CountingBackend(httpcore.NetworkBackend):
    """Opens TCP connections whose bytes are counted."""

    def __init__(self) -> None:
        self._backend = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _exchange().bounded(timeout, httpcore.ConnectTimeout)
        return CountingStream(self._backend.connect_tcp(host, port, timeout, local_address, socket_options))


class AsyncCountingBackend(httpcore.AsyncNetworkBackend):
    """`CountingBackend`, awaited."""

    def __init__(self) -> None:
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        timeout = _exchange().bounded(timeout, httpcore.ConnectTimeout)
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return AsyncCountingStream(stream)


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    """httpx names each exception of httpcore alike; its own translation is private."""
    names = (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    )
    try:
        yield
    except names as exc:
        translated: type[httpx.HTTPError] = getattr(httpx, type(exc).__name__)
        raise translated(str(exc)) from exc


def _core_request(request: httpx.Request) -> httpcore.Request:
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


class _Body(httpx.SyncByteStream):
    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors():
            yield from self._stream

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for part in self._stream:
                yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


def _core_proxy(proxy: httpx.Proxy | None) -> httpcore.Proxy | None:
    if proxy is None:
        return None
    return httpcore.Proxy(str(proxy.url), auth=proxy.raw_auth)


class CountingTransport(httpx.BaseTransport):
    """A pool of counted connections. `ssl_context` replaces httpx's default for https.

    What passes through a `proxy` is counted between us and the proxy.
    """

    def __init__(
        self, *, ssl_context: ssl.SSLContext | None = None, proxy: httpx.Proxy | None = None
    ) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context,
            proxy=_core_proxy(proxy),
            max_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=CountingBackend(),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with _as_httpx_errors():
            response = self._pool.handle_request(_core_request(request))
        assert isinstance(response.stream, Iterable)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        self._pool.close()


class AsyncCountingTransport(httpx.AsyncBaseTransport):
    """`CountingTransport`, awaited. A `backend` of your own decides what is connected to."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        proxy: httpx.Proxy | None = None,
        backend: AsyncCountingBackend | None = None,
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            proxy=_core_proxy(proxy),
            max_connections=_MAX_CONNECTIONS,
            keepalive_expiry=_KEEPALIVE_S,
            network_backend=backend or AsyncCountingBackend(),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with _as_httpx_errors():
            response = await self._pool.handle_async_request(_core_request(request))
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_AsyncBody(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()
