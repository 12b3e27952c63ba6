"""The first stage: draws scenes, reads them with the frozen reader and keeps the records.

The dense net needs no text, so it also gets scenes that nobody reads: 3 seconds a shard in place of 25.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from scenes.fonts import Split
from secondglance_server.engine.processes import start
from secondglance_server.engine.reader.ocr import TextReader
from training.reader.records import render_shard, shard_path

TRAIN_SHARDS = 240
UNREAD_SHARDS = range(2000, 2250)  # other scenes than those that are read
Item = TypeVar("Item")


def render(
    root: pathlib.Path, split: Split, shards: Sequence[int], *, processes: int = 2, is_read: bool = True
) -> None:
    """Make the shards that are missing; with `is_read` off their views have no lines."""
    missing = [number for number in shards if not shard_path(root, split, number).exists()]
    spread(functools.partial(_work, root, split, is_read), missing, processes)


def spread(work: Callable[[Sequence[Item]], None], items: Sequence[Item], processes: int) -> None:
    """Give each process its share of the items; one alone works here. RuntimeError where one fails."""
    if processes == 1 or len(items) < 2:
        work(items)
        return
    jobs = [start(work, items[first::processes]) for first in range(min(processes, len(items)))]
    for job in jobs:
        job.join()
        if job.exitcode:
            raise RuntimeError(f"a process stopped with exit code {job.exitcode}")


def _work(root: pathlib.Path, split: Split, is_read: bool, shards: Sequence[int]) -> None:
    reader = TextReader(threads=1) if is_read else None
    for number in shards:
        started = time.monotonic()
        render_shard(root, split, number, reader)
        print(f"render {split} {number}: {time.monotonic() - started:.0f} s", flush=True)
