"""What the server remembers of an inference between its stages.

A session keeps the *encoded* global image (kilobytes), so stage two works even if the engine has dropped
every cache, and on another server. An inference that expired is told from one that never was, and one
tenant's from another's. Where sessions are kept is in `stores`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import Include, InferenceResponse, Roi
from secondglance_server.engine.protocol import GateDefaults
from secondglance_server.errors import ProblemError
from secondglance_server.inference.images import EncodedImage


@dataclass(frozen=True, slots=True)
class PendingPatch:
    """What stage two needs: the region that was asked for and the question's settings.

    `n_further`: looks that may follow this one, at `regions` (best first) or sharper at `roi`. `is_sharper`:
    `roi` was sent before, in fewer pixels. `surest`: the region of the answer that counts so far, None for
    the draft.
    """

    image: EncodedImage
    question: str
    gate: GateDefaults
    max_new_tokens: int
    include: tuple[Include, ...]
    roi: Roi
    n_further: int = 0
    regions: tuple[Roi, ...] = ()
    is_sharper: bool = False
    surest: Roi | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One inference. `reply` is the latest, `taken` the SHA-256 of the patches answered, oldest first."""

    id: str
    tenant: str
    reply: InferenceResponse
    pending: PendingPatch | None = None  # while a patch is waited for
    taken: tuple[str, ...] = ()

    @property
    def n_bytes(self) -> int:
        return len(self.pending.image.data) if self.pending else 0


def further_look(pending: PendingPatch, surest: Roi, *, can_be_sharper: bool) -> PendingPatch | None:
    """Return what to wait for after the look at `pending.roi` has left doubt; None: that was the last.

    The same region comes again where it `can_be_sharper`, and once only; then the next of the map.
    """
    if pending.n_further == 0:
        return None
    after = replace(pending, n_further=pending.n_further - 1, surest=surest)
    if can_be_sharper and not pending.is_sharper:
        return replace(after, is_sharper=True)
    if not pending.regions:
        return None
    return replace(after, roi=pending.regions[0], regions=pending.regions[1:], is_sharper=False)


def new_inference_id(server_tag: str = "") -> str:
    """Return an unguessable id, so that knowing an id is knowing the inference.

    `server_tag` stands in front, for proxies: a hint where the image is still warm, and never a condition.
    """
    return f"inf_{server_tag}{'_' if server_tag else ''}{secrets.token_urlsafe(16)}"


def unknown_inference() -> ProblemError:
    """Return the problem of an id that names nothing, or nothing of this tenant."""
    return ProblemError(ErrorCode.UNKNOWN_INFERENCE, "there is no inference of this id")


def inference_expired() -> ProblemError:
    """Return the problem of an inference that is not remembered any more."""
    return ProblemError(ErrorCode.INFERENCE_EXPIRED, "ask again from the start")
