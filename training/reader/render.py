"""The first stage: draws scenes, reads them with the frozen reader and keeps the records."""

from __future__ import annotations

import multiprocessing
import pathlib
import time
from collections.abc import Sequence

from scenes.fonts import Split
from secondglance_server.engine.reader.ocr import TextReader
from training.reader.records import render_shard, shard_path

TRAIN_SHARDS = 320


def render(root: pathlib.Path, split: Split, shards: Sequence[int], *, processes: int = 2) -> None:
    """Make the shards that are missing."""
    missing = [number for number in shards if not shard_path(root, split, number).exists()]
    if processes == 1 or len(missing) < 2:
        _work(root, split, missing)
        return
    context = multiprocessing.get_context("spawn")
    jobs = [
        context.Process(target=_work, args=(root, split, missing[start::processes]))
        for start in range(processes)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
        if job.exitcode:
            raise RuntimeError(f"rendering stopped with exit code {job.exitcode}")


def _work(root: pathlib.Path, split: Split, shards: Sequence[int]) -> None:
    reader = TextReader(threads=1)
    for number in shards:
        started = time.monotonic()
        render_shard(root, split, number, reader)
        print(f"render {split} {number}: {time.monotonic() - started:.0f} s", flush=True)
