"""What the server remembers of an inference between its two stages.

A session keeps the *encoded* global image (kilobytes), so stage two works even if the engine has dropped
every cache, and on another server. An inference that expired is told from one that never was, and one
tenant's from another's. Where sessions are kept is in `stores`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import Include, InferenceResponse, Roi
from secondglance_server.engine.protocol import GateDefaults
from secondglance_server.errors import ProblemError
from secondglance_server.inference.images import EncodedImage


@dataclass(frozen=True, slots=True)
class PendingPatch:
    """What stage two needs: the region that was asked for and the question's settings."""

    image: EncodedImage
    question: str
    gate: GateDefaults
    max_new_tokens: int
    include: tuple[Include, ...]
    roi: Roi


@dataclass(frozen=True, slots=True)
class Session:
    """One inference. `reply` is the latest."""

    id: str
    tenant: str
    reply: InferenceResponse
    pending: PendingPatch | None = None  # until it is answered

    @property
    def n_bytes(self) -> int:
        return len(self.pending.image.data) if self.pending else 0


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
