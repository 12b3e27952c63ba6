"""Every tree: few modules side by side, no import cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = {
    "benchmarks": ROOT,
    "lab": ROOT,
    "scenes": ROOT,
    "training": ROOT,
    "secondglance": ROOT / "edge_client",
    "secondglance_eval": ROOT / "evaluation",
    "secondglance_protocol": ROOT / "shared",
    "secondglance_server": ROOT / "server",
    "secondglance_vllm_capture": ROOT / "vllm_capture",
}
MOST_MODULES = 16


def modules_of(package: str, root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    files = (root / package).rglob("*.py")
    return {".".join(file.relative_to(root).with_suffix("").parts): file for file in files}


def imports_of(source: str, names: Iterable[str]) -> set[str]:
    """Which of the modules `names` the source imports, in functions and for type checking, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(names)


def cycle_in(graph: Mapping[str, set[str]]) -> list[str]:
    """A cycle of the graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return list(exc.args[1])
    return []


@pytest.mark.parametrize("package", TREES)
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    """The lab's plot and report did."""
    modules = modules_of(package, TREES[package])
    graph = {name: imports_of(file.read_text(), modules) for name, file in modules.items()}
    assert any(graph.values())
    assert cycle_in(graph) == []


def test_a_cycle_is_found() -> None:
    sources = {"a": "def f():\n    from b import c", "b": "import a", "d": "import a"}
    assert set(cycle_in({name: imports_of(source, sources) for name, source in sources.items()})) == {
        "a",
        "b",
    }


@pytest.mark.parametrize("package", TREES)
def test_no_folder_shows_many_modules_side_by_side(package: str) -> None:
    """Twenty-one modules of the lab lay in one folder."""
    counts: dict[Path, int] = {}
    for file in modules_of(package, TREES[package]).values():
        if file.name != "__init__.py":
            counts[file.parent] = counts.get(file.parent, 0) + 1
    assert {folder.name: count for folder, count in counts.items() if count > MOST_MODULES} == {}
