"""What tests are called: `make test` runs several processes, which must all collect the same names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def collecting(hash_seed: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def test_no_name_holds_an_address_a_time_or_the_order_of_a_set() -> None:
    """Two did. A compressed body stopped a run whose processes collected in different seconds."""
    first = collecting(1)
    time.sleep(1.5)  # another second, as compressed data writes it
    second = collecting(2)
    names, others = (
        [line for line in p.communicate()[0].splitlines() if "::" in line] for p in (first, second)
    )
    assert len(names) > 1000
    assert names == others
