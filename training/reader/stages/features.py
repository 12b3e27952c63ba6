"""What the dense grid sees of every view, seen once and stored: it is frozen when the joint stage begins.

The joint stage takes them in place of pixels, which would cost it as much as the decoder. 20 MB a shard.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence

import numpy as np
import torch

from secondglance_server.engine.reader.tower import ReaderTower, ReaderTowerConfig
from training.journal import load_checkpoint
from training.reader.drawing.views import padded_pixels
from training.reader.model import Features, packed, pixel_values
from training.reader.records import read_shard
from training.reader.render import spread

_AT_ONCE = 10  # views


def load_dense_grid(root: pathlib.Path, tower: ReaderTower) -> None:
    """Load what the stages `dense` and `scales` have learnt."""
    load_checkpoint(root / "dense.pt", {"dense": tower.dense})
    load_checkpoint(root / "scales.pt", {"scales": tower.scales})


def store_features(root: pathlib.Path, scenes: pathlib.Path, *, processes: int) -> None:
    """Store what is missing under `root`."""
    folder = root / "features"
    folder.mkdir(exist_ok=True)
    missing = [path for path in _shards(scenes) if not _stored(folder, path).exists()]
    spread(functools.partial(_store, root, folder), missing, processes)


def load_features(root: pathlib.Path, scenes: pathlib.Path) -> list[Features]:
    """Return the stored features of all views, in order, mapped from disk."""
    parts = (np.load(_stored(root / "features", path), mmap_mode="r") for path in _shards(scenes))
    return [row for part in parts for row in part]


def _shards(scenes: pathlib.Path) -> list[pathlib.Path]:
    return sorted(scenes.glob("*.jsonl.gz"))


def _stored(folder: pathlib.Path, shard: pathlib.Path) -> pathlib.Path:
    return folder / f"{shard.name}.npy"


@torch.inference_mode()
def _store(root: pathlib.Path, folder: pathlib.Path, shards: Sequence[pathlib.Path]) -> None:
    torch.set_num_threads(1)
    tower = ReaderTower(ReaderTowerConfig()).eval()
    load_dense_grid(root, tower)
    for path in shards:
        pixels = [padded_pixels(view) for record in read_shard(path) for view in record.views]
        parts = [
            packed(tower.see(pixel_values(pixels[first : first + _AT_ONCE])))
            for first in range(0, len(pixels), _AT_ONCE)
        ]
        part = folder / f"{path.name}.part.npy"
        np.save(part, np.concatenate(parts).astype(np.float16))
        part.replace(_stored(folder, path))
