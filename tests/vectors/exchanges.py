"""What a server may say to a conversation, and the scenario that a conversation is."""

from __future__ import annotations

import json
from typing import Any

from secondglance_protocol.errors import ERRORS, ErrorCode, problem_type
from tests.vectors.playing import Scenario

BUDGET = {"max_width": 448, "max_height": 448, "max_bytes": 100_000, "formats": ["image/webp", "image/jpeg"]}
URL = "/v1/inferences/inf-1/patch"
HOLE = "@@"  # where a long text goes

Exchange = dict[str, Any]


def model(**changes: Any) -> Exchange:
    counts = {
        "max_question_bytes": 4096,
        "max_new_tokens": 64,
        "max_image_bytes": 1_000_000,
        "max_patch_bytes": 500_000,
        "max_image_pixels": 1_000_000,
        "max_patch_pixels": 1_000_000,
        "min_side_pixels": 2,
        "max_side_pixels": 4096,
        "max_connections": 64,
        "max_header_bytes": 16_384,
        "min_body_bytes_per_s": 500,
        "max_request_part_bytes": 32_768,
        "max_queue": 8,
        "max_sessions": 64,
    }
    times = {
        "max_aspect_ratio": 50.5,
        "header_timeout_s": 10.5,
        "keep_alive_s": 5.5,
        "write_timeout_s": 60.5,
        "body_timeout_s": 120.5,
        "body_grace_s": 5.5,
        "inference_deadline_s": 30.5,
        "session_ttl_s": 300.5,
    }
    limits = {**counts, **times, **changes.pop("limits", {})}
    return {
        "status": 200,
        "json": {
            "protocol_version": 1,
            "name": "embedded",
            "family": "reader",
            "image": {**BUDGET, **changes.pop("image", {})},
            "patch": {**BUDGET, **changes.pop("patch", {})},
            "gate": {"metric": "min_entropy", "aggregate": "max", "threshold": 0.5},
            "limits": limits,
            **changes,
        },
    }


def inference(stage: int, status: str, **changes: Any) -> Exchange:
    return {
        "status": 200,
        "json": {
            "id": "inf-1",
            "status": status,
            "stage": stage,
            "answer": {1: "sure", 2: "final"}[stage],
            "confidence": {
                "metric": "min_entropy",
                "aggregate": "max",
                "value": 0.125 if status == "answered" else 0.75,
                "threshold": 0.5,
                "min_entropy": 0.125,
                "shannon": 0.25,
                "margin": 0.375,
            },
            "roi": None,
            "patch": None,
            "image_id": "img-1",
            "usage": {"received_bytes": 400, "prompt_tokens": 90, "cached_tokens": 0, "completion_tokens": 3},
            "timing_ms": {
                "queue": 0.5,
                "decode_image": 1.5,
                "prefill": 20.5,
                "generate": 9.5,
                "localize": 0.0,
            },
            "model": "embedded",
            "doubtful": False,
            **changes,
        },
    }


def roi(left: int = 100, top: int = 200, right: int = 700, bottom: int = 500) -> dict[str, Any]:
    return {
        "box": {"x0": 0.125, "y0": 0.25, "x1": 0.5, "y1": 0.75},
        "pixels": {"left": left, "top": top, "right": right, "bottom": bottom},
    }


def offer(**changes: Any) -> dict[str, Any]:
    return {"url": URL, **BUDGET, "expires_at": "2026-01-02T03:09:05Z", **changes}


def draft(**changes: Any) -> Exchange:
    values = {"answer": "draft", "roi": roi(), "patch": offer(), "doubtful": True, **changes}
    return inference(1, "needs_patch", **values)


def final(**changes: Any) -> Exchange:
    return inference(2, **{"status": "answered", **changes})


def sure(**changes: Any) -> Exchange:
    return inference(1, "answered", **changes)


def problem(code: str, retry_after: str | None = None, **changes: Any) -> Exchange:
    row = ERRORS[ErrorCode(code)] if code in set(ErrorCode) else ERRORS[ErrorCode.INTERNAL_ERROR]
    named = ErrorCode(code) if code in set(ErrorCode) else ErrorCode.INTERNAL_ERROR
    document = {
        "type": problem_type(named),
        "title": row.title,
        "status": row.status,
        "detail": "so it is",
        "code": code,
        "request_id": "req-1",
        "retryable": row.retryable,
        **changes,
    }
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return {"status": document["status"], "headers": headers, "json": document}


def page(status: int, retry_after: str | None = None) -> Exchange:
    """Return what a proxy says."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return {"status": status, "headers": headers, "text": [["<html>no</html>", 1]]}


def lost(kind: str, after_s: float = 0.25, uplink_bytes: int = 0) -> Exchange:
    return {"lost": kind, "detail": "so it was", "after_s": after_s, "uplink_bytes": uplink_bytes}


def long(exchange: Exchange, piece: str, times: int) -> Exchange:
    """Return a reply with a long text where its HOLE is."""
    before, after = json.dumps(exchange["json"]).split(HOLE)
    return {"status": exchange["status"], "text": [[before, 1], [piece, times], [after, 1]]}


def without(exchange: Exchange, *path: str) -> Exchange:
    changed: Exchange = json.loads(json.dumps(exchange))
    place = changed["json"]
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return changed


def said(exchange: Exchange, value: Any, *path: str) -> Exchange:
    changed: Exchange = json.loads(json.dumps(exchange))
    place = changed["json"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return changed


def of(
    name: str,
    *exchanges: Exchange,
    asks: list[dict[str, Any]] | None = None,
    question: str = "What is written there?",
    picture: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    draw: float = 0.0,
    streams: bool = False,
    **terms: Any,
) -> Scenario:
    return {
        "name": name,
        "question": question,
        "picture": {"width": 4000, "height": 3000, "bytes": 1_819_734, **(picture or {})},
        "settings": settings or {},
        "draw": draw,
        "streams": streams,
        "asks": asks or [terms],
        "exchanges": list(exchanges),
    }
