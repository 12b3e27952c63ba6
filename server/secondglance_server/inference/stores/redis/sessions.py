"""Inferences in Redis: one hash for each, one script for each verb.

A marker outlives its session, so that an id that expired is told from one that never was. It has no schema:
what a server of another version keeps is expired for this one, and the edge starts again.

Field `pending` waits for the first patch, `next` for a further one, and then `patch` is the latest that was
answered. Servers that know no further looks see an answered inference: they replay it, or say conflict.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from secondglance_protocol.wire import InferenceResponse
from secondglance_server.inference.sessions import (
    PendingPatch,
    Session,
    inference_expired,
    unknown_inference,
)
from secondglance_server.inference.stores.protocol import Holding, PatchClaim
from secondglance_server.inference.stores.redis.connection import NOW, Connection, Script, text_of
from secondglance_server.inference.stores.redis.images import Pictures
from secondglance_server.inference.stores.redis.leases import Leases
from secondglance_server.inference.stores.redis.ledger import Ledger
from secondglance_server.inference.stores.redis.records import (
    packed_pending,
    packed_reply,
    unpacked_pending,
    unpacked_reply,
)
from secondglance_server.settings import ServerSettings

MARKER_LIVES: Final = 5  # of a session: as long as its id answers 410 and not 404

# KEYS everywhere: the session, its marker.
_GONE = """
local function gone() return {redis.call('EXISTS', KEYS[2]) == 1 and 'expired' or 'unknown'} end
"""
# ARGV: milliseconds of the session, of the marker, reply, image id, pending if it waits
_REMEMBER = Script(
    "remember",
    """
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'reply', ARGV[3], 'image', ARGV[4])
if ARGV[5] then redis.call('HSET', KEYS[1], 'pending', ARGV[5]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], '', 'PX', ARGV[2])
return 1
""",
)
_RECALL = Script(
    "recall",
    _GONE
    + """
local reply = redis.call('HGET', KEYS[1], 'reply')
return reply and {'held', reply} or gone()
""",
)
# ARGV: patch, owner, milliseconds of the lease, of the session, of the marker
_CLAIM = Script(
    "claim",
    NOW
    + _GONE
    + """
local held = redis.call('HMGET', KEYS[1],
  'reply', 'pending', 'patch', 'owner', 'until', 'next', 'trying', 'taken')
local reply, pending, patch, owner, further, taken = held[1], held[2], held[3], held[4], held[6], held[8]
if not reply then return gone() end
if not pending then
  if not patch then return {'answered', reply} end
  if patch == ARGV[1] then return {'replay', reply} end
  if not further or string.find(taken or '', ARGV[1], 1, true) then return {'conflict', reply} end
end
local working = further and 'trying' or 'patch'
local is_alive = owner and owner ~= ARGV[2] and tonumber(held[5]) > now
if is_alive then return {held[further and 7 or 3] == ARGV[1] and 'in_progress' or 'conflict', reply} end
redis.call('HSET', KEYS[1], working, ARGV[1], 'owner', ARGV[2], 'until', now + ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.max(ARGV[3], ARGV[4]))
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return {'run', reply, pending or further, further and ((taken or '') .. ' ' .. patch) or ''}
""",
)
# ARGV: owner, milliseconds of the session, of the marker, reply, image id, patch; if it waits for a further
# one: the patches before, and what waits. Gives 1: kept; 0: another's; -1: the session is gone.
_COMPLETE = Script(
    "complete",
    """
local owner = redis.call('HGET', KEYS[1], 'owner')
if owner ~= ARGV[1] and redis.call('GET', KEYS[2]) ~= ARGV[1] then
  local held = redis.call('HMGET', KEYS[1], 'reply', 'patch', 'owner')
  if held[1] == ARGV[4] and held[2] == ARGV[6] and not held[3] then return 1 end  -- the script ran twice
  return redis.call('EXISTS', KEYS[1]) - 1
end
redis.call('HDEL', KEYS[1], 'pending', 'owner', 'until', 'next', 'trying', 'taken')
redis.call('HSET', KEYS[1], 'reply', ARGV[4], 'image', ARGV[5], 'patch', ARGV[6])
if ARGV[8] then redis.call('HSET', KEYS[1], 'taken', ARGV[7], 'next', ARGV[8]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], '', 'PX', ARGV[3])
return 1
""",
)
# ARGV: owner, milliseconds of the session, of the marker
_RELEASE = Script(
    "release",
    """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
local working = redis.call('HEXISTS', KEYS[1], 'next') == 1 and 'trying' or 'patch'
redis.call('HDEL', KEYS[1], working, 'owner', 'until')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return 1
""",
)
_FORGET = Script(
    "forget",
    _GONE
    + """
local held = redis.call('HMGET', KEYS[1], 'reply', 'image')
if not held[1] then return gone() end
redis.call('DEL', KEYS[1], KEYS[2])
return {'held', held[1], held[2]}
""",
)
# The marker remembers who works on it: what that one completes is kept.
_EVICT = Script(
    "evict",
    """
