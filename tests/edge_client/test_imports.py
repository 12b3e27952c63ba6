"""The edge is light: what it loads, and that it never meets the server's code."""

from __future__ import annotations

import ast
import graphlib
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


LIBRARY_ROOMS = {"conversation", "pictures", "link", "wire"}
LIBRARY_ROOT = {"__init__", "client", "documents", "doubt", "settings", "errors", "reply", "retry", "text"}
APPS = {"show", "batch", "watching", "gateway", "doctor", "commands", "cli"}


def modules_imported_by(source: str) -> set[str]:
    """Every module of `secondglance` that the code may load, now or later, but for type checkers."""
    found: set[str] = set()
    for node in _without_type_checking(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "secondglance"}


def _without_type_checking(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        is_guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        waiting += [] if is_guarded else list(ast.iter_child_nodes(node))
    return nodes


def room_of(module: str) -> str:
    """`wire.tls` lies in `wire`, `client` in `client`, the package itself in `__init__`."""
    return [*module.split("."), "__init__"][1]


def sources() -> dict[str, str]:
    """The code of every module of the edge, by its dotted name."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): (
            path.read_text()
        )
        for path in PACKAGE.rglob("*.py")
    }


def wrong_arrows(code: dict[str, str]) -> list[str]:
    """Imports of an app by the library, and of an app by another app than the commands."""
    wrong = []
    for module, source in code.items():
        room = room_of(module)
        for imported in modules_imported_by(source):
            used = room_of(imported)
            if used in APPS and room not in {used, "commands", "cli"}:
                wrong.append(f"{module} imports {imported}")
    return wrong


def cycle(code: dict[str, str]) -> list[str] | None:
    """Modules that import each other in a ring, if there are any."""
    modules = code.keys() - {"secondglance"}  # the package loads its names when they are asked for
    graph = {module: modules_imported_by(code[module]) & modules for module in modules}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as exc:
        return list(exc.args[1])
    return None


def test_every_module_lies_in_a_room_that_the_plan_names() -> None:
    assert {room_of(module) for module in sources()} == LIBRARY_ROOMS | LIBRARY_ROOT | APPS


def test_nothing_of_the_library_imports_an_app_and_apps_do_not_import_each_other() -> None:
    assert wrong_arrows(sources()) == []


def test_no_modules_import_each_other_in_a_ring() -> None:
    assert cycle(sources()) is None


def test_the_arrows_can_be_broken() -> None:
    """One wrong import of each kind is found, also one inside a function; one for type checkers is none."""
    code = sources()
    code["secondglance.retry"] += "\ndef late():\n    from secondglance.show import report\n"
    assert sorted(wrong_arrows(code)) == [
        "secondglance.retry imports secondglance.show",
        "secondglance.retry imports secondglance.show.report",
    ]
    code = sources()
    code["secondglance.doctor.examination"] += "\nimport secondglance.batch.asking\n"
    assert wrong_arrows(code) == ["secondglance.doctor.examination imports secondglance.batch.asking"]
    code = sources()
    code["secondglance.errors"] += "\nfrom secondglance.reply import Reply\nimport secondglance.client\n"
    ring = cycle(code)
    assert ring is not None
    assert "secondglance.errors" in ring
    code = sources()
    code["secondglance.errors"] += "\nif TYPE_CHECKING:\n    import secondglance.client\n"
    assert cycle(code) is None


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    import secondglance

    with pytest.raises(AttributeError, match="Nothing"):
        secondglance.Nothing  # noqa: B018  # the access is the test
