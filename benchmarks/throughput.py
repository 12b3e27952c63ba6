"""Requests per second of the server, over real HTTP, with 1, 4, 16 and 64 edges at once, and how far that is
from what the engine alone and the hardware would allow.

    python -m benchmarks.throughput [--model NAME ...] [--edges 1 4 16 64] [--conversations 64]

Each number of edges gets a fresh server and the same conversations. One edge is the unloaded server; answers
under load are compared with its answers. The engine alone answers the same requests in full batches, in this
process, after each level (`benchmarks.instruments.direct`); goal: the server's processor time is
at most a third more. The ceiling counts the device's arithmetic and memory traffic only
(`benchmarks.instruments.ceiling`). The edges run on the same machine: their share of its time is printed, and
the server's processor time for each request, which a busy machine changes least. Prints a table for each
model and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from benchmarks.instruments.ceiling import Cost, Machine, count_costs, measure_machine
from benchmarks.instruments.direct import processor_ms
from benchmarks.instruments.edges import KINDS, Conversation, Exchange, converse_all, fitted, jpeg
from benchmarks.instruments.models import MODELS, available
from scenes.generator import make_scene, render
from secondglance_server.engine.loader import EMBEDDED
from secondglance_server.engine.protocol import EncoderBudget, EngineInfo, Picture
from secondglance_server.settings import ServerSettings
from secondglance_server.testing import serving

EDGES = (1, 4, 16, 64)
GOAL = 0.75  # of the engine alone, by processor time
ORIGINAL = (1600, 1200)
SCENES = 8  # originals; conversations about the same one differ by a mark in its corner
KNOWN_WORDS = ("What number is on the red sign?", "What color is the sign on the left?")
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}  # of the uncertainty that the gate reads


@dataclass(frozen=True, slots=True)
class Level:
    """What one number of edges gave."""

    edges: int
    seconds: float
    exchanges: list[Exchange]
    mean_batch: float
    client_cpu_s: float
    server_cpu_s: float

    def row(self) -> dict[str, Any]:
        requests = len(self.exchanges)
        row: dict[str, Any] = {
            "edges": self.edges,
            "requests": requests,
            "requests_per_s": round(requests / self.seconds, 3),
            "mean_batch": round(self.mean_batch, 2),
            "mean_tokens": round(statistics.fmean(e.completion_tokens for e in self.exchanges), 1),
            "client_cpu_share": round(self.client_cpu_s / self.seconds, 3),
            "server_cpu_ms": round(1e3 * self.server_cpu_s / requests, 1),
        }
        for kind in KINDS:
            times = [1e3 * e.seconds for e in self.exchanges if e.kind == kind]
            if times:
                p50, p95 = np.quantile(times, (0.5, 0.95))
                row[f"{kind}_ms"] = {"p50": round(float(p50), 1), "p95": round(float(p95), 1)}
        return row


def conversations(
    count: int, budget: dict[str, Any], *, words: tuple[str, str] | None = None, variant: int = 0
) -> list[Conversation]:
    """About scenes, in the scenes' questions or in `words` (first question, follow-up) for all.

    Every picture bears a mark of its own, another in each `variant`: a server knows none from before.
    """
    prepared: list[Conversation] = []
    for number in range(count):
        scene = make_scene(20_000 + number % SCENES, split="test", size=ORIGINAL)
        is_new = number < SCENES
        original = render(scene) if is_new else prepared[number - SCENES].original.copy()
        mark = (37 * number % 256, 91 * number % 256, (151 * number + 83 * variant) % 256)
        ImageDraw.Draw(original).rectangle((0, 0, 47, 47), fill=mark)
        read = [q.text for q in scene.questions if q.kind == "read"]
        (count_signs,) = (q.text for q in scene.questions if q.kind == "count")
        question, follow_up = words or (read[number // SCENES % len(read)], count_signs)
        prepared.append(Conversation(original, jpeg(fitted(original, budget)), question, follow_up))
    return prepared


@contextlib.contextmanager
def server_of(name: str) -> Iterator[str]:
    """The model behind a server of its own."""
    program = (
        ("secondglance_server.cli", "serve") if name == EMBEDDED else ("benchmarks.instruments.serve", name)
    )
    with serving(program=program, ready_timeout_s=600) as url:
        yield url


def run_level(url: str, prepared: Sequence[Conversation], edges: int) -> Level:
    before = server_metrics(url)
    started, cpu = time.perf_counter(), time.process_time()
    exchanges = asyncio.run(converse_all(url, prepared, edges))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    spent = {name: value - before[name] for name, value in server_metrics(url).items()}
    return Level(
        edges,
        seconds,
        exchanges,
        mean_batch=spent["secondglance_batch_size_sum"] / spent["secondglance_batch_size_count"],
        client_cpu_s=cpu_s,
        server_cpu_s=spent["process_cpu_seconds_total"],
    )


def server_metrics(url: str) -> dict[str, float]:
    """The server's metrics that have no labels."""
    text = httpx.get(f"{url}/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def differing(level: Level, unloaded: Level, *, tolerance: float) -> int:
    """Replies that are not those of the unloaded server; a missing one counts."""
    expected = {(e.conversation, e.kind): e for e in unloaded.exchanges}
    got = {(e.conversation, e.kind): e for e in level.exchanges}
    both = expected.keys() & got.keys()
    same = sum(got[key].agrees_with(expected[key], tolerance=tolerance) for key in both)
    return len(expected.keys() | got.keys()) - same


def ceiling(level: Level, costs: dict[str, Cost], machine: Machine, max_batch: int) -> float:
    """Requests per second if the device did nothing but their arithmetic, in batches as large as may come."""
    batch = min(level.edges, max_batch)
    least_s = (
        costs[e.kind].least_seconds(machine, steps=e.completion_tokens, batch=batch) for e in level.exchanges
    )
    return len(level.exchanges) / sum(least_s)


def count_model(name: str) -> tuple[dict[str, Cost], Machine, EngineInfo]:
    torch.manual_seed(0)
    engine = MODELS[name].build()
    picture, patch = (Picture(key, blank(engine.info.image)) for key in ("picture", "patch"))
    machine = measure_machine(engine.adapter.model.device, engine.adapter.model.dtype)
    costs = count_costs(engine, KNOWN_WORDS[0], picture, patch)
    engine.close()
    return costs, machine, engine.info


def blank(budget: EncoderBudget) -> np.ndarray:
    """As large as the encoder can use at the originals' shape."""
    sides = {"max_width": budget.max_width, "max_height": budget.max_height, "max_pixels": budget.max_pixels}
    return np.asarray(fitted(Image.new("RGB", ORIGINAL), sides))


def measure(name: str, edges: Sequence[int], count: int) -> dict[str, Any]:
    costs, machine, info = count_model(name)
    gc.collect()
    prepared: list[Conversation] = []
    levels, alone_ms = [], []
    torch.manual_seed(0)
    engine = MODELS[name].build()
    for number in edges:
        with server_of(name) as url:
            if not prepared:
                budget = httpx.get(f"{url}/v1/model").json()["image"]
                prepared = conversations(count, budget, words=None if name == EMBEDDED else KNOWN_WORDS)
            levels.append(run_level(url, prepared, number))
            alone_ms.append(processor_ms(engine, prepared, levels[-1].exchanges, ServerSettings().max_batch))
    rows = []
    for level, least_ms in zip(levels, alone_ms, strict=True):
        most = ceiling(level, costs, machine, ServerSettings().max_batch)
        different = differing(level, levels[0], tolerance=TOLERANCE[info.dtype])
        row = level.row()
        row |= {"engine_cpu_ms": round(least_ms, 1), "of_engine": round(least_ms / row["server_cpu_ms"], 3)}
        rows.append({**row, "ceiling_requests_per_s": round(most, 3), "different_answers": different})
    show(name, rows)
    explain(costs, machine)
    return {
        "model": name,
        "device": info.device,
        "dtype": info.dtype,
        "gflops_per_s": round(machine.flops_per_s / 1e9, 1),
        "gbytes_per_s": round(machine.bytes_per_s / 1e9, 2),
        "levels": rows,
    }


def show(name: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{name}: requests over HTTP; milliseconds are p50 / p95")
    for column in (
        "edges",
        "requests/s",
        "of ceiling",
        "batch",
        "tokens",
        *KINDS,
        "CPU / least ms",
        "engine alone",
    ):
        table.add_column(column, justify="right")
    for column in ("edges' CPU", "other answers"):
        table.add_column(column, justify="right")
    for row in rows:
        most = row["ceiling_requests_per_s"]
        times = [row.get(f"{kind}_ms") for kind in KINDS]
        table.add_row(
            str(row["edges"]),
            f"{row['requests_per_s']:.2f}",
            f"{row['requests_per_s'] / most:.0%} of {most:.1f}",
            f"{row['mean_batch']:.1f}",
            f"{row['mean_tokens']:.1f}",
            *(f"{ms['p50']:.0f} / {ms['p95']:.0f}" if ms else "-" for ms in times),
            f"{row['server_cpu_ms']:.0f} / {1e3 / most:.0f}",
            f"{row['of_engine']:.0%} of {1e3 / row['engine_cpu_ms']:.0f}",
            f"{row['client_cpu_share']:.0%}",
            f"{row['different_answers']} of {row['requests']}",
        )
    Console(width=150).print(table)


def explain(costs: dict[str, Cost], machine: Machine) -> None:
    print(f"attainable: {machine.flops_per_s / 1e9:.0f} GFLOP/s, {machine.bytes_per_s / 1e9:.1f} GB/s")
    for kind, cost in costs.items():
        prompt = f"{cost.prefill_flops / 1e9:.2f} GFLOP, {cost.prefill_shared_bytes / 1e6:.1f} MB of weights"
        step = f"{cost.step_flops / 1e9:.3f} GFLOP, {cost.step_shared_bytes / 1e6:.1f} MB of weights"
        print(f"  {kind:10} prompt: {prompt}; token: {step}, {cost.step_own_bytes / 1e6:.1f} MB of cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", action="append", choices=sorted(MODELS), help="default: the embedded one; 7B ones on CUDA"
    )
    parser.add_argument("--edges", type=int, nargs="+", default=EDGES)
    parser.add_argument("--conversations", type=int, default=64)
    arguments = parser.parse_args()
    has_cuda = torch.cuda.is_available()
    names = arguments.model or (available(has_cuda=True) if has_cuda else [EMBEDDED])
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    cpu = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads"
    device = torch.cuda.get_device_name() if has_cuda else cpu
    print(f"{device} · {platform.machine()} · torch {torch.__version__} · commit {commit}")
    models = [measure(name, arguments.edges, arguments.conversations) for name in names]
    for model in models:
        shares = {row["edges"]: row["of_engine"] for row in model["levels"]}
        print(f"{model['model']}: of the engine alone, by processor time: {shares}; goal >= {GOAL}")
    print(json.dumps({"device": device, "commit": commit, "models": models}))


if __name__ == "__main__":
    main()
