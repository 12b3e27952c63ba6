"""One rule of proxies and certificates, for the server, cameras and web hooks.

The rule: HTTP_PROXY, HTTPS_PROXY and ALL_PROXY as the system has them; NO_PROXY may hold names, addresses,
[::1] and networks such as 10.0.0.0/8; loopback is always direct. SSL_CERT_FILE and SSL_CERT_DIR are trusted.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import ssl
import urllib.request
from contextlib import suppress
from dataclasses import dataclass

import httpx

from secondglance.errors import UsageError
from secondglance.wire.addresses import DEFAULT_PORTS


def client_for(url: httpx.URL, timeout: httpx.Timeout) -> httpx.Client:
    """Return a client for a camera or a web hook that follows no redirects. Raises what `route_to` does."""
    route = route_to(url)
    return httpx.Client(
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
        proxy=route.proxy,
        verify=route.ssl_context or False,
    )


@dataclass(frozen=True, slots=True)
class Route:
    """How to reach an address: through a proxy or directly; whom to trust, if it is https."""

    proxy: httpx.Proxy | None = None
    ssl_context: ssl.SSLContext | None = None


def route_to(url: httpx.URL) -> Route:
    """Return the way to `url` in this environment. Raises UsageError that names a wrong variable."""
    return Route(_usable_proxy(url), _ssl_context() if url.scheme == "https" else None)


def added_bytes(url: httpx.URL, proxy: httpx.Proxy | None) -> int:
    """Return what a proxy adds to one request on a connection of its own, at most, in bytes.

    http: the whole address in place of the path. https: a CONNECT request before the handshake. socks: its
    greeting, login and the address.
    """
    if proxy is None:
        return 0
    authority = url.netloc.decode("ascii") + (":443" if url.scheme == "https" and not url.port else "")
    login = sum(map(len, proxy.raw_auth or ())) + 1
    if proxy.url.scheme.startswith("socks"):
        return 3 + (login + 2) + (len(url.host) + 7)
    header = len("Proxy-Authorization: Basic \r\n") + 4 * -(-login // 3) if proxy.raw_auth else 0
    if url.scheme == "http":
        return header + len(f"http://{authority}")
    return header + len(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nAccept: */*\r\n\r\n")


def _usable_proxy(url: httpx.URL) -> httpx.Proxy | None:
    address = proxy_for(url)
    if address is None:
        return None
    variable = f"{url.scheme.upper()}_PROXY" if f"{url.scheme}_proxy" in _lower_environment() else "ALL_PROXY"
    try:
        proxy = httpx.Proxy(address)
    except (ValueError, httpx.InvalidURL) as exc:
        raise UsageError(f"{variable} cannot be used: no such proxy") from exc
    if proxy.url.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise UsageError(f"{variable} cannot be used: socks needs `pip install httpx[socks]`")
    return proxy


def proxy_for(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for an address, None for a direct connection."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or _is_loopback(url.host) or _is_excepted(url, proxies.get("no", "")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_loopback(host: str) -> bool:
    if host.rstrip(".").lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _is_excepted(url: httpx.URL, exceptions: str) -> bool:
    return any(_matches(url, entry.strip().lower()) for entry in exceptions.split(",") if entry.strip())


def _matches(url: httpx.URL, entry: str) -> bool:
    if entry == "*":
        return True
    host, port = _without_port(entry)
    if port is not None and port != (url.port or DEFAULT_PORTS[url.scheme]):
        return False
    with suppress(ValueError):
        return ipaddress.ip_address(url.host) in ipaddress.ip_network(host, strict=False)
    host = host.lstrip("*").lstrip(".")
    return url.host.lower() == host or url.host.lower().endswith(f".{host}")


def _without_port(entry: str) -> tuple[str, int | None]:
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        return host, int(rest[1:]) if rest[1:].isdigit() else None
    host, colon, port = entry.rpartition(":")
    return (host, int(port)) if colon and ":" not in host and port.isdigit() else (entry, None)


def _ssl_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as exc:
        variable = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "SSL_CERT_DIR"
        raise UsageError(f"{variable} cannot be used: {exc}") from exc


def _lower_environment() -> set[str]:
    return {name.lower() for name in os.environ}
