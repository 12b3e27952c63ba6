"""`Idempotency-Key` on POST: the same request sent twice is done once.

A finished request's reply is replayed, a running one answers 409, and the key on another payload answers
422. Failures are not kept: a retry after one runs again. Replies live as long as sessions do.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable

from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.protocol import MAX_ID_CHARS
from secondglance_protocol.wire import InferenceResponse
from secondglance_server.errors import ProblemError
from secondglance_server.inference.stores.protocol import ReplyClaim, ReplyStore

_KEY = re.compile(rf"[\x21-\x7e]{{1,{MAX_ID_CHARS}}}")


def payload_sha256(*parts: bytes) -> str:
    """A hash over the parts' contents; multipart boundaries differ between retries and stay out of it."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


class IdempotentReplies:
    """Replies by tenant and key, kept in `store`."""

    def __init__(self, store: ReplyStore) -> None:
        self._store = store

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
        claim = await self._store.claim(tenant, key, payload)
        if claim.outcome != "run":
            return _kept_reply(claim), True
        try:
            reply = await work()
        except BaseException:  # a cancelled request must free its key, too
            await self._store.release(claim)
            raise
        await self._store.complete(claim, reply)
        return reply, False


def _kept_reply(claim: ReplyClaim) -> InferenceResponse:
    if claim.outcome == "mismatch":
        raise ProblemError(ErrorCode.IDEMPOTENCY_MISMATCH, "the key belongs to a request of other content")
    if claim.reply is None:
        raise ProblemError(ErrorCode.IDEMPOTENCY_IN_PROGRESS, "wait for the first request", 1.0)
    return claim.reply
