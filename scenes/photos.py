"""Held-out scenes as the photos that an edge would hold, rendered ahead of who asks about them."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Iterator, Sequence

from scenes.generator import Scene, encode_jpeg, make_scene, render


def original_of(seed: int) -> tuple[Scene, bytes]:
    """The held-out scene of that seed and its JPEG."""
    scene = make_scene(seed, split="test")
    return scene, encode_jpeg(render(scene), scene.jpeg_quality)


def originals(seeds: Sequence[int], workers: int) -> Iterator[tuple[Scene, bytes]]:
    """Rendered ahead in other processes, in order."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(original_of, seeds, chunksize=4)
