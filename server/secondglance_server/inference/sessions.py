"""What the server remembers of an inference between its two stages.

A session keeps the *encoded* global image (kilobytes), so stage two works even if the engine has dropped
every cache. An inference that expired is told from one that never was, and one tenant's from another's. Not
covered: more than one process; that is another `SessionStore`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import Include, InferenceResponse, Roi
from secondglance_server.engine.protocol import GateDefaults
from secondglance_server.errors import ProblemError
from secondglance_server.inference.expiring import ExpiringStore
from secondglance_server.inference.images import EncodedImage
from secondglance_server.settings import ServerSettings

MAX_TOMBSTONES = 10_000  # expired ids remembered, so that they answer 410 and not 404


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
    """One inference. `reply` is the latest; `patch_sha256` is set from the moment a patch is worked on."""

    id: str
    tenant: str
    reply: InferenceResponse
    pending: PendingPatch | None = None  # until it is answered
    patch_sha256: str | None = None
    is_running: bool = False

    @property
    def n_bytes(self) -> int:
        return len(self.pending.image.data) if self.pending else 0


def new_inference_id(server_tag: str = "") -> str:
    """Return an unguessable id, so that knowing an id is knowing the inference.

    `server_tag` stands in front, for proxies: a hint where the image is still warm, and never a condition.
    """
    return f"inf_{server_tag}{'_' if server_tag else ''}{secrets.token_urlsafe(16)}"


class SessionStore(Protocol):
    """Where sessions live. One event loop reads and writes a session, without awaits in between."""

    def put(self, session: Session) -> None:
        """Add or replace, and renew the time to live."""
        ...

    def get(self, tenant: str, inference_id: str) -> Session:
        """Raises ProblemError UNKNOWN_INFERENCE or INFERENCE_EXPIRED."""
        ...

    def remove(self, tenant: str, inference_id: str) -> Session:
        """Forget a session and return it. Raises as `get`."""
        ...


class MemorySessionStore:
    """Sessions in this process, bounded by age, count and bytes.

    Where there is no room, the tenant that holds most loses its oldest, which answers 410 then.
    """

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store: ExpiringStore[tuple[str, str], Session] = ExpiringStore(
            ttl_s=settings.session_ttl_s,
            max_items=settings.max_sessions,
            max_bytes=settings.max_session_bytes,
            bytes_of=lambda session: session.n_bytes,
            max_tombstones=MAX_TOMBSTONES,
            owner_of=lambda key: key[0],
            clock=clock,
        )

    def put(self, session: Session) -> None:
        self._store.put((session.tenant, session.id), session)

    def get(self, tenant: str, inference_id: str) -> Session:
        key = (tenant, inference_id)
        session = self._store.get(key)
        if session is not None:
            return session
        if self._store.has_forgotten(key):
            raise ProblemError(ErrorCode.INFERENCE_EXPIRED, "ask again from the start")
        raise ProblemError(ErrorCode.UNKNOWN_INFERENCE, "there is no inference of this id")

    def remove(self, tenant: str, inference_id: str) -> Session:
        session = self.get(tenant, inference_id)
        self._store.remove((tenant, inference_id))
        return session

    def __len__(self) -> int:
        return len(self._store)

    @property
    def n_promised(self) -> int:
        """Inferences that wait for a patch."""
        return sum(session.pending is not None for session in self._store.values())

    @property
    def n_bytes(self) -> int:
        """Encoded images held for stage two."""
        return self._store.n_bytes
