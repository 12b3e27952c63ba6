"""Which failures pass by themselves: it is the link or the server that is away, not the picture at fault."""

from __future__ import annotations

import random
from dataclasses import replace

from secondglance.errors import EdgeError, ServerUnavailableError
from secondglance.retry import RetryPolicy
from secondglance_protocol.errors import ErrorCode

_LATER = {ErrorCode.BUSY, ErrorCode.NOT_READY, ErrorCode.RATE_LIMITED, ErrorCode.IDEMPOTENCY_IN_PROGRESS}
_DOUBLINGS = 16  # by then every wait is the longest


def will_pass(error: EdgeError) -> bool:
    """Whether the same question is worth asking once the server is back or has room.

    False for what the server says of this very picture or question, a failing model included.
    """
    if error.code is not None:
        return error.code in _LATER
    return isinstance(error, ServerUnavailableError)


def wait_s(policy: RetryPolicy, failures: int) -> float:
    """Seconds before the next attempt after so many in a row: the policy's waits, without its limit."""
    wait = replace(policy, retries=_DOUBLINGS + 1).wait_s(min(failures, _DOUBLINGS), None, random.random)
    assert wait is not None, "fewer failures than retries"
    return wait
