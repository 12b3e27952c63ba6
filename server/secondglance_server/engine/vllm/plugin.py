"""The entry point of vLLM's `general_plugins`, which each process of vLLM calls at its start."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading


def register() -> None:
    """Register the embedded model's tower with transformers, and let no process of vLLM outlive its parent.

    vLLM's scheduler does not notice a server that was killed; it would hold the device's memory for ever.
    """
    import secondglance_server.engine.embedded.tower  # noqa: F401  # registers on import

    parent = multiprocessing.parent_process()
    if parent is not None:  # None: this is the server itself
        threading.Thread(target=_end_after, args=(parent.sentinel,), name="parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
