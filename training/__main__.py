"""`make train`: every stage in order; each one resumes from its checkpoint, so a stopped run loses minutes.

python -m training [--root out/training] [--stage render|tower|decoder|joint|export ...]
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import time
from typing import Any

import numpy
import PIL
import torch
import transformers

from training import decoder_stage, joint_stage, tower_stage
from training.export import export
from training.pictures.render import render_all

STAGES = ("render", "tower", "decoder", "joint", "export")
# with --start: what has been trained before needs fewer and smaller steps
FURTHER_TOWER: dict[str, Any] = {"steps": 1700, "peak": 1e-3, "matrix_lr": 0.01}
WEIGHTS = pathlib.Path(__file__).parent.parent / "server" / "embedded" / "weights"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("out/training"))
    parser.add_argument(
        "--stage", action="append", choices=STAGES, help="only this stage (may be given again)"
    )
    parser.add_argument(
        "--start", type=pathlib.Path, help="a model directory that tower and joint stage train on"
    )
    parser.add_argument("--target", type=pathlib.Path, default=WEIGHTS)
    arguments = parser.parse_args()
    root: pathlib.Path = arguments.root
    root.mkdir(parents=True, exist_ok=True)
    versions = {m.__name__: m.__version__ for m in (torch, transformers, numpy, PIL)}
    print(
        json.dumps({"python": platform.python_version(), "machine": platform.machine(), **versions}),
        flush=True,
    )
    for stage in arguments.stage or STAGES:
        started = time.monotonic()
        if stage == "render":
            render_all(root)
        elif stage == "tower":
            further = FURTHER_TOWER if arguments.start else {}
            tower_stage.train(root, start=arguments.start, **further)
        elif stage == "decoder":
            decoder_stage.train(root)
        elif stage == "joint":
            joint_stage.train(root, start=arguments.start)
        else:
            print(json.dumps({"bytes": export(root, arguments.target)}))
        print(json.dumps({"stage": stage, "wall_seconds": round(time.monotonic() - started)}), flush=True)


if __name__ == "__main__":
    main()
