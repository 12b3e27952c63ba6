"""Encoded images in Redis: stored once, for asking about them by id and for each inference that waits.

A picture has holders, each until its own time: the id itself, and inferences that want a patch. It goes with
its last holder.
"""

from __future__ import annotations

from typing import Any, Final

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.inference.images import EncodedImage
from secondglance_server.inference.stores.protocol import Holding
from secondglance_server.inference.stores.redis.connection import NOW, Connection, Script
from secondglance_server.inference.stores.redis.ledger import Ledger
from secondglance_server.settings import ServerSettings

_BY_ID: Final = "id"  # the holder that lets clients name the image; inferences' holders have a prefix

_RENEW = """
local function renew(holder, ttl)
  redis.call('HSET', KEYS[1], holder, now + ttl)
  if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ttl) end
end
"""
# ARGV: holder, milliseconds, bytes of the picture if they are sent
_HOLD = Script(
    "hold_image",
    NOW
    + _RENEW
    + """
if ARGV[3] then
  redis.call('HSET', KEYS[1], 'data', ARGV[3])
elseif redis.call('HEXISTS', KEYS[1], 'data') == 0 then
  return 0
end
renew(ARGV[1], tonumber(ARGV[2]))
return 1
""",
)
# ARGV: holder, milliseconds
_FETCH = Script(
    "fetch_image",
    NOW
    + _RENEW
    + """
local ends = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if ends <= now then return false end
renew(ARGV[1], tonumber(ARGV[2]))
return redis.call('HGET', KEYS[1], 'data')
""",
)
# ARGV: holder
_DROP = Script(
    "drop_image",
    NOW
    + """
redis.call('HDEL', KEYS[1], ARGV[1])
local last = now
for _, holder in ipairs(redis.call('HKEYS', KEYS[1])) do
  if holder ~= 'data' then last = math.max(last, tonumber(redis.call('HGET', KEYS[1], holder))) end
end
if last <= now then redis.call('DEL', KEYS[1]) else redis.call('PEXPIREAT', KEYS[1], last) end
return 1
""",
)


class Pictures:
    """Encoded images and who holds them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def hold(self, tenant: str, image: EncodedImage, holder: str, ttl_ms: int) -> None:
        """Keep `image` for `holder`; its bytes travel only if Redis does not have them."""
        keys = [self._key(tenant, image.id)]
        if not await self._connection.run(_HOLD, keys, holder, ttl_ms):
            await self._connection.run(_HOLD, keys, holder, ttl_ms, image.data)

    async def fetch(self, tenant: str, image_id: str, holder: str, ttl_ms: int) -> bytes | None:
        """Return the bytes, renewed for `holder`; None if it does not hold the image."""
        data: Any = await self._connection.run(_FETCH, [self._key(tenant, image_id)], holder, ttl_ms)
        return None if data is None else bytes(data)

    async def drop(self, tenant: str, image_id: str, holder: str) -> None:
        """Let go of the image, and forget it if nobody else holds it."""
        await self._connection.run(_DROP, [self._key(tenant, image_id)], holder)

    def _key(self, tenant: str, image_id: str) -> str:
        return self._connection.key("image", f"{tenant}/{image_id}")


class RedisImageStore:
    """Images that can be asked about by id, for the session time-to-live, within a byte budget."""

    def __init__(self, connection: Connection, pictures: Pictures, settings: ServerSettings) -> None:
        self._pictures = pictures
        self._ttl_ms = round(1000 * settings.session_ttl_s)
        self.ledger = Ledger(
            connection,
            "images",
            ttl_ms=self._ttl_ms,
            most=settings.max_sessions,
            most_bytes=settings.max_stored_image_bytes,
        )

    @property
    def holding(self) -> Holding:
        return self.ledger.holding

    async def remember(self, tenant: str, image: EncodedImage) -> None:
        await self._pictures.hold(tenant, image, _BY_ID, self._ttl_ms)
        await self._enter(tenant, image)

    async def recall(self, tenant: str, image_id: str) -> EncodedImage:
        data = await self._pictures.fetch(tenant, image_id, _BY_ID, self._ttl_ms)
        if data is None:
            raise ProblemError(ErrorCode.IMAGE_EXPIRED, "send the image again")
        image = EncodedImage(image_id, data)
        await self._enter(tenant, image)
        return image

    async def forget(self, tenant: str, image_id: str) -> None:
        await self._pictures.drop(tenant, image_id, _BY_ID)
        await self.ledger.leave(tenant, image_id)

    async def _enter(self, tenant: str, image: EncodedImage) -> None:
        for owner, victim in await self.ledger.enter(tenant, image.id, len(image.data)):
            await self._pictures.drop(owner, victim, _BY_ID)
