"""`--no-skips`, as CI runs, lets no test be skipped unseen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SKIPPING = """
import pytest
from tests.needs import needs_module, needs_program

@needs_program("no-such-program", package="a-package")
def test_by_a_mark() -> None: ...

@needs_module("no_such_module", package="a-module")
def test_by_another_mark() -> None: ...

@pytest.fixture
def nothing() -> None:
    pytest.skip("no such thing")

def test_by_a_fixture(nothing: None) -> None: ...

@pytest.mark.xfail(reason="known")
def test_that_fails() -> None:
    assert False

def test_that_runs() -> None: ...
"""


@pytest.mark.parametrize(
    ("flags", "outcome"),
    [((), "1 passed, 3 skipped, 1 xfailed"), (("--no-skips",), "1 passed, 1 xfailed, 3 errors")],
    ids=["a user's machine", "CI"],
)
def test_a_skip_says_what_would_run_it_and_fails_in_ci(
    tmp_path: Path, flags: tuple[str, ...], outcome: str
) -> None:
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    command = [sys.executable, "-m", "pytest", "-rsfE", "-p", "no:cacheprovider", "-p", "tests.conftest"]
    ran = subprocess.run(
        [*command, "-c", "pyproject.toml", *flags, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert outcome in ran.stdout, ran.stdout
    for advice in ("apt-get install a-package", "pip install a-module", "no such thing"):
        assert advice in ran.stdout
    assert ran.returncode == (1 if flags else 0)


def test_ci_installs_every_package_that_a_test_needs() -> None:
    """A test that needs a new program cannot be skipped in CI unseen, nor break it."""
    (listed,) = re.findall(r"^packages=\((.*?)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    needed = {
        package
        for path in tests
        for package in re.findall(r'needs_program\(\s*"[^"]+", package="([^"]+)"', path.read_text())
    }
    assert {"nginx-light", "prometheus", "curl"} <= needed
    assert needed <= set(listed.split())


def test_no_test_skips_without_saying_what_would_run_it() -> None:
    """Skips are made in tests/needs.py, or name a package themselves."""
    for path in (ROOT / "tests").rglob("*.py"):
        if path.name in ("needs.py", "test_skips.py"):
            continue
        for line in path.read_text().splitlines():
            if re.search(r"pytest\.skip\(|importorskip", line):
                assert "install" in line, f"{path}: {line}"
