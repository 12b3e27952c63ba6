"""The arrows between packages: `shared` at the floor, the programs apart, torch only behind the engine."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers"}

# Package -> what its files must not import, at whatever depth.
FORBIDDEN = {
    "edge_client": {"server", "evaluation", "lab", "fastapi", "starlette", "uvicorn", *HEAVY},
    "evaluation": {"training", *HEAVY},  # it measures the product from outside
    "lab": {"server", "training", "benchmarks", "evaluation", *HEAVY},
    "scenes": {"server", "edge_client", "evaluation", "lab", *HEAVY},
    "server": {"edge_client", "evaluation", "lab"},
}


def imports(source: str) -> Iterator[str]:
    """Top-level names that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def wrong_imports(path: str, source: str) -> set[str]:
    """What the file at `path` (relative to the root) imports and should not."""
    package = path.partition("/")[0]
    found = set(imports(source))
    if package == "shared":
        return found - sys.stdlib_module_names - {"shared", "pydantic"}
    forbidden = set(FORBIDDEN[package])
    if path.startswith("edge_client/gateway/"):  # an extra: the one part of the edge that serves
        forbidden -= {"starlette", "uvicorn"}
    if package == "server" and not path.startswith(("server/engine/", "server/embedded/")):
        forbidden |= HEAVY
    if path in ("server/engine/protocol.py", "server/engine/fake.py"):
        forbidden |= HEAVY
    return found & forbidden


def files() -> list[str]:
    packages = ("shared", *FORBIDDEN)
    return [str(path.relative_to(ROOT)) for name in packages for path in sorted((ROOT / name).rglob("*.py"))]


@pytest.mark.parametrize("path", files())
def test_imports_point_down(path: str) -> None:
    assert wrong_imports(path, (ROOT / path).read_text()) == set()


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("shared/wire.py", "import httpx"),
        ("shared/wire.py", "from server.gate import judge"),
        ("edge_client/client.py", "def f():\n    from server.app import create_app"),
        ("server/gate.py", "import torch.nn"),
        ("server/middleware/body.py", "from transformers import AutoModel"),
        ("server/engine/llava.py", "import edge_client"),
        ("server/engine/protocol.py", "import torch"),
        ("scenes/signs.py", "import torch"),
        ("server/cli.py", "from evaluation.records import Record"),
        ("evaluation/run.py", "import torch"),
        ("lab/relay.py", "from server.app import create_app"),
        ("edge_client/client.py", "from lab.relay import Relay"),
        ("edge_client/commands/gateway.py", "import uvicorn"),
        ("edge_client/gateway/app.py", "from fastapi import FastAPI"),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert wrong_imports(path, source)


def test_files_are_looked_at() -> None:
    assert {"shared/wire.py", "server/app.py", "edge_client/__init__.py"} <= set(files())
