"""The conversation vectors: both edges, in Python and in JavaScript, take the steps that they say."""

from __future__ import annotations

import json
import subprocess
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from secondglance import errors
from tests.needs import needs_program
from tests.vectors.make import FOLDER, written
from tests.vectors.scenarios import GROUPS

EDGE_WEB = Path(__file__).parents[2] / "edge_web"
FILES = {group: json.loads((FOLDER / f"{group}.json").read_text()) for group in GROUPS}
VECTORS: list[dict[str, Any]] = list(chain.from_iterable(file["vectors"] for file in FILES.values()))


@pytest.mark.parametrize("group", GROUPS)
def test_the_python_edge_takes_the_steps_of_the_vectors(group: str) -> None:
    """A change of the conversation that changes a file is to be looked at: `python -m tests.vectors.make`."""
    assert written(group) == (FOLDER / f"{group}.json").read_text()


def test_the_vectors_meet_every_kind_of_end() -> None:
    assert len(VECTORS) == len({vector["name"] for vector in VECTORS}) >= 200
    ends = [end for vector in VECTORS for end in vector["ends"]]
    replies = [end["reply"] for end in ends if "reply" in end]
    assert {(reply["stage"], bool(reply["degraded"])) for reply in replies} == {
        (1, False),
        (1, True),
        (2, False),
        (2, True),
    }
    kinds = {name for name in errors.__dict__ if name.endswith("Error")} - {"EdgeError", "MissingExtraError"}
    assert {end["error"]["kind"] for end in ends if "error" in end} == kinds


@needs_program("node", package="nodejs")
@pytest.mark.parametrize("file", sorted(path.name for path in (EDGE_WEB / "test").glob("*.test.js")))
def test_the_edge_in_javascript_passes(file: str) -> None:
    """In Node, without a browser; the vectors are among its tests."""
    ran = subprocess.run(["node", "--test", f"test/{file}"], cwd=EDGE_WEB, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
