"""One client's connection: uvicorn's h11 protocol with the time limits and the manners that it lacks.

Bounded here: how long a request's head may take, how long a client may refuse to read, how many connections
there are. What is not HTTP is answered with a problem document, and then what the client still sends is
thrown away for a moment: closing at once would reset the connection and take the answer with it. Not covered:
bodies (`http.body`), and the TLS handshake, which a reverse proxy does.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from secondglance_protocol.defaults import DEFAULT_LIMITS
from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError, busy
from secondglance_server.http.linger import LINGER_S
from secondglance_server.http.problems import problem_response
from secondglance_server.http.strict_http import StrictConnection
from secondglance_server.inference.facts import new_request_id
from secondglance_server.settings import ServerSettings

HEADER_TIMEOUT_S = DEFAULT_LIMITS.header_timeout_s  # from the connection or a request's first byte
MAX_HEADER_BYTES: Final = DEFAULT_LIMITS.max_header_bytes  # request line and all headers
WRITE_TIMEOUT_S = DEFAULT_LIMITS.write_timeout_s  # for a client that does not read its reply

_log = logging.getLogger("secondglance_server.http.connection")

OnRefusal = Callable[[ErrorCode], None]


def connection_factory(settings: ServerSettings, on_refusal: OnRefusal) -> Callable[..., GuardedConnection]:
    """For uvicorn's `http=`. `on_refusal` counts what never becomes a request."""
    return partial(GuardedConnection, settings=settings, on_refusal=on_refusal)


class GuardedConnection(H11Protocol):
    """Replaces the parser by the strict one and adds timers; requests and replies stay uvicorn's."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        settings: ServerSettings,
        on_refusal: OnRefusal,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn: StrictConnection = StrictConnection(MAX_HEADER_BYTES)
        self._settings = settings
        self._on_refusal = on_refusal
        self._head_timer = _Timer(self.loop, HEADER_TIMEOUT_S, self._head_is_late)
        self._write_timer = _Timer(self.loop, WRITE_TIMEOUT_S, self._reader_is_late)
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > self._settings.max_connections:
            self._refuse(busy("there are too many connections"))
            transport.close()
            return
        self._head_timer.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer.stop()
        self._write_timer.stop()
        if self._is_refused:
            self.connections.discard(self)
            return
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_refused:
            super().data_received(data)
            self._watch_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_head()  # of a request that was sent behind the one just answered

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        self._write_timer.stop()
        super().resume_writing()

    def shutdown(self) -> None:
        if self._is_refused:
            self.transport.close()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn while it handles the parser's error."""
        error = sys.exception()
        assert isinstance(error, h11.RemoteProtocolError)
        code = ErrorCode.HEADERS_TOO_LARGE if error.error_status_hint == 431 else ErrorCode.MALFORMED_REQUEST
        self._refuse(ProblemError(code, "the bytes are no proper HTTP request, or their head is too large"))

    def _unsupported_upgrade_warning(self) -> None:
        """Upgrades are not taken, and not worth a line of log each."""

    def _watch_head(self) -> None:
        """Let the timer run exactly while a head is incomplete."""
        if self._is_refused or not self.conn.is_reading_head:
            self._head_timer.stop()
        else:
            self._head_timer.start()

    def _head_is_late(self) -> None:
        if self.conn.is_reading_head:
            self._refuse(ProblemError(ErrorCode.HEADERS_TIMEOUT, "the rest of the headers did not come"))
        else:
            self.transport.close()

    def _reader_is_late(self) -> None:
        self.transport.abort()

    def _refuse(self, error: ProblemError) -> None:
        """Answer without a request, throw away what comes for a while, close."""
        self._is_refused = True
        self._head_timer.stop()
        self._unset_keepalive_if_required()
        self._on_refusal(error.code)
        is_amid_reply = False
        if self.cycle is not None and not self.cycle.response_complete:  # the app waits for more of a body
            is_amid_reply = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.is_closing() or is_amid_reply:
            self.transport.close()
            return
        self.transport.write(_raw_response(error))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.abort)


class _Timer:
    """Calls `action` `seconds` after the start, unless stopped; starting a running one changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, action: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._action = action
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._action)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def _raw_response(error: ProblemError) -> bytes:
    response = problem_response(error, new_request_id())
    status = HTTPStatus(response.status_code)
    head = [f"HTTP/1.1 {status.value} {status.phrase}".encode(), b"connection: close"]
    head += [name + b": " + value for name, value in response.raw_headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + bytes(response.body)
