"""What training stages share: a JSON log of evaluations, progress lines with ETA, checkpoints that resume."""

from __future__ import annotations

import itertools
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from training.muon import Optimizers

LogValue = float | int | str | dict[str, Any] | list[Any]


def pick_device() -> tuple[torch.device, torch.dtype, str]:
    """Device, autocast type and the reason for them."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16, f"CUDA is available: {torch.cuda.get_device_name()}"
    return torch.device("cpu"), torch.bfloat16, f"no CUDA device; CPU with {torch.get_num_threads()} threads"


class Journal:
    """Appends one JSON line per event to `log.jsonl` and keeps the stage's progress line on stderr."""

    def __init__(self, root: pathlib.Path, stage: str, steps: int, *, first_step: int = 0) -> None:
        self._path = root / "log.jsonl"
        self._stage, self._steps, self._first = stage, steps, first_step
        self._started = time.monotonic()

    def write(self, event: str, step: int, **values: LogValue) -> None:
        row = {
            "stage": self._stage,
            "event": event,
            "step": step,
            "seconds": round(time.monotonic() - self._started, 1),
            **values,
        }
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def progress(self, step: int, **values: float) -> None:
        done = step - self._first
        elapsed = time.monotonic() - self._started
        eta = elapsed / max(done, 1) * (self._steps - step)
        shown = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        print(
            f"{self._stage} {step}/{self._steps} eta {eta / 60:.1f} min {shown}", file=sys.stderr, flush=True
        )


def save_checkpoint(
    path: pathlib.Path, step: int, modules: dict[str, nn.Module], optimizer: Optimizers
) -> None:
    """Written whole or not at all, so that a killed run resumes from the last one."""
    part = path.with_suffix(".part")
    state = {"step": step, "optimizer": optimizer.state_dict()}
    torch.save(state | {name: module.state_dict() for name, module in modules.items()}, part)
    part.replace(path)


def load_checkpoint(
    path: pathlib.Path, modules: dict[str, nn.Module], optimizer: Optimizers | None = None
) -> int:
    """The step reached; 0 if there is no checkpoint."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, module in modules.items():
        module.load_state_dict(state[name])
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def cosine(step: int, steps: int, *, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """The learning rate at a step: linear warm-up, then half a cosine down to `floor` x peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return peak * (floor + (1 - floor) * 0.5 * (1 + float(torch.cos(torch.tensor(share * torch.pi)))))


def held(step: int, steps: int, *, warmup: int = 50, fall: float = 0.7) -> float:
    """The learning rate's share at a step: linear warm-up, one, and at the end a linear fall to nothing.

    Until it falls it is the same for any number of steps: a run can be made longer from a checkpoint.
    Sources: Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations", 2024;
    for the long fall Bergsma et al., "Straight to zero", 2025.
    """
    return min(1.0, (step + 1) / warmup, (steps - step) / (fall * steps))


def restarted(step: int, ends: Sequence[int], *, peak: float = 0.4) -> float:
    """As `held` until the first of `ends`; until each later one it falls once more, from `peak`.

    Source: Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017.
    """
    if step < ends[0]:
        return held(step, ends[0])
    begin, end = next((a, b) for a, b in itertools.pairwise(ends) if step < b)
    return peak * (end - step) / (end - begin)
