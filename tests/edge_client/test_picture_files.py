"""What folders, patterns and lists of names stand for."""

from __future__ import annotations

from pathlib import Path

import pytest

from secondglance.errors import UsageError
from secondglance.pictures.files import find_pictures, is_picture_name, listed_names


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.webp", "sub/deep/d.tif", "notes.txt", ".hidden.jpg", ".git/e.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*names: str) -> list[str]:
    return [str(path) for path in find_pictures(names)]


@pytest.mark.usefixtures("tree")
def test_a_folder_is_searched_to_the_bottom_by_name_without_hidden_files_and_loops() -> None:
    assert found(".") == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif"]


@pytest.mark.usefixtures("tree")
def test_a_pattern_finds_pictures_and_searches_folders() -> None:
    assert found("*") == ["a.PNG", "b.jpg", "sub/c.webp", "sub/deep/d.tif"]
    assert found("sub/**/*.tif") == ["sub/deep/d.tif"]


def test_no_picture_is_found_twice(tree: Path) -> None:
    assert found("sub", "b.jpg", "./b.jpg", str(tree / "b.jpg"), "sub/*.webp") == [
        "sub/c.webp",
        "sub/deep/d.tif",
        "b.jpg",
    ]


@pytest.mark.usefixtures("tree")
def test_a_file_that_is_named_may_be_called_anything() -> None:
    assert found("notes.txt") == ["notes.txt"]


def test_a_name_with_brackets_is_a_file_first(tree: Path) -> None:
    (tree / "x[1].jpg").touch()
    assert found("x[1].jpg") == ["x[1].jpg"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("name", ["nowhere.jpg", "*.nothing"])
def test_a_name_that_stands_for_nothing_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match="no file or folder"):
        find_pictures([name])


def test_lists_are_read_by_line_or_by_nul() -> None:
    assert listed_names(b"a.jpg\r\nb c.jpg\n\n") == ["a.jpg", "b c.jpg"]
    assert listed_names(b"a\nb.jpg\0c.jpg\0") == ["a\nb.jpg", "c.jpg"]


def test_a_name_that_is_no_utf8_survives() -> None:
    (name,) = listed_names(b"\xff.jpg\n")
    assert is_picture_name(name)
    assert Path(name).name.encode(errors="surrogateescape") == b"\xff.jpg"
