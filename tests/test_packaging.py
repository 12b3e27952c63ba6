"""The five distributions as a user installs them: wheels, in environments that hold nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from secondglance_server.engine.fake import FakeEngine
from tests.server.exchange import encode, live_server

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "second-glance-protocol": "shared",
    "second-glance-web": "edge_web",
    "second-glance": "edge_client",
    "second-glance-server": "server",
    "second-glance-eval": "evaluation",
}
PACKAGES = {
    "second-glance-protocol": "secondglance_protocol",
    "second-glance-web": "secondglance_web",
    "second-glance": "secondglance",
    "second-glance-server": "secondglance_server",
    "second-glance-eval": "secondglance_eval",
}
PROJECTS: dict[str, dict[str, Any]] = {
    name: tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    for name, folder in FOLDERS.items()
}
(VERSION,) = {project["version"] for project in PROJECTS.values()}
HEIC = ROOT / "tests" / "edge_client" / "formats" / "files" / "srgb.heic"
HEAVY = {"torch", "transformers", "numpy", "fastapi"}
MAX_EDGE_WHEELS_BYTES = 500_000  # ours; with what they need the edge has 25 MB (requirements/edge.lock)


@dataclasses.dataclass(frozen=True)
class Environment:
    """A virtual environment that holds the wheels asked for and, linked, what they require."""

    folder: Path
    gained: set[str]  # names that our wheels brought into site-packages
    distributions: set[str]  # canonical names of third-party distributions that are linked

    def command(self, *words: str) -> list[str]:
        return [str(self.folder / "bin" / words[0]), *words[1:]]


@pytest.fixture(scope="module", autouse=True)
def no_path_of_the_callers() -> Iterator[None]:
    """A PYTHONPATH would take part in every environment that is made here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of each distribution, built from a copy: no build folder of yesterday gets in."""
    work = tmp_path_factory.mktemp("wheels")
    for folder in FOLDERS.values():
        ignored = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", "node_modules")
        shutil.copytree(ROOT / folder, work / folder, ignore=ignored)
        build = [sys.executable, "-m", "pip", "--isolated", "wheel", "--no-deps", "--no-index"]
        options = ["--no-build-isolation", "--disable-pip-version-check", "--wheel-dir", str(work)]
        ran = subprocess.run([*build, *options, str(work / folder)], capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr + ran.stdout
    return {name: next(work.glob(f"{name.replace('-', '_')}-[0-9]*.whl")) for name in FOLDERS}


def required(wheel: Path) -> set[str]:
    """Names of all that a wheel requires without extras, its requirements' requirements included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().split("\n\n")[0].splitlines()
    found: set[str] = set()
    waiting = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    seen: set[str] = set()
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        key = f"{canonicalize_name(requirement.name)}{sorted(requirement.extras)}"
        if key in seen:
            continue
        seen.add(key)
        found.add(canonicalize_name(requirement.name))
        for each in importlib.metadata.requires(requirement.name) or ():
            wanted = Requirement(each)
            extras = requirement.extras or {""}
            if not wanted.marker or any(wanted.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(f"{wanted.name}[{','.join(wanted.extras)}]" if wanted.extras else wanted.name)
    return found


def make_environment(folder: Path, *chosen: Path) -> Environment:
    """Return a fresh environment with these wheels and their requirements."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    before = {path.name for path in site.iterdir()}
    pip = [sys.executable, "-m", "pip", "--isolated", "--python", str(python), "install"]
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, *map(str, chosen)], check=True)
    gained = {path.name for path in site.iterdir()} - before
    names = set().union(*(required(wheel) for wheel in chosen)) - FOLDERS.keys()
    third_party = folder / "third_party"
    third_party.mkdir()
    for name in names:
        _link(importlib.metadata.distribution(name), third_party)
    (site / "third_party.pth").write_text(f"{third_party}\n")
    return Environment(folder, gained, names)


def _link(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    """Link the files of an installed distribution into a folder: top-level names, none of its neighbours'."""
    tops = {Path(str(file)).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    for top in tops:
        target = Path(str(distribution.locate_file(top)))
        if not (folder / top).exists():
            (folder / top).symlink_to(target)


@pytest.fixture(scope="session")
def edge(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The edge without extras."""
    chosen = (wheels["second-glance"], wheels["second-glance-protocol"])
    return make_environment(tmp_path_factory.mktemp("edge") / "venv", *chosen)


@pytest.fixture
def everything(wheels: dict[str, Path], tmp_path: Path) -> Environment:
    """All of them without extras."""
    return make_environment(tmp_path / "venv", *wheels.values())


def run(environment: Environment, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the environment; nothing else is on its PATH."""
    return subprocess.run(
        environment.command(*words),
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": str(environment.folder / "bin"), "HOME": str(environment.folder), **variables},
        cwd=environment.folder,
    )


def test_every_wheel_holds_its_package_and_nothing_else(wheels: dict[str, Path]) -> None:
    """U4: one wheel installed `server`, `shared`, `lab` and more at the top level of site-packages."""
    for name, wheel in wheels.items():
        tops = {path.split("/")[0] for path in zipfile.ZipFile(wheel).namelist()}
        assert {top for top in tops if not top.endswith(".dist-info")} == {PACKAGES[name]}


def test_every_wheel_is_complete(wheels: dict[str, Path]) -> None:
    """All modules, data files and the licence of the checkout are in the wheel."""
    for name, wheel in wheels.items():
        held = set(zipfile.ZipFile(wheel).namelist())
        source = ROOT / FOLDERS[name]
        listed = subprocess.run(
            ["git", "ls-files", PACKAGES[name]], cwd=source, capture_output=True, text=True, check=True
        )
        assert {file for file in listed.stdout.split() if not file.endswith(".md")} - held == set()
        assert any(path.endswith("licenses/LICENSE") for path in held)


def test_the_page_in_the_wheel_is_the_checkouts(wheels: dict[str, Path], tmp_path: Path) -> None:
    """The page and its modules lie beside their package in the checkout, and inside it in the wheel."""
    with zipfile.ZipFile(wheels["second-glance-web"]) as archive:
        archive.extractall(tmp_path)
    script = "from secondglance_web import Page; print(*sorted(Page().names), sep='\\n')"
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    command = ["git", "ls-files", "edge_web/page", "edge_web/src"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = {file.removeprefix("edge_web/").removeprefix("page/") for file in listed.stdout.split()}
    assert set(ran.stdout.split()) == {file for file in files if not file.endswith(".gitkeep")}


def test_the_edges_wheels_are_small_and_hold_neither_server_nor_weights(wheels: dict[str, Path]) -> None:
    """U4: the edge's install carried 13 MB of server."""
    ours = [wheels["second-glance"], wheels["second-glance-protocol"]]
    assert sum(wheel.stat().st_size for wheel in ours) < MAX_EDGE_WHEELS_BYTES
    files = [path for wheel in ours for path in zipfile.ZipFile(wheel).namelist()]
    assert not [path for path in files if "server" in path.split("/")[0] or path.endswith(".safetensors")]


def test_the_edge_requires_nothing_heavy(edge: Environment, wheels: dict[str, Path]) -> None:
    assert HEAVY.isdisjoint(edge.distributions)
    assert {"httpx", "pillow", "pydantic"} <= edge.distributions
    assert required(wheels["second-glance-server"]) >= HEAVY, "the list can tell"


def test_site_packages_gains_only_our_names(edge: Environment) -> None:
    packages = {name for name in edge.gained if not name.endswith(".dist-info")}
    assert packages == {"secondglance", "secondglance_protocol"}
    for module in ("torch", "numpy", "fastapi", "secondglance_server", "lab"):
        assert run(edge, "python", "-c", f"import {module}").returncode == 1


APP = """
import lab, server, shared
from secondglance import EdgeClient

assert (lab.OWNER, server.OWNER, shared.OWNER) == ("app",) * 3
with EdgeClient("{url}") as client:
    print(client.ask("photo.png", "What is it?").answer)
"""


async def test_an_app_with_folders_of_our_old_names_asks(edge: Environment, tmp_path: Path) -> None:
    """U4: `import shared` was ours or the app's, whichever came first."""
    for name in ("lab", "server", "shared"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'app'\n")
    (tmp_path / "photo.png").write_bytes(encode(4000, 3000))
    async with live_server(FakeEngine()) as url:
        (tmp_path / "app.py").write_text(APP.format(url=url))
        process = await asyncio.create_subprocess_exec(
            *edge.command("python"), "app.py", cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")
    assert said.decode() == "42\n"


def one_line_with_advice(ran: subprocess.CompletedProcess[str], advice: str) -> None:
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    assert advice in ran.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("gateway",), "gateway"),
        (("watch", "--camera", "rtsp://127.0.0.1:9/x", "-q", "What is it?"), "camera"),
        (("ask", str(HEIC), "What is it?", "--dry-run"), "heic"),
    ],
)
def test_the_edge_says_what_to_install(edge: Environment, words: tuple[str, ...], extra: str) -> None:
    """U5: a missing extra was a traceback, or advice that names an extra that does not exist."""
    ran = run(edge, "secondglance", *words)
    one_line_with_advice(ran, f"pip install 'second-glance[{extra}]'")


def test_the_evaluation_says_what_to_install(everything: Environment) -> None:
    """U5: `secondglance-eval report` without matplotlib was a traceback."""
    (everything.folder / "third_party" / "matplotlib").unlink()
    ran = run(everything, "secondglance-eval", "report", "--out", "nowhere")
    one_line_with_advice(ran, "pip install second-glance-eval")


@pytest.mark.parametrize(
    ("extra", "setting", "value"), [("otel", "TRACING", "otel"), ("redis", "SESSIONS", "redis://localhost")]
)
def test_the_server_says_what_to_install(
    everything: Environment, extra: str, setting: str, value: str
) -> None:
    asked = {f"SECONDGLANCE_SERVER_{setting}": value}
    ran = run(everything, "secondglance-server", "serve", "--port", "0", **asked)
    one_line_with_advice(ran, f"pip install 'second-glance-server[{extra}]'")


@pytest.mark.parametrize("option", ["--help", "-h", "--version"])
@pytest.mark.parametrize("command", ["secondglance", "secondglance-server", "secondglance-eval"])
def test_a_command_answers_for_itself(everything: Environment, command: str, option: str) -> None:
    """U13: the three commands share their manners."""
    ran = run(everything, command, option)
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    assert (ran.stdout == f"{command} {VERSION}\n") == (option == "--version")


def test_all_advice_names_an_extra_that_exists() -> None:
    """U5: what the messages, the help and the documents tell people to install can be installed."""
    extras = {name: set(project.get("optional-dependencies", {})) for name, project in PROJECTS.items()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    wrong = []
    for file in tracked.stdout.split():
        if file.endswith((".py", ".md", ".txt", ".toml", ".yml")) and file != "CHANGELOG.md":
            text = (ROOT / file).read_text(encoding="utf-8")
            for name, named in re.findall(r"(second-glance(?:-server|-eval)?)\[([\w,-]+)\]", text):
                wrong += [f"{file}: {name}[{each}]" for each in named.split(",") if each not in extras[name]]
    assert wrong == []
