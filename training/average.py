"""The mean of checkpoints of one stage that began alike: it reads better than any of them.

    python -m training.average --target out/training/tower.pt out/a.pt:0.4 out/b.pt:0.4 out/c.pt:0.2

What is written holds no optimizer: it is for the next stage and for exporting, not for resuming.
Source: Wortsman et al., "Model soups", 2022.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import torch


def average(checkpoints: Sequence[tuple[pathlib.Path, float]], target: pathlib.Path) -> None:
    """Writes the mean of (path, share) pairs to `target`; integers, such as the step, are the first's.

    Raises ValueError if a share isn't positive or if the checkpoints hold different parts.
    """
    paths = [path for path, _share in checkpoints]
    shares = [share for _path, share in checkpoints]
    if any(share <= 0 for share in shares):
        raise ValueError(f"every share must be positive: {shares}")
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in paths]
    for state in states:
        state.pop("optimizer", None)
    torch.save(_mean(paths, states, [share / sum(shares) for share in shares]), target)


def _mean(paths: Sequence[pathlib.Path], values: Sequence[Any], shares: Sequence[float]) -> Any:
    """Of one value out of every checkpoint; shares add up to one."""
    first = values[0]
    if isinstance(first, dict):
        for path, value in zip(paths, values, strict=True):
            if value.keys() != first.keys():
                raise ValueError(f"{path} holds other parts: {sorted(value.keys() ^ first.keys())}")
        return {key: _mean(paths, [value[key] for value in values], shares) for key in first}
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)
    return first


def _checkpoint(text: str) -> tuple[pathlib.Path, float]:
    path, _, share = text.partition(":")
    return pathlib.Path(path), float(share or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", type=pathlib.Path, required=True)
    parser.add_argument("checkpoints", nargs="+", type=_checkpoint, metavar="PATH[:SHARE]")
    arguments = parser.parse_args()
    average(arguments.checkpoints, arguments.target)


if __name__ == "__main__":
    main()
