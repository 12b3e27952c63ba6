"""Fetches pictures by URL, from listed hosts only, for the gateway and `secondglance ask`.

What holds for a URL holds for every redirect: http or https, a listed host and port, no user information,
and an address on the public internet, judged on the address that is then connected to, so that no second
lookup can give another. A private address needs to be listed itself, or `allow_private`. No proxies,
cookies or keys.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable

import anyio
import httpcore
import httpx

from secondglance.errors import BadImageError, UsageError
from secondglance.wire.addresses import DEFAULT_PORTS
from secondglance.wire.counting import AsyncCountingBackend, AsyncCountingTransport

_MAX_REDIRECTS = 3


class NotFetchedError(BadImageError):
    """No picture came from that URL."""


class HostNotListedError(UsageError):
    """Pictures of that host are not fetched."""


class RemotePictures:
    """Use `fetch`; close with `aclose`.

    `allowed_hosts` are HOST or HOST:PORT; `allow_private` lets their names lead to private addresses.
    """

    def __init__(
        self, allowed_hosts: Iterable[str], *, allow_private: bool, max_bytes: int, timeout_s: float
    ) -> None:
        self._allowed = frozenset(host.lower() for host in allowed_hosts)
        self._allow_private = allow_private
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._http: httpx.AsyncClient | None = None

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def fetch(self, url: str) -> bytes:
        """Return the bytes at `url`. Raises NotFetchedError, HostNotListedError."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._fetch(self._checked(url))
        except TimeoutError:
            raise NotFetchedError(f"the picture did not arrive within {self._timeout_s:g} s") from None
        except httpx.HTTPError as exc:
            raise NotFetchedError(f"the picture cannot be fetched: {exc}") from exc

    async def _fetch(self, url: httpx.URL) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._client().stream("GET", url) as response:
                if response.next_request is not None:
                    url = self._checked(str(response.next_request.url))
                    continue
                if response.status_code != 200:
                    raise NotFetchedError(f"the picture's host answered HTTP {response.status_code}")
                return await self._read(response)
        raise NotFetchedError(f"more than {_MAX_REDIRECTS} redirects")

    async def _read(self, response: httpx.Response) -> bytes:
        data = bytearray()
        async for part in response.aiter_bytes():
            data += part
            if len(data) > self._max_bytes:
                raise NotFetchedError(f"the picture holds more than {self._max_bytes} bytes")
        return bytes(data)

    def _checked(self, url: str) -> httpx.URL:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as exc:
            raise NotFetchedError(f"not a URL: {exc}") from exc
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
            raise NotFetchedError("only http and https URLs without user information are fetched")
        default = DEFAULT_PORTS[parsed.scheme]
        port = parsed.port or default
        names = {f"{parsed.host}:{port}", *([parsed.host] if port == default else [])}
        if not names & self._allowed:
            host = parsed.host if port == default else f"{parsed.host}:{port}"
            raise HostNotListedError(f"pictures of {host} are not fetched without --allow-host {host}")
        return parsed

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            backend = _CheckingBackend(self._allowed, allow_private=self._allow_private)
            transport = AsyncCountingTransport(ssl_context=httpx.create_ssl_context(), backend=backend)
            self._http = httpx.AsyncClient(
                transport=transport,
                headers={"User-Agent": "second-glance-edge", "Accept-Encoding": "identity"},
                timeout=self._timeout_s,
            )
        return self._http


class _CheckingBackend(AsyncCountingBackend):
    """Resolves a name itself and connects to an address that it has looked at."""

    def __init__(self, allowed: frozenset[str], *, allow_private: bool) -> None:
        super().__init__()
        self._allowed = allowed
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as exc:
            raise httpcore.ConnectError(f"{host} has no address: {exc}") from exc
        address = str(found[0][4][0])
        if not self._may_reach(host, port, address):
            raise httpcore.ConnectError(f"{host} leads to a private address")
        return await super().connect_tcp(address, port, timeout, local_address, socket_options)

    def _may_reach(self, host: str, port: int, address: str) -> bool:
        if self._allow_private or _is_public(address):
            return True
        return host == address and bool({host, f"{host}:{port}"} & self._allowed)


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return parsed.is_global and not parsed.is_multicast
