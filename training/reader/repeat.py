"""`make train-repeat`: the first steps of each stage twice, from nothing; fails where anything differs.

Takes the scenes that `python -m training.reader` rendered. Whoever changes a stage runs it.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys

import torch

from training.reader.stages import decoder, dense, joint
from training.reader.stages.order import threads_of_branch

STAGES = {  # stage: its module in the checkpoint
    "decoder": "model",
    "dense": "dense",
    "scales": "scales",
    "joint": "model",
}
Result = tuple[list[float], dict[str, torch.Tensor]]


def run(root: pathlib.Path, scenes: pathlib.Path, steps: int, processes: int) -> dict[str, Result]:
    """Return each stage's losses as logged and its weights after `steps`."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    torch.set_num_threads(threads_of_branch(processes))
    decoder.train(root, scenes, until=steps)
    dense.train(root, scenes, until=steps)
    torch.set_num_threads(processes)
    dense.train_scales(root, scenes, until=steps)
    joint.train(root, scenes, until=steps, processes=processes)
    rows = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    results = {}
    for stage, module in STAGES.items():
        losses = [row["loss"] for row in rows if row["stage"] == stage and "loss" in row]
        results[stage] = losses, torch.load(root / f"{stage}.pt", weights_only=True)[module]
    return results


def difference(first: Result, second: Result) -> float:
    """Return the largest difference between the losses and between the weights of both runs."""
    pairs = [*zip(first[0], second[0], strict=True)]
    weights = [float((first[1][name] - second[1][name]).abs().max()) for name in first[1]]
    return max(*(abs(a - b) for a, b in pairs), *weights)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.reader.repeat", description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("out/training-reader"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    scenes = options.root / "scenes" / "train"
    first, second = (
        run(options.root / f"repeat-{k}", scenes, options.steps, options.processes) for k in (1, 2)
    )
    differences = {stage: difference(first[stage], second[stage]) for stage in STAGES}
    for stage, found in differences.items():
        print(f"{stage}: losses {first[stage][0]} and {second[stage][0]}, largest difference {found}")
    print(json.dumps({"steps": options.steps, "largest_difference": differences}))
    return 1 if any(differences.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
