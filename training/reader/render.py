"""The first stage: draws scenes, reads them with the frozen reader and keeps the records.

The dense net needs no text, so it also gets scenes that nobody reads: 3 seconds a shard in place of 25.
"""

from __future__ import annotations

import multiprocessing
import pathlib
import time
from collections.abc import Sequence

from scenes.fonts import Split
from secondglance_server.engine.reader.ocr import TextReader
from training.reader.records import render_shard, shard_path

TRAIN_SHARDS = 320
UNREAD_SHARDS = range(2000, 2180)  # other scenes than those that are read


def render(
    root: pathlib.Path, split: Split, shards: Sequence[int], *, processes: int = 2, is_read: bool = True
) -> None:
    """Make the shards that are missing; with `is_read` off their views have no lines."""
    missing = [number for number in shards if not shard_path(root, split, number).exists()]
    if processes == 1 or len(missing) < 2:
        _work(root, split, missing, is_read)
        return
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=_work, args=(root, split, missing[start::processes], is_read))
        for start in range(processes)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise RuntimeError(f"rendering stopped with exit code {job.exitcode}")


def _work(root: pathlib.Path, split: Split, shards: Sequence[int], is_read: bool) -> None:
    reader = TextReader(threads=1) if is_read else None
    for number in shards:
        started = time.monotonic()
        render_shard(root, split, number, reader)
        print(f"render {split} {number}: {time.monotonic() - started:.0f} s", flush=True)
