"""All stores of a server that shares one Redis with others."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis

from secondglance_server.inference.stores.protocol import Stores
from secondglance_server.inference.stores.redis.connection import SCHEMA, Connection, Observe, client_of
from secondglance_server.inference.stores.redis.images import Pictures, RedisImageStore
from secondglance_server.inference.stores.redis.leases import Leases
from secondglance_server.inference.stores.redis.quotas import RedisQuotaStore
from secondglance_server.inference.stores.redis.replies import RedisReplyStore
from secondglance_server.inference.stores.redis.sessions import RedisSessionStore
from secondglance_server.settings import ServerSettings


def redis_stores(
    settings: ServerSettings, observe: Observe, *, client: Redis | None = None, schema: int = SCHEMA
) -> Stores:
    """Return stores that have not connected yet, with `client` or one of the settings' URL.

    Raises ValueError for a URL that cannot be one.
    """
    connection = Connection(client or client_of(settings.sessions), observe, schema=schema)
    leases = Leases(connection, settings.inference_deadline_s)
    pictures = Pictures(connection)
    sessions = RedisSessionStore(connection, leases, pictures, settings)
    images = RedisImageStore(connection, pictures, settings)
    replies = RedisReplyStore(connection, leases, settings)
    quotas = RedisQuotaStore(connection, settings)

    async def check() -> None:
        await asyncio.gather(sessions.ledger.look(), images.ledger.look(), replies.ledger.look())
        await leases.tend()
        await quotas.tell()

    return Stores(
        sessions=sessions,
        images=images,
        replies=replies,
        quotas=quotas,
        is_shared=True,
        check=check,
        close=connection.close,
    )
