"""Both engines on this machine's GPU, with random weights of a given size: one command, one table.

    SECONDGLANCE_VLLM_PYTHON=PYTHON python -m benchmarks.gpu_check [--model NAME] [--edges 1 16 64] [--cpu]

It writes the model to a folder, serves it with the prefix engine here and with vLLM in the environment of
PYTHON, and checks: that the capture's check at vLLM's start passed on this backend; that answers and regions
are the same over HTTP; requests per second and the processor time of each; what a long answer costs the short
ones beside it; what both do without memory and after a fault that sticks. The table goes to
benchmarks/results/, anew after each part; a part that fails is noted and the next one runs. Exit code 1
if a check failed. `--cpu` runs on a machine without a GPU, to check this script; its numbers mean nothing.
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
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field

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
from secondglance_server.engine.placement import place

RESULTS = ROOT / "benchmarks" / "results"
EDGES = (1, 16, 64)
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}  # of the uncertainty that the gate reads
FAULTS = ("memory", "exception")
_PATIENT = {"SECONDGLANCE_SERVER_INFERENCE_DEADLINE_S": "300"}  # 64 edges at a time on a slow device
LEVEL_HEAD = (
    *("engine", "edges", "requests/s", "ceiling"),
    *("CPU ms/request", "p50 ms", "p95 ms", "other replies"),
)
BESIDE_HEAD = (
    *("engine", "p95 ms of short answers", "beside a long one"),
    *("CPU ms", "beside", "first event / token"),
)
CHECK_HEAD = ("check", "outcome")
SHORT_ANSWERS = 8  # of each half of a round
MOST_SAID = 300  # characters of what went wrong
MOST_SECONDS = 900.0  # for what breaks the prefix engine


@dataclass
class Level:
    """One engine with one number of edges; processor time is the server's with all its children.

    `ceiling_requests_per_s`: as `benchmarks.throughput` has it, None where it could not be counted; with one
    thread, 1000 / ceiling is the least processor time of a request.
    """

    engine: str
    edges: int
    requests_per_s: float
    ceiling_requests_per_s: float | None
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


@dataclass
class Shared:
    """What one part of the check leaves for the next ones.

    By number of edges: `asked`, the conversations, made once one server has told its budget, about pictures
    that no other level shows (a prefix that is held costs nothing); `expected`, the first engine that came
    to the level's end, and its replies.
    """

    asked: dict[int, Sequence[Conversation]] = field(default_factory=dict)
    expected: dict[int, tuple[str, Sequence[Exchange]]] = field(default_factory=dict)
    ceiling_of: Callable[[Sequence[Exchange], int], float] | None = None


@contextlib.contextmanager
def part(report: Report, name: str) -> Iterator[None]:
    """Note what ends a part, so that the others run all the same, and write what is known after it."""
    try:
        yield
    except httpx.HTTPStatusError as exc:
        report.note(name, f"{exc.response.status_code}: {exc.response.text}", is_good=False)
    except Exception as exc:  # whatever an untried machine comes up with
        traceback.print_exc()
        report.note(name, f"{type(exc).__name__}: {str(exc)[-MOST_SAID:]}", is_good=False)
    finally:
        write(report)


def free_device() -> None:
    """Give back what this process has taken of the GPU: vLLM starts only if most of it is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def count_ceiling(model: str, shared: Shared) -> None:
    costs, machine, _ = count_model(model)

    def ceiling_of(exchanges: Sequence[Exchange], edges: int) -> float:
        least = (
            costs[e.kind].least_seconds(machine, steps=e.completion_tokens, batch=edges) for e in exchanges
        )
        return len(exchanges) / sum(least)

    shared.ceiling_of = ceiling_of


def run_level(server: ServerProcess, engine: str, edges: int, report: Report, shared: Shared) -> None:
    """Ask the level's conversations with so many edges; compare with the first replies that there are."""
    began, cpu = time.perf_counter(), server.cpu_seconds()
    exchanges = asyncio.run(converse_all(server.url, shared.asked[edges], edges))
    seconds, spent = time.perf_counter() - began, server.cpu_seconds() - cpu
    _, expected = shared.expected.setdefault(edges, (engine, exchanges))
    p50, p95 = np.quantile([exchange.seconds for exchange in exchanges], (0.5, 0.95))
    level = Level(
        engine=engine,
        edges=edges,
        requests_per_s=round(len(exchanges) / seconds, 2),
        ceiling_requests_per_s=shared.ceiling_of and round(shared.ceiling_of(exchanges, edges), 2),
        cpu_ms_per_request=round(1e3 * spent / len(exchanges), 1),
        p50_ms=round(1e3 * float(p50), 1),
        p95_ms=round(1e3 * float(p95), 1),
        differ=differing(exchanges, expected, TOLERANCE[report.dtype]),
    )
    print(level, flush=True)
    report.levels.append(level)


def differing(got: Sequence[Exchange], expected: Sequence[Exchange], tolerance: float) -> int:
    """Replies that are not the expected ones; a missing one counts."""
    one = {(e.conversation, e.kind): e for e in got}
    other = {(e.conversation, e.kind): e for e in expected}
    same = sum(one[key].agrees_with(other[key], tolerance=tolerance) for key in one.keys() & other.keys())
    return len(one.keys() | other.keys()) - same


