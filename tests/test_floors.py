"""The server's floors: roof, http, telemetry, inference, settings and errors, engine; imports point down.

Rooms are folders; the modules beside them are the roof (what runs an app) or a floor (what all may know).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.test_rooms import cycle_in, imports_of, modules_of

SERVER = Path(__file__).parents[1] / "server"
PACKAGE = "secondglance_server"

# From the roof down. A room imports itself and what stands below it.
FLOORS = ("roof", "http", "telemetry", "inference", "floor", "engine")
ROOF = {"app", "cli", "fleet_status", "serving", "testing"}
MOST_FLOORS = 10


def room_of(module: str) -> str:
    name = module.removeprefix(f"{PACKAGE}.").split(".")[0]
    if name in FLOORS:
        return name
    return "roof" if name in ROOF or name in ("__init__", PACKAGE) else "floor"


def upward(module: str, source: str, modules: Mapping[str, Path]) -> set[str]:
    """What `module` imports from a room above its own."""
    own = FLOORS.index(room_of(module))
    return {name for name in imports_of(source, modules) if FLOORS.index(room_of(name)) < own}


MODULES = modules_of(PACKAGE, SERVER)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    """HTTP lay inside policy: a gate could not be used without starlette."""
    assert upward(module, MODULES[module].read_text(), MODULES) == set()


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("inference.gate", "http.problems"),
        ("engine.stepping.steps", "inference.two_stages"),
        ("engine.stepping.steps", "settings"),
        ("telemetry.logs", "http.observe"),
        ("settings", "inference.gate"),
        ("http.routes", "app"),
    ],
)
def test_an_import_that_points_up_is_found(module: str, imported: str) -> None:
    source = f"def later():\n    from {PACKAGE}.{imported} import anything"
    assert upward(f"{PACKAGE}.{module}", source, MODULES) == {f"{PACKAGE}.{imported}"}


def test_no_module_of_the_server_imports_itself_by_way_of_others() -> None:
    graph = {name: imports_of(file.read_text(), MODULES) for name, file in MODULES.items()}
    assert cycle_in(graph) == []


def test_the_longest_way_down_is_short() -> None:
    rooms: dict[str, set[str]] = {}
    for name, file in MODULES.items():
        below = {room_of(imported) for imported in imports_of(file.read_text(), MODULES)}
        rooms.setdefault(room_of(name), set()).update(below - {room_of(name)})

    @cache
    def height(room: str) -> int:
        return 1 + max((height(below) for below in rooms[room]), default=0)

    assert set(rooms) == set(FLOORS)
    assert max(map(height, rooms)) <= MOST_FLOORS


def loaded_by(modules: list[str]) -> dict[str, list[str]]:
    """Return what is loaded after each module's import, all in one process: it only ever grows."""
    heavy = "('fastapi', 'starlette', 'torch', 'transformers', 'uvicorn')"
    script = (
        "import importlib, json, sys\nfound = {}\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = [each for each in {heavy} if each in sys.modules]\n"
        "print(json.dumps(found))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return dict(json.loads(ran.stdout))


def test_policy_loads_neither_a_web_framework_nor_torch() -> None:
    policy = sorted(name for name in MODULES if room_of(name) in ("inference", "floor"))
    assert len(policy) > 15
    assert {name: found for name, found in loaded_by(policy).items() if found} == {}


def test_the_engine_loads_no_web_framework() -> None:
    ours = [name for name in MODULES if room_of(name) == "engine"]
    engine = sorted(name for name in ours if ".engine.vllm" not in name)  # vLLM brings one of its own
    web = {"fastapi", "starlette", "uvicorn"}
    assert {name for name, found in loaded_by(engine).items() if web & set(found)} == set()


def test_what_is_loaded_is_found() -> None:
    assert loaded_by([f"{PACKAGE}.http.routes"])[f"{PACKAGE}.http.routes"] == ["fastapi", "starlette"]
