"""Names and numbers that both sides of the wire must spell alike; knows neither HTTP libraries nor models."""

from __future__ import annotations

from typing import Final, Literal

PROTOCOL_VERSION: Final = 1  # raised when an older edge could misread a reply
API_PREFIX: Final = "/v1"

REQUEST_PART: Final = "request"  # of the multipart POST: application/json, an InferenceRequest
IMAGE_PART: Final = "image"  # of the multipart POST: the encoded global image
# Of the POST whose body is the image itself: the same InferenceRequest, as JSON of printable ASCII. A header
# and not the query, which proxies write into their logs.
QUESTION_HEADER: Final = "X-Question"
MAX_QUESTION_HEADER_BYTES: Final = 4096  # that an edge sends: common proxies take lines of 8 KB

REQUEST_ID_HEADER: Final = "X-Request-Id"
IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"
DEADLINE_HEADER: Final = "X-Deadline-Ms"  # milliseconds from the headers on; later an answer is no use
TRACEPARENT_HEADER: Final = "traceparent"  # W3C Trace Context: the edge's trace goes on in the server
MAX_DEADLINE_MS: Final = 3_600_000  # an hour
API_KEY_HEADER: Final = "Authorization"  # "Bearer <key>"
PROBLEM_MEDIA_TYPE: Final = "application/problem+json"

MediaType = Literal["image/jpeg", "image/png", "image/webp"]
MEDIA_TYPES: Final[tuple[MediaType, ...]] = ("image/jpeg", "image/png", "image/webp")

MAX_QUESTION_BYTES: Final = 4096  # of UTF-8
# Of part `request`. A question whose every character is escaped fits. Much more, and listing the faults of a
# list of wrong items would hold up the server's event loop: 4 MB of them took 18 s.
MAX_REQUEST_PART_BYTES: Final = 32 * 1024
MAX_ORIGINAL_SIDE: Final = 1_000_000  # pixels; keeps float64 boxes exact to a millionth of a pixel
MAX_ID_CHARS: Final = 128
MAX_ROUNDS: Final = 4  # regions that one question may lead to; each is a pass of the model
