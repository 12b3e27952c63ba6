"""Encoded images: bytes as they came, their hash, and the id by which another question can name them.

The id is a hash over content and tenant: it cannot be chosen by a client and says nothing across tenants.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

_SHORT_BYTES = 64 * 1024  # hashed in less time than a change of threads takes


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """Bytes as they came and their SHA-256 in hexadecimal: it is computed once, here, for all who need it."""

    data: bytes
    sha256: str


async def upload_of(data: bytes) -> Upload:
    """Return `data` with its hash, computed off the event loop unless it is short."""
    if len(data) <= _SHORT_BYTES:
        return Upload(data, _sha256(data))
    return Upload(data, await asyncio.to_thread(_sha256, data))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An upload as it came; `id` names content and tenant."""

    id: str
    data: bytes


def image_id(tenant: str, sha256: str) -> str:
    """Return the id of the image with this hash of its bytes, which is another one for each tenant."""
    return f"img_{_sha256(f'{tenant}/{sha256}'.encode())[:40]}"
