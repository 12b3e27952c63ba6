"""`make fleet-demo` does what it says, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import needs_module, needs_program

ROOT = Path(__file__).parents[2]


@pytest.mark.live
@needs_program("nginx", package="nginx-light")
@needs_program("redis-server", package="redis-server")
@needs_module("redis", package="second-glance-server[redis]")
def test_another_server_answers_the_second_stage_of_one_that_is_gone(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "examples.fleet_demo"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = ran.stdout
    assert "killing server" in said
    assert "NOT READY" in said
    assert "the answer of stage 2: '925'" in said
    ends = [line.split() for line in said.splitlines() if line.startswith("server ") and "trace" in line]
    first, second = sorted(ends, key=lambda words: words[3])
    assert (first[3], second[3]) == ("1", "2")
    assert first[1] != second[1], "the stages ran on different servers"
    assert first[-1] == second[-1], "and belong to one trace"
    assert list(tmp_path.glob("second-glance-*")) == [], "what it made it has taken away"


def test_what_is_missing_is_named() -> None:
    """Without a program the demonstration says what to install."""
    ran = subprocess.run(
        [sys.executable, "-m", "examples.fleet_demo"],
        cwd=ROOT,
        env={**os.environ, "PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "not installed: apt-get install redis-server nginx-light\n"
