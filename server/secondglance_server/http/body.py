"""Request bodies: bounded in bytes and time as they arrive, whole before the app runs.

The limit holds for the declared length (refused unread) and for what is streamed. The app sees one message
with the whole body, which stays in memory. When the client leaves, the app's work for it is cancelled. Not
covered: the time that headers take (`http.connection`), and what happens to a body that is not read
(`http.linger`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError, busy
from secondglance_server.http.door import destination_of
from secondglance_server.http.observe import facts_of
from secondglance_server.inference.async_engine import Stage
from secondglance_server.inference.ticket import deadline_exceeded
from secondglance_server.settings import ServerSettings

BODY_GRACE_S = DEFAULT_LIMITS.body_grace_s  # before the slowest allowed pace is held
MIN_BODY_BYTES_PER_S = DEFAULT_LIMITS.min_body_bytes_per_s  # after the grace


class BodyMiddleware:
    """Reads the body of requests that belong to a stage; to others' the app has no access."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._settings = settings
        self._limits: dict[Stage, int] = {1: settings.max_image_bytes, 2: settings.max_patch_bytes}
        self._memory = _Memory(settings.max_buffered_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        stage = destination_of(scope).stage
        if stage is None:
            await self._app(scope, _whole_body(b""), send)
            return
        limit = self._limits[stage]
        facts = facts_of(scope)
        declared = _declared_length(Headers(scope=scope), limit)
        with self._memory.share() as hold:
            body = await self._read(receive, limit, hold, facts.deadline)
            if body is None:
                facts.outcome = "client_gone"
                return
            facts.received_bytes = len(body)
            if declared is not None and declared != len(body):
                raise ProblemError(
                    ErrorCode.MALFORMED_REQUEST, "Content-Length is not the length of the body"
                )
            await self._run_while_connected(scope, body, receive, send)

    async def _read(
        self, receive: Receive, limit: int, hold: Callable[[int], None], deadline: float
    ) -> bytes | None:
        """The whole body, None if the client left.

        Raises ProblemError BODY_TOO_LARGE, BODY_TIMEOUT, DEADLINE_EXCEEDED, and what `hold` raises.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        received = bytearray()
        try:
            async with asyncio.timeout_at(self._due(0, began, deadline)) as patience:
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    chunk = message.get("body", b"")
                    hold(len(chunk))
                    received += chunk
                    if len(received) > limit:
                        raise _too_large(limit)
                    if not message.get("more_body", False):
                        return bytes(received)
                    due = self._due(len(received), began, deadline)
                    if due != patience.when():  # hardly ever: a timer for each crumb is what costs
                        patience.reschedule(due)
        except TimeoutError as exc:
            if loop.time() >= deadline:
                raise deadline_exceeded() from None
            raise ProblemError(
                ErrorCode.BODY_TIMEOUT, f"{len(received)} bytes came in {loop.time() - began:.0f} s"
            ) from exc

    def _due(self, n_received: int, began: float, deadline: float) -> float:
        """Until when the next bytes of a body must come."""
        pace_s = max(BODY_GRACE_S, n_received / MIN_BODY_BYTES_PER_S)
        return min(deadline, began + min(self._settings.body_timeout_s, pace_s))

    async def _run_while_connected(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        reply = _WatchedReply(send)

        async def run() -> None:
            await self._app(scope, _whole_body(body), reply)

        app = asyncio.create_task(run())
        left = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait({app, left}, return_when=asyncio.FIRST_COMPLETED)
            # Servers report a finished reply as a disconnect, too.
            if not app.done() and not reply.is_complete:
                facts = facts_of(scope)
                facts.outcome = facts.outcome if facts.is_superseded else "client_gone"
                app.cancel()
            await asyncio.wait({app})
            if not app.cancelled():
                app.result()
        finally:
            app.cancel()
            left.cancel()


class _Memory:
    """Bounds what all bodies together hold, from their first byte to the end of their requests."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """A function to hold so many more bytes, which raises ProblemError BUSY."""
        mine = 0

        def hold(n_bytes: int) -> None:
            nonlocal mine
            if self._held + n_bytes > self._max_bytes:
                raise busy("too many bytes are being uploaded")
            self._held += n_bytes
            mine += n_bytes

        try:
            yield hold
        finally:
            self._held -= mine


class _WatchedReply:
    """Sends, and remembers whether all was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)


def _declared_length(headers: Headers, limit: int) -> int | None:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not taken")
    declared = headers.get("content-length")
    if declared is None:
        return None
    if not (declared.isascii() and declared.isdigit()):
        raise ProblemError(ErrorCode.MALFORMED_REQUEST, "Content-Length is not a number")
    # Not int() alone: Python refuses numbers of thousands of digits with a ValueError.
    if len(declared) > 18 or int(declared) > limit:
        raise _too_large(limit)
    return int(declared)


def _too_large(limit: int) -> ProblemError:
    return ProblemError(ErrorCode.BODY_TOO_LARGE, f"at most {limit} bytes are taken here")


def _whole_body(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.Future()  # the client's leaving is watched outside; the app need not ask

    return receive


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
