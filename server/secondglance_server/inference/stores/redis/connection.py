"""One Redis and how it is spoken to: names of keys, scripts, bounded waiting, failures as problems.

Keys hold the version of what is stored, so that servers of two versions can share one Redis, and a hash tag,
so that all keys of one script lie on one node of a cluster. Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, RedisError

from secondglance_server.errors import ProblemError, busy, not_ready

SCHEMA: Final = 1  # of what is stored; another number where an older server could not read it
TIMEOUT_S: Final = 1.0  # for a connection, and for an answer
_PATIENCE_S: Final = 2.5  # for one verb's script, waiting for a free connection and one more try included
_MAX_CONNECTIONS: Final = 64

AWAY: Final = "the store of inferences does not answer"

# The milliseconds of Redis' own clock: the servers' clocks may differ.
NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

Observe = Callable[[str, str, float], None]  # verb, outcome, seconds


def client_of(url: str) -> Redis:
    """Return a client that has not connected yet. Raises ValueError for a URL that cannot be one."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_MAX_CONNECTIONS,
        timeout=TIMEOUT_S,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        # A connection that broke while it was idle, as after a restart. Scripts may run twice.
        retry=Retry(NoBackoff(), 1),
        retry_on_error=[RedisConnectionError],
    )
    return Redis.from_pool(pool)


class Script:
    """A Lua script and the verb by which metrics name it."""

    def __init__(self, verb: str, text: str) -> None:
        self.verb = verb
        self.text = text


class Connection:
    """Runs scripts; each either is done within some seconds or raises a problem.

    `observe` is told of each with its outcome `ok`, `away` or `full`.
    """

    def __init__(self, client: Redis, observe: Observe, *, schema: int = SCHEMA) -> None:
        self._client = client
        self._observe = observe
        self._schema = schema
        self._scripts: dict[str, Any] = {}  # by text, as the client registered them

    def key(self, kind: str, tag: str) -> str:
        """Return the key of what is stored as `kind` under `tag`; keys of one tag lie on one node."""
        return f"sg{self._schema}:{kind}:{{{tag}}}"

    async def run(self, script: Script, keys: Sequence[str], *args: bytes | str | float) -> Any:
        """Return what the script returns. Raises ProblemError NOT_READY or BUSY."""
        if script.text not in self._scripts:
            self._scripts[script.text] = self._client.register_script(script.text)
        began, outcome = time.perf_counter(), "away"
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await self._scripts[script.text](keys=keys, args=args)
            outcome = "ok"
        except OutOfMemoryError:
            outcome = "full"
            raise busy("the store of inferences is full") from None
        except (RedisError, OSError, TimeoutError) as exc:
            raise store_away() from exc
        finally:
            self._observe(script.verb, outcome, time.perf_counter() - began)
        return answer

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()


def store_away() -> ProblemError:
    """Return the problem of a Redis that does not answer in time, or not as it should."""
    return not_ready(AWAY)


def text_of(answer: bytes | str) -> str:
    """Return what a script returned, as text."""
    return answer.decode() if isinstance(answer, bytes) else answer
