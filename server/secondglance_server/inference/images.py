"""Encoded images that were sent before, so that another question about one needs no upload.

The id is a hash over content and tenant: it cannot be chosen by a client and says nothing across tenants.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.inference.expiring import ExpiringStore
from secondglance_server.settings import ServerSettings


@dataclass(frozen=True, slots=True, eq=False)
class EncodedImage:
    """An upload as it came; `id` names content and tenant."""

    id: str
    data: bytes


def image_id(tenant: str, data: bytes) -> str:
    digest = hashlib.sha256(tenant.encode() + b"\0" + data)
    return f"img_{digest.hexdigest()[:40]}"


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

    def __len__(self) -> int:
        return len(self._store)

    @property
    def n_bytes(self) -> int:
        return self._store.n_bytes
