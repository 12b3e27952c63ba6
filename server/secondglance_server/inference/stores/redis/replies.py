"""Replies by idempotency key in Redis: a claim while the request runs, the reply afterwards.

Clients choose the keys, so their hashes name the entries.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from secondglance_protocol.wire import InferenceResponse
from secondglance_server.inference.stores.protocol import Holding, ReplyClaim
from secondglance_server.inference.stores.redis.connection import NOW, Connection, Script, text_of
from secondglance_server.inference.stores.redis.leases import Leases
from secondglance_server.inference.stores.redis.ledger import Ledger
from secondglance_server.inference.stores.redis.records import packed_reply, unpacked_reply
from secondglance_server.settings import ServerSettings

# ARGV: payload, owner, milliseconds of the lease, of the entry
_CLAIM = Script(
    "claim_key",
    NOW
    + """
local held = redis.call('HMGET', KEYS[1], 'payload', 'reply', 'owner', 'until')
local payload, reply, owner = held[1], held[2], held[3]
local is_alive = owner and owner ~= ARGV[2] and tonumber(held[4]) > now
if reply or is_alive then
  if payload ~= ARGV[1] then return {'mismatch'} end
  if reply then return {'replay', reply} end
  return {'in_progress'}
end
redis.call('HSET', KEYS[1], 'payload', ARGV[1], 'owner', ARGV[2], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.max(ARGV[3], ARGV[4]))
return {'run'}
""",
)
# ARGV: owner, milliseconds, payload, reply, inference. Kept, too, where Redis has lost the claim.
_COMPLETE = Script(
    "complete_key",
    """
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'owner', 'until')
redis.call('HSET', KEYS[1], 'payload', ARGV[3], 'reply', ARGV[4], 'inference', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
""",
)
_RELEASE = Script(
    "release_key",
    """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""",
)
_LINK = Script("link_key", "return redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])")
_UNLINK = Script("unlink_key", "return redis.call('GETDEL', KEYS[1])")
# ARGV: inference
_FORGET = Script(
    "forget_key",
    """
if redis.call('HGET', KEYS[1], 'inference') ~= ARGV[1] then return false end
local reply = redis.call('HGET', KEYS[1], 'reply')
redis.call('DEL', KEYS[1])
return reply
""",
)
_EVICT = Script("evict_key", "return redis.call('DEL', KEYS[1])")


class RedisReplyStore:
    """Replies by tenant and key, for the session time-to-live."""

    def __init__(self, connection: Connection, leases: Leases, settings: ServerSettings) -> None:
        self._connection = connection
        self._leases = leases
        self._ttl_ms = round(1000 * settings.session_ttl_s)
        self.ledger = Ledger(connection, "replies", ttl_ms=self._ttl_ms, most=settings.max_sessions)

    @property
    def holding(self) -> Holding:
        return self.ledger.holding

    async def claim(self, tenant: str, key: str, payload_sha256: str) -> ReplyClaim:
        keys = [self._key(tenant, _hashed(key))]
        owner = self._leases.begin(keys[0])

        async def undo() -> None:
            await self._connection.run(_RELEASE, keys, owner)

        try:
            found = await self._connection.run(
                _CLAIM, keys, payload_sha256, owner, self._leases.ms, self._ttl_ms
            )
        except BaseException:  # Redis may have heard of a claim whose answer never came
            self._leases.end_later(owner, undo)
            raise
        outcome: Any = text_of(found[0])
        if outcome == "run":
            return ReplyClaim("run", tenant, key, payload_sha256, owner)
        self._leases.forget(owner)
        reply = unpacked_reply(found[1]) if outcome == "replay" else None
        return ReplyClaim(outcome, tenant, key, payload_sha256, reply=reply)

    async def complete(self, claim: ReplyClaim, reply: InferenceResponse) -> None:
        name = _hashed(claim.key)

        async def tell() -> None:
            is_kept = await self._connection.run(
                _COMPLETE,
                [self._key(claim.tenant, name)],
                claim.owner,
                self._ttl_ms,
                claim.payload_sha256,
                packed_reply(reply),
                reply.id,
            )
            if is_kept:
                await asyncio.gather(
                    self._connection.run(_LINK, [self._link(claim.tenant, reply.id)], name, self._ttl_ms),
                    self._enter(claim.tenant, name),
                )

        await self._leases.end(claim.owner, tell)

    async def release(self, claim: ReplyClaim) -> None:
        keys = [self._key(claim.tenant, _hashed(claim.key))]

        async def tell() -> None:
            await self._connection.run(_RELEASE, keys, claim.owner)

        await self._leases.end(claim.owner, tell)

    async def forget(self, tenant: str, inference_id: str) -> InferenceResponse | None:
        name = await self._connection.run(_UNLINK, [self._link(tenant, inference_id)])
        if name is None:
            return None
        reply = await self._connection.run(_FORGET, [self._key(tenant, text_of(name))], inference_id)
        if reply is None:
            return None
        await self.ledger.leave(tenant, text_of(name))
        return unpacked_reply(reply)

    async def _enter(self, tenant: str, name: str) -> None:
        for owner, victim in await self.ledger.enter(tenant, name):
            await self._connection.run(_EVICT, [self._key(owner, victim)])

    def _key(self, tenant: str, hashed_key: str) -> str:
        return self._connection.key("reply", f"{tenant}/{hashed_key}")

    def _link(self, tenant: str, inference_id: str) -> str:
        """Return the key of what names the entry of an inference."""
        return self._connection.key("link", f"{tenant}/{inference_id}")


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:40]
