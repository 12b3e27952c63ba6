"""The fuzzers find nothing: twenty seconds a target here, ten minutes in `make fuzz`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import targets
from tests.needs import needs_module

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
SECONDS = 20

needs_atheris = needs_module("atheris", package="atheris")


def seeds(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_input_of_the_corpus_is_taken_or_refused(name: str) -> None:
    assert len(seeds(name)) > 10
    for path in seeds(name):
        targets.TARGETS[name](path.read_bytes())


def fuzz(name: str, new_finds: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Fuzz one target in a process of its own.

    A shell stands between: a child's peak memory begins at what its parent held when it was made, and after
    thousands of tests this process alone is above the fuzzer's limit.
    """
    return subprocess.run(
        [
            *("sh", "-c", '"$0" "$@"; exit $?'),
            *(sys.executable, "-m", "tests.fuzz", name, str(new_finds), str(CORPUS / name)),
            *(f"-artifact_prefix={new_finds}/", *options),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@needs_atheris
@pytest.mark.parametrize("name", targets.TARGETS)
def test_a_short_search_finds_no_crash_and_no_runaway(name: str, tmp_path: Path) -> None:
    result = fuzz(name, tmp_path, f"-max_total_time={SECONDS}")
    assert result.returncode == 0, result.stderr[-3000:]
    done = re.search(r"Done (\d+) runs", result.stderr)
    assert done is not None
    assert int(done[1]) > 100


@needs_atheris
def test_the_search_can_fail(tmp_path: Path) -> None:
    """A target that raises ends the fuzzer with an error and leaves the input behind."""
    script = "import sys, atheris\natheris.Setup(sys.argv, lambda data: 1 / 0)\natheris.Fuzz()\n"
    result = subprocess.run(
        [sys.executable, "-c", script, f"-artifact_prefix={tmp_path}/", "-runs=10"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    assert "ZeroDivisionError" in result.stderr + result.stdout
    assert list(tmp_path.glob("crash-*"))
