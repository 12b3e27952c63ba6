"""What policy asks of a store: verbs for sessions, images, replies by idempotency key, and quotas.

A verb is one atomic step, so that two requests at once, on one server or on two, cannot both win. Each
implementation keeps what it is given for the session time-to-live at most, tells tenants apart, and makes
room at the cost of the tenant that holds most. Verbs raise ProblemError NOT_READY when the store is away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from secondglance_protocol.wire import InferenceResponse
from secondglance_server.inference.images import EncodedImage
from secondglance_server.inference.sessions import PendingPatch, Session
from secondglance_server.keys import ApiKey


@dataclass(frozen=True, slots=True)
class Holding:
    """How many entries a store holds, and their bytes as its limits count them."""

    count: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PatchClaim:
    """Whether a patch may be worked on.

    `run`: by `owner`, who must `complete` or `release` it. `in_progress`: it is worked on. `replay`: it was
    answered with `session.reply`, the latest. `conflict`: another patch was given, or this one before the
    latest. `answered`: none was asked for.
    """

    outcome: Literal["run", "in_progress", "replay", "conflict", "answered"]
    session: Session
    patch_sha256: str
    owner: str = ""


class SessionStore(Protocol):
    """Inferences between and after their stages."""

    @property
    def holding(self) -> Holding:
        """What was held at the last look; the bytes are those of images that wait for a patch."""
        ...

    @property
    def n_promised(self) -> int:
        """Inferences whose patch only this process can answer."""
        ...

    async def remember(self, session: Session) -> None:
        """Keep a session after its first stage."""
        ...

    async def recall(self, tenant: str, inference_id: str) -> InferenceResponse:
        """Return the latest reply. Raises ProblemError UNKNOWN_INFERENCE or INFERENCE_EXPIRED."""
        ...

    async def claim(self, tenant: str, inference_id: str, patch_sha256: str) -> PatchClaim:
        """Claim the second stage for one patch; renews the session if the outcome is `run`.

        Raises as `recall`.
        """
        ...

    async def complete(
        self, claim: PatchClaim, reply: InferenceResponse, further: PendingPatch | None = None
    ) -> None:
        """Keep the patch's reply, renewed; not if the session was deleted or the claim was taken over.

        With `further`, the session waits for another patch.
        """
        ...

    async def release(self, claim: PatchClaim) -> None:
        """Let the session wait for a patch again, renewed; not where `complete` would not keep the reply."""
        ...

    async def forget(self, tenant: str, inference_id: str) -> InferenceResponse:
        """Forget a session and return its latest reply. Raises as `recall`."""
        ...


class ImageStore(Protocol):
    """Encoded images that can be asked about again by id."""

    @property
    def holding(self) -> Holding:
        """What was held at the last look."""
        ...

    async def remember(self, tenant: str, image: EncodedImage) -> None:
        """Keep an image, renewed."""
        ...

    async def recall(self, tenant: str, image_id: str) -> EncodedImage:
        """Return the image, renewed. Raises ProblemError IMAGE_EXPIRED if gone, unknown or another's."""
        ...

    async def forget(self, tenant: str, image_id: str) -> None:
        """Forget the image, if it is held."""
        ...


@dataclass(frozen=True, slots=True)
class ReplyClaim:
    """Whether a request with an idempotency key may run.

    `run`: by `owner`, who must `complete` or `release` it. `in_progress`: the first request runs. `replay`:
    it was answered with `reply`. `mismatch`: the key belongs to another payload.
    """

    outcome: Literal["run", "in_progress", "replay", "mismatch"]
    tenant: str
    key: str
    payload_sha256: str
    owner: str = ""
    reply: InferenceResponse | None = None


class ReplyStore(Protocol):
    """Replies by tenant and idempotency key."""

    @property
    def holding(self) -> Holding:
        """What was held at the last look; its bytes are not counted."""
        ...

    async def claim(self, tenant: str, key: str, payload_sha256: str) -> ReplyClaim:
        """Claim the key for one payload."""
        ...

    async def complete(self, claim: ReplyClaim, reply: InferenceResponse) -> None:
        """Keep the reply, renewed, unless the claim was taken over."""
        ...

    async def release(self, claim: ReplyClaim) -> None:
        """Free the key, unless the claim was taken over."""
        ...

    async def forget(self, tenant: str, inference_id: str) -> InferenceResponse | None:
        """Forget the reply of this inference, and return it if there was one."""
        ...


class QuotaStore(Protocol):
    """What each key uses."""

    def request(self, key: ApiKey) -> AbstractAsyncContextManager[None]:
        """Around one request of the key. Raises ProblemError RATE_LIMITED with the seconds to wait."""
        ...

    def charge(self, key: ApiKey, n_bytes: int) -> None:
        """Take bytes of request bodies, be they there or owed; never blocks."""
        ...


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores of one app.

    `is_shared`: another server can go on where this one stops. `check` raises ProblemError NOT_READY while
    the store is away, and takes the look that `holding` tells of. `close` lets connections go.
    """

    sessions: SessionStore
    images: ImageStore
    replies: ReplyStore
    quotas: QuotaStore
    is_shared: bool = False
    check: Callable[[], Awaitable[None]] = field(default=_nothing)
    close: Callable[[], Awaitable[None]] = field(default=_nothing)
