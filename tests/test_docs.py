"""The documents name only commands and files that exist."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PATH = re.compile(
    r"`((?:docs|examples|server|edge_client|shared|scenes|training|benchmarks|tests)/[\w./-]*)`"
)


def missing_in(text: str) -> set[str]:
    """Make targets, linked files and back-quoted paths that a document names and the tree lacks."""
    targets = {
        f"make {name}"
        for name in re.findall(r"\bmake ([a-z][a-z-]+)\b(?=[`\s]*(?:#|`|$))", text, re.MULTILINE)
    }
    absent = {target for target in targets if target.removeprefix("make ") not in TARGETS}
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    return absent | {path for path in [*links, *PATH.findall(text)] if not _exists(path)}


def _exists(path: str) -> bool:
    return any((base / path).exists() for base in (ROOT, ROOT / "docs"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_names_only_what_exists(document: pathlib.Path) -> None:
    assert missing_in(document.read_text()) == set()


def test_a_wrong_name_is_found() -> None:
    """The test above can fail."""
    text = "run `make nonsense`, see [here](docs/nowhere.md) and `server/nothing.py`"
    assert missing_in(text) == {"make nonsense", "docs/nowhere.md", "server/nothing.py"}


def test_the_tree_in_the_readme_exists() -> None:
    section = (ROOT / "README.md").read_text().split("## Where things are")[1]
    folders = re.findall(r"^    (?:  )?([a-z_]+/)", section, re.MULTILINE)
    assert len(folders) > 8
    assert [
        name
        for name in folders
        if not any((base / name).is_dir() for base in (ROOT, ROOT / "server", ROOT / "edge_client"))
    ] == []
