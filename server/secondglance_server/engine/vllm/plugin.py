"""The entry point of vLLM's `general_plugins`: every process of vLLM learns our vision towers."""

from __future__ import annotations


def register() -> None:
    """Register the embedded model's tower with transformers, from which vLLM builds it."""
    import secondglance_server.engine.embedded.tower  # noqa: F401  # registers on import
