"""The edge is light: what it loads, and that it never meets the server's code."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "edge_client" / "secondglance"
HEAVY = {"torch", "transformers", "fastapi", "starlette", "numpy", "secondglance_server"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a fresh process after `code`."""
    script = (
        f"{code}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    return set(json.loads(ran.stdout))


def test_importing_the_edge_and_each_of_its_modules_loads_nothing_heavy() -> None:
    names = (path.relative_to(PACKAGE.parent).with_suffix("") for path in PACKAGE.rglob("*.py"))
    # The gateway is an extra and may serve; that nothing else loads it is what this holds, too.
    names = (name for name in names if "gateway" not in name.parts or name.parts[1] == "commands")
    modules = [".".join(name.parts) for name in names if name.name != "__init__"]
    code = "import secondglance\n" + "\n".join(f"import {module}" for module in modules)
    code += "\nfor name in secondglance.__all__: getattr(secondglance, name)"
    assert loaded_by(code) & HEAVY == set()


def test_the_check_above_can_fail() -> None:
    assert loaded_by("import secondglance_server.engine.protocol") & HEAVY == {"numpy", "secondglance_server"}


def test_the_gateway_loads_what_serves_and_nothing_heavier() -> None:
    assert loaded_by("import secondglance.gateway.serve") & HEAVY == {"starlette"}


def test_the_command_lines_help_waits_for_no_http_library() -> None:
    """Nor for rich; every command is looked up, as `--help` does to list them.

    `email` comes with `importlib.metadata`, which made `--help` a fifth slower when the package read its
    version early.
    """
    code = "from secondglance.cli import app, _Commands\ndict(_Commands())"
    assert loaded_by(code) & {"email", "httpx", "pydantic", "PIL", "rich"} == set()


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_the_edge_imports_the_protocol_and_itself_of_our_packages() -> None:
    ours = {"secondglance", "secondglance_protocol", "secondglance_server", "secondglance_eval"}
    ours |= {"lab", "scenes", "training", "benchmarks"}
    used = set().union(*(imports_of(path) for path in PACKAGE.rglob("*.py")))
    assert used & ours == {"secondglance", "secondglance_protocol"}


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    import secondglance

    with pytest.raises(AttributeError, match="Nothing"):
        secondglance.Nothing  # noqa: B018  # the access is the test
