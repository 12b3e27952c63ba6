"""What is pinned is what pyproject.toml asks for; `make lock` mends a failure here."""

from __future__ import annotations

import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parent.parent
PROJECTS = {
    folder: tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
    for folder in ("shared", "edge_web", "edge_client", "server", "evaluation")
}
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
OURS = {project["name"] for project in PROJECTS.values()}
NOT_PINNED = {*OURS, "torch"}  # torch's build is chosen by who installs it; its version is in torch.txt


def wants(folder: str, *extras: str) -> list[str]:
    project = PROJECTS[folder]
    chosen = [each for extra in extras for each in project["optional-dependencies"][extra]]
    return [*PROJECTS["shared"]["dependencies"], *project["dependencies"], *chosen]


FILES = {
    "constraints.txt": [
        *wants("edge_client", "camera", "gateway", "heic", "pdf"),
        *wants("server", "devices", "otel", "page", "reader", "redis"),
        *wants("evaluation"),
        *(each for group in GROUPS.values() for each in group if isinstance(each, str)),
    ],
    "edge.lock": wants("edge_client", "gateway"),
    "server.lock": wants("server", "devices", "otel", "reader", "redis"),
}


def pins(file: str) -> dict[str, str]:
    text = (ROOT / "requirements" / file).read_text()
    found = re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def unmet(requirements: list[str], pinned: dict[str, str]) -> list[str]:
    """Requirements without a pin, or whose pin they refuse."""
    wanted = [Requirement(text) for text in requirements]
    return [
        str(want)
        for want in wanted
        if (name := canonicalize_name(want.name)) not in NOT_PINNED
        and (name not in pinned or not want.specifier.contains(pinned[name], prereleases=True))
    ]


@pytest.mark.parametrize("file", FILES)
def test_every_requirement_is_pinned_to_a_version_it_allows(file: str) -> None:
    assert unmet(FILES[file], pins(file)) == []


def test_a_missing_or_refused_pin_is_found() -> None:
    assert unmet(["httpx>=0.28", "rich>=14", "torch>=2"], {"httpx": "0.27"}) == ["httpx>=0.28", "rich>=14"]


def test_the_images_torch_is_one_that_is_allowed() -> None:
    version = re.search(r"^ARG TORCH_VERSION=(.+)$", (ROOT / "Dockerfile.server").read_text(), re.MULTILINE)
    assert version is not None
    wanted = next(Requirement(text) for text in wants("server") if text.startswith("torch"))
    assert wanted.specifier.contains(version[1])
    assert pins("torch.txt") == {"torch": version[1]}


def test_versions_agree_between_the_files() -> None:
    """What an image installs is what was tested."""
    tested = pins("constraints.txt")
    for file in ("edge.lock", "server.lock"):
        assert {name: version for name, version in pins(file).items() if tested.get(name) != version} == {}


def test_the_edge_stays_without_torch_and_its_kin() -> None:
    heavy = {"torch", "transformers", "numpy", "fastapi"}
    assert heavy.isdisjoint(pins("edge.lock"))
    assert heavy - {"torch"} <= pins("server.lock").keys()