def check_engine(
    engine: str, source: str, options: argparse.Namespace, work: pathlib.Path, report: Report, shared: Shared
) -> None:
    """Serve the model with the engine and measure each number of edges, then short answers beside a long one.

    What fails while the server runs leaves its own figures out.
    """
    python = sys.executable if engine == "prefix" else os.environ["SECONDGLANCE_VLLM_PYTHON"]
    arguments = ("--model", source, "--dtype", options.dtype, "--engine", engine)
    with server_process(python, work / f"{engine}.log", *arguments, environment=_PATIENT) as server:
        if engine == "vllm":
            with part(report, "capture's check at the start"):
                reason = httpx.get(f"{server.url}/readyz").json().get("answers_only")
                report.note("capture's check at the start", reason or "passed", is_good=reason is None)
        if not shared.asked:
            budget = httpx.get(f"{server.url}/v1/model").json()["image"]
            words = None if source == EMBEDDED else KNOWN_WORDS
            shared.asked = {
                edges: conversations(options.conversations, budget, words=words, variant=variant)
                for variant, edges in enumerate(options.edges)
            }
        for edges in options.edges:
            with part(report, f"{engine}, {edges} edges"):
                run_level(server, engine, edges, report, shared)
        with part(report, f"{engine}, short answers beside a long one"):
            report.beside_long[engine] = beside_long(server, SHORT_ANSWERS)


def compare_engines(report: Report, shared: Shared) -> None:
    of_prefix = {edges: replies for edges, (engine, replies) in shared.expected.items() if engine == "prefix"}
    compared = [level for level in report.levels if level.engine == "vllm" and level.edges in of_prefix]
    if not compared:
        report.note("replies as the prefix engine's", "one of the engines gave none", is_good=False)
        return
    n_differ = sum(level.differ for level in compared)
    outcome = f"{n_differ} differ of {sum(len(of_prefix[level.edges]) for level in compared)}"
    is_exact = report.dtype == "float32"
    if not is_exact:  # two kernels round differently, and of random weights the best two tokens are close
        outcome += f"; not judged in {report.dtype}"
    report.note("replies as the prefix engine's", outcome, is_good=n_differ == 0 or not is_exact)


def check_faults(report: Report, source: str, dtype: str, work: pathlib.Path) -> None:
    with part(report, "prefix engine, faults"):
        prefix_faults(report, source)
    for fault in FAULTS:
        with part(report, f"vllm, {fault}"):
            outcome, is_good = vllm_fault(source, dtype, fault, work)
            report.note(f"vllm, {fault}", outcome, is_good=is_good)


def prefix_faults(report: Report, source: str) -> None:
    command = [sys.executable, "-m", "benchmarks.instruments.gpu_faults", source]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=MOST_SECONDS)
    said = json.loads(ran.stdout.splitlines()[-1]) if ran.stdout else {"memory": ran.stderr[-MOST_SAID:]}
    for name, good in (("memory", "recovered"), ("sticky", "called broken")):
        outcome = said.get(name, "not reached")
        is_good = outcome == "not on a CPU" or (good in outcome and "not recover" not in outcome)
        report.note(f"prefix engine, {name}", outcome, is_good=is_good)


def vllm_fault(source: str, dtype: str, fault: str, work: pathlib.Path) -> tuple[str, bool]:
    """Break a step of vLLM's worker; the server must answer 503 and end with 1."""
    trigger = work / f"fault-{fault}"
    with server_process(
        os.environ["SECONDGLANCE_VLLM_PYTHON"],
        work / f"{fault}.log",
        *("--model", source, "--engine", "vllm", "--dtype", dtype),
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
    """Write what is known so far, as JSON and as a page."""
    name = f"gpu_check_{'cpu' if report.device.startswith('CPU') else 'gpu'}"
    (RESULTS / f"{name}.json").write_text(json.dumps(asdict(report), indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(page(report))


def page(report: Report) -> str:
    """Return the report as Markdown."""
    title = f"{report.device} · {report.model} in {report.dtype} · torch {torch.__version__}"
    levels = [["-" if cell is None else cell for cell in astuple(level)] for level in report.levels]
    beside = [
        (name, *each.wall_ms, *each.cpu_ms, each.first_event)
        for name, each in report.beside_long.items()
        if each is not None
    ]
    tables = (LEVEL_HEAD, levels), (BESIDE_HEAD, beside), (CHECK_HEAD, list(report.checks.items()))
    parts = [markdown_table(head, [tuple(map(str, row)) for row in rows]) for head, rows in tables]
    return "\n\n".join(["# GPU check", title, *parts]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="llava-1.5-7b", choices=sorted(MODELS))
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--dtype", default="auto", choices=("auto", *TOLERANCE))
    parser.add_argument("--no-faults", action="store_true", help="leave out what breaks the engines")
    parser.add_argument("--cpu", action="store_true", help="run without a GPU, to check this script")
    options = parser.parse_args()
    if not torch.cuda.is_available() and not options.cpu:
        print("no CUDA device here; --cpu checks this script without one", file=sys.stderr)
        return 2
    device = f"CPU, {os.cpu_count()} cores" if options.cpu else torch.cuda.get_device_name()
    dtype = str(place("auto", options.dtype, "auto").dtype).removeprefix("torch.")
    report = Report(f"{device}, {platform.machine()}", options.model, dtype)
    with tempfile.TemporaryDirectory() as folder:
        check(report, options, pathlib.Path(folder))
    print(page(report))
    print(json.dumps(asdict(report)))
    return 1 if report.failed else 0


def check(report: Report, options: argparse.Namespace, work: pathlib.Path) -> None:
    """Run all parts; only without a model there is nothing to do."""
    shared = Shared()
    source = ""
    with part(report, "model"):
        (work / "model").mkdir()
        source = export(options.model, work / "model")
    if not source:
        return
    with part(report, "ceiling"):
        count_ceiling(options.model, shared)
    for engine in ("prefix", "vllm"):
        free_device()
        with part(report, f"{engine} engine"):
            check_engine(engine, source, options, work, report, shared)
    with part(report, "comparison"):
        compare_engines(report, shared)
    if not options.no_faults:
        check_faults(report, source, options.dtype, work)


if __name__ == "__main__":
    sys.exit(main())
