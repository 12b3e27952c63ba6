"""What each process of vLLM calls at its start; no vLLM is needed."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap
import time
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[2]

PROGRAM = textwrap.dedent("""
    import multiprocessing, os, signal, sys, time
    from secondglance_server.engine.vllm.plugin import register

    def child(path):
        register()
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(300)

    if __name__ == "__main__":
        register()  # the server's own process stays
        multiprocessing.get_context("spawn").Process(target=child, args=(sys.argv[1],)).start()
        while not (os.path.exists(sys.argv[1]) and os.path.getsize(sys.argv[1])):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
""")


@pytest.mark.live
def test_a_process_of_vllm_ends_when_the_server_is_killed(tmp_path: pathlib.Path) -> None:
    """vLLM's scheduler went on without its server, holding the device's memory."""
    program, note = tmp_path / "program.py", tmp_path / "pid"
    program.write_text(PROGRAM)
    subprocess.run([sys.executable, str(program), str(note)], timeout=120, check=False)
    process = pathlib.Path(f"/proc/{note.read_text()}")
    deadline = time.monotonic() + 30
    while process.exists() and "\nState:\tZ" not in (process / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    project = tomllib.loads((ROOT / "server" / "pyproject.toml").read_text())["project"]
    named = project["entry-points"]["vllm.general_plugins"]["secondglance"]
    assert named == "secondglance_server.engine.vllm.plugin:register"
