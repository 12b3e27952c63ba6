"""Processes that end with the one that started them, even where that one is killed.

Used by vLLM's plugin, by the evaluation and the benchmarks (pictures rendered ahead) and by training.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess


def pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Return a pool of fresh interpreters; None: one for each processor."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)


def start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """Call `work` in a fresh interpreter."""
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(work, *arguments))
    process.start()
    return process


def end_with_parent() -> None:
    """Let this process end when the one that started it has ended; the first of all stays."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), name="parent", daemon=True).start()


def _work(work: Callable[..., None], *arguments: object) -> None:
    end_with_parent()
    work(*arguments)


def _end_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
