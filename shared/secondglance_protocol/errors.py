"""The one table of what can go wrong on the wire: code -> HTTP status, title, whether a retry may help.

Both sides read it: the server to answer, the edge to decide what to do. `retryable` means that the *same*
request, sent later, may succeed; 410 is not retryable but tells the edge to start the conversation again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class ErrorCode(StrEnum):
    """Stable, machine-readable names; the `code` of every problem document."""

    MALFORMED_REQUEST = "malformed_request"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    ROUTE_NOT_FOUND = "route_not_found"
    UNKNOWN_INFERENCE = "unknown_inference"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    HEADERS_TIMEOUT = "headers_timeout"
    BODY_TIMEOUT = "body_timeout"
    STAGE_CONFLICT = "stage_conflict"
    PATCH_CONFLICT = "patch_conflict"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"
    INFERENCE_EXPIRED = "inference_expired"
    IMAGE_EXPIRED = "image_expired"
    BODY_TOO_LARGE = "body_too_large"
    IMAGE_TOO_LARGE = "image_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_REQUEST = "invalid_request"
    UNREADABLE_IMAGE = "unreadable_image"
    IMAGE_SHAPE_REFUSED = "image_shape_refused"
    UNORIENTED_IMAGE = "unoriented_image"
    PATCH_SIZE_MISMATCH = "patch_size_mismatch"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    RATE_LIMITED = "rate_limited"
    HEADERS_TOO_LARGE = "headers_too_large"
    INTERNAL_ERROR = "internal_error"
    BUSY = "busy"
    NOT_READY = "not_ready"
    ENGINE_FAILED = "engine_failed"
    DEADLINE_EXCEEDED = "deadline_exceeded"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One row of the table; `title` never varies with the occurrence (RFC 9457)."""

    status: int
    title: str
    retryable: bool


ERRORS: Final[Mapping[ErrorCode, ErrorRow]] = MappingProxyType(
    {
        ErrorCode.MALFORMED_REQUEST: ErrorRow(400, "The request could not be parsed", False),
        ErrorCode.UNAUTHENTICATED: ErrorRow(401, "A valid API key is required", False),
        ErrorCode.FORBIDDEN: ErrorRow(403, "This key may not do that", False),
        ErrorCode.ROUTE_NOT_FOUND: ErrorRow(404, "There is nothing at this path", False),
        ErrorCode.UNKNOWN_INFERENCE: ErrorRow(404, "No such inference", False),
        ErrorCode.METHOD_NOT_ALLOWED: ErrorRow(405, "This path does not take that method", False),
        ErrorCode.HEADERS_TIMEOUT: ErrorRow(408, "The request headers took too long to arrive", True),
        ErrorCode.BODY_TIMEOUT: ErrorRow(408, "The request body took too long to arrive", True),
        ErrorCode.STAGE_CONFLICT: ErrorRow(409, "The inference does not wait for a patch", False),
        ErrorCode.PATCH_CONFLICT: ErrorRow(409, "Another patch was already given", False),
        ErrorCode.IDEMPOTENCY_IN_PROGRESS: ErrorRow(409, "A request with this key is still running", True),
        ErrorCode.INFERENCE_EXPIRED: ErrorRow(410, "The inference has expired", False),
        ErrorCode.IMAGE_EXPIRED: ErrorRow(410, "The image is not held any more", False),
        ErrorCode.BODY_TOO_LARGE: ErrorRow(413, "The request body holds too many bytes", False),
        ErrorCode.IMAGE_TOO_LARGE: ErrorRow(413, "The image holds too many pixels", False),
        ErrorCode.UNSUPPORTED_MEDIA_TYPE: ErrorRow(415, "The media type is not supported", False),
        ErrorCode.INVALID_REQUEST: ErrorRow(422, "The request does not fit its schema", False),
        ErrorCode.UNREADABLE_IMAGE: ErrorRow(422, "The image cannot be decoded", False),
        ErrorCode.IMAGE_SHAPE_REFUSED: ErrorRow(422, "The image is too small or too narrow", False),
        ErrorCode.UNORIENTED_IMAGE: ErrorRow(422, "The image's EXIF orientation is not applied", False),
        ErrorCode.PATCH_SIZE_MISMATCH: ErrorRow(422, "The patch does not fit the region asked for", False),
        ErrorCode.IDEMPOTENCY_MISMATCH: ErrorRow(422, "This key was used for another request", False),
        ErrorCode.RATE_LIMITED: ErrorRow(429, "Too many requests", True),
        ErrorCode.HEADERS_TOO_LARGE: ErrorRow(431, "The request headers hold too many bytes", False),
        ErrorCode.INTERNAL_ERROR: ErrorRow(500, "The server failed", True),
        ErrorCode.BUSY: ErrorRow(503, "The server is busy", True),
        ErrorCode.NOT_READY: ErrorRow(503, "The server is not ready", True),
        ErrorCode.ENGINE_FAILED: ErrorRow(503, "The model failed on this request", True),
        ErrorCode.DEADLINE_EXCEEDED: ErrorRow(504, "The inference missed its deadline", True),
    }
)


def problem_type(code: ErrorCode) -> str:
    """The `type` URI of a problem document."""
    return f"urn:second-glance:problem:{code}"
