"""Everything an operator may set about the gateway; flags win over SECONDGLANCE_EDGE_GATEWAY_*.

The server behind it, its key, qualities and timeouts are the edge's own settings (`EdgeSettings`).
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from secondglance.errors import UsageError
from secondglance.settings import GATEWAY_PREFIX as ENV_PREFIX
from secondglance.settings import refuse_misspelt


class GatewaySettings(BaseSettings):
    """Frozen. Lists in the environment are JSON: SECONDGLANCE_EDGE_GATEWAY_ALLOWED_HOSTS='["a.example"]'."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    host: str = "127.0.0.1"  # the address to listen on; others than loopback need a key
    port: int = Field(default=8001, ge=0, le=65535)  # 0 picks a free one
    api_key: SecretStr | None = Field(default=None, min_length=1)  # None: any key will do, on loopback
    model_names: tuple[str, ...] = ()  # what apps may call the server's model besides its own name
    system: Literal["ignore", "prepend"] = "ignore"  # what becomes of system messages
    max_rounds: PositiveInt = 1  # regions of a question, for requests that do not say
    max_uplink_bytes: PositiveInt | None = None  # of a question, for requests that do not say; None: no limit

    allowed_hosts: tuple[str, ...] = ()  # pictures are fetched from these: HOST or HOST:PORT
    allow_private: bool = False  # a name in `allowed_hosts` may lead to a private address
    max_fetch_bytes: PositiveInt = 32 * 1024 * 1024  # of a fetched picture
    fetch_timeout_s: PositiveFloat = 30.0  # for a fetched picture, redirects included

    max_body_bytes: PositiveInt = 48 * 1024 * 1024  # base64 makes a third more of a picture
    body_timeout_s: PositiveFloat = 60.0  # for the body of a request
    max_requests: PositiveInt = 8  # in work at once; each may hold a body
    max_waiting: int = Field(default=64, ge=0)  # requests that wait for a place in work; then 429
    max_wait_s: PositiveFloat = 30.0  # for a place in work
    max_files_bytes: PositiveInt = 256 * 1024 * 1024  # uploads kept in memory; the oldest go first

    @property
    def is_on_loopback(self) -> bool:
        """Whether only programs of this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _others_need_a_key(self) -> Self:
        if self.api_key is None and not self.is_on_loopback:
            raise ValueError(f"listening on {self.host} needs a key: set {ENV_PREFIX}API_KEY")
        return self


def load_gateway_settings(**overrides: Any) -> GatewaySettings:
    """Settings from the environment; `overrides` that are not None win. Raises UsageError."""
    given = {name: value for name, value in overrides.items() if value is not None}
    refuse_misspelt(GatewaySettings, os.environ)
    try:
        return GatewaySettings(**given)
    except ValidationError as exc:
        raise UsageError("; ".join(_complaint(error) for error in exc.errors(include_url=False))) from exc


def _complaint(error: Any) -> str:
    if not error["loc"]:
        return str(error["msg"])
    name = ".".join(str(part) for part in error["loc"])
    shown = "***" if "key" in name else repr(error["input"])
    return f"{ENV_PREFIX}{name.upper()}={shown}: {error['msg']}"
