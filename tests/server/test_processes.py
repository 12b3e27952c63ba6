"""No process outlives the one that started it, whoever starts it and however that one ends."""

from __future__ import annotations

import ast
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGES = (
    "server", "shared", "edge_client", "edge_web", "evaluation", "vllm_capture", "training", "scenes", "lab",
    "benchmarks",
)  # fmt: skip
STARTERS = {
    "vllm": """
        from secondglance_server.engine.vllm.plugin import register
        register()  # the server's own process stays
        for path in sys.argv[1:]:
            multiprocessing.get_context("spawn").Process(target=wait, args=(path, register)).start()
    """,
    "training": """
        from training.reader.render import spread
        threading.Thread(target=spread, args=(wait_each, sys.argv[1:], 2), daemon=True).start()
    """,
    "evaluation": """
        from secondglance_eval.asking.prefetch import pictures_ahead
        with pictures_ahead(2) as pool:
            for path in sys.argv[1:]:
                pool.submit(wait, path)
            kill()
    """,
}
PROGRAM = """
import multiprocessing, os, signal, sys, threading, time

def wait(path, first=lambda: None):
    first()
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(300)

def wait_each(paths):
    for path in paths:
        wait(path)

def kill():
    while not all(os.path.exists(path) and os.path.getsize(path) for path in sys.argv[1:]):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
{start}
    kill()
"""


@pytest.mark.live
@pytest.mark.parametrize("starter", STARTERS)
def test_processes_end_when_the_one_that_started_them_is_killed(starter: str, tmp_path: pathlib.Path) -> None:
    """vLLM's scheduler went on holding the device's memory, and a killed training went on training."""
    program = tmp_path / "program.py"
    start = textwrap.indent(textwrap.dedent(STARTERS[starter]), "    ")
    program.write_text(PROGRAM.format(start=start))
    notes = [tmp_path / "pid-1", tmp_path / "pid-2"]
    subprocess.run(
        [sys.executable, str(program), *map(str, notes)], timeout=120, check=False, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    deadline = time.monotonic() + 30
    for note in notes:
        process = pathlib.Path(f"/proc/{note.read_text()}")
        while process.exists() and "\nState:\tZ" not in (process / "status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_only_one_module_starts_interpreters() -> None:
    """Else it is soon forgotten that such a process has to end."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            called = {
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
            }
            if called & {"get_context", "Process", "ProcessPoolExecutor"}:
                found.add(str(path.relative_to(ROOT)))
    assert found == {"server/secondglance_server/engine/processes.py"}
