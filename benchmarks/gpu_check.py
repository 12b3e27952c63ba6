"""Both engines on this machine's GPU, with random weights of a given size: one command, one table.

    SECONDGLANCE_VLLM_PYTHON=PYTHON python -m benchmarks.gpu_check [--model NAME] [--edges 1 16 64] [--cpu]

It writes the model to a folder, serves it with the prefix engine here and with vLLM in the environment of
PYTHON, and checks: that the capture's check at vLLM's start passed on this backend; that answers and regions
are the same over HTTP; requests per second and the processor time of each; what a long answer costs the short
ones beside it; what both do without memory and after a fault that sticks. The table goes to
benchmarks/results/. Exit code 1 if a check failed. `--cpu` runs on a machine without a GPU, to check this
script; its numbers say nothing about one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.instruments.beside_long import BesideLong, beside_long, export
from benchmarks.instruments.edges import Conversation, Exchange, converse_all
from benchmarks.instruments.models import MODELS
from benchmarks.instruments.processes import ROOT, ServerProcess, server_process
from benchmarks.throughput import KNOWN_WORDS, conversations, count_model
from secondglance_eval.markdown import markdown_table
from secondglance_server.engine.loader import EMBEDDED

RESULTS = ROOT / "benchmarks" / "results"
EDGES = (1, 16, 64)
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}  # of the uncertainty that the gate reads
FAULTS = ("memory", "exception")
_PATIENT = {"SECONDGLANCE_SERVER_INFERENCE_DEADLINE_S": "300"}  # 64 edges at a time on a slow device
SHORT_ANSWERS = 8  # of each half of a round


@dataclass
class Level:
    """One engine with one number of edges; processor time is the server's with all its children.

    `ceiling_requests_per_s`: as `benchmarks.throughput` has it; with one thread, 1000 / ceiling is the least
    processor time of a request.
    """

    engine: str
    edges: int
    requests_per_s: float
    ceiling_requests_per_s: float
    cpu_ms_per_request: float
    p50_ms: float
    p95_ms: float
    differ: int


@dataclass
class Report:
    device: str
    model: str
    dtype: str = ""
    checks: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    levels: list[Level] = field(default_factory=list)
    beside_long: dict[str, BesideLong | None] = field(default_factory=dict)  # by engine

    def note(self, check: str, outcome: str, *, is_good: bool) -> None:
        self.checks[check] = outcome
        print(f"{'ok  ' if is_good else 'FAIL'} {check}: {outcome}", flush=True)
        if not is_good:
            self.failed.append(check)


@contextlib.contextmanager
def noting_failure(report: Report, part: str) -> Iterator[None]:
    """Note what ends a part, so that the others are checked and written all the same."""
    try:
        yield
    except httpx.HTTPStatusError as exc:
        report.note(part, f"{exc.response.status_code}: {exc.response.text}", is_good=False)
    except (RuntimeError, OSError, httpx.HTTPError, subprocess.SubprocessError) as exc:
        report.note(part, f"{type(exc).__name__}: {exc}", is_good=False)


def free_device() -> None:
    """Give back what this process has taken of the GPU: vLLM starts only if most of it is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_levels(
    server: ServerProcess,
    engine: str,
    asked: Sequence[Conversation],
    edges: Sequence[int],
    expected: Sequence[Exchange],
    tolerance: float,
    ceiling_of: Callable[[Sequence[Exchange], int], float],
) -> tuple[list[Level], list[Exchange]]:
    """Return the levels, and the replies of the first. With no `expected`, the first level's are it."""
    levels, first = [], list(expected)
    for number in edges:
        began, cpu = time.perf_counter(), server.cpu_seconds()
        exchanges = asyncio.run(converse_all(server.url, asked, number))
        seconds, spent = time.perf_counter() - began, server.cpu_seconds() - cpu
        first = first or exchanges
        p50, p95 = np.quantile([exchange.seconds for exchange in exchanges], (0.5, 0.95))
        levels.append(
            Level(
                engine=engine,
                edges=number,
                requests_per_s=round(len(exchanges) / seconds, 2),
                ceiling_requests_per_s=round(ceiling_of(exchanges, number), 2),
                cpu_ms_per_request=round(1e3 * spent / len(exchanges), 1),
                p50_ms=round(1e3 * float(p50), 1),
                p95_ms=round(1e3 * float(p95), 1),
                differ=differing(exchanges, first, tolerance),
            )
        )
        print(levels[-1], flush=True)
    return levels, first


def differing(got: Sequence[Exchange], expected: Sequence[Exchange], tolerance: float) -> int:
    """Replies that are not the expected ones; a missing one counts."""
    one = {(e.conversation, e.kind): e for e in got}
    other = {(e.conversation, e.kind): e for e in expected}
    same = sum(one[key].agrees_with(other[key], tolerance=tolerance) for key in one.keys() & other.keys())
    return len(one.keys() | other.keys()) - same


