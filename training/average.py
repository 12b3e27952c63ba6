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
    total = sum(share for _path, share in checkpoints)
    mean: dict[str, Any] = {}
    for path, share in checkpoints:
        if share <= 0:
            raise ValueError(f"{path}: the share must be positive, not {share}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        state.pop("optimizer", None)
        mean = _add(mean, state, share / total, path) if mean else _add(state, state, share / total - 1, path)
    torch.save(mean, target)


def _add(mean: dict[str, Any], state: dict[str, Any], share: float, path: pathlib.Path) -> dict[str, Any]:
    """`mean` + `share` x `state`, where they are floating-point tensors."""
    if mean.keys() != state.keys():
        raise ValueError(f"{path} holds other parts: {sorted(mean.keys() ^ state.keys())}")
    out = {}
    for key, value in mean.items():
        if isinstance(value, dict):
            out[key] = _add(value, state[key], share, path)
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            out[key] = value + share * state[key]
        else:
            out[key] = value
    return out


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
