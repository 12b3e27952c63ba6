"""The outermost layer: who may ask, how much at once, how large; failures in OpenAI's shape.

Without a key every app of this machine may ask; then only requests that name this machine as their host are
let in, so that a web page cannot reach the gateway through a name of its own (DNS rebinding), and none that a
page of another origin makes. The body is read whole here, within its limits, and the app gets it in one
message.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondglance.errors import EdgeError
from secondglance.gateway.errors import ApiError, as_api_error, bad_request, busy
from secondglance.gateway.settings import GatewaySettings
from secondglance.gateway.web_page import is_page
from secondglance.text import printable

_log = logging.getLogger("secondglance.gateway")

_LOCAL_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_LOCAL_ORIGIN = re.compile(rf"https?://{_LOCAL_HOST.pattern}", re.IGNORECASE)
_OPEN_PATHS = frozenset({"/healthz"})


class GuardMiddleware:
    """Wraps everything but the last resort for unexpected failures."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._settings = settings
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None
        self._places = asyncio.Semaphore(settings.max_requests)
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _WatchedSend(send)
        began = time.perf_counter()
        try:
            await self._serve(scope, receive, reply)
        except (ApiError, EdgeError) as exc:
            error = exc if isinstance(exc, ApiError) else as_api_error(exc)
            if reply.status:  # too late for a status: the connection ends in the middle of the reply
                raise
            await error.response()(scope, receive, reply)
        finally:
            elapsed_ms = round(1000 * (time.perf_counter() - began), 1)
            facts = {"request_id": reply.request_id, "status": reply.status, "elapsed_ms": elapsed_ms}
            path = printable(scope["path"], max_chars=200)
            _log.info("%s %s %s %s ms", scope["method"], path, reply.status, elapsed_ms, extra=facts)

    async def _serve(self, scope: Scope, receive: Receive, reply: _WatchedSend) -> None:
        headers = Headers(scope=scope)
        is_open = scope["path"] in _OPEN_PATHS or (self._settings.is_on_loopback and is_page(scope["path"]))
        if not is_open:
            self._admit(headers)
        if scope["method"] not in ("POST", "PUT"):
            await self._app(scope, receive, reply)
            return
        reply.closes = True  # a body that is not read makes the connection useless
        await self._take_place()
        try:
            body = await self._read(headers, receive, reply)
            await self._app(scope, _body_then(body, receive), reply)
        finally:
            self._places.release()

    async def _take_place(self) -> None:
        """Wait for a place in work, first come first served. Raises ApiError for too many, and too long."""
        settings = self._settings
        if self._places.locked() and self._waiting >= settings.max_waiting:
            raise busy(f"{settings.max_requests} requests are in work and {self._waiting} wait")
        self._waiting += 1
        try:
            async with asyncio.timeout(settings.max_wait_s):
                await self._places.acquire()
        except TimeoutError:
            raise busy(f"no request has ended within {settings.max_wait_s:g} s") from None
        finally:
            self._waiting -= 1

    def _admit(self, headers: Headers) -> None:
        if self._key is None:
            if not _LOCAL_HOST.fullmatch(headers.get("host", "")):
                raise ApiError(403, "a gateway without a key answers to local names only", "forbidden_host")
            if not all(map(_LOCAL_ORIGIN.fullmatch, headers.getlist("origin"))):
                raise ApiError(
                    403, "a gateway without a key takes nothing from other sites", "forbidden_origin"
                )
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(self._key, given.strip().encode()):
            raise ApiError(
                401, "send the gateway's key", "invalid_api_key", headers={"WWW-Authenticate": "Bearer"}
            )

    async def _read(self, headers: Headers, receive: Receive, reply: _WatchedSend) -> bytes:
        """Read the whole body, up to which `reply` closes the connection. Raises ApiError."""
        limit = self._settings.max_body_bytes
        declared = headers.get("content-length", "0")
        received = bytearray()
        if not declared.isdecimal() or len(declared) > 18 or int(declared) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise bad_request("the app has hung up", code="client_gone")
                    received += message.get("body", b"")
                    if len(received) > limit:
                        raise _too_large(limit)
                    if not message.get("more_body", False):
                        reply.closes = False
                        return bytes(received)
        except TimeoutError:
            raise ApiError(408, "the body took too long to arrive", "body_timeout") from None


class _WatchedSend:
    """Sends, adds what every reply has, and remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.request_id = f"req_{secrets.token_hex(8)}"
        self.status = 0
        self.closes = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            if self.closes:
                headers["Connection"] = "close"
        await self._send(message)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"at most {limit} bytes are taken here", "body_too_large")


def _body_then(body: bytes, receive: Receive) -> Receive:
    """The body first, then whatever the server says: that the app has hung up."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
