"""`Idempotency-Key` on POST: the same request sent twice is done once.

A finished request's reply is replayed, a running one answers 409, and the key on another payload answers
422. Failures are not kept: a retry after one runs again. Replies live as long as sessions do.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import MAX_ID_CHARS
from secondglance_protocol.wire import InferenceResponse
from secondglance_server.errors import ProblemError
from secondglance_server.inference.expiring import ExpiringStore
from secondglance_server.settings import ServerSettings

_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_ID_CHARS}}}")


@dataclass(frozen=True, slots=True)
class _Claim:
    owner: tuple[str, str]  # tenant and key
    payload_sha256: str
    reply: InferenceResponse | None  # None while it runs


def payload_sha256(*parts: bytes) -> str:
    """A hash over the parts' contents; multipart boundaries differ between retries and stay out of it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


class IdempotentReplies:
    """Replies by tenant and key."""

    def __init__(self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._claims: ExpiringStore[tuple[str, str], _Claim] = ExpiringStore(
            ttl_s=settings.session_ttl_s,
            max_items=settings.max_sessions,
            owner_of=lambda key: key[0],
            clock=clock,
        )

    async def once(
        self, tenant: str, key: str, payload: str, work: Callable[[], Awaitable[InferenceResponse]]
    ) -> tuple[InferenceResponse, bool]:
        """The reply, and whether it is a replay.

        Raises ProblemError INVALID_REQUEST for a key that is not 1 to 128 visible ASCII characters,
        IDEMPOTENCY_IN_PROGRESS and IDEMPOTENCY_MISMATCH; and whatever `work` raises.
        """
        if not _KEY.fullmatch(key):
            raise ProblemError(
                ErrorCode.INVALID_REQUEST, f"an idempotency key is 1 to {MAX_ID_CHARS} visible characters"
            )
        claim = self._claims.get((tenant, key))
        if claim is not None:
            return _kept_reply(claim, payload), True
        self._claims.put((tenant, key), _Claim((tenant, key), payload, None))
        try:
            reply = await work()
        except BaseException:  # a cancelled request must free its key, too
            self._claims.remove((tenant, key))
            raise
        self._claims.put((tenant, key), _Claim((tenant, key), payload, reply))
        return reply, False

    def forget(self, tenant: str, inference_id: str) -> InferenceResponse | None:
        """Forget the reply of this inference, and return it if there was one."""
        for claim in self._claims.values():
            if claim.reply and claim.reply.id == inference_id and claim.owner[0] == tenant:
                self._claims.remove(claim.owner)
                return claim.reply
        return None

    def __len__(self) -> int:
        return len(self._claims)


def _kept_reply(claim: _Claim, payload: str) -> InferenceResponse:
    if claim.payload_sha256 != payload:
        raise ProblemError(ErrorCode.IDEMPOTENCY_MISMATCH, "the key belongs to a request of other content")
    if claim.reply is None:
        raise ProblemError(ErrorCode.IDEMPOTENCY_IN_PROGRESS, "wait for the first request", 1.0)
    return claim.reply
