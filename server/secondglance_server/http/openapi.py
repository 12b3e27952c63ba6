"""What `/docs` says of each route: bodies the framework cannot see, examples, every problem it may answer."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import PlainTextResponse

from secondglance_protocol.errors import ERRORS, ErrorCode
from secondglance_protocol.events import EVENT_STREAM, written
from secondglance_protocol.protocol import (
    API_PREFIX,
    DEADLINE_HEADER,
    IDEMPOTENCY_KEY_HEADER,
    IMAGE_PART,
    MEDIA_TYPES,
    PROBLEM_MEDIA_TYPE,
    QUESTION_HEADER,
    REQUEST_ID_HEADER,
    REQUEST_PART,
)
from secondglance_protocol.wire import InferenceRequest, InferenceResponse, Problem, RegionEvent, TokenEvent
from secondglance_server.http.door import PROBES

DESCRIPTION: Final = """
Ask about a large picture and send few bytes. **Stage one**: send a small global image with the question and
the size of the original. If the model is sure, the reply is `answered`. If not, it is `needs_patch`: a
draft answer, and the region (`roi`) of which the model wants the original pixels. **Stage two**: crop
`roi.pixels` from the oriented original, shrink the crop only if it exceeds the offer, and PUT it to
`patch.url`. With `Accept: text/event-stream` both replies come as events, a token at a time. Every failure
is a problem document (RFC 9457) whose `code` is stable.
"""

_ANSWERED: Final[dict[str, Any]] = {
    "id": "inf_5Wq0Yd0xT2mC7bJ1kz3yXg",
    "status": "answered",
    "stage": 2,
    "answer": "42",
    "confidence": {
        "metric": "min_entropy",
        "aggregate": "max",
        "value": 0.02,
        "threshold": 0.5,
        "min_entropy": 0.02,
        "shannon": 0.11,
        "margin": 0.03,
    },
    "roi": {
        "box": {"x0": 0.25, "y0": 0.5, "x1": 0.375, "y1": 0.625},
        "pixels": {"left": 1000, "top": 1500, "right": 1500, "bottom": 1875},
    },
    "patch": None,
    "image_id": "img_9c56cc51b374c3ba189210d5b6d4bf57790d351c",
    "usage": {"received_bytes": 18211, "prompt_tokens": 1180, "cached_tokens": 590, "completion_tokens": 3},
    "timing_ms": {"queue": 0.1, "decode_image": 2.9, "prefill": 61.0, "generate": 24.0, "localize": 0.0},
    "model": "second-glance-embedded",
    "doubtful": False,
    "reason": None,
    "off_domain": None,
    "tokens": None,
    "relevance": None,
}
_NEEDS_PATCH: Final[dict[str, Any]] = {
    **_ANSWERED,
    "status": "needs_patch",
    "stage": 1,
    "answer": "17",
    "doubtful": True,
    "confidence": {
        "metric": "min_entropy",
        "aggregate": "max",
        "value": 1.31,
        "threshold": 0.5,
        "min_entropy": 1.31,
        "shannon": 2.2,
        "margin": 0.71,
    },
    "patch": {
        "url": f"{API_PREFIX}/inferences/inf_5Wq0Yd0xT2mC7bJ1kz3yXg/patch",
        "max_width": 336,
        "max_height": 336,
        "max_pixels": None,
        "max_bytes": 16777216,
        "formats": list(MEDIA_TYPES),
        "expires_at": "2026-01-01T12:02:00Z",
    },
}

_LINKS: Final[dict[str, Any]] = {
    operation: {"operationId": operation, "parameters": {"inference_id": "$response.body#/id"}}
    for operation in ("put_patch", "get_inference", "delete_inference")
}

# On every route of the API: key, server state and failures that no request can rule out.
_ALWAYS: Final = (
    ErrorCode.MALFORMED_REQUEST,
    ErrorCode.HEADERS_TIMEOUT,
    ErrorCode.HEADERS_TOO_LARGE,
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.FORBIDDEN,
    ErrorCode.RATE_LIMITED,
    ErrorCode.INTERNAL_ERROR,
)
_INFERENCE: Final = (
    ErrorCode.BODY_TIMEOUT,
    ErrorCode.BODY_TOO_LARGE,
    ErrorCode.IMAGE_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.INVALID_REQUEST,
    ErrorCode.UNREADABLE_IMAGE,
    ErrorCode.IMAGE_SHAPE_REFUSED,
    ErrorCode.UNORIENTED_IMAGE,
    ErrorCode.BUSY,
    ErrorCode.NOT_READY,
    ErrorCode.ENGINE_FAILED,
    ErrorCode.DEADLINE_EXCEEDED,
)
_KNOWN_ID: Final = (ErrorCode.UNKNOWN_INFERENCE, ErrorCode.INFERENCE_EXPIRED, ErrorCode.INVALID_REQUEST)


def _header(name: str, description: str, **schema: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "header",
        "required": False,
        "description": description,
        "schema": {"type": "string", **schema},
    }


_REQUEST_ID: Final = _header(
    REQUEST_ID_HEADER,
    "Comes back in the reply and stands in the logs; replaced unless it is 1 to 128 of A-Z a-z 0-9 . _ : -",
)
_DEADLINE: Final = _header(
    DEADLINE_HEADER,
    "Milliseconds from the headers on after which an answer is no use; work that is late does not begin.",
    pattern="^[1-9][0-9]{0,5}$",
)
_IDEMPOTENCY_KEY: Final = _header(
    IDEMPOTENCY_KEY_HEADER,
    "The same request sent twice under one key is done once.",
    pattern="^[!-~]{1,128}$",
)


_QUESTION: Final = _header(
    QUESTION_HEADER,
    "The InferenceRequest as JSON, ASCII only (other characters as \\uXXXX), where the body is the image "
    "alone; no body and no Content-Type if it has an image_id. Without this header the body is multipart.",
    contentMediaType="application/json",
)


def _responses(
    *codes: ErrorCode, examples: dict[str, Any] | None = None, is_streamed: bool = False
) -> dict[int | str, dict[str, Any]]:
    """Problem responses, one per status with an example per code; and the reply's examples."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in sorted((*codes, *_ALWAYS), key=lambda code: ERRORS[code].status):
        row = ERRORS[code]
        response = by_status.setdefault(row.status, {"description": "", "content": {PROBLEM_MEDIA_TYPE: {}}})
        response["description"] = " / ".join(filter(None, [response["description"], row.title]))
        media = response["content"][PROBLEM_MEDIA_TYPE]
        media["schema"] = {"$ref": "#/components/schemas/Problem"}
        media.setdefault("examples", {})[code.value] = {"value": _problem_example(code)}
        if row.status in (429, 503):
            response["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
    if examples is not None:
        named = {name: {"value": value} for name, value in examples.items()}
        by_status[200] = {
            "model": InferenceResponse,
            "content": {"application/json": {"examples": named}},
            "links": _LINKS,
        }
        if is_streamed:
            by_status[200]["content"][EVENT_STREAM] = _events(next(iter(examples.values())))
    return by_status


def _events(last: dict[str, Any]) -> dict[str, Any]:
    """Return what is sent to a client that prefers `text/event-stream`; `last` is the reply."""
    reply = InferenceResponse.model_validate(last)
    token = TokenEvent(text=reply.answer, min_entropy=reply.confidence.min_entropy)
    stream = written("token", token.model_dump_json())
    if reply.patch is not None and reply.roi is not None:
        region = RegionEvent(id=reply.id, roi=reply.roi, patch=reply.patch)
        stream += written("region", region.model_dump_json())
    stream += written("reply", reply.model_dump_json())
    return {
        "schema": {
            "type": "string",
            "description": "Server-sent events: `token` (TokenEvent) for each token, `region` (RegionEvent) "
            "if a patch is wanted, and as the last one `reply` with the whole InferenceResponse. With "
            "`Accept: text/event-stream;region=early` the region of stage one comes as soon as no later "
            "token can change that it is wanted, with the `draft` so far: send the patch at once, and leave "
            "the rest of the stream or read on. What fails "
            "after the first event is an event `problem` with the problem document.",
        },
        "example": stream.decode(),
    }


def _problem_example(code: ErrorCode) -> dict[str, Any]:
    row = ERRORS[code]
    return Problem(
        type=f"urn:second-glance:problem:{code}",
        title=row.title,
        status=row.status,
        detail="What was wrong with this request.",
        code=code,
        request_id="req_1f0c9a4be2d35c77",
        retryable=row.retryable,
    ).model_dump()


def _binary_body() -> dict[str, Any]:
    content = {name: {"schema": {"type": "string", "format": "binary"}} for name in MEDIA_TYPES}
    return {"required": True, "content": content}


READY_DOCS: Final[dict[str, Any]] = {"responses": _responses(ErrorCode.NOT_READY)}
METRICS_DOCS: Final[dict[str, Any]] = {
    "response_class": PlainTextResponse,
    "responses": _responses(),
}
MODEL_DOCS: Final[dict[str, Any]] = {
    "responses": _responses(ErrorCode.NOT_READY),
    "openapi_extra": {"parameters": [_REQUEST_ID]},
}
POST_DOCS: Final[dict[str, Any]] = {
    "response_model": InferenceResponse,
    "responses": _responses(
        *_INFERENCE,
        ErrorCode.IMAGE_EXPIRED,
        ErrorCode.IDEMPOTENCY_IN_PROGRESS,
        ErrorCode.IDEMPOTENCY_MISMATCH,
        examples={"needs a patch": _NEEDS_PATCH, "answered": _ANSWERED | {"stage": 1, "roi": None}},
        is_streamed=True,
    ),
    "openapi_extra": {
        "parameters": [_REQUEST_ID, _DEADLINE, _IDEMPOTENCY_KEY, _QUESTION],
        "requestBody": {
            "content": {
                **_binary_body()["content"],
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": [REQUEST_PART],
                        "additionalProperties": False,
                        "properties": {
                            REQUEST_PART: {"$ref": "#/components/schemas/InferenceRequest"},
                            IMAGE_PART: {
                                "type": "string",
                                "format": "binary",
                                "description": "The encoded global image, orientation applied; absent if the "
                                "request has an image_id.",
                            },
                        },
                    },
                    "encoding": {
                        REQUEST_PART: {"contentType": "application/json"},
                        IMAGE_PART: {"contentType": ", ".join(MEDIA_TYPES)},
                    },
                },
            },
        },
    },
}
PUT_DOCS: Final[dict[str, Any]] = {
    "response_model": InferenceResponse,
    "responses": _responses(
        *_INFERENCE,
        *_KNOWN_ID,
        ErrorCode.STAGE_CONFLICT,
        ErrorCode.PATCH_CONFLICT,
        ErrorCode.IDEMPOTENCY_IN_PROGRESS,
        ErrorCode.PATCH_SIZE_MISMATCH,
        examples={"answered": _ANSWERED},
        is_streamed=True,
    ),
    "openapi_extra": {"parameters": [_REQUEST_ID, _DEADLINE], "requestBody": _binary_body()},
}
GET_DOCS: Final[dict[str, Any]] = {
    "response_model": InferenceResponse,
    "responses": _responses(*_KNOWN_ID, examples={"answered": _ANSWERED, "needs a patch": _NEEDS_PATCH}),
    "openapi_extra": {"parameters": [_REQUEST_ID]},
}
DELETE_DOCS: Final[dict[str, Any]] = {
    "status_code": 204,
    "responses": _responses(*_KNOWN_ID),
    "openapi_extra": {"parameters": [_REQUEST_ID]},
}


def describe(app: FastAPI, *, has_keys: bool) -> None:
    """Make the app's schema whole: the models that only our hand-written bodies name, and the key."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _schema(app, has_keys=has_keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _schema(app: FastAPI, *, has_keys: bool) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for model in (InferenceRequest, Problem, TokenEvent, RegionEvent):
        own = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(own.pop("$defs", {}))
        schemas[model.__name__] = own
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    if has_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, operations in schema["paths"].items():
            if path not in PROBES:
                for operation in operations.values():
                    operation["security"] = [{"key": []}]
    return schema
