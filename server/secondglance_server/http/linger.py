"""The outermost layer: what happens to the rest of a body when the reply comes first.

A refusal may be sent before its request's body has been read. Such a connection cannot be used again, so the
reply says `Connection: close`; and closing while the client still sends would reset it and take the reply
with it, so what comes is thrown away for a moment before the reply is called complete.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 16 * 1024 * 1024  # a patch


class LingerMiddleware:
    """Knows bodies only as read or not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _has_body(Headers(scope=scope)):
            exchange = _Exchange(receive, send)
            await self._app(scope, exchange.receive, exchange.send)
        else:
            await self._app(scope, receive, send)


class _Exchange:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_read = False

    async def receive(self) -> Message:
        message = await self._receive()
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
