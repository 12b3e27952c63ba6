"""No code outside an adapter's file names a family: adding one touches nothing else."""

from __future__ import annotations

import ast
import pathlib

import pytest

from secondglance_server.engine.adapters import discover

SERVER = pathlib.Path(__file__).parents[2] / "server" / "secondglance_server"
ADAPTERS = SERVER / "engine" / "adapters"
# a model's own code may say what it is built of
WEIGHTS_CODE = {SERVER / "engine" / "embedded", SERVER / "engine" / "reader"}
OUR_OWN = "secondglance_"
STEMS = ("llava", "qwen", "internvl", "idefics", "smolvlm", "gemma")


def words(source: str) -> set[str]:
    """Identifiers and strings of a module, docstrings left out, in lower case."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found.add(value.lower())
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            found.add(node.value.lower())
    return found


def named_families(source: str) -> set[str]:
    return {stem for stem in STEMS for word in words(source) if stem in word}


def test_the_stems_cover_every_supported_family() -> None:
    for model_type in discover():
        assert any(stem in model_type for stem in (*STEMS, OUR_OWN)), model_type


@pytest.mark.parametrize(
    "path",
    [p for p in SERVER.rglob("*.py") if ADAPTERS not in p.parents and not WEIGHTS_CODE & {*p.parents}],
    ids=lambda p: str(p.relative_to(SERVER)),
)
def test_no_module_outside_the_adapters_names_a_family(path: pathlib.Path) -> None:
    assert not named_families(path.read_text(encoding="utf-8"))


def test_the_shared_parts_of_adapters_name_none_either() -> None:
    for name in ("__init__", "protocol"):
        assert not named_families((ADAPTERS / f"{name}.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("code", ["from x import Gemma3Model", "if kind == 'qwen3_vl': pass", "a.llava_side"])
def test_the_check_can_fail(code: str) -> None:
    assert named_families(code)
