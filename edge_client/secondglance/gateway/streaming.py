"""A chat completion in chunks, a token at a time, as soon as a token is part of the final answer.

A draft may be replaced, so its tokens are held until the server is sure of it; those of a second answer, and
of a draft that nothing can replace, leave as they come. A stream begins with stage one's reply, or with such
a token: what goes wrong before has its proper status. A failed stage two gives the draft, unless the app
asked for `strict` or a part of the second answer has left already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TypeAlias

from starlette.responses import Response, StreamingResponse

from secondglance.conversation.steps import Token
from secondglance.errors import EdgeError
from secondglance.gateway.errors import ApiError, as_api_error, gateway_failed
from secondglance.gateway.replies import (
    Form,
    content_chunk,
    end_chunks,
    ending,
    error_event,
    opening_chunk,
    whole_chunk,
)
from secondglance.reply import Reply
from secondglance_protocol.wire import InferenceResponse

Arrivals: TypeAlias = "asyncio.Queue[Token | InferenceResponse | None]"
"""What a conversation tells, in order; None when it has ended."""

_log = logging.getLogger("secondglance.gateway")


async def streamed(
    asking: asyncio.Future[Reply], arrivals: Arrivals, form: Form, *, model: str, is_draft_final: bool
) -> Response:
    """Return the stream of a conversation that runs. Raises what it raises before there is anything to send.

    `model` is its name; `is_draft_final`: there will be no second answer.
    """
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
    answer = _Answer(form, model, held if is_sure else [])
    events = _events(asking, arrivals, answer, opening_chunk(opening, form, model))
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
    """Turns tokens and the final reply into chunks."""

    def __init__(self, form: Form, model: str, held: list[Token]) -> None:
        self._form = form
        self._model = model
        self._deltas = Deltas(form.stops)
        self._held = held
        self._waiting: list[Token] = []  # tokens of which nothing is shown yet
        self._n_told = 0

    def take_held(self) -> list[bytes]:
        """Return the chunks of the tokens that were held."""
        return [chunk for token in self._held for chunk in self.take(token)]

    def take(self, token: Token) -> list[bytes]:
        """Return the chunk that the token gives, if any."""
        if not self._form.answer_format.is_plain:
            return []
        self._waiting.append(token)
        text = self._deltas.add(token.text)
        if not text:
            return []
        told, self._waiting = self._waiting, []
        self._n_told += len(told)
        return [content_chunk(self._form, self._model, text, told)]

    def end(self, reply: Reply) -> list[bytes]:
        """Return the last chunks: what is left of the answer, why it ends, usage."""
        if not self._form.answer_format.is_plain:
            return [whole_chunk(self._form, reply), *end_chunks(reply, self._form)]
        text, _ = ending(reply, self._form)
        rest = self._deltas.rest(text)
        if rest is None:
            why = reply.degraded or "the server's reply is another one"
            return [error_event(ApiError(502, f"the answer broke off: {why}", "answer_broke_off"))]
        chunks = []
        if rest or not self._deltas.shown:
            tokens = (reply.tokens or ())[self._n_told :]
            chunks.append(content_chunk(self._form, self._model, rest, tokens))
        return [*chunks, *end_chunks(reply, self._form)]


async def _events(
    asking: asyncio.Future[Reply], arrivals: Arrivals, answer: _Answer, opening: bytes
) -> AsyncIterator[bytes]:
    try:
        yield opening
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
        return [error_event(as_api_error(exc))]
    except Exception:  # the status has been sent: say it in the stream, and serve the next request
        _log.exception("a streamed completion failed")
        return [error_event(gateway_failed())]
