"""What is learnt from and what is tested on share no typeface."""

from __future__ import annotations

import pathlib

import pytest
from PIL import ImageFont

from scenes import fonts
from scenes.fonts import CAP_HEIGHTS_PX, TEST_FACES, TRAIN_FACES, TRAIN_PACKAGES, face, font_files


def missing_training_fonts() -> str:
    try:
        font_files("train")
    except FileNotFoundError as error:
        return str(error)
    return ""


needs_training_fonts = pytest.mark.skipif(bool(missing_training_fonts()), reason=missing_training_fonts())


def family(path: pathlib.Path) -> str:
    return ImageFont.truetype(str(path), 20).getname()[0] or ""


def squeezed(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())


def test_held_out_fonts_are_there_wherever_pip_works() -> None:
    files = font_files("test")
    assert len(files) == sum(len(faces) for faces in TEST_FACES.values())
    assert all(path.is_file() for path in files)


def test_no_held_out_family_is_named_among_the_training_faces() -> None:
    held_out = {squeezed(family(path)) for path in font_files("test")}
    assert len(held_out) == len(TEST_FACES)
    trained = [squeezed(name) for name in TRAIN_FACES]
    assert [name for name in trained if any(name.startswith(other) for other in held_out)] == []


@needs_training_fonts
def test_the_font_files_themselves_name_disjoint_families() -> None:
    trained, held_out = ({family(path) for path in font_files(split)} for split in ("train", "test"))
    assert len(trained) > 50
    assert trained & held_out == set()


@needs_training_fonts
def test_training_fonts_come_in_the_order_of_the_list() -> None:
    assert [path.stem for path in font_files("train")] == list(TRAIN_FACES)


def test_without_training_fonts_the_error_names_the_packages_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(fonts, "FONT_ROOT", tmp_path)
    with pytest.raises(
        FileNotFoundError, match=f"{len(TRAIN_FACES)} training fonts.*apt-get install"
    ) as caught:
        font_files.__wrapped__("train")
    assert all(package in str(caught.value) for package in TRAIN_PACKAGES)


def test_a_face_installed_twice_is_the_same_file_everywhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Play comes as .otf and as .ttf; which one won once depended on the order of the directory."""
    for folder, suffix in (("truetype", ".ttf"), ("opentype", ".otf")):
        (tmp_path / folder).mkdir()
        for name in TRAIN_FACES:
            (tmp_path / folder / f"{name}{suffix}").touch()
    monkeypatch.setattr(fonts, "FONT_ROOT", tmp_path)
    assert {path.suffix for path in font_files.__wrapped__("train")} == {".otf"}


@pytest.mark.parametrize("path", font_files("test"), ids=lambda path: path.stem)
def test_a_face_is_as_high_as_asked_for(path: pathlib.Path) -> None:
    for wanted in CAP_HEIGHTS_PX[:3]:
        _, top, _, bottom = face(path, wanted).getbbox("H")
        assert abs(bottom - top - wanted) <= 1
