"""Renders the training and held-out views into shards, on every core; what is there already is kept."""

from __future__ import annotations

import concurrent.futures
import pathlib
import time

from secondglance_server.engine import processes
from training.pictures import pairs, views

TOWER_SHARDS, PAIR_SHARDS = 12, 71
VIEWS_IN_SHARD, SCENES_IN_SHARD = 1000, 500


def _render(kind: str, path: pathlib.Path, seeds: range) -> str:
    if kind == "pairs":
        pairs.write_shard(path, seeds)
    else:
        views.write_shard(path, getattr(views, kind), seeds)
    return path.name


def render_all(root: pathlib.Path) -> None:
    """`tower/`, `tower_eval/` and `pairs/` under `root`."""
    jobs = [
        ("held_out_collage", root / "tower_eval" / "0_collage.npz", range(100)),
        ("held_out_crop", root / "tower_eval" / "1_crop.npz", range(200)),
        ("held_out_global", root / "tower_eval" / "2_global.npz", range(200)),
    ]
    for shard in range(TOWER_SHARDS):
        seeds = range(shard * VIEWS_IN_SHARD, (shard + 1) * VIEWS_IN_SHARD)
        jobs.append(("tower_example", root / "tower" / f"{shard:03d}.npz", seeds))
    for shard in range(PAIR_SHARDS):
        seeds = range(shard * SCENES_IN_SHARD, (shard + 1) * SCENES_IN_SHARD)
        jobs.append(("pairs", root / "pairs" / f"{shard:03d}.npz", seeds))
    missing = [job for job in jobs if not job[1].exists()]
    for _kind, path, _seeds in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with processes.pool() as pool:
        futures = [pool.submit(_render, *job) for job in missing]
        for done, future in enumerate(concurrent.futures.as_completed(futures), start=1):
            eta = (time.monotonic() - started) / done * (len(missing) - done)
            print(f"rendered {future.result()} ({done}/{len(missing)}), eta {eta / 60:.1f} min", flush=True)
