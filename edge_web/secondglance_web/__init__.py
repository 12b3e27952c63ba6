"""The page for browsers as replies to GET requests; what serves it is somebody else's framework.

    reply = Page().reply("index.html", {})  # status, headers, body

Everything is read once, into memory. Not covered: who may see it (it holds no secrets), and TLS.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["CONTENT_SECURITY_POLICY", "INDEX", "Page", "PageReply"]

INDEX: Final = "index.html"

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "worker-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""What the page may load and do: its own files, pictures that the user chose, requests to its own server."""

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked about by its ETag: an update is seen at once
    "Vary": "Accept-Encoding",
}
_MEDIA_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


@dataclass(frozen=True, slots=True)
class PageReply:
    """The reply to one GET: status, header fields, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _File:
    media_type: str
    plain: bytes
    zipped: bytes | None  # None where zipping saves nothing
    etag: str


class Page:
    """The page's files in memory, by their names below the page's address: `index.html`, `src/index.js`."""

    def __init__(self) -> None:
        self._files = {name: _read(path) for name, path in _paths().items()}

    @property
    def names(self) -> frozenset[str]:
        """Every name that has a reply."""
        return frozenset(self._files)

    def reply(self, name: str, headers: Mapping[str, str]) -> PageReply | None:
        """Return the reply to a GET for `name` ("" is the index), None where there is no such file.

        `headers` are the request's, by lower-case names.
        """
        file = self._files.get(name or INDEX)
        if file is None:
            return None
        is_zipped = file.zipped is not None and _takes_gzip(headers.get("accept-encoding", ""))
        etag = f'"{file.etag}{"-gzip" if is_zipped else ""}"'
        sent = {**_HEADERS, "ETag": etag}
        if etag in headers.get("if-none-match", ""):
            return PageReply(304, sent, b"")
        sent["Content-Type"] = file.media_type
        if is_zipped and file.zipped is not None:
            return PageReply(200, {**sent, "Content-Encoding": "gzip"}, file.zipped)
        return PageReply(200, sent, file.plain)


def _paths() -> dict[str, Path]:
    """Return where the files are: inside the package if it came as a wheel, else beside it."""
    package = Path(__file__).parent
    root = package if (package / "page").is_dir() else package.parent
    page = {path.name: path for path in (root / "page").iterdir() if path.suffix in _MEDIA_TYPES}
    source = root / "src"
    return page | {f"src/{path.relative_to(source).as_posix()}": path for path in source.rglob("*.js")}


def _read(path: Path) -> _File:
    plain = path.read_bytes()
    zipped = gzip.compress(plain, mtime=0)
    return _File(
        media_type=_MEDIA_TYPES[path.suffix],
        plain=plain,
        zipped=zipped if len(zipped) < 0.9 * len(plain) else None,
        etag=hashlib.sha256(plain).hexdigest()[:16],
    )


def _takes_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.split(","):
        coding, _, weight = part.partition(";")
        if coding.strip().lower() == "gzip":
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
