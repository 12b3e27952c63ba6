"""The held-out scenes' photos, rendered ahead of the benchmark that asks about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scenes.generator import Scene
from scenes.photos import original_of
from secondglance_server.engine import processes


def originals(seeds: Sequence[int], workers: int) -> Iterator[tuple[Scene, bytes]]:
    """Rendered in other processes, in order."""
    with processes.pool(workers) as pool:
        yield from pool.map(original_of, seeds, chunksize=4)
