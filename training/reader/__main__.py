"""`python -m training.reader`: makes the weights of the model that reads, from nothing, in one go.

Every stage keeps checkpoints under `--root` and goes on from there when the command is given again.
"""

from __future__ import annotations

import argparse
import functools
import pathlib

from training.reader.export import WEIGHTS
from training.reader.render import TRAIN_SHARDS, spread
from training.reader.stages.order import BRANCHES, REST, STAGES, run_stages, threads_of_branch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.reader", description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path("out/training-reader"))
    parser.add_argument(
        "--stage", choices=STAGES, action="append", help="only these, in this order; by default all"
    )
    parser.add_argument("--shards", type=int, default=TRAIN_SHARDS, help="of 50 scenes each")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--target", type=pathlib.Path, default=WEIGHTS)
    options = parser.parse_args()
    options.root.mkdir(parents=True, exist_ok=True)
    if options.stage:
        run_stages(options, options.processes, [options.stage])
        return
    branch = functools.partial(run_stages, options, threads_of_branch(options.processes))
    spread(branch, BRANCHES, options.processes)
    run_stages(options, options.processes, [REST])


if __name__ == "__main__":
    main()
