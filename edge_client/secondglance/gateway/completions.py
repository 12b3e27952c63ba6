"""`POST /v1/chat/completions`: from the request to a conversation with the server, and back.

When the app hangs up, the conversation is dropped. Not covered: the chunks of a stream (`streaming`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from secondglance.conversation.hooks import Hooks
from secondglance.conversation.requests import Terms
from secondglance.gateway.answer_format import answer_format
from secondglance.gateway.errors import ApiError, bad_request
from secondglance.gateway.messages import ChatRequest, compose, parse_chat
from secondglance.gateway.pictures import load_picture
from secondglance.gateway.replies import ChatWriter, Form
from secondglance.gateway.services import GatewayServices
from secondglance.gateway.settings import GatewaySettings
from secondglance.gateway.streaming import Arrivals, Writer, streamed

T = TypeVar("T")


async def create_completion(request: Request) -> Response:
    """One chat completion. Raises ApiError, or EdgeError as the conversation does."""
    chat, notes = parse_chat(await read_document(request))
    return await while_connected(request, answer(chat, notes, request.app.state.parts, ChatWriter))


async def read_document(request: Request) -> Any:
    """Return the JSON of a request's body. Raises ApiError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":  # what a web page can send without asking first is something else
        raise ApiError(415, "the body is sent as application/json", "unsupported_media_type")
    return await anyio.to_thread.run_sync(_parsed, await request.body())


async def answer(
    chat: ChatRequest, notes: list[str], parts: GatewayServices, writer_of: type[Writer]
) -> Response:
    """Ask the server, and return the reply as `writer_of` writes it. Raises ApiError, EdgeError."""
    question = compose(chat.messages, system=parts.settings.system)
    model = await parts.client.model()
    parts.check_model(chat.model, model)
    most = model.limits.max_new_tokens
    form = Form(
        id=secrets.token_hex(12),
        created=int(time.time()),
        max_new_tokens=min(chat.max_new_tokens or most, most),
        stops=chat.stops,
        wants_logprobs=bool(chat.logprobs),
        wants_usage=chat.wants_usage,
        answer_format=answer_format(chat.response_format),
        notes=(*notes, *question.notes),
    )
    writer = writer_of(form)
    picture = await load_picture(question.picture, parts.files, parts.remote)
    terms = _terms(chat, form, parts.settings, is_low_detail=question.is_low_detail)
    if not chat.stream:
        return JSONResponse(writer.document(await parts.client.ask(picture, question.text, **terms)))
    arrivals: Arrivals = asyncio.Queue()
    hooks = Hooks(on_answer=arrivals.put_nowait, on_token=arrivals.put_nowait)
    asking = parts.client.with_options(hooks=hooks).ask(picture, question.text, **terms)
    looks = 0 if terms["mode"] == "answer_only" or model.answers_only is not None else terms["max_rounds"]
    return await streamed(
        asyncio.ensure_future(asking), arrivals, writer, model=model.name, looks=min(looks, model.max_rounds)
    )


def _terms(chat: ChatRequest, form: Form, settings: GatewaySettings, *, is_low_detail: bool) -> Terms:
    wish = chat.second_glance
    terms: Terms = {
        "mode": wish.mode or ("answer_only" if is_low_detail else "auto"),
        "threshold": wish.threshold,
        "timeout_s": wish.timeout_s,
        "max_uplink_bytes": wish.max_uplink_bytes or settings.max_uplink_bytes,
        "max_rounds": wish.max_rounds or settings.max_rounds,
        "strict": wish.strict,
        "max_new_tokens": form.max_new_tokens,
    }
    if form.wants_logprobs:
        terms["include"] = ("tokens",)
    return terms


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; the work is cancelled and ClientDisconnect raised if the app hangs up first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:  # the first is the text encoding's, too
        raise bad_request("the body is not valid JSON", code="invalid_json") from exc


def on_client_gone(request: Request, exc: Exception) -> Response:
    """Nobody is there to read it; the status is what logs of proxies call such requests."""
    return ApiError(499, "the app has hung up", "client_gone").response()
