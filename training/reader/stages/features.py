"""What the dense grid sees of every view, seen once and stored: it is frozen when the joint stage begins.

The joint stage takes them in place of pixels, which would cost it as much as the decoder. 20 MB a shard.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secondglance_server.engine.reader.tower import (
    CLASSES,
    COARSE,
    FINE,
    ReaderTower,
    ReaderTowerConfig,
    Seen,
)
from training.journal import load_checkpoint
from training.reader.drawing.views import padded_pixels
from training.reader.records import read_shard
from training.reader.render import spread

_AT_ONCE = 10  # views

Features = NDArray[np.float16] | NDArray[np.float32]  # [values] of one view: all maps of `Seen`, flattened


def packed(seen: Seen) -> NDArray[np.float32]:
    """Return [B, values]."""
    return torch.cat([maps.flatten(1) for maps in seen], dim=1).numpy()


def unpacked(rows: Sequence[Features]) -> Seen:
    config = ReaderTowerConfig()
    coarse = config.coarse_channels
    shapes = (
        (config.fine_channels, FINE, FINE), (CLASSES, FINE, FINE), (coarse, COARSE, COARSE),
        (CLASSES, COARSE, COARSE), (coarse, COARSE, COARSE),
    )  # fmt: skip
    values = torch.from_numpy(np.stack(rows)).float()
    parts = values.split([math.prod(shape) for shape in shapes], dim=1)
    return Seen(*(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)))


def pixel_values(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Return [B, 3, 384, 384] in [-1, 1]."""
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_dense_grid(root: pathlib.Path, tower: ReaderTower) -> None:
    """Load what the stages `dense` and `scales` have learnt."""
    load_checkpoint(root / "dense.pt", {"dense": tower.dense})
    load_checkpoint(root / "scales.pt", {"scales": tower.scales})


def store_features(root: pathlib.Path, scenes: pathlib.Path, *, processes: int = 2) -> list[Features]:
    """Store what is missing under `root`; return the features of all views, in order, mapped from disk."""
    folder = root / "features"
    folder.mkdir(exist_ok=True)
    shards = {path: folder / f"{path.name}.npy" for path in sorted(scenes.glob("*.jsonl.gz"))}
    missing = [path for path, stored in shards.items() if not stored.exists()]
    spread(functools.partial(_store, root, folder), missing, processes)
    return [row for stored in shards.values() for row in np.load(stored, mmap_mode="r")]


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
        part.replace(folder / f"{path.name}.npy")
