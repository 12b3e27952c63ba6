"""How much memory is free: of the accelerator, or of the machine and the container around the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

_ROOT = Path("/")


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that a model may take on `device`; None where nobody says."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        return int(free)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free_host_bytes()


def free_host_bytes(root: Path = _ROOT) -> int | None:
    """Return the least of what the machine has and of what the process's groups may still take.

    Linux only; None elsewhere. `root` is where /proc and /sys lie.
    """
    found = [value for value in (_available(root), *_left_in_groups(root)) if value is not None]
    return min(found, default=None)


def _available(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield limit less use of each memory group (cgroup v2, then v1) that the process is in."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left_upwards(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            base = root / "sys/fs/cgroup/memory"
            yield from _left_upwards(base, path, "memory.limit_in_bytes", "memory.usage_in_bytes")


def _left_upwards(base: Path, path: str, limit: str, usage: str) -> Iterator[int]:
    """A limit of any group above holds, too. In a container the path may not exist: its root does."""
    inner = base / path.lstrip("/")
    for group in (inner, *inner.parents):
        most, used = _number(group / limit), _number(group / usage)
        if most is not None and used is not None:
            yield max(0, most - (used - _reclaimable(group)))
        if group == base:
            return


def _reclaimable(group: Path) -> int:
    """Return the file pages that the kernel gives up when memory is short: they count as used."""
    stats = dict(line.split(" ", 1) for line in _lines(group / "memory.stat"))
    return int(stats.get("total_inactive_file", stats.get("inactive_file", 0)))


def _number(path: Path) -> int | None:
    """Return the file's number; None where there is no file or it says `max`."""
    text = "".join(_lines(path))
    return int(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
