"""What each key uses of the whole fleet: token buckets and requests at a time, in Redis.

Bytes are gathered in this process and told to Redis within a twentieth of a second and with the key's next
request, not one by one as they arrive. A key without quotas costs nothing. The library `limits` counts
requests in windows and knows no debt, so these are buckets of our own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from secondglance_server.errors import ProblemError
from secondglance_server.inference.stores.quotas import too_many_at_a_time, too_many_bytes, too_many_requests
from secondglance_server.inference.stores.redis.connection import NOW, Connection, Script, text_of
from secondglance_server.keys import ApiKey
from secondglance_server.settings import ServerSettings

_TELL_AFTER_S: Final = 0.05
_MARGIN_S: Final = 5.0  # of a request's place over the longest that a request may take

# KEYS: buckets, requests at a time. `held` is below zero where bytes are owed.
_BUCKETS = (
    NOW
    + """
local function level(name, per_min)
  local was = redis.call('HMGET', KEYS[1], name, name .. ':at')
  local held, at = tonumber(was[1] or per_min), tonumber(was[2] or now)
  return math.min(per_min, held + (now - at) * per_min / 60000)
end
local function keep(name, per_min, held)
  redis.call('HSET', KEYS[1], name, string.format('%.3f', held), name .. ':at', now)
  local full_in = math.ceil((per_min - held) / per_min * 60000) + 1000
  if redis.call('PTTL', KEYS[1]) < full_in then redis.call('PEXPIRE', KEYS[1], full_in) end
end
local function wait(per_min, held) return math.ceil((1 - held) / per_min * 60000) end
"""
)
# ARGV: bytes a minute, bytes to charge
_CHARGE = Script(
    "charge",
    _BUCKETS
    + """
local per_min = tonumber(ARGV[1])
keep('bytes', per_min, level('bytes', per_min) - ARGV[2])
return 1
""",
)
# ARGV: bytes a minute, bytes to charge, requests a minute, requests at a time, owner, its milliseconds
_BEGIN = Script(
    "begin_request",
    _BUCKETS
    + """
local bytes_per_min, requests_per_min, at_a_time = tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4])
local bytes = 1
if bytes_per_min > 0 then
  bytes = level('bytes', bytes_per_min) - ARGV[2]
  keep('bytes', bytes_per_min, bytes)
end
if at_a_time > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local is_there = redis.call('ZSCORE', KEYS[2], ARGV[5])
  if not is_there and redis.call('ZCARD', KEYS[2]) >= at_a_time then return {'at_a_time', 0} end
end
if bytes < 1 then return {'bytes', wait(bytes_per_min, bytes)} end
if requests_per_min > 0 then
  local requests = level('requests', requests_per_min)
  if requests < 1 then return {'requests', wait(requests_per_min, requests)} end
  keep('requests', requests_per_min, requests - 1)
end
if at_a_time > 0 then
  redis.call('ZADD', KEYS[2], now + ARGV[6], ARGV[5])
  if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[6]) then redis.call('PEXPIRE', KEYS[2], ARGV[6]) end
end
return {'ok', 0}
""",
)
_END = Script("end_request", "return redis.call('ZREM', KEYS[2], ARGV[1])")


class RedisQuotaStore:
    """The use of each key by all servers."""

    def __init__(self, connection: Connection, settings: ServerSettings) -> None:
        self._connection = connection
        longest_s = settings.body_timeout_s + settings.inference_deadline_s + _MARGIN_S
        self._place_ms = round(1000 * longest_s)  # a dead server's requests give their places back then
        self._untold: Counter[ApiKey] = Counter()
        self._telling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def request(self, key: ApiKey) -> AsyncIterator[None]:
        if not (key.requests_per_min or key.bytes_per_min or key.max_concurrent):
            yield
            return
        owner = secrets.token_urlsafe(9)
        try:
            await self._begin(key, owner)
            yield
        finally:
            if key.max_concurrent:
                with suppress(ProblemError):  # the place ends by itself
                    await asyncio.shield(self._connection.run(_END, _keys(self._connection, key), owner))

    async def _begin(self, key: ApiKey, owner: str) -> None:
        owed = self._untold.pop(key, 0)
        try:
            why, wait_ms = await self._connection.run(
                _BEGIN,
                _keys(self._connection, key),
                key.bytes_per_min or 0,
                owed,
                key.requests_per_min or 0,
                key.max_concurrent or 0,
                owner,
                self._place_ms,
            )
        except BaseException:
            self._untold[key] += owed
            raise
        match text_of(why):
            case "at_a_time":
                raise too_many_at_a_time(key)
            case "bytes":
                raise too_many_bytes(wait_ms / 1000)
            case "requests":
                raise too_many_requests(wait_ms / 1000)

    def charge(self, key: ApiKey, n_bytes: int) -> None:
        if not key.bytes_per_min or n_bytes == 0:
            return
        is_due = key in self._untold
        self._untold[key] += n_bytes
        if not is_due:
            telling = asyncio.create_task(self._tell(key))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def tell(self) -> None:
        """Tell Redis of all bytes that it does not know of. Raises ProblemError."""
        for key in list(self._untold):
            await self._charge(key)

    async def _tell(self, key: ApiKey) -> None:
        await asyncio.sleep(_TELL_AFTER_S)
        with suppress(ProblemError):  # told with the next request, or when Redis is back
            await self._charge(key)

    async def _charge(self, key: ApiKey) -> None:
        if owed := self._untold.pop(key, 0):
            try:
                await self._connection.run(
                    _CHARGE, _keys(self._connection, key), key.bytes_per_min or 0, owed
                )
            except BaseException:
                self._untold[key] += owed
                raise


def _keys(connection: Connection, key: ApiKey) -> list[str]:
    tag = key.sha256[:32]
    return [connection.key("quota", tag), connection.key("running", tag)]
