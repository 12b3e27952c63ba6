"""What an app's author imports is documented, and the examples in its docstrings run."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import secondglance
from secondglance_server.testing import serving

NAMES = [name for name in secondglance.__all__ if name != "__version__"]
WITH_EXAMPLES = {"AsyncEdgeClient", "EdgeClient", "EdgeSettings", "Hooks"}


def public_members(kind: type) -> Iterator[tuple[str, object]]:
    """Methods and properties that our own classes define."""
    for base in kind.__mro__:
        if base.__module__.startswith("secondglance"):
            for name, member in vars(base).items():
                if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    yield name, member


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_and_its_members_are_documented(name: str) -> None:
    """A third of them said nothing."""
    kind = getattr(secondglance, name)
    assert "__doc__" in vars(kind)
    assert vars(kind)["__doc__"]
    assert [member for member, found in public_members(kind) if not inspect.getdoc(found)] == []


def test_a_member_without_a_word_is_found() -> None:
    def silent() -> None: ...

    silent.__module__ = __name__
    kind = type("Silent", (), {"__module__": "secondglance.x", "silent": silent})
    assert [name for name, found in public_members(kind) if not inspect.getdoc(found)] == ["silent"]


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.mark.live
@pytest.mark.parametrize("name", sorted(WITH_EXAMPLES))
def test_the_examples_run(name: str, server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the embedded model, from the root of the checkout."""
    monkeypatch.setenv("SECONDGLANCE_URL", server_url)
    monkeypatch.chdir(Path(__file__).parents[2])
    kind = getattr(secondglance, name)
    found = doctest.DocTestFinder(exclude_empty=True).find(
        kind, name, globs={name: kind, **vars(secondglance)}
    )
    examples = [test for test in found if test.examples]
    assert examples
    runner = doctest.DocTestRunner()
    failed = [test.name for test in examples if runner.run(test).failed]
    assert failed == []
