"""The stages in order, for `__main__`: two branches side by side, then what needs both."""

from __future__ import annotations

import argparse
import itertools
import pathlib
from collections.abc import Sequence

import torch

from training.reader import export
from training.reader.render import UNREAD_SHARDS, render
from training.reader.stages import decoder, dense, joint

BRANCHES = ("render", "decoder"), ("unread", "dense")  # neither needs the other
REST = "scales", "joint", "export"
STAGES = (*BRANCHES[0], *BRANCHES[1], *REST)


def threads_of_branch(processes: int) -> int:
    """How many each branch gets; the decoder's sums vary with more than one."""
    return max(processes // 2, 1)


def run_stages(options: argparse.Namespace, processes: int, branches: Sequence[Sequence[str]]) -> None:
    torch.set_num_threads(processes)
    for stage in itertools.chain(*branches):
        run_stage(stage, options, processes)


def run_stage(stage: str, options: argparse.Namespace, processes: int) -> None:
    root: pathlib.Path = options.root
    scenes, unread = root / "scenes", root / "unread"
    if stage == "render":
        render(scenes, "train", range(options.shards), processes=processes)
    elif stage == "decoder":
        decoder.train(root, scenes / "train")
    elif stage == "unread":
        render(unread, "train", UNREAD_SHARDS, processes=processes, is_read=False)
    elif stage == "dense":
        dense.train(root, unread / "train")
    elif stage == "scales":
        dense.train_scales(root, unread / "train")
    elif stage == "joint":
        joint.train(root, scenes / "train", processes=processes)
    else:
        print({"bytes": export.export(root, options.target), "folder": str(options.target)})