local held = redis.call('HMGET', KEYS[1], 'owner', 'image')
redis.call('DEL', KEYS[1])
if held[1] and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('SET', KEYS[2], held[1], 'KEEPTTL')
end
return held[2]
""",
)


class RedisSessionStore:
    """Where there is no room, the tenant that holds most in the fleet loses its oldest, which answers 410."""

    def __init__(
        self, connection: Connection, leases: Leases, pictures: Pictures, settings: ServerSettings
    ) -> None:
        self._connection = connection
        self._leases = leases
        self._pictures = pictures
        self._ttl_ms = round(1000 * settings.session_ttl_s)
        self._marker_ms = MARKER_LIVES * self._ttl_ms
        self.ledger = Ledger(
            connection,
            "sessions",
            ttl_ms=self._ttl_ms,
            most=settings.max_sessions,
            most_bytes=settings.max_session_bytes,
        )

    @property
    def holding(self) -> Holding:
        return self.ledger.holding

    @property
    def n_promised(self) -> int:
        return 0  # any server can answer

    async def remember(self, session: Session) -> None:
        pending = session.pending
        args: list[bytes | str] = [packed_reply(session.reply), session.reply.image_id]
        if pending is not None:
            await self._pictures.hold(session.tenant, pending.image, _holder(session.id), self._ttl_ms)
            args.append(packed_pending(pending))
        keys = self._keys(session.tenant, session.id)
        await asyncio.gather(
            self._connection.run(_REMEMBER, keys, self._ttl_ms, self._marker_ms, *args),
            self._enter(session.tenant, session.id, session.n_bytes),
        )

    async def recall(self, tenant: str, inference_id: str) -> InferenceResponse:
        found = await self._connection.run(_RECALL, self._keys(tenant, inference_id))
        return _reply_of(found)

    async def claim(self, tenant: str, inference_id: str, patch_sha256: str) -> PatchClaim:
        keys = self._keys(tenant, inference_id)
        owner = self._leases.begin(keys[0])

        async def undo() -> None:
            await self._connection.run(_RELEASE, keys, owner, self._ttl_ms, self._marker_ms)

        lease_ms = self._leases.ms
        try:
            found = await self._connection.run(
                _CLAIM, keys, patch_sha256, owner, lease_ms, self._ttl_ms, self._marker_ms
            )
            outcome: Any = text_of(found[0])
            if outcome != "run":
                self._leases.forget(owner)
                return PatchClaim(outcome, Session(inference_id, tenant, _reply_of(found)), patch_sha256)
            reply = _reply_of(found)
            ttl_ms = max(lease_ms, self._ttl_ms)
            data = await self._pictures.fetch(tenant, reply.image_id, _holder(inference_id), ttl_ms)
            if data is None:
                raise inference_expired()
            taken = tuple(text_of(found[3]).split())
            session = Session(inference_id, tenant, reply, _pending_of(found, data), taken)
        except BaseException:  # Redis may have heard of a claim whose answer never came
            self._leases.end_later(owner, undo)
            raise
        return PatchClaim("run", session, patch_sha256, owner)

    async def complete(
        self, claim: PatchClaim, reply: InferenceResponse, further: PendingPatch | None = None
    ) -> None:
        tenant, name = claim.session.tenant, claim.session.id
        waits: list[bytes | str] = []
        if further is not None:
            waits = [" ".join(claim.session.taken), packed_pending(further)]

        async def tell() -> None:
            if further is not None:  # before anybody can claim it; making room may have let go of it
                await self._pictures.hold(tenant, further.image, _holder(name), self._ttl_ms)
            kept = await self._connection.run(
                _COMPLETE,
                self._keys(tenant, name),
                claim.owner,
                self._ttl_ms,
                self._marker_ms,
                packed_reply(reply),
                reply.image_id,
                claim.patch_sha256,
                *waits,
            )
            if kept < 0 or (kept and further is None):  # else another server may be waiting with it
                await self._pictures.drop(tenant, reply.image_id, _holder(name))
            if kept > 0:
                await self._enter(tenant, name, 0 if further is None else len(further.image.data))

        await self._leases.end(claim.owner, tell)

    async def release(self, claim: PatchClaim) -> None:
        session = claim.session

        async def tell() -> None:
            keys = self._keys(session.tenant, session.id)
            is_kept = await self._connection.run(_RELEASE, keys, claim.owner, self._ttl_ms, self._marker_ms)
            if is_kept:
                await self._enter(session.tenant, session.id, session.n_bytes)

        await self._leases.end(claim.owner, tell)

    async def forget(self, tenant: str, inference_id: str) -> InferenceResponse:
        found = await self._connection.run(_FORGET, self._keys(tenant, inference_id))
        reply = _reply_of(found)
        await asyncio.gather(
            self._pictures.drop(tenant, text_of(found[2]), _holder(inference_id)),
            self.ledger.leave(tenant, inference_id),
        )
        return reply

    async def _enter(self, tenant: str, name: str, n_bytes: int) -> None:
        for owner, victim in await self.ledger.enter(tenant, name, n_bytes):
            image_id = await self._connection.run(_EVICT, self._keys(owner, victim))
            if image_id is not None:
                await self._pictures.drop(owner, text_of(image_id), _holder(victim))

    def _keys(self, tenant: str, inference_id: str) -> list[str]:
        tag = f"{tenant}/{inference_id}"
        return [self._connection.key("session", tag), f"sg:gone:{{{tag}}}"]


def _holder(inference_id: str) -> str:
    return f"for {inference_id}"


def _reply_of(found: Any) -> InferenceResponse:
    """Raises ProblemError UNKNOWN_INFERENCE or INFERENCE_EXPIRED."""
    state = text_of(found[0])
    if state == "unknown":
        raise unknown_inference()
    if state == "expired":
        raise inference_expired()
    try:
        return unpacked_reply(found[1])
    except ValueError as exc:  # of another version
        raise inference_expired() from exc


def _pending_of(found: Any, image: bytes) -> PendingPatch:
    """Raises ProblemError INFERENCE_EXPIRED."""
    try:
        return unpacked_pending(found[2], image)
    except ValueError as exc:  # of another version
        raise inference_expired() from exc
