"""The edge: holds the full-resolution picture, sends as little of it as the answer needs.

Names are loaded on first use, so that `secondglance --help` does not wait for an HTTP library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from secondglance.client import AsyncEdgeClient, EdgeClient
    from secondglance.conversation.hooks import Hooks
    from secondglance.conversation.steps import Token
    from secondglance.errors import (
        BadImageError,
        BusyError,
        EdgeError,
        ExpiredError,
        MissingExtraError,
        NotAllowedError,
        ProtocolError,
        RefusedError,
        ServerUnavailableError,
        TimedOutError,
        UplinkBudgetError,
        UsageError,
    )
    from secondglance.reply import Receipt, Reply, StageReceipt
    from secondglance.settings import EdgeSettings

__all__ = [
    "AsyncEdgeClient",
    "BadImageError",
    "BusyError",
    "EdgeClient",
    "EdgeError",
    "EdgeSettings",
    "ExpiredError",
    "Hooks",
    "MissingExtraError",
    "NotAllowedError",
    "ProtocolError",
    "Receipt",
    "RefusedError",
    "Reply",
    "ServerUnavailableError",
    "StageReceipt",
    "TimedOutError",
    "Token",
    "UplinkBudgetError",
    "UsageError",
    "__version__",
]

_HOMES = {
    "AsyncEdgeClient": "client",
    "EdgeClient": "client",
    "EdgeSettings": "settings",
    "Hooks": "conversation.hooks",
    "Receipt": "reply",
    "Reply": "reply",
    "StageReceipt": "reply",
    "Token": "conversation.steps",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # 20 ms of processor time, which `--help` does not need

        return version("second-glance")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
