"""What is written to Redis, as bytes: JSON, replies compressed.

A newer server may have written more fields: they are ignored, so that servers of two versions can share what
they both know. Whatever an older server could not read needs another `SCHEMA`.
"""

from __future__ import annotations

import zlib

from pydantic import BaseModel, ConfigDict

from secondglance_protocol.wire import Include, InferenceResponse, Roi
from secondglance_server.engine.protocol import GateDefaults
from secondglance_server.inference.images import EncodedImage
from secondglance_server.inference.sessions import PendingPatch


class _PendingRecord(BaseModel):
    """A `PendingPatch` without its image, which is stored once for all who wait with it."""

    model_config = ConfigDict(frozen=True)

    image_id: str
    question: str
    gate: GateDefaults
    max_new_tokens: int
    include: tuple[Include, ...]
    roi: Roi
    # Older servers write none of these, and pass them over.
    n_further: int = 0
    regions: tuple[Roi, ...] = ()
    is_sharper: bool = False
    surest: Roi | None = None


def packed_reply(reply: InferenceResponse) -> bytes:
    """Return the reply as bytes: a kilobyte of JSON is a third of that compressed."""
    return zlib.compress(reply.model_dump_json().encode(), 1)


def unpacked_reply(data: bytes) -> InferenceResponse:
    """Return what `packed_reply` was given. Raises ValueError."""
    return InferenceResponse.model_validate_json(_decompressed(data), extra="ignore")


def packed_pending(pending: PendingPatch) -> bytes:
    """Return all but the image."""
    record = _PendingRecord(
        image_id=pending.image.id,
        question=pending.question,
        gate=pending.gate,
        max_new_tokens=pending.max_new_tokens,
        include=pending.include,
        roi=pending.roi,
        n_further=pending.n_further,
        regions=pending.regions,
        is_sharper=pending.is_sharper,
        surest=pending.surest,
    )
    return record.model_dump_json().encode()


def unpacked_pending(data: bytes, image: bytes) -> PendingPatch:
    """Return what `packed_pending` was given, with the encoded image. Raises ValueError."""
    record = _PendingRecord.model_validate_json(data, extra="ignore")
    return PendingPatch(
        image=EncodedImage(record.image_id, image),
        question=record.question,
        gate=record.gate,
        max_new_tokens=record.max_new_tokens,
        include=record.include,
        roi=record.roi,
        n_further=record.n_further,
        regions=record.regions,
        is_sharper=record.is_sharper,
        surest=record.surest,
    )


def _decompressed(data: bytes) -> bytes:
    try:
        return zlib.decompress(data)
    except zlib.error as exc:
        raise ValueError("not a compressed reply") from exc
