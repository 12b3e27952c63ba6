"""What the routes of one gateway share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from secondglance.client import AsyncEdgeClient
from secondglance.gateway.errors import ApiError
from secondglance.gateway.files import FileStore
from secondglance.gateway.settings import GatewaySettings
from secondglance.wire.remote import RemotePictures
from secondglance_protocol.wire import ModelResponse

ALIAS = "second-glance"
"""A name that every gateway's model has, for apps that need to be told one."""


@dataclass(frozen=True, slots=True)
class GatewayServices:
    """`client` asks the server; it is closed with the gateway."""

    settings: GatewaySettings
    client: AsyncEdgeClient
    files: FileStore
    remote: RemotePictures
    started_at: int = field(default_factory=lambda: int(time.time()))

    def model_names(self, model: ModelResponse) -> tuple[str, ...]:
        """The server's own name first."""
        return tuple(dict.fromkeys((model.name, ALIAS, *self.settings.model_names)))

    def check_model(self, name: str, model: ModelResponse) -> None:
        """Raises ApiError for a model that is not the server's."""
        names = self.model_names(model)
        if name not in names:
            known = ", ".join(names)
            raise ApiError(404, f"no model {name[:128]!r} here; there is {known}", "model_not_found", "model")

    def model_object(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started_at, "owned_by": ALIAS}
