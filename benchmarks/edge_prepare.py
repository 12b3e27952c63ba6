"""What preparing a large JPEG costs the edge: peak memory and time, and how fast the command line starts.

Each case runs in a fresh process that does what a conversation does: open, encode the global image, encode
three patches (two corners and the middle). Peak memory is the process's high-water mark of resident memory
(`VmHWM`), Python and every import included. Prints a table and, as its last line, one JSON document.

    python -m benchmarks.edge_prepare [--cases 6]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

REPEATS = 5
HELP_RUNS = 11
LIMIT_MB = 200


@dataclass(frozen=True, slots=True)
class Case:
    """One original. `is_required`: the limit of 200 MB holds for it."""

    name: str
    size: tuple[int, int]
    is_required: bool
    orientation: int = 1
    subsampling: str = "4:2:0"
    progressive: bool = False
    budget_side: int = 336


CASES = (
    Case("48 MP", (8000, 6000), True),
    Case("48 MP, turned", (8000, 6000), True, orientation=6),
    Case("48 MP, 4:4:4", (8000, 6000), True, subsampling="4:4:4"),
    Case("48 MP, 1500 px views", (8000, 6000), True, budget_side=1500),
    Case("100 MP", (11_600, 8_700), True),
    Case("48 MP, progressive", (8000, 6000), False, progressive=True),
)


def make_photo(case: Case, path: Path) -> None:
    """Smooth noise with fine grain: about the bytes a pixel that a camera writes."""
    width, height = case.size
    coarse = Image.effect_noise((width // 8, height // 8), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = case.orientation
    coarse.resize(case.size, Image.Resampling.BICUBIC).save(
        path,
        "JPEG",
        quality=92,
        exif=exif,
        subsampling=case.subsampling,
        progressive=case.progressive,
    )


def measure_here(path: Path, budget_side: int) -> dict[str, Any]:
    """Runs in the fresh process: peak memory in MB and milliseconds, first and repeated."""
    import secondglance.client  # noqa: F401  # a conversation has it loaded
    from secondglance.pictures.budget import PixelBudget
    from secondglance.pictures.encoding import Recipe, encode
    from secondglance.pictures.original import Original

    accepted = ("image/jpeg",)
    budget = PixelBudget(budget_side, budget_side)
    base_mb = peak_mb()
    global_ms, patch_ms = [], []
    for _ in range(REPEATS):
        started = time.perf_counter()
        with Original(path) as original:
            encode(original.global_image(budget), Recipe(), accepted=accepted, max_bytes=2**22)
            global_ms.append((time.perf_counter() - started) * 1000)
            width, height = original.size
            side = 672
            for left, top in (
                (0, 0),
                ((width - side) // 2, (height - side) // 2),
                (width - side, height - side),
            ):
                started = time.perf_counter()
                patch = original.patch((left, top, left + side, top + side), budget)
                encode(patch, Recipe(quality=88, subsampling="4:4:4"), accepted=accepted, max_bytes=2**24)
                patch_ms.append((time.perf_counter() - started) * 1000)
    return {"base_mb": base_mb, "peak_mb": peak_mb(), "global_ms": global_ms, "patch_ms": patch_ms}


def peak_mb() -> float:
    """High-water mark of this process's resident memory, in 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike ru_maxrss, not inherited from the process that started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Make the picture, then measure in a process of its own."""
    path = folder / f"{case.name.replace(' ', '_')}.jpg"
    make_photo(case, path)
    command = [sys.executable, "-m", "benchmarks.edge_prepare", "--measure", str(path), str(case.budget_side)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return {
        "case": case.name,
        "jpeg_mb": round(path.stat().st_size / 1e6, 1),
        "base_mb": round(found["base_mb"], 1),
        "peak_mb": round(found["peak_mb"], 1),
        "global_ms_median": round(statistics.median(found["global_ms"]), 1),
        "global_ms_p95": round(p95(found["global_ms"]), 1),
        "patch_ms_median": round(statistics.median(found["patch_ms"]), 1),
        "patch_ms_p95": round(p95(found["patch_ms"]), 1),
        "is_required": case.is_required,
    }


def p95(values: list[float]) -> float:
    """Return the 95th percentile, by the standard library: numpy would count as memory of the edge."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def measure_help() -> list[float]:
    """Milliseconds that `secondglance --help` takes, interpreter included; the first run is warm-up."""
    command = [sys.executable, "-c", "from secondglance.cli import main; main()", "--help"]
    times = []
    for _ in range(HELP_RUNS + 1):
        started = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append((time.perf_counter() - started) * 1000)
    return times[1:]


def commit() -> str:
    ran = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    parser.add_argument("--measure", nargs=2, metavar=("JPEG", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:  # the fresh process of one case
        print(json.dumps(measure_here(Path(arguments.measure[0]), int(arguments.measure[1]))))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(case, Path(folder)) for case in CASES[: arguments.cases]]
    help_ms = measure_help()
    print(f"{'original':<22}{'JPEG':>9}{'imports':>10}{'peak':>10}{'global':>11}{'patch':>11}")
    for row in rows:
        print(
            f"{row['case']:<22}{row['jpeg_mb']:>6} MB{row['base_mb']:>7} MB{row['peak_mb']:>7} MB"
            f"{row['global_ms_median']:>8} ms{row['patch_ms_median']:>8} ms"
            + ("" if row["is_required"] else "   (libjpeg holds every coefficient: not covered)")
        )
    print(f"secondglance --help: {statistics.median(help_ms):.0f} ms (median of {HELP_RUNS})")
    peak = max(row["peak_mb"] for row in rows if row["is_required"])
    result = {
        "benchmark": "edge_prepare",
        "peak_mb": peak,
        "limit_mb": LIMIT_MB,
        "is_within_limit": peak <= LIMIT_MB,
        "help_ms_median": round(statistics.median(help_ms), 1),
        "help_ms_p95": round(p95(help_ms), 1),
        "cases": rows,
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "commit": commit(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
