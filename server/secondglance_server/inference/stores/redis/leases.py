"""Claims of this server in Redis: each has an owner and an end, so that a dead server's are taken over.

A lease is longer than the inference deadline. Work that the device still does after that is renewed, as long
as this process lives. What could not be told to Redis when it was due is told when it answers again.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from secondglance_server.errors import ProblemError
from secondglance_server.inference.stores.redis.connection import NOW, Connection, Script

_log = logging.getLogger(__name__)

MARGIN_S: Final = 5.0  # of a lease over the inference deadline

# ARGV: owner, milliseconds of the lease
_RENEW = Script(
    "renew",
    NOW
    + """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
local lease = tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'until', now + lease)
if redis.call('PTTL', KEYS[1]) < lease then redis.call('PEXPIRE', KEYS[1], lease) end
return 1
""",
)

Tell = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class _Lease:
    key: str
    renewed_at: float
    unsaid: Tell | None = None  # what ends the claim, where Redis has not heard it yet
    unsaid_since: float = 0.0


class Leases:
    """The claims that this server holds; `tend` must be called every second or so."""

    def __init__(self, connection: Connection, inference_deadline_s: float) -> None:
        self._connection = connection
        self.ms = round(1000 * (inference_deadline_s + MARGIN_S))
        self._held: dict[str, _Lease] = {}

    def begin(self, key: str) -> str:
        """Return a new owner, for a claim of `key` that is about to be made."""
        owner = secrets.token_urlsafe(9)
        self._held[owner] = _Lease(key, time.monotonic())
        return owner

    def forget(self, owner: str) -> None:
        """The claim was not made, or has been ended."""
        self._held.pop(owner, None)

    async def end(self, owner: str, tell: Tell) -> bool:
        """Tell Redis how the claim ended; if that fails, later. Return whether it has been told."""
        try:
            await tell()
        except ProblemError:
            self.end_later(owner, tell)
            return False
        self.forget(owner)
        return True

    def end_later(self, owner: str, tell: Tell) -> None:
        """Tell Redis at the next opportunity; nobody waits for it."""
        if owner in self._held:
            lease = self._held[owner]
            lease.unsaid, lease.unsaid_since = tell, time.monotonic()

    async def tend(self) -> None:
        """Renew what is held for long, and tell what is unsaid. Raises ProblemError if Redis is away."""
        for owner, lease in list(self._held.items()):
            now = time.monotonic()
            if lease.unsaid is not None:
                if now - lease.unsaid_since > self.ms / 1000:
                    _log.warning("claim given up", extra={"reason": "its lease has ended"})
                else:
                    await lease.unsaid()
                self.forget(owner)
            elif now - lease.renewed_at > self.ms / 2000:
                await self._connection.run(_RENEW, [lease.key], owner, self.ms)
                lease.renewed_at = now
