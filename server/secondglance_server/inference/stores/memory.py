"""Stores in this process, bounded by age, count and bytes; all that they hold ends with it.

No verb waits: the event loop owns the stores, and each verb is atomic because it runs at a stroke.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import InferenceResponse
from secondglance_server.errors import ProblemError
from secondglance_server.inference.images import EncodedImage
from secondglance_server.inference.sessions import (
    PendingPatch,
    Session,
    inference_expired,
    unknown_inference,
)
from secondglance_server.inference.stores.expiring import ExpiringStore
from secondglance_server.inference.stores.protocol import Holding, PatchClaim, ReplyClaim, Stores
from secondglance_server.inference.stores.quotas import MemoryQuotaStore
from secondglance_server.settings import ServerSettings

MAX_TOMBSTONES = 10_000  # expired ids remembered, so that they answer 410 and not 404

_Name = tuple[str, str]  # of a tenant, and its name for the thing


def memory_stores(settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> Stores:
    """Return the stores of a server that is alone."""
    return Stores(
        sessions=MemorySessionStore(settings, clock),
        images=MemoryImageStore(settings, clock),
        replies=MemoryReplyStore(settings, clock),
        quotas=MemoryQuotaStore(clock),
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """A session; `running` is the SHA-256 of the patch that is worked on."""

    session: Session
    running: str | None = None


class MemorySessionStore:
    """Where there is no room, the tenant that holds most loses its oldest, which answers 410 then."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store: ExpiringStore[_Name, _Held] = ExpiringStore(
            ttl_s=settings.session_ttl_s,
            max_items=settings.max_sessions,
            max_bytes=settings.max_session_bytes,
            bytes_of=lambda held: held.session.n_bytes,
            max_tombstones=MAX_TOMBSTONES,
            owner_of=lambda key: key[0],
            clock=clock,
        )

    @property
    def holding(self) -> Holding:
        return Holding(len(self._store), self._store.n_bytes)

    @property
    def n_promised(self) -> int:
        return sum(held.session.pending is not None for held in self._store.values())

    async def remember(self, session: Session) -> None:
        self._store.put((session.tenant, session.id), _Held(session))

    async def recall(self, tenant: str, inference_id: str) -> InferenceResponse:
        return self._held(tenant, inference_id).session.reply

    async def claim(self, tenant: str, inference_id: str, patch_sha256: str) -> PatchClaim:
        held = self._held(tenant, inference_id)
        session = held.session
        if patch_sha256 in session.taken:
            is_latest = patch_sha256 == session.taken[-1]
            return PatchClaim("replay" if is_latest else "conflict", session, patch_sha256)
        if session.pending is None:
            return PatchClaim("conflict" if session.taken else "answered", session, patch_sha256)
        if held.running is not None:
            is_same = patch_sha256 == held.running
            return PatchClaim("in_progress" if is_same else "conflict", session, patch_sha256)
        self._store.put((tenant, inference_id), _Held(session, patch_sha256))
        return PatchClaim("run", session, patch_sha256, owner="this process")

    async def complete(
        self, claim: PatchClaim, reply: InferenceResponse, further: PendingPatch | None = None
    ) -> None:
        taken = (*claim.session.taken, claim.patch_sha256)
        self._replace(_Held(replace(claim.session, reply=reply, pending=further, taken=taken)))

    async def release(self, claim: PatchClaim) -> None:
        self._replace(_Held(claim.session))

    async def forget(self, tenant: str, inference_id: str) -> InferenceResponse:
        held = self._held(tenant, inference_id)
        self._store.remove((tenant, inference_id))
        return held.session.reply

    def _held(self, tenant: str, inference_id: str) -> _Held:
        """Raises ProblemError UNKNOWN_INFERENCE or INFERENCE_EXPIRED."""
        key = (tenant, inference_id)
        held = self._store.get(key)
        if held is not None:
            return held
        raise inference_expired() if self._store.has_forgotten(key) else unknown_inference()

    def _replace(self, held: _Held) -> None:
        """Put, unless the client has deleted the inference in the meantime."""
        key = (held.session.tenant, held.session.id)
        if self._store.get(key) is not None or self._store.has_forgotten(key):
            self._store.put(key, held)


class MemoryImageStore:
    """Images for the session time-to-live, within a byte budget."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store: ExpiringStore[_Name, EncodedImage] = ExpiringStore(
            ttl_s=settings.session_ttl_s,
            max_items=settings.max_sessions,
            max_bytes=settings.max_stored_image_bytes,
            bytes_of=lambda image: len(image.data),
            owner_of=lambda key: key[0],
            clock=clock,
        )

    @property
    def holding(self) -> Holding:
        return Holding(len(self._store), self._store.n_bytes)

    async def remember(self, tenant: str, image: EncodedImage) -> None:
        self._store.put((tenant, image.id), image)

    async def recall(self, tenant: str, image_id: str) -> EncodedImage:
        image = self._store.get((tenant, image_id))
        if image is None:
            raise ProblemError(ErrorCode.IMAGE_EXPIRED, "send the image again")
        self._store.put((tenant, image_id), image)
        return image

    async def forget(self, tenant: str, image_id: str) -> None:
        self._store.remove((tenant, image_id))


@dataclass(frozen=True, slots=True)
class _Kept:
    name: _Name  # tenant and key
    payload_sha256: str
    reply: InferenceResponse | None = None  # None while it runs


class MemoryReplyStore:
    """Replies by tenant and key."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store: ExpiringStore[_Name, _Kept] = ExpiringStore(
            ttl_s=settings.session_ttl_s,
            max_items=settings.max_sessions,
            owner_of=lambda key: key[0],
            clock=clock,
        )

    @property
    def holding(self) -> Holding:
        return Holding(len(self._store))

    async def claim(self, tenant: str, key: str, payload_sha256: str) -> ReplyClaim:
        kept = self._store.get((tenant, key))
        if kept is None:
            self._store.put((tenant, key), _Kept((tenant, key), payload_sha256))
            return ReplyClaim("run", tenant, key, payload_sha256, owner="this process")
        if kept.payload_sha256 != payload_sha256:
            return ReplyClaim("mismatch", tenant, key, payload_sha256)
        if kept.reply is None:
            return ReplyClaim("in_progress", tenant, key, payload_sha256)
        return ReplyClaim("replay", tenant, key, payload_sha256, reply=kept.reply)

    async def complete(self, claim: ReplyClaim, reply: InferenceResponse) -> None:
        name = (claim.tenant, claim.key)
        self._store.put(name, _Kept(name, claim.payload_sha256, reply))

    async def release(self, claim: ReplyClaim) -> None:
        self._store.remove((claim.tenant, claim.key))

    async def forget(self, tenant: str, inference_id: str) -> InferenceResponse | None:
        for kept in self._store.values():
            if kept.reply and kept.reply.id == inference_id and kept.name[0] == tenant:
                self._store.remove(kept.name)
                return kept.reply
        return None
