"""Who holds how much of one kind of thing in Redis, and who makes room: the fleet's `FairOrder`.

What expires leaves no message behind, so each look first sweeps out what has expired: the counts are those of
what is alive. The ledger of a kind lies on one node, whatever it counts lies anywhere.
"""

from __future__ import annotations

from typing import Any, Final

from secondglance_server.inference.stores.protocol import Holding
from secondglance_server.inference.stores.redis.connection import NOW, Connection, Script, text_of

_MARGIN_MS: Final = 1000  # the ledger outlives what it counts

# KEYS: members by expiry; sizes by member, with the sum and a sequence; tenants by count; tenants by bytes.
# A member is `tenant/name`. Each tenant's members in their order are at KEYS[1]:tenant, on the same node.
_COMMON = (
    NOW
    + """
local expiries, sizes, counts, sums = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local function tenant_of(member) return string.match(member, '^([^/]*)/') end
local function leave(member)
  local size = redis.call('HGET', sizes, member)
  if not size then return end
  local tenant = tenant_of(member)
  local less = string.format('%d', -size) -- Lua's minus zero is no integer for Redis
  redis.call('HDEL', sizes, member)
  redis.call('HINCRBY', sizes, 'sum', less)
  redis.call('ZREM', expiries, member)
  redis.call('ZREM', expiries .. ':' .. tenant, member)
  if tonumber(redis.call('ZINCRBY', counts, -1, tenant)) <= 0 then
    redis.call('ZREM', counts, tenant)
    redis.call('ZREM', sums, tenant)
  else
    redis.call('ZINCRBY', sums, less, tenant)
  end
end
local function sweep()
  local expired = redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 200)
  for _, member in ipairs(expired) do leave(member) end
  return #expired > 0
end
local function held() return redis.call('ZCARD', expiries) end
local function n_bytes() return tonumber(redis.call('HGET', sizes, 'sum') or 0) end
sweep()
"""
)
# ARGV: member, its bytes, its milliseconds, most members, most bytes (-1: any), milliseconds of the ledger
_ENTER = Script(
    "enter",
    _COMMON
    + """
local member, size, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local most, most_bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local tenant = tenant_of(member)
leave(member)
redis.call('HSET', sizes, member, size)
redis.call('HINCRBY', sizes, 'sum', size)
redis.call('ZADD', expiries, now + ttl, member)
redis.call('ZADD', expiries .. ':' .. tenant, redis.call('HINCRBY', sizes, 'sequence', 1), member)
redis.call('ZINCRBY', counts, 1, tenant)
redis.call('ZINCRBY', sums, size, tenant)
local victims = {}
local function evict(order)
  for rank = 0, redis.call('ZCARD', order) - 1 do
    local largest = redis.call('ZREVRANGE', order, rank, rank)[1]
    for _, oldest in ipairs(redis.call('ZRANGE', expiries .. ':' .. largest, 0, 1)) do
      if oldest ~= member then
        leave(oldest)
        victims[#victims + 1] = oldest
        return true
      end
    end
  end
  return false
end
while held() > most and (sweep() or evict(counts)) do end
while most_bytes >= 0 and n_bytes() > most_bytes and (sweep() or evict(sums)) do end
for _, key in ipairs({expiries, sizes, counts, sums, expiries .. ':' .. tenant}) do
  redis.call('PEXPIRE', key, ARGV[6])
end
return {held(), n_bytes(), victims}
""",
)
_LEAVE = Script("leave", _COMMON + "leave(ARGV[1])\nreturn {held(), n_bytes()}")
_LOOK = Script("look", _COMMON + "return {held(), n_bytes()}")


class Ledger:
    """The members of one kind; `holding` is that of the last look, by this server."""

    def __init__(
        self, connection: Connection, kind: str, *, ttl_ms: int, most: int, most_bytes: int = -1
    ) -> None:
        self._connection = connection
        self._keys = [
            connection.key(part, f"ledger-{kind}") for part in ("expiries", "sizes", "counts", "sums")
        ]
        self._ttl_ms = ttl_ms
        self._most = most
        self._most_bytes = most_bytes
        self.holding = Holding()

    async def enter(self, tenant: str, name: str, n_bytes: int = 0) -> list[tuple[str, str]]:
        """Count `name`, renewed; return the tenants and names that must go to make room for it."""
        answer = await self._connection.run(
            _ENTER,
            self._keys,
            f"{tenant}/{name}",
            n_bytes,
            self._ttl_ms,
            self._most,
            self._most_bytes,
            self._ttl_ms + _MARGIN_MS,
        )
        self._note(answer)
        return [_split(text_of(member)) for member in answer[2]]

    async def leave(self, tenant: str, name: str) -> None:
        """Count `name` no more."""
        self._note(await self._connection.run(_LEAVE, self._keys, f"{tenant}/{name}"))

    async def look(self) -> None:
        """See what is held now."""
        self._note(await self._connection.run(_LOOK, self._keys))

    def _note(self, answer: Any) -> None:
        self.holding = Holding(int(answer[0]), int(answer[1]))


def _split(member: str) -> tuple[str, str]:
    tenant, _, name = member.partition("/")
    return tenant, name
