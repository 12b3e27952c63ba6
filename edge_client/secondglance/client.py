"""The two drivers of a conversation: blocking and async. They do its I/O and decide nothing.

Both clients may be shared: by threads, by tasks. Bytes are counted at the socket (see `transport`).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar, Unpack

import anyio
import anyio.to_thread
import httpx

from secondglance.conversation.conversation import Conversation, Steps
from secondglance.conversation.hooks import Hooks
from secondglance.conversation.known_server import KnownServer
from secondglance.conversation.requests import Ask, QuestionTerms, Terms
from secondglance.conversation.steps import (
    Answered,
    Arrived,
    Compute,
    ExchangeResult,
    Lost,
    Pause,
    Send,
    Step,
)
from secondglance.errors import EdgeError, UsageError
from secondglance.link.uplink import Uplink
from secondglance.pictures.original import ImageSource
from secondglance.reply import Reply
from secondglance.settings import EdgeSettings, load_settings
from secondglance.wire.addresses import shown_address, without_secrets
from secondglance.wire.counting import AsyncCountingTransport, CountingTransport, Exchange, measuring
from secondglance.wire.proxies import Route, added_bytes, route_to
from secondglance.wire.reading import OnToken, WholeReply, read_reply, read_reply_async
from secondglance.wire.tls import tls_size
from secondglance_protocol.protocol import API_KEY_HEADER, DEADLINE_HEADER, MAX_DEADLINE_MS
from secondglance_protocol.wire import ModelResponse

T = TypeVar("T")
Observer: TypeAlias = Callable[[Step], None]


class _Options:
    """What both clients are made with, and how one is derived from another."""

    _settings: EdgeSettings
    _known: KnownServer
    _terms: Terms
    _observe: Observer | None
    _hooks: Hooks
    _route: Route
    _new_request: Callable[..., httpx.Request]  # as the HTTP client would send it

    def _set_up(
        self,
        url: str | None,
        api_key: str | None,
        settings: EdgeSettings | None,
        observe: Observer | None,
        hooks: Hooks | None,
        *,
        uses_sockets: bool,
    ) -> dict[str, Any]:
        """Begin without knowledge of the server, and return the options of the HTTP client."""
        self._settings = settings or load_settings()
        self._known = KnownServer(max_images=self._settings.remembered_images)
        self._terms = {}
        self._observe = observe
        self._hooks = hooks or Hooks()
        options = _http_options(self._settings, url, api_key)
        self._route = route_to(options["base_url"]) if uses_sockets else Route()
        return options

    def with_options(
        self, *, observe: Observer | None = None, hooks: Hooks | None = None, **terms: Unpack[Terms]
    ) -> Self:
        """Return a client that asks on other terms unless `ask` is told otherwise; what is not given stays.

        It shares connections, the pictures that the server holds and what is known of it; closing one closes
        all. `terms` are those of `ask`. Raises TypeError for a term that does not exist.

        >>> with EdgeClient() as client:
        ...     quick = client.with_options(mode="answer_only", timeout_s=30)
        ...     quick.ask("examples/photo.jpg", "What is written on the red sign?").stage
        1
        """
        unknown = terms.keys() - Terms.__annotations__.keys()
        if unknown:
            raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
        derived = copy.copy(self)
        derived._terms = {**self._terms, **terms}
        derived._observe = observe or self._observe
        derived._hooks = hooks or self._hooks
        return derived

    @property
    def link(self) -> Uplink:
        """What earlier requests have shown of the uplink: bytes per second and the wait for a reply."""
        return self._known.link

    def _conversation(self, source: ImageSource, question: str, terms: QuestionTerms) -> Conversation:
        ask = _ask(question, {**self._terms, **terms})
        return Conversation(
            source,
            ask,
            known=self._known,
            settings=self._settings,
            size_on_wire=self._size_on_wire,
            on_token=self._hooks.on_token,
        )

    def _size_on_wire(self, send: Send) -> int:
        """Return the bytes of `send` on the wire; TLS with a handshake, for the connection may be new."""
        request = self._new_request(**_arguments(send))
        line = len(f"{request.method} {request.url.raw_path.decode('ascii')} HTTP/1.1\r\n\r\n")
        plain = line + sum(len(name) + len(value) + 4 for name, value in request.headers.raw) + len(send.body)
        plain += added_bytes(request.url, self._route.proxy)
        return tls_size(plain) if request.url.scheme == "https" else plain

    def _deadline_of(self, send: Send) -> float:
        """Return when one exchange ends at the latest: no server may hold a question for ever."""
        limit = time.monotonic() + self._settings.total_timeout_s
        return limit if send.deadline is None else min(limit, send.deadline)

    def _tell(self, step: Step) -> None:
        if self._observe is not None:
            self._observe(step)
        if isinstance(step, Send):
            self._hooks.requested(step)
        elif isinstance(step, Answered):
            self._hooks.answered(step.reply)


class EdgeClient(_Options):
    """A client that asks a Second Glance server about pictures; threads may share it.

    `url` and `api_key` win over `settings`, which win over the environment (SECONDGLANCE_URL,
    SECONDGLANCE_API_KEY, SECONDGLANCE_EDGE_*). `observe` is told every step before it is taken, `hooks` what
    `Hooks` says. A `transport` of your own (an in-process app, say) counts no bytes. Raises UsageError for a
    setting or an address that cannot work.

    >>> with EdgeClient() as client:
    ...     reply = client.ask("examples/photo.jpg", "What is written on the red sign?")
    >>> reply.answer, reply.stage
    ('925', 2)
    >>> reply.receipt.uplink_bytes < reply.receipt.original_bytes / 100
    True
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        settings: EdgeSettings | None = None,
        transport: httpx.BaseTransport | None = None,
        observe: Observer | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        options = self._set_up(url, api_key, settings, observe, hooks, uses_sockets=transport is None)
        transport = transport or CountingTransport(
            ssl_context=self._route.ssl_context, proxy=self._route.proxy
        )
        self._http = httpx.Client(transport=transport, **options)
        drop_needless(self._http.headers)
        self._new_request = self._http.build_request

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(self, source: ImageSource, question: str, **terms: Unpack[QuestionTerms]) -> Reply:
        """Ask `question` (1 to 4,096 bytes of UTF-8) about a picture, and return the reply of the last stage.

        `source` is a path, the bytes of a picture file, a binary file object or a PIL image. `mode` is "auto"
        (a second glance if the server is unsure), "answer_only" or "always". `threshold` is in nats (of the
        server's default metric; the margin has no unit). `timeout_s` (seconds) and `max_uplink_bytes` bound
        both stages together. `max_new_tokens` bounds the answer. `include` asks for "tokens" and "relevance".
        Up to `max_rounds` regions are sent, one after the other, while the answer stays doubtful and
        `max_uplink_bytes` has room; the surest answer counts. Servers that know no further looks ask for one.
        Asked again with the same `idempotency_key`, the same picture and the same terms, a server that still
        remembers gives its first reply again and infers nothing.

        Raises EdgeError if stage one fails. A failed stage two gives the draft answer with `reply.degraded`
        set, or raises if `strict`. Whoever wants tokens as they come, gives the client `Hooks(on_token=...)`.

        >>> from secondglance import BadImageError
        >>> with EdgeClient() as client:
        ...     print(client.ask("examples/photo.jpg", "How many signs are there?").answer)
        ...     try:
        ...         client.ask(b"no picture", "How many signs are there?")
        ...     except BadImageError as error:
        ...         print(error.exit_code)
        5
        65
        """
        return self._run(self._conversation(source, question, terms).run())

    def model(self) -> ModelResponse:
        """Return what the server takes (pixels, bytes, formats); it is asked once and remembered.

        Raises EdgeError.
        """
        return self._run(self._conversation(b"", "", {}).fetch_model())

    def _run(self, steps: Steps[T]) -> T:
        with closing(steps):
            advance: Callable[[], Step] = partial(steps.send, None)
            while True:
                try:
                    step = advance()
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]  # the generator's T
                self._tell(step)
                try:
                    advance = partial(steps.send, self._perform(step))
                except EdgeError as exc:
                    advance = partial(steps.throw, exc)

    def _perform(self, step: Step) -> Any:
        if isinstance(step, Send):
            outcome = self._exchange(step)
            self._hooks.responded(step, outcome)
            return outcome
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        return step.work() if isinstance(step, Compute) else None

    def _exchange(self, send: Send) -> ExchangeResult:
        with measuring(self._deadline_of(send)) as exchange:
            try:
                with self._http.stream(**_arguments(send)) as response:
                    whole = read_reply(response, _teller(send))
            except httpx.HTTPError as exc:
                return _lost(exc, exchange)
            return _arrived(response, whole, exchange)


