"""API keys as the settings hold them: a hash, a tenant and what the key may do; never the key itself.

A key is 32 random bytes, so a plain SHA-256 of it cannot be turned back; a password chosen by a person could,
and does not belong here. Knows nothing of HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

_KEY_PREFIX = "sg_"  # so that scanners for leaked secrets can know one


class ApiKey(BaseModel):
    """One entry of `SECONDGLANCE_SERVER_KEYS`; a tenant may have several, to change its key without a gap.

    `scope`: "ask" is the API, "metrics" is `/metrics` and nothing else. Quotas hold for this key; None: none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    scope: Literal["ask", "metrics"] = "ask"
    requests_per_min: PositiveInt | None = None
    bytes_per_min: PositiveInt | None = None  # of request bodies
    max_concurrent: PositiveInt | None = None


def new_key() -> str:
    """A key to hand to a client."""
    return _KEY_PREFIX + secrets.token_urlsafe(32)


def hash_key(key: str) -> str:
    """What the settings keep of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def find_key(keys: Sequence[ApiKey], given: str) -> ApiKey | None:
    """The entry that `given` belongs to; all are compared, in constant time, so the time tells nothing."""
    digest = hash_key(given)
    matches = [key for key in keys if hmac.compare_digest(key.sha256, digest)]
    return matches[0] if matches else None
