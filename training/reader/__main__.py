"""`python -m training.reader`: makes the weights of the model that reads, from nothing, in one go.

Every stage keeps checkpoints under `--root` and goes on from there when the command is given again.
"""

from __future__ import annotations

import argparse
import pathlib

import torch

from training.reader import decoder_stage, dense_stage, export, joint_stage
from training.reader.render import TRAIN_SHARDS, UNREAD_SHARDS, render

STAGES = ("render", "decoder", "dense", "scales", "joint", "export")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.reader", description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("out/training-reader"))
    parser.add_argument(
        "--stage", choices=STAGES, action="append", help="only these; by default all, in order"
    )
    parser.add_argument("--shards", type=int, default=TRAIN_SHARDS, help="of 50 scenes each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--target", type=pathlib.Path, default=export.WEIGHTS)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.processes)
    for stage in options.stage or STAGES:
        run_stage(stage, options)


def run_stage(stage: str, options: argparse.Namespace) -> None:
    root: pathlib.Path = options.root
    scenes, unread = root / "scenes" / "train", root / "unread" / "train"
    if stage == "render":
        render(root / "scenes", "train", range(options.shards), processes=options.processes)
    elif stage == "decoder":
        decoder_stage.train(root, scenes)
    elif stage == "dense":
        render(root / "unread", "train", UNREAD_SHARDS, processes=options.processes, is_read=False)
        dense_stage.train(root, scenes, unread)
    elif stage == "scales":
        dense_stage.train_scales(root, scenes, unread)
    elif stage == "joint":
        joint_stage.train(root, scenes)
    else:
        print({"bytes": export.export(root, options.target), "folder": str(options.target)})


if __name__ == "__main__":
    main()