class AsyncEdgeClient(_Options):
    """`EdgeClient`, awaited; tasks may share it. Pictures are decoded and encoded in worker threads.

    >>> import asyncio
    >>> async def main() -> str:
    ...     async with AsyncEdgeClient() as client:
    ...         reply = await client.ask("examples/photo.jpg", "What is written on the red sign?")
    ...         return reply.answer
    >>> asyncio.run(main())
    '925'
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        settings: EdgeSettings | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        observe: Observer | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        options = self._set_up(url, api_key, settings, observe, hooks, uses_sockets=transport is None)
        transport = transport or AsyncCountingTransport(
            ssl_context=self._route.ssl_context, proxy=self._route.proxy
        )
        self._http = httpx.AsyncClient(transport=transport, **options)
        drop_needless(self._http.headers)
        self._new_request = self._http.build_request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, source: ImageSource, question: str, **terms: Unpack[QuestionTerms]) -> Reply:
        """Ask as `EdgeClient.ask` does: the same arguments, units, reply and errors."""
        return await self._run(self._conversation(source, question, terms).run())

    async def model(self) -> ModelResponse:
        """Return what the server takes, as `EdgeClient.model` does. Raises EdgeError."""
        return await self._run(self._conversation(b"", "", {}).fetch_model())

    async def _run(self, steps: Steps[T]) -> T:
        with closing(steps):
            advance: Callable[[], Step] = partial(steps.send, None)
            while True:
                try:
                    step = advance()
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]  # the generator's T
                self._tell(step)
                try:
                    advance = partial(steps.send, await self._perform(step))
                except EdgeError as exc:
                    advance = partial(steps.throw, exc)

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Send):
            outcome = await self.exchange(step)
            self._hooks.responded(step, outcome)
            return outcome
        if isinstance(step, Pause):
            return await anyio.sleep(step.seconds)
        return await anyio.to_thread.run_sync(step.work) if isinstance(step, Compute) else None

    async def exchange(self, send: Send) -> ExchangeResult:
        """Make one request with this edge's key, once; its reply is bounded in size and time.

        For the conversation, and for the gateway, which hands requests of its page on.
        """
        with measuring(self._deadline_of(send)) as exchange:
            try:
                async with self._http.stream(**_arguments(send)) as response:
                    whole = await read_reply_async(response, _teller(send))
            except httpx.HTTPError as exc:
                return _lost(exc, exchange)
            return _arrived(response, whole, exchange)


def _ask(question: str, terms: QuestionTerms) -> Ask:
    values: dict[str, Any] = {**terms, "include": tuple(terms.get("include", ()))}
    return Ask(question, **values)


def headers_of(key: str | None) -> dict[str, str]:
    """Return the headers that every request of an edge with this API key carries."""
    return {API_KEY_HEADER: f"Bearer {key}"} if key else {}


def _http_options(settings: EdgeSettings, url: str | None, api_key: str | None) -> dict[str, Any]:
    key = api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
    timeout = httpx.Timeout(settings.read_timeout_s, connect=settings.connect_timeout_s)
    return {
        "base_url": _checked(url or settings.url),
        "headers": headers_of(key),
        "timeout": timeout,
        "cookies": _no_cookies(),
    }


def drop_needless(headers: httpx.Headers) -> None:
    """Remove what httpx adds to every request and what tells a server nothing.

    HTTP/1.1 keeps alive; no server of ours compresses unasked, and a reply that comes compressed is refused.
    """
    for name in ("Accept", "Accept-Encoding", "Connection", "User-Agent"):
        headers.pop(name, None)


def _no_cookies() -> CookieJar:
    """Return a jar that keeps nothing: a cookie would be uplink that a server decides on."""
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise UsageError(f"not a URL: {shown_address(url)!r}: {without_secrets(str(exc), url)}") from exc
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"not an http or https URL: {shown_address(url)!r}")
    if parsed.query or parsed.fragment:
        raise UsageError(f"a server's URL has no query and no fragment: {shown_address(url)!r}")
    return parsed


def _arguments(send: Send) -> dict[str, Any]:
    headers = dict(send.headers)
    if send.deadline is not None:  # of this attempt: what is left, so that late work does not begin
        left_ms = int(1000 * (send.deadline - time.monotonic()))
        headers[DEADLINE_HEADER] = str(min(max(1, left_ms), MAX_DEADLINE_MS))
    return {
        "method": send.method,
        "url": send.path,
        "headers": headers,
        "content": send.body or None,
    }


def _teller(send: Send) -> OnToken:
    """Return whom to tell the tokens of the reply to this attempt."""
    if send.teller is None:
        return lambda _: None
    send.teller.begin()
    return send.teller.tell


def _arrived(response: httpx.Response, whole: WholeReply, exchange: Exchange) -> Arrived:
    headers = {name.lower(): value for name, value in response.headers.items()}
    counts = (exchange.uplink_bytes, exchange.downlink_bytes)
    return Arrived(
        whole.status, headers, whole.body, *counts, exchange.waited_s, whole.is_streamed, whole.is_cut
    )


def _lost(exc: httpx.HTTPError, exchange: Exchange) -> Lost:
    detail = str(exc) or type(exc).__name__
    counts = (exchange.uplink_bytes, exchange.downlink_bytes)
    if isinstance(exc, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)):
        return Lost("connect", detail, *counts)
    if isinstance(exc, httpx.TimeoutException):
        return Lost("timeout", detail, *counts)
    if isinstance(exc, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return Lost("network", detail, *counts)
    return Lost("protocol", detail, *counts)
