"""The check of a GPU, which nobody has time to run twice: what fails in one part leaves the others whole."""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import gpu_check
from benchmarks.gpu_check import Report
from benchmarks.instruments.beside_long import BesideLong
from benchmarks.instruments.edges import Exchange

OPTIONS = argparse.Namespace(model="embedded", edges=(1, 4), conversations=1, dtype="auto", no_faults=False)
URLS = {"prefix": "http://prefix", "vllm": "http://vllm"}
STEPS = (
    "export",
    "count_model",
    "serve prefix",
    "serve vllm",
    "converse prefix 1",
    "converse prefix 4",
    "converse vllm 1",
    "converse vllm 4",
    "beside prefix",
    "beside vllm",
    "ready",
    "prefix_faults",
    "vllm_fault memory",
    "vllm_fault exception",
)


class Machine:
    """Every step of the check, made of nothing; one of them breaks as no list of exceptions foresees."""

    def __init__(self, broken: str, monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path) -> None:
        self._broken = broken
        self.done: list[str] = []
        self.asked: dict[str, list[str]] = {}
        monkeypatch.setenv("SECONDGLANCE_VLLM_PYTHON", "python")
        monkeypatch.setattr(gpu_check, "RESULTS", folder)
        for name in ("export", "count_model", "prefix_faults", "vllm_fault"):
            monkeypatch.setattr(gpu_check, name, getattr(self, name))
        monkeypatch.setattr(gpu_check, "server_process", self.serve)
        monkeypatch.setattr(gpu_check, "converse_all", self.converse)
        monkeypatch.setattr(gpu_check, "beside_long", self.beside)
        monkeypatch.setattr(gpu_check, "conversations", lambda *_, variant=0, **__: [f"asked {variant}"])
        monkeypatch.setattr(gpu_check, "free_device", lambda: None)  # to collect garbage takes a second
        monkeypatch.setattr(gpu_check.httpx, "get", self.get)

    def _do(self, step: str) -> None:
        if step == self._broken:
            raise LookupError(f"{step}\nis broken")
        self.done.append(step)

    def export(self, *_: Any) -> str:
        self._do("export")
        return "embedded"

    def count_model(self, *_: Any) -> Any:
        self._do("count_model")
        return {"first": SimpleNamespace(least_seconds=lambda *_, **__: 0.5)}, None, None

    @contextlib.contextmanager
    def serve(self, _python: str, _log: Any, *arguments: str, **_: Any) -> Iterator[Any]:
        engine = arguments[arguments.index("--engine") + 1]
        self._do(f"serve {engine}")
        yield SimpleNamespace(url=URLS[engine], cpu_seconds=lambda: 0.0)

    def get(self, url: str) -> Any:
        if url.endswith("/readyz"):
            self._do("ready")
        return SimpleNamespace(json=lambda: {"image": {}})

    async def converse(self, url: str, asked: Sequence[Any], edges: int) -> list[Exchange]:
        self.asked.setdefault(url, []).extend(asked)
        self._do(f"converse {url.removeprefix('http://')} {edges}")
        return [Exchange(0, "first", 0.1, "7", 0.2, (), 1)]

    def beside(self, server: Any, _n: int) -> BesideLong:
        self._do(f"beside {server.url.removeprefix('http://')}")
        return BesideLong((1.0, 2.0), (1.0, 2.0), 1.0, 120, 8)

    def prefix_faults(self, report: Report, *_: Any) -> None:
        self._do("prefix_faults")
        report.note("prefix engine, memory", "recovered", is_good=True)

    def vllm_fault(self, _source: str, _dtype: str, fault: str, _work: pathlib.Path) -> tuple[str, bool]:
        self._do(f"vllm_fault {fault}")
        return "503, exit code 1", True


def run(folder: pathlib.Path, dtype: str = "float32") -> Report:
    report = Report("CPU of a test", "embedded", dtype)
    gpu_check.check(report, OPTIONS, folder)
    return report


def test_a_run_in_which_all_is_well(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    machine = Machine("nothing", monkeypatch, tmp_path)
    report = run(tmp_path)
    assert report.failed == []
    assert sorted(machine.done) == sorted(STEPS)
    assert [(level.engine, level.edges, level.differ) for level in report.levels] == [
        ("prefix", 1, 0),
        ("prefix", 4, 0),
        ("vllm", 1, 0),
        ("vllm", 4, 0),
    ]
    assert {level.ceiling_requests_per_s for level in report.levels} == {2.0}
    assert list(machine.asked.values()) == [["asked 0", "asked 1"]] * 2, (
        "both engines the same, no picture at two levels: of the second a server would hold the prefix"
    )


@pytest.mark.parametrize("broken", STEPS)
def test_a_step_that_breaks_is_noted_and_the_others_are_done(
    broken: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """The first real run lost its figures to one 503, and a fault's outcome could not be noted at all."""
    machine = Machine(broken, monkeypatch, tmp_path)
    report = run(tmp_path)
    assert report.failed, "it shows in the exit code"
    of_a_server = re.match("serve (.*)", broken)
    lost = [step for step in STEPS if step not in machine.done]
    if broken == "export":
        assert lost == list(STEPS), "there is no model to serve"
    elif of_a_server:
        assert set(lost) <= {"ready", *(step for step in STEPS if of_a_server[1] in step)}
        assert "vllm_fault memory" in machine.done
    else:
        assert lost == [broken]
    written = json.loads((tmp_path / "gpu_check_cpu.json").read_text())
    assert written["failed"] == report.failed
    assert any(f"{broken}\nis broken" in outcome for outcome in written["checks"].values())
    assert f"{broken} is broken" in (tmp_path / "gpu_check_cpu.md").read_text()


@pytest.mark.parametrize(("dtype", "is_judged"), [("float32", True), ("bfloat16", False)])
def test_engines_that_differ_fail_in_full_precision_only(
    dtype: str, is_judged: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    machine = Machine("nothing", monkeypatch, tmp_path)

    async def other(url: str, asked: Sequence[Any], edges: int) -> list[Exchange]:
        (exchange,) = await machine.converse(url, asked, edges)
        return [replace(exchange, answer="8")] if (url, edges) == (URLS["vllm"], 4) else [exchange]

    monkeypatch.setattr(gpu_check, "converse_all", other)
    report = run(tmp_path, dtype)
    assert [level.differ for level in report.levels] == [0, 0, 0, 1]
    assert report.failed == (["replies as the prefix engine's"] if is_judged else [])
