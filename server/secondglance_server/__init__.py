"""The server: answers questions about pictures, and asks the edge for a region when its model is unsure.

Names are loaded on first use, so that the command line's help does not wait for a web framework.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secondglance_server.app import create_app
    from secondglance_server.settings import ServerSettings, load_settings

__version__ = version("second-glance-server")
__all__ = ["ServerSettings", "__version__", "create_app", "load_settings"]

_HOMES = {"ServerSettings": "settings", "create_app": "app", "load_settings": "settings"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
