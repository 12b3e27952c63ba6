"""The entry point of vLLM's `general_plugins`, which each process of vLLM calls at its start."""

from __future__ import annotations

from secondglance_server.engine.processes import end_with_parent


def register() -> None:
    """Register the embedded model's tower with transformers, and let no process of vLLM outlive its parent.

    vLLM's scheduler does not notice a server that was killed; it would hold the device's memory for ever.
    """
    import secondglance_server.engine.embedded.tower  # noqa: F401  # registers on import

    end_with_parent()
