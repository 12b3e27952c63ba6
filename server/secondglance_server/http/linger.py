"""The outermost layer: counts what is read of a body, and throws away the rest when the reply comes first.

A refusal may be sent before its request's body has been read. Such a connection cannot be used again, so the
reply says `Connection: close`; and closing while the client still sends would reset it and take the reply
with it, so what comes is thrown away for a moment before the reply is called complete. Those bytes count too.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondglance_server.http.quotas import BodyMeter

LINGER_S: Final = 2.0  # how long bytes are thrown away after a refusal
LINGER_BYTES: Final = 16 * 1024 * 1024  # a patch


def meter_of(scope: Scope) -> BodyMeter:
    """Return the meter of the request's body."""
    meter = scope["state"]["meter"]
    assert isinstance(meter, BodyMeter)
    return meter


class LingerMiddleware:
    """Knows bodies only as read or not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        meter = scope.setdefault("state", {})["meter"] = BodyMeter()
        exchange = _Exchange(receive, send, meter, has_body=_has_body(Headers(scope=scope)))
        await self._app(scope, exchange.receive, exchange.send)


class _Exchange:
    def __init__(self, receive: Receive, send: Send, meter: BodyMeter, *, has_body: bool) -> None:
        self._receive = receive
        self._send = send
        self._meter = meter
        self._is_read = not has_body

    async def receive(self) -> Message:
        message = await self._receive()
        self._meter.count(len(message.get("body", b"")))
        self._is_read = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if self._is_read:
            await self._send(message)
        elif message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
            await self._send(message)
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._drain()
            await self._send({"type": "http.response.body"})

    async def _drain(self) -> None:
        left = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0 and not self._is_read:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
