"""The model families that this server can run: every module here that defines an adapter, found by looking.

A family is one file; nothing else names it. `docs/adding-a-model.md` says how to write one.
"""

from __future__ import annotations

import importlib
import pkgutil

from secondglance_server.engine.adapters.base import TransformersAdapter


def discover() -> dict[str, type[TransformersAdapter]]:
    """Adapter classes by the `model_type` they serve."""
    found: dict[str, type[TransformersAdapter]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, TransformersAdapter):
                found.update(dict.fromkeys(value.model_types, value))
    return dict(sorted(found.items()))
