"""HTTP clients for what is not the server: cameras and web hooks. One rule of proxies and certificates.

The rule: HTTP_PROXY, HTTPS_PROXY and ALL_PROXY as the system has them; NO_PROXY may hold names, addresses,
[::1] and networks such as 10.0.0.0/8; loopback is always direct. SSL_CERT_FILE and SSL_CERT_DIR are trusted.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import urllib.request
from contextlib import suppress

import httpx

from secondglance.errors import UsageError


def client_for(url: httpx.URL, timeout: httpx.Timeout) -> httpx.Client:
    """Return a client that follows no redirects. Raises UsageError that names a wrong variable."""
    proxy = proxy_for(url)
    variable = f"{url.scheme.upper()}_PROXY" if f"{url.scheme}_proxy" in _lower_environment() else "ALL_PROXY"
    verify = _ssl_context() if url.scheme == "https" else False
    try:
        return httpx.Client(
            timeout=timeout, follow_redirects=False, trust_env=False, proxy=proxy, verify=verify
        )
    except (ValueError, ImportError, httpx.InvalidURL) as exc:
        reason = "socks needs `pip install httpx[socks]`" if isinstance(exc, ImportError) else "no such proxy"
        raise UsageError(f"{variable} cannot be used: {reason}") from exc


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
    if port is not None and port != (url.port or (443 if url.scheme == "https" else 80)):
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
