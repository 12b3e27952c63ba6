"""TLS on top of a stream of ours, so that what is counted is what leaves: handshake and ciphertext.

The HTTP library's own streams wrap the socket itself and would hide the ciphertext from a counter above it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

import httpcore

T = TypeVar("T")

_READ_BYTES = 65_536
_HANDSHAKE_BYTES = 2048  # of the client's side: 600 with elliptic curves, 1,800 with post-quantum keys
_RECORD_BYTES = 16_384
_AROUND_RECORD_BYTES = 22


def tls_size(plain_bytes: int) -> int:
    """Return the most bytes that a request of `plain_bytes` takes over TLS on a connection of its own."""
    n_records = 2 + plain_bytes // _RECORD_BYTES  # the head has a record of its own
    return _HANDSHAKE_BYTES + plain_bytes + n_records * _AROUND_RECORD_BYTES


class _Session:
    """The protocol without I/O: `run` yields bytes to write, or None to be sent what was read."""

    def __init__(self, context: ssl.SSLContext, server_hostname: str | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)

    def run(self, step: Callable[[], T]) -> Generator[bytes | None, bytes | None, T]:
        while True:
            result: list[T] = []
            with suppress(ssl.SSLWantReadError):
                result.append(step())
            if outgoing := self._outgoing.read():
                yield outgoing
            if result:
                return result[0]
            received = yield None
            if received:
                self._incoming.write(received)
            else:
                self._incoming.write_eof()

    def receive(self, max_bytes: int) -> Callable[[], bytes]:
        def step() -> bytes:
            try:
                return self.tls.read(max_bytes)
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
                return b""  # the peer closed; HTTP's own framing tells whether that was too early

        return step


class TlsStream(httpcore.NetworkStream):
    """A blocking TLS stream over `raw`. Raises httpcore's errors."""

    def __init__(
        self, raw: httpcore.NetworkStream, context: ssl.SSLContext, server_hostname: str | None
    ) -> None:
        self._raw = raw
        self._session = _Session(context, server_hostname)

    def handshake(self, timeout: float | None) -> None:
        try:
            self._drive(self._session.run(self._session.tls.do_handshake), timeout)
        except (ssl.SSLError, httpcore.NetworkError) as exc:
            self.close()
            raise httpcore.ConnectError(f"TLS handshake failed: {exc}") from exc
        except httpcore.TimeoutException as exc:
            self.close()
            raise httpcore.ConnectTimeout("TLS handshake timed out") from exc

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._drive(self._session.run(self._session.receive(max_bytes)), timeout)
        except ssl.SSLError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._drive(self._session.run(lambda: self._session.tls.write(buffer)), timeout)
        except ssl.SSLError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    def close(self) -> None:
        self._raw.close()

    def get_extra_info(self, info: str) -> Any:
        return self._session.tls if info == "ssl_object" else self._raw.get_extra_info(info)

    def _drive(self, run: Generator[bytes | None, bytes | None, T], timeout: float | None) -> T:
        received: bytes | None = None
        while True:
            try:
                outgoing = run.send(received)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # the generator's T
            received = None
            if outgoing is None:
                received = self._raw.read(_READ_BYTES, timeout)
            else:
                self._raw.write(outgoing, timeout)


class AsyncTlsStream(httpcore.AsyncNetworkStream):
    """`TlsStream`, awaited."""

    def __init__(
        self, raw: httpcore.AsyncNetworkStream, context: ssl.SSLContext, server_hostname: str | None
    ) -> None:
        self._raw = raw
        self._session = _Session(context, server_hostname)

    async def handshake(self, timeout: float | None) -> None:
        try:
            await self._drive(self._session.run(self._session.tls.do_handshake), timeout)
        except (ssl.SSLError, httpcore.NetworkError) as exc:
            await self.aclose()
            raise httpcore.ConnectError(f"TLS handshake failed: {exc}") from exc
        except httpcore.TimeoutException as exc:
            await self.aclose()
            raise httpcore.ConnectTimeout("TLS handshake timed out") from exc

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return await self._drive(self._session.run(self._session.receive(max_bytes)), timeout)
        except ssl.SSLError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            await self._drive(self._session.run(lambda: self._session.tls.write(buffer)), timeout)
        except ssl.SSLError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        await self._raw.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._session.tls if info == "ssl_object" else self._raw.get_extra_info(info)

    async def _drive(self, run: Generator[bytes | None, bytes | None, T], timeout: float | None) -> T:
        received: bytes | None = None
        while True:
            try:
                outgoing = run.send(received)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]  # the generator's T
            received = None
            if outgoing is None:
                received = await self._raw.read(_READ_BYTES, timeout)
            else:
                await self._raw.write(outgoing, timeout)
