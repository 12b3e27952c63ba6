"""The arrows between packages: `shared` at the floor, the programs apart, torch only behind the engine."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers"}
_DATASETS = "evaluation/secondglance_eval/datasets"

# Package -> what its files must not import, at whatever depth.
FORBIDDEN = {
    "edge_client": {
        "secondglance_server",
        "secondglance_eval",
        "lab",
        "fastapi",
        "starlette",
        "uvicorn",
        *HEAVY,
    },
    "evaluation": {"training", *HEAVY},  # it measures the product from outside
    "lab": {"secondglance_server", "training", "benchmarks", "secondglance_eval", *HEAVY},
    "scenes": {"secondglance_server", "secondglance", "secondglance_eval", "lab", *HEAVY},
    "server": {"secondglance", "secondglance_eval", "lab"},
    "vllm_capture": {
        "secondglance",
        "secondglance_eval",
        "secondglance_server",
        "secondglance_protocol",
        "lab",
    },
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
        return found - sys.stdlib_module_names - {"secondglance_protocol", "pydantic"}
    forbidden = set(FORBIDDEN[package])
    if path.startswith("edge_client/secondglance/gateway/"):  # an extra: the one part of the edge that serves
        forbidden -= {"starlette", "uvicorn"}
    if path == "lab/measuring/report.py":  # runs where the campaign was started, never in the edge's image
        forbidden -= {"secondglance_eval"}
    if path in (f"{_DATASETS}/checkout.py", f"{_DATASETS}/textures.py"):  # in a checkout only, as `scenes`
        forbidden -= {"training"}  # it draws the photo textures, with words and photographs held out
    if package == "server" and not path.startswith("server/secondglance_server/engine/"):
        forbidden |= HEAVY
    if path in ("server/secondglance_server/engine/protocol.py", "server/secondglance_server/engine/fake.py"):
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
        ("shared/secondglance_protocol/wire.py", "import httpx"),
        ("shared/secondglance_protocol/wire.py", "from secondglance_server.inference.gate import judge"),
        (
            "edge_client/secondglance/client.py",
            "def f():\n    from secondglance_server.app import create_app",
        ),
        ("server/secondglance_server/inference/gate.py", "import torch.nn"),
        ("server/secondglance_server/http/body.py", "from transformers import AutoModel"),
        ("server/secondglance_server/engine/llava.py", "import secondglance"),
        ("server/secondglance_server/engine/protocol.py", "import torch"),
        ("scenes/signs.py", "import torch"),
        ("server/secondglance_server/cli.py", "from secondglance_eval.asking.records import Record"),
        ("evaluation/secondglance_eval/asking/run.py", "import torch"),
        ("lab/relay/relay.py", "from secondglance_server.app import create_app"),
        ("edge_client/secondglance/client.py", "from lab.relay.relay import Relay"),
        ("edge_client/secondglance/commands/gateway.py", "import uvicorn"),
        ("edge_client/secondglance/gateway/app.py", "from fastapi import FastAPI"),
        (
            "vllm_capture/secondglance_vllm_capture/keys.py",
            "from secondglance_server.engine import attention",
        ),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str) -> None:
    assert wrong_imports(path, source)


def test_files_are_looked_at() -> None:
    assert {
        "shared/secondglance_protocol/wire.py",
        "server/secondglance_server/app.py",
        "edge_client/secondglance/__init__.py",
    } <= set(files())
