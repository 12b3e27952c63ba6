"""The routes: unpack the request, call the part that works, pack the reply; `openapi` has the promises."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import ValidationError
from starlette.datastructures import Headers

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import (
    API_PREFIX,
    IDEMPOTENCY_KEY_HEADER,
    IMAGE_PART,
    MAX_ID_CHARS,
    MAX_REQUEST_PART_BYTES,
    MEDIA_TYPES,
    QUESTION_HEADER,
    REQUEST_PART,
)
from secondglance_protocol.wire import InferenceRequest, InferenceResponse, ModelResponse
from secondglance_server.errors import ProblemError
from secondglance_server.http.door import CONTROL_CHARACTERS, INFERENCE, INFERENCES, PATCH
from secondglance_server.http.multipart import parse_parts
from secondglance_server.http.observe import facts_of
from secondglance_server.http.openapi import (
    DELETE_DOCS,
    GET_DOCS,
    METRICS_DOCS,
    MODEL_DOCS,
    POST_DOCS,
    PUT_DOCS,
    READY_DOCS,
)
from secondglance_server.http.state import ServerState
from secondglance_server.http.streaming import respond, wants_region_early
from secondglance_server.http.validation import validation_problem
from secondglance_server.inference.idempotency import payload_sha256
from secondglance_server.inference.images import upload_of
from secondglance_server.inference.replies import model_response
from secondglance_server.inference.ticket import see_through
from secondglance_server.inference.two_stages import Tell

router = APIRouter(generate_unique_id_function=lambda route: route.name)


def state_of(request: Request) -> ServerState:
    """Return the state of the app that this request came to."""
    server = request.app.state.server
    assert isinstance(server, ServerState)
    return server


State = Annotated[ServerState, Depends(state_of)]
# The pattern only tells readers of the schema what the door refuses.
InferenceId = Annotated[
    str, Path(min_length=1, max_length=MAX_ID_CHARS, pattern=f"^[^{CONTROL_CHARACTERS}]+$")
]


@router.get("/healthz", tags=["operation"], summary="Is the process alive?")
async def healthz() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz", tags=["operation"], summary="Does the server want requests?", **READY_DOCS)
async def readyz(server: State) -> dict[str, str]:
    server.readiness.check()
    why = server.loaded().info.answers_only
    return {"status": "ready"} if why is None else {"status": "ready", "answers_only": why}


@router.get("/metrics", tags=["operation"], summary="Prometheus metrics", **METRICS_DOCS)
async def metrics(server: State) -> Response:
    return Response(server.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get(f"{API_PREFIX}/model", tags=["inference"], summary="What an edge must know", **MODEL_DOCS)
async def get_model(server: State) -> ModelResponse:
    return model_response(server.loaded().info, server.settings)


@router.post(INFERENCES, tags=["inference"], summary="Stage one: ask", **POST_DOCS)
async def create_inference(request: Request, server: State) -> Response:
    facts = facts_of(request.scope)
    two_stages = server.loaded()
    document, image = _taken_apart(request.headers, await request.body())
    message = _message(document)
    upload = None if image is None else await upload_of(image)
    facts.image_sha256 = None if upload is None else upload.sha256
    ticket = server.ticket(facts)

    is_early = wants_region_early(request.headers.getlist("accept"))
    key = request.headers.get(IDEMPOTENCY_KEY_HEADER)
    payload = payload_sha256(document, (facts.image_sha256 or "").encode())

    async def work(tell: Tell | None) -> tuple[InferenceResponse, bool]:
        def ask() -> Coroutine[Any, Any, InferenceResponse]:
            return two_stages.ask(message, upload, facts, ticket, tell, is_early=is_early)

        if key is None:
            return await see_through(ask(), ticket, is_kept=False), False
        reply, is_replay = await see_through(server.replies.once(facts.tenant, key, payload, ask), ticket)
        if is_replay:
            facts.outcome = "replayed"
            facts.inference_id = reply.id
        return reply, is_replay

    return await respond(request, work)


@router.put(
    PATCH,
    tags=["inference"],
    summary="Stage two: send the region asked for",
    **PUT_DOCS,
)
async def put_patch(request: Request, inference_id: InferenceId, server: State) -> Response:
    facts = facts_of(request.scope)
    two_stages = server.loaded()
    _check_is_image(request.headers)
    patch = await upload_of(await request.body())
    facts.image_sha256 = patch.sha256
    ticket = server.ticket(facts)

    async def work(tell: Tell | None) -> tuple[InferenceResponse, bool]:
        answering = two_stages.look_again(inference_id, patch, facts, ticket, tell)
        return await see_through(answering, ticket), False

    return await respond(request, work)


@router.get(INFERENCE, tags=["inference"], summary="The reply again", **GET_DOCS)
async def get_inference(request: Request, inference_id: InferenceId, server: State) -> Response:
    reply = await server.stores.sessions.recall(facts_of(request.scope).tenant, inference_id)
    return Response(reply.model_dump_json(), media_type="application/json")


@router.delete(INFERENCE, tags=["inference"], summary="Forget it", **DELETE_DOCS)
async def delete_inference(request: Request, inference_id: InferenceId, server: State) -> Response:
    await server.forget(facts_of(request.scope).tenant, inference_id)
    return Response(status_code=204)


def _taken_apart(headers: Headers, body: bytes) -> tuple[bytes, bytes | None]:
    """Return the request's document and the encoded image, in either form of stage one."""
    named = headers.getlist(QUESTION_HEADER)
    if not named:
        return _of_parts(parse_parts(headers.get("content-type", ""), body))
    if len(named) > 1:
        raise ProblemError(ErrorCode.MALFORMED_REQUEST, f"more than one {QUESTION_HEADER}")
    is_without_image = not body and "content-type" not in headers
    if not is_without_image:
        _check_is_image(headers)
    return named[0].encode("latin-1"), None if is_without_image else body


def _check_is_image(headers: Headers) -> None:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"Content-Type: {' or '.join(MEDIA_TYPES)}")


def _of_parts(given: dict[str, bytes]) -> tuple[bytes, bytes | None]:
    unknown = given.keys() - {REQUEST_PART, IMAGE_PART}
    if unknown or REQUEST_PART not in given:
        raise ProblemError(
            ErrorCode.INVALID_REQUEST, f"the parts are {REQUEST_PART} and, without image_id, {IMAGE_PART}"
        )
    return given[REQUEST_PART], given.get(IMAGE_PART)


def _message(text: bytes) -> InferenceRequest:
    if len(text) > MAX_REQUEST_PART_BYTES:
        raise ProblemError(
            ErrorCode.BODY_TOO_LARGE, f"part {REQUEST_PART}: at most {MAX_REQUEST_PART_BYTES} bytes"
        )
    try:
        return InferenceRequest.model_validate_json(text)
    except ValidationError as exc:
        raise validation_problem(exc.errors(include_url=False, include_input=False)) from None
