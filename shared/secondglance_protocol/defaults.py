"""The limits of a server whose operator changed none; servers start from them, dry runs assume them."""

from __future__ import annotations

from typing import Final

from secondglance_protocol.protocol import MAX_QUESTION_BYTES, MAX_REQUEST_PART_BYTES
from secondglance_protocol.wire import Limits

DEFAULT_LIMITS: Final = Limits(
    max_question_bytes=MAX_QUESTION_BYTES,
    max_new_tokens=16,
    max_image_bytes=4 * 1024 * 1024,
    max_patch_bytes=16 * 1024 * 1024,
    max_image_pixels=4_000_000,
    max_patch_pixels=25_000_000,
    min_side_pixels=2,
    max_side_pixels=8192,
    max_aspect_ratio=200.0,
    max_connections=1000,
    header_timeout_s=10.0,
    max_header_bytes=16 * 1024,
    keep_alive_s=15.0,
    write_timeout_s=30.0,
    body_timeout_s=60.0,
    min_body_bytes_per_s=1024,
    body_grace_s=10.0,
    max_request_part_bytes=MAX_REQUEST_PART_BYTES,
    max_queue=64,
    inference_deadline_s=60.0,
    session_ttl_s=120.0,
    max_sessions=1000,
)
