"""The documents name only files, anchors, commands, options and variables that exist."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path

import click
import pytest
import typer.main
from pydantic_settings import BaseSettings

from secondglance.cli import app as edge_cli
from secondglance.gateway.settings import GatewaySettings
from secondglance.settings import EdgeSettings
from secondglance_eval.cli import app as eval_cli
from secondglance_server.cli import cli as server_cli
from secondglance_server.settings import ServerSettings, VllmSettings

ROOT = Path(__file__).parent.parent
LISTED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
)
DOCUMENTS = [ROOT / name for name in LISTED.stdout.split() if (ROOT / name).exists()]
LOG = ROOT / "docs" / "log"  # old entries keep the names of their day
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
FOLDERS = (
    "docs|examples|server|edge_client|edge_web|shared|scenes|training|benchmarks|evaluation|lab|deploy|tests"
)
PATH = re.compile(rf"`((?:{FOLDERS})/[\w./-]*)`")
PROGRAMS = {"secondglance": edge_cli, "secondglance-server": server_cli, "secondglance-eval": eval_cli}
OTHERS_FLAGS = {"--cpu-shares", "--from-literal", "--network", "--no-skips"}  # of docker, kubectl, our pytest
OTHERS_VARIABLES = {
    "SECONDGLANCE_ANSWER",  # for the program that `watch --cmd` starts
    "SECONDGLANCE_METRICS_KEY",  # for `fleet-status`
    "SECONDGLANCE_VLLM_PYTHON",  # for the tests and the benchmark that start vLLM
}


def anchor(heading: str) -> str:
    """Return a heading's anchor as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip())
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


@cache
def anchors(document: Path) -> frozenset[str]:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    return frozenset(anchor(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE))


def dead_links(document: Path, text: str) -> set[str]:
    """Return relative links of `text`, were it in `document`, that lead nowhere; anchors included."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    dead = set()
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose):
        path, _, fragment = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (fragment and fragment not in anchors(target)):
            dead.add(link)
    return dead


def missing_in(text: str) -> set[str]:
    """Return make targets and back-quoted paths that the tree lacks."""
    targets = re.findall(r"\bmake ([a-z][a-z-]+)\b(?=[`\s]*(?:#|`|$))", text, re.MULTILINE)
    absent = {f"make {name}" for name in targets if name not in TARGETS}
    return absent | {path for path in PATH.findall(text) if not (ROOT / path).exists()}


def command_lines(text: str) -> list[str]:
    """Return what is in code, a line or a span each."""
    blocks = re.findall(r"^(?:    |\t)(.+)$", text, re.MULTILINE)
    fenced = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        *blocks,
        *(line for block in fenced for line in block.splitlines()),
        *re.findall(r"`([^`\n]+)`", text),
    ]


def options_of(words: list[str]) -> set[str]:
    """Return the options of the command that `words` begin with, its groups' included."""
    command = typer.main.get_command(PROGRAMS[words[0]])
    found: set[str] = {"--help", "-h", "--install-completion", "--show-completion"}
    for word in [*words[1:], ""]:
        found |= {each for option in command.params for each in (*option.opts, *option.secondary_opts)}
        if not hasattr(command, "commands") or word.startswith("-") or word not in command.commands:
            break
        command = command.commands[word]
    return found


