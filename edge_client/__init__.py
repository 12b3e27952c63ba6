"""The edge: holds the full-resolution picture, sends as little of it as the answer needs.

Names are loaded on first use, so that `secondglance --help` does not wait for an HTTP library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_client.client import AsyncEdgeClient, EdgeClient
    from edge_client.errors import (
        BadImageError,
        BusyError,
        EdgeError,
        ExpiredError,
        NotAllowedError,
        ProtocolError,
        RefusedError,
        ServerUnavailableError,
        TimedOutError,
        UplinkBudgetError,
        UsageError,
    )
    from edge_client.hooks import Hooks
    from edge_client.receipt import Receipt, StageReceipt
    from edge_client.reply import Reply
    from edge_client.settings import EdgeSettings

__all__ = [
    "AsyncEdgeClient",
    "BadImageError",
    "BusyError",
    "EdgeClient",
    "EdgeError",
    "EdgeSettings",
    "ExpiredError",
    "Hooks",
    "NotAllowedError",
    "ProtocolError",
    "Receipt",
    "RefusedError",
    "Reply",
    "ServerUnavailableError",
    "StageReceipt",
    "TimedOutError",
    "UplinkBudgetError",
    "UsageError",
]

_HOMES = {
    "AsyncEdgeClient": "client",
    "EdgeClient": "client",
    "EdgeSettings": "settings",
    "Hooks": "hooks",
    "Receipt": "receipt",
    "Reply": "reply",
    "StageReceipt": "receipt",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
