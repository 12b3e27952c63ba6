"""Encoded images that were sent before, so that another question about one needs no upload.

The id is a hash over content and tenant: it cannot be chosen by a client and says nothing across tenants.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.inference.expiring import ExpiringStore
from secondglance_server.settings import ServerSettings

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


class ImageStore:
    """Holds images for the session time-to-live, within a byte budget."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store: ExpiringStore[tuple[str, str], EncodedImage] = ExpiringStore(
            ttl_s=settings.session_ttl_s,
            max_items=settings.max_sessions,
            max_bytes=settings.max_stored_image_bytes,
            bytes_of=lambda image: len(image.data),
            owner_of=lambda key: key[0],
            clock=clock,
        )

    def put(self, tenant: str, image: EncodedImage) -> None:
        self._store.put((tenant, image.id), image)

    def get(self, tenant: str, wanted: str) -> EncodedImage:
        """The image, renewed. Raises ProblemError IMAGE_EXPIRED if gone, unknown or another tenant's."""
        image = self._store.get((tenant, wanted))
        if image is None:
            raise ProblemError(ErrorCode.IMAGE_EXPIRED, "send the image again")
        self.put(tenant, image)
        return image

    def remove(self, tenant: str, unwanted: str) -> None:
        """Forget the image, if it is held."""
        self._store.remove((tenant, unwanted))

    def __len__(self) -> int:
        return len(self._store)

    @property
    def n_bytes(self) -> int:
        return self._store.n_bytes
