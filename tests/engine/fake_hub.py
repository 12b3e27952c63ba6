"""A hub over loopback, as far as huggingface_hub asks it: one repository, and what may be wrong with it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

SHA = "0123456789abcdef0123456789abcdef01234567"
NAME = "owner/tiny"


@dataclass
class Hub:
    """`refusal`: (status, X-Error-Code) of every reply. `cut_at`: bytes of a weight file after which the
    connection ends, `cuts` times. `claimed_bytes`: the size that it says the weights have."""

    directory: Path
    url: str = ""
    refusal: tuple[int, str] | None = None
    cut_at: int | None = None
    cuts: int = 0
    claimed_bytes: int | None = None
    asked: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def size(self, path: Path) -> int:
        """Return the size that the listing claims."""
        is_weights = path.suffix == ".safetensors"
        return self.claimed_bytes if is_weights and self.claimed_bytes else path.stat().st_size


@contextlib.contextmanager
def serving_hub(directory: Path) -> Iterator[Hub]:
    """Yield a running hub with the directory's files as `NAME` at branch main and at `SHA`."""
    hub = Hub(directory)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append(f"{self.command} {path}")
            hub.tokens.add(self.headers.get("authorization"))
            if hub.refusal is not None:
                self._send(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1], "X-Error-Message": "no"})
            elif path.startswith(f"/api/models/{NAME}/tree/"):
                self._send(200, json.dumps(_listing(hub)).encode())
            elif path in (f"/api/models/{NAME}/revision/{rev}" for rev in ("main", SHA)):
                self._send(200, json.dumps({"id": NAME, "sha": SHA, "siblings": []}).encode())
            elif path.startswith(f"/api/models/{NAME}/revision/"):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif path.startswith(f"/{NAME}/resolve/"):
                self._file(hub.directory / path.split("/", 5)[5])
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def _file(self, path: Path) -> None:
            if not path.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            body = path.read_bytes()
            headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": SHA}
            if hub.claimed_bytes and path.suffix == ".safetensors":
                headers["X-Linked-Size"] = str(hub.claimed_bytes)
            begin = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            cut = hub.cut_at if self.command == "GET" and path.suffix == ".safetensors" and hub.cuts else None
            if cut is None:
                if begin:
                    headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
                self._send(206 if begin else 200, body[begin:], headers)
                return
            hub.cuts -= 1
            self._send(200, body[:cut], headers | {"Content-Length": str(len(body))})
            self.close_connection = True

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listing(hub: Hub) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": path.name, "size": hub.size(path), "oid": f"{index:040x}"}
        for index, path in enumerate(sorted(hub.directory.iterdir()))
    ]


def point_at(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path, *, offline: bool = False) -> None:
    """Make this process's huggingface_hub ask `url` and keep what it gets in `cache`."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