def check_engines(report: Report, source: str, options: argparse.Namespace, work: pathlib.Path) -> None:
    vllm_python = os.environ["SECONDGLANCE_VLLM_PYTHON"]
    common = ("--model", source, "--dtype", options.dtype)
    costs, machine, info = count_model(options.model)
    free_device()

    def ceiling_of(exchanges: Sequence[Exchange], edges: int) -> float:
        least = (
            costs[e.kind].least_seconds(machine, steps=e.completion_tokens, batch=edges) for e in exchanges
        )
        return len(exchanges) / sum(least)

    with server_process(sys.executable, work / "prefix.log", *common, environment=_PATIENT) as prefix:
        model = httpx.get(f"{prefix.url}/v1/model").json()
        report.dtype = info.dtype
        words = None if source == EMBEDDED else KNOWN_WORDS
        asked = conversations(options.conversations, model["image"], words=words)
        tolerance = TOLERANCE[report.dtype]
        levels, expected = run_levels(prefix, "prefix", asked, options.edges, (), tolerance, ceiling_of)
        report.levels += levels
        report.beside_long["prefix"] = beside_long(prefix, SHORT_ANSWERS)
    options_of_vllm = (*common, "--engine", "vllm")
    with server_process(vllm_python, work / "vllm.log", *options_of_vllm, environment=_PATIENT) as vllm:
        reason = httpx.get(f"{vllm.url}/readyz").json().get("answers_only")
        report.note("capture's check at the start", reason or "passed", is_good=reason is None)
        levels, _ = run_levels(vllm, "vllm", asked, options.edges, expected, tolerance, ceiling_of)
        report.levels += levels
        report.beside_long["vllm"] = beside_long(vllm, SHORT_ANSWERS)
    worst = max(level.differ for level in levels)
    outcome = f"{worst} differ of {len(expected)}"
    is_exact = report.dtype == "float32"
    if not is_exact:  # two kernels round differently, and of random weights the best two tokens are close
        outcome += f"; not judged in {report.dtype}"
    report.note("replies as the prefix engine's", outcome, is_good=worst == 0 or not is_exact)


def check_faults(report: Report, source: str, work: pathlib.Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.instruments.gpu_faults", source],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = json.loads(ran.stdout.splitlines()[-1]) if ran.stdout else {"memory": ran.stderr[-300:]}
    for name, good in (("memory", "recovered"), ("sticky", "called broken")):
        outcome = said.get(name, "not reached")
        is_good = outcome == "not on a CPU" or (good in outcome and "not recover" not in outcome)
        report.note(f"prefix engine, {name}", outcome, is_good=is_good)
    for fault in FAULTS:
        report.note(f"vllm, {fault}", *vllm_fault(source, fault, work))


def vllm_fault(source: str, fault: str, work: pathlib.Path) -> Any:
    """Break a step of vLLM's worker; the server must answer 503 and end with 1."""
    trigger = work / f"fault-{fault}"
    with server_process(
        os.environ["SECONDGLANCE_VLLM_PYTHON"],
        work / f"{fault}.log",
        *("--model", source, "--engine", "vllm"),
        module="tests.vllm.faulty_server",
        environment={"SECONDGLANCE_FAULT_FILE": str(trigger)},
    ) as server:
        (asked,) = conversations(1, httpx.get(f"{server.url}/v1/model").json()["image"])
        trigger.write_text(fault)
        try:
            asyncio.run(converse_all(server.url, [asked], 1))
            answered = "answered"
        except httpx.HTTPStatusError as exc:
            answered = str(exc.response.status_code)
        except httpx.TransportError:
            answered = "connection lost"
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(120)
        code = server.process.poll()
    return f"{answered}, exit code {code}", answered in ("503", "connection lost") and code == 1


def write(report: Report) -> None:
    name = f"gpu_check_{'cpu' if report.device.startswith('CPU') else 'gpu'}"
    (RESULTS / f"{name}.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    rows = [
        (
            *(r.engine, r.edges, r.requests_per_s, r.ceiling_requests_per_s, r.cpu_ms_per_request),
            *(r.p50_ms, r.p95_ms, r.differ),
        )
        for r in report.levels
    ]
    head = ("engine", "edges", "requests/s", "ceiling", "CPU ms/request", "p50 ms", "p95 ms", "other replies")
    text = (
        f"# GPU check\n\n{report.device} · {report.model} in {report.dtype} · torch {torch.__version__}\n\n"
    )
    text += markdown_table(head, [tuple(map(str, row)) for row in rows]) + "\n\n"
    beside = [
        tuple(map(str, (name, *each.wall_ms, *each.cpu_ms, each.first_event)))
        for name, each in report.beside_long.items()
        if each is not None
    ]
    head = (
        "engine",
        "p95 ms of short answers",
        "beside a long one",
        "CPU ms",
        "beside",
        "first event / token",
    )
    text += markdown_table(head, beside) + "\n\n"
    text += markdown_table(("check", "outcome"), list(report.checks.items())) + "\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llava-1.5-7b", choices=sorted(MODELS))
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--no-faults", action="store_true", help="leave out what breaks the engines")
    parser.add_argument("--cpu", action="store_true", help="run without a GPU, to check this script")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.cpu:
        print("no CUDA device here; --cpu checks this script without one", file=sys.stderr)
        return 2
    device = f"CPU, {os.cpu_count()} cores" if options.cpu else torch.cuda.get_device_name()
    report = Report(f"{device}, {platform.machine()}", options.model)
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "model").mkdir()
        source = export(options.model, work / "model")
        with noting_failure(report, "both engines"):
            check_engines(report, source, options, work)
        if not options.no_faults:
            with noting_failure(report, "faults"):
                check_faults(report, source, work)
    write(report)
    print(json.dumps(asdict(report)))
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
