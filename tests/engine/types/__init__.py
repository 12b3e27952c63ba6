"""One row for each model type: a tiny random configuration and the stock processor that belongs to it."""

from __future__ import annotations

import importlib
from typing import Any

MODULES = ("squares", "free", "merged", "tiles", "answering", "indexed", "older", "with_torchvision")


def all_rows() -> dict[str, Any]:
    """Return every row by its model type."""
    rows: dict[str, Any] = {}
    for name in MODULES:
        module = importlib.import_module(f"{__name__}.{name}")
        rows |= module.ROWS | getattr(module, "ANSWERING", {}) | getattr(module, "UNSERVED", {})
    return rows
