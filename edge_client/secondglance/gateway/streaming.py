"""An answer in chunks, a token at a time, as soon as a token is part of the final answer.

A draft may be replaced, so its tokens are held until the server is sure of it; those of a second answer, and
of a draft that nothing can replace, leave as they come. Where further looks may follow, the surest answer
counts: it leaves when it is known, in one piece. A stream begins with stage one's reply, or with a token that
may leave: what goes wrong before has its proper status. A failed stage two gives the draft, unless the app
asked for `strict` or a part of the second answer has left already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol, TypeAlias

from starlette.responses import Response, StreamingResponse

from secondglance.conversation.steps import Token
from secondglance.errors import EdgeError
from secondglance.gateway.errors import ApiError, as_api_error, gateway_failed
from secondglance.gateway.replies import Form, ending
from secondglance.reply import Reply
from secondglance_protocol.wire import InferenceResponse, TokenReport

Arrivals: TypeAlias = "asyncio.Queue[Token | InferenceResponse | None]"
"""What a conversation tells, in order; None when it has ended."""

_log = logging.getLogger("secondglance.gateway")


class Writer(Protocol):
    """Puts a conversation into the words of one API: chat completions or responses."""

    form: Form

    def __init__(self, form: Form) -> None: ...

    def document(self, reply: Reply) -> dict[str, Any]:
        """Return the whole reply, for an app that wants no stream."""
        ...

    def opening(self, first: InferenceResponse | None, model: str) -> list[bytes]:
        """Return the stream's beginning; `first` is stage one's reply if it has come."""
        ...

    def piece(self, text: str, tokens: Sequence[Token | TokenReport], model: str) -> bytes:
        """Return a piece of the answer; `tokens` are those that it ends."""
        ...

    def whole(self, reply: Reply) -> list[bytes]:
        """Return the whole answer in the form that the app asked for, or why it has none."""
        ...

    def end(self, reply: Reply) -> list[bytes]:
        """Return the stream's end."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """Return a failure after the status has been sent."""
        ...


async def streamed(
    asking: asyncio.Future[Reply], arrivals: Arrivals, writer: Writer, *, model: str, looks: int
) -> Response:
    """Return the stream of a conversation that runs. Raises what it raises before there is anything to send.

    `model` is its name; `looks`: at most how many regions are looked at, so many answers replace the draft.
    """
    is_draft_final = looks == 0
    asking.add_done_callback(lambda _: arrivals.put_nowait(None))
    held: list[Token] = []
    try:
        while isinstance(first := await arrivals.get(), Token):
            held.append(first)
            if is_draft_final:
                break
        if first is None:
            await asking  # it failed in stage one: raises
    except BaseException:
        asking.cancel()
        raise
    opening = first if isinstance(first, InferenceResponse) else None
    is_sure = is_draft_final or (opening is not None and opening.status == "answered")
    answer = _Answer(writer, model, held if is_sure else [], is_replaceable=looks > 1)
    events = _events(asking, arrivals, answer, writer.opening(opening, model))
    return StreamingResponse(events, media_type="text/event-stream")


class Deltas:
    """The text of an answer that is being made, as far as it is sure to stay."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._n_held = max((len(stop) - 1 for stop in stops), default=0)
        self._text = ""
        self.shown = ""

    def add(self, text: str) -> str:
        """Return what may be shown now. Held back: what a stop sequence may begin with, blanks at the end,
        half a character."""
        self._text = (self._text + text).lstrip()
        found = [at for at in map(self._text.find, self._stops) if at >= 0]
        end = min(found) if found else max(0, len(self._text) - self._n_held)
        sure = self._text[:end].rstrip().rstrip("\ufffd").rstrip()
        new = sure[len(self.shown) :]
        self.shown += new
        return new

    def rest(self, answer: str) -> str | None:
        """Return what is left to show of the whole answer; None if something else was shown."""
        return answer[len(self.shown) :] if answer.startswith(self.shown) else None


class _Answer:
    """Turns tokens and the final reply into chunks.

    `held`: tokens of a draft that stays. `is_replaceable`: whether a surer answer may follow a second one.
    """

    def __init__(self, writer: Writer, model: str, held: list[Token], *, is_replaceable: bool) -> None:
        self.writer = writer
        self._form = form = writer.form
        self._model = model
        self._deltas = Deltas(form.stops)
        self._held = held
        self._is_replaceable = is_replaceable
        self._waiting: list[Token] = []  # tokens of which nothing is shown yet
        self._n_told = 0

    def take_held(self) -> list[bytes]:
        """Return the chunks of the tokens that were held."""
        return [chunk for token in self._held for chunk in self.take(token)]

    def take(self, token: Token) -> list[bytes]:
        """Return the chunk that the token gives, if any."""
        if not self._form.answer_format.is_plain or (self._is_replaceable and token.stage == 2):
            return []
        self._waiting.append(token)
        text = self._deltas.add(token.text)
        if not text:
            return []
        told, self._waiting = self._waiting, []
        self._n_told += len(told)
        return [self.writer.piece(text, told, self._model)]

    def end(self, reply: Reply) -> list[bytes]:
        """Return the last chunks: what is left of the answer, why it ends, usage."""
        if not self._form.answer_format.is_plain:
            return [*self.writer.whole(reply), *self.writer.end(reply)]
        text, _ = ending(reply, self._form)
        rest = self._deltas.rest(text)
        if rest is None:
            why = reply.degraded or "the server's reply is another one"
            return [self.writer.failed(ApiError(502, f"the answer broke off: {why}", "answer_broke_off"))]
        chunks = []
        if rest or not self._deltas.shown:
            tokens = (reply.tokens or ())[self._n_told :]
            chunks.append(self.writer.piece(rest, tokens, self._model))
        return [*chunks, *self.writer.end(reply)]


async def _events(
    asking: asyncio.Future[Reply], arrivals: Arrivals, answer: _Answer, opening: list[bytes]
) -> AsyncIterator[bytes]:
    try:
        for chunk in opening:
            yield chunk
        for chunk in answer.take_held():
            yield chunk
        while (told := await arrivals.get()) is not None:
            if isinstance(told, Token):
                for chunk in answer.take(told):
                    yield chunk
        for chunk in _last(asking, answer):
            yield chunk
    finally:
        asking.cancel()  # the app hung up; does nothing to what is done


def _last(asking: asyncio.Future[Reply], answer: _Answer) -> list[bytes]:
    """Return the last chunks of a conversation that has ended, or its failure."""
    try:
        return answer.end(asking.result())
    except EdgeError as exc:
        return [answer.writer.failed(as_api_error(exc))]
    except Exception:  # the status has been sent: say it in the stream, and serve the next request
        _log.exception("a streamed completion failed")
        return [answer.writer.failed(gateway_failed())]