@cache
def all_options() -> frozenset[str]:
    """Return what any command of ours takes, those of a checkout included."""
    names = [
        (program, *path) for program, cli in PROGRAMS.items() for path in _paths(typer.main.get_command(cli))
    ]
    ours = set().union(*(options_of(list(name)) for name in names))
    sources = [path for folder in ("lab", "training", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    declared = {each for path in sources for each in re.findall(r'"(--[a-z][a-z-]*)"', path.read_text())}
    return frozenset(ours | declared | OTHERS_FLAGS)


def _paths(command: click.Command) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    return [(), *((name, *path) for name in inner for path in _paths(inner[name]))]


def unknown_options(text: str) -> set[str]:
    """Return options that the command of their line does not take, or that no command takes."""
    unknown = set()
    for line in command_lines(text):
        for part in re.split(r"\s(?:&&|\|)\s", line):
            words = part.split()
            flags = re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", part)
            if words and words[0] in PROGRAMS:
                unknown |= {f"{words[0]} {flag}" for flag in flags if flag not in options_of(words)}
            elif words and words[0].startswith("--"):
                unknown |= {flag for flag in flags[:1] if flag not in all_options()}
    return unknown


def variables_of(settings: type[BaseSettings]) -> set[str]:
    return {f"{settings.model_config['env_prefix']}{name.upper()}" for name in settings.model_fields}


def unknown_variables(text: str) -> set[str]:
    """Return environment variables with our prefix that nothing reads; `..._*` stands for many."""
    known = {"SECONDGLANCE_URL", "SECONDGLANCE_API_KEY"} | OTHERS_VARIABLES
    known = known.union(*map(variables_of, (EdgeSettings, GatewaySettings, ServerSettings, VllmSettings)))
    return {
        name
        for name in re.findall(r"\bSECONDGLANCE_[A-Z_]*[A-Z_]\*?", text)
        if not (name.endswith("*") and any(each.startswith(name[:-1]) for each in known))
        and name not in known
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert dead_links(document, document.read_text()) == set()


@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if LOG not in path.parents and path.name != "CHANGELOG.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_document_names_only_what_exists(document: Path) -> None:
    """U8: README named `serve --max-uplink-bytes`, which does not exist."""
    text = document.read_text()
    assert (missing_in(text), unknown_options(text), unknown_variables(text)) == (set(), set(), set())


def test_a_wrong_name_is_found() -> None:
    """The tests above can fail."""
    text = (
        "run `make nonsense`, see [here](docs/nowhere.md), [there](README.md#nowhere) and `server/nothing.py`"
    )
    assert dead_links(ROOT / "README.md", text) == {"docs/nowhere.md", "README.md#nowhere"}
    assert missing_in(text) == {"make nonsense", "server/nothing.py"}
    text = (
        "    secondglance-server serve --calibration gate.json      # or --max-uplink-bytes 6000\n`--nowhere`"
    )
    assert unknown_options(text) == {"secondglance-server --max-uplink-bytes", "--nowhere"}
    assert unknown_variables("`SECONDGLANCE_EDGE_RETRIS`, `SECONDGLANCE_EGDE_*`") == {
        "SECONDGLANCE_EDGE_RETRIS",
        "SECONDGLANCE_EGDE_*",
    }


def test_every_document_is_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {page for page in pages if f"({page}" not in index} == set()


def test_the_tree_in_the_readme_exists() -> None:
    section = (ROOT / "README.md").read_text().split("## Where things are")[1]
    folders = re.findall(r"^    ([\w/]+?)/? {2,}", section, re.MULTILINE)
    assert len(folders) > 8
    assert [name for name in folders if not (ROOT / name).is_dir()] == []


def test_the_rooms_and_modules_of_the_architecture_exist() -> None:
    """A request's way names modules without their folders; each is one of the server's or the edge's."""
    way = (ROOT / "ARCHITECTURE.md").read_text().split("## A request's way")[1].split("\n## ")[0]
    packages = (ROOT / "server" / "secondglance_server", ROOT / "edge_client" / "secondglance")
    modules = {path.stem for package in packages for path in package.rglob("*.py")}
    rooms = {f"{path.name}/" for package in packages for path in package.iterdir() if path.is_dir()}
    named = re.findall(r"`([a-z_/]+)`", way)
    assert len(named) > 12
    for name in named:
        room, _, module = name.rpartition("/")
        assert name in rooms or (module in modules and (not room or f"{room}/" in rooms)), name


def test_the_first_question_of_the_readme_says_what_the_embedded_model_knows() -> None:
    """U1: nothing said it where a new user asks about a photograph of their own. `doctor` says the same."""
    folders = sorted((ROOT / "server/secondglance_server/engine").glob("*/weights/secondglance.json"))
    domains = {path.parts[-3]: json.loads(path.read_text())["domain"] for path in folders}
    assert domains.keys() == {"embedded", "reader"}
    section = (ROOT / "README.md").read_text().split("\n## Ask\n")[1].split("\n## ")[0]
    assert f"It answers about {domains['embedded']}." in " ".join(section.split())
