"""The manners of `secondglance-eval`: help, version, and what it says where something is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from secondglance_eval.cli import app
from secondglance_eval.datasets.checkout import held_out_scenes
from secondglance_eval.errors import MissingPieceError

ROOT = Path(__file__).parents[2]
PACKAGES = [str(ROOT / name) for name in ("shared", "edge_client", "server", "evaluation")]
COMMANDS = {
    "run": ["run", "--url", "http://127.0.0.1:9", "--pictures", "1"],
    "report": ["report"],
    "calibrate": ["calibrate", "--max-retransmit", "0.3"],
}


def own_pictures(folder: Path, count: int) -> str:
    """A data set of so many pictures with one question each; what `--dataset` takes."""
    rows = []
    for number in range(count):
        Image.new("RGB", (64, 48)).save(folder / f"{number}.png")
        rows.append(json.dumps({"image": f"{number}.png", "question": "What?", "answers": ["x"]}))
    (folder / "own.jsonl").write_text("\n".join(rows))
    return f"jsonl:{folder / 'own.jsonl'}"


def installed(
    *arguments: str, cwd: Path, without: str | None = None, path: list[str] = PACKAGES
) -> tuple[int, str]:
    """Exit code and stderr of a fresh process that has the packages on its path, and no checkout."""
    hide = f"import sys; sys.modules[{without!r}] = None; " if without else ""
    program = f"{hide}from secondglance_eval.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", [[], ["run"], ["report"], ["calibrate"]])
def test_every_command_has_the_short_help(command: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*command, option]) for option in ("-h", "--help"))
    assert (short.exit_code, short.stdout) == (0, long.stdout)
    assert "Usage:" in short.stdout


def test_the_version_is_said() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.split()[0]) == (0, "secondglance-eval")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("module", ["matplotlib", "numpy", "jinja2", "secondglance_server", "scenes"])
def test_a_missing_module_is_told_in_one_line(module: str, command: str, tmp_path: Path) -> None:
    """`report` without matplotlib was a traceback (U5); so would any dependency be, under any command."""
    code, complaint = installed(*COMMANDS[command], "--out", str(tmp_path), cwd=tmp_path, without=module)
    assert code in (1, 2)
    assert len(complaint.splitlines()) == 1
    assert complaint.startswith("secondglance-eval: ")
    if f"module {module} " in complaint:
        assert code == 2
        assert "pip install second-glance" in complaint


def test_a_report_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    code, complaint = installed("report", "--out", str(tmp_path), cwd=tmp_path, without="matplotlib")
    assert code == 2
    assert "the module matplotlib is missing: pip install second-glance-eval" in complaint


@pytest.mark.parametrize("command", ["run", "calibrate"])
def test_scenes_outside_a_checkout_say_what_to_do(command: str, tmp_path: Path) -> None:
    """A wheel brings no scenes, and an app may have a folder of that name (U5)."""
    site = tmp_path / "site"
    for package in PACKAGES:
        for folder in Path(package).glob("secondglance*/"):
            shutil.copytree(folder, site / "a" / "b" / folder.name, ignore=shutil.ignore_patterns("weights"))
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "__init__.py").touch()
    arguments = [*COMMANDS[command], "--dataset", "scenes"]
    code, complaint = installed(*arguments, cwd=tmp_path, path=[str(site / "a" / "b")])
    assert code == 2
    assert len(complaint.splitlines()) == 1
    assert "--dataset jsonl:FILE" in complaint


def test_own_pictures_need_no_checkout(tmp_path: Path) -> None:
    """The scenes' code was loaded whatever `--dataset` said (U5)."""
    arguments = ["run", "--dataset", own_pictures(tmp_path, 4), "--url", "http://127.0.0.1:9"]
    code, complaint = installed(*arguments, cwd=tmp_path, without="scenes")
    assert code == 1
    assert complaint.splitlines()[-1].startswith("secondglance-eval: cannot connect")


def test_missing_fonts_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from scenes import fonts

    monkeypatch.setattr(fonts, "TEST_FACES", {**fonts.TEST_FACES, "font_no_such": ("A.ttf",)})
    fonts.font_files.cache_clear()
    with pytest.raises(
        MissingPieceError, match=r"fonts of the scenes are missing: pip install font-no-such$"
    ):
        held_out_scenes(1, 200_000)
    fonts.font_files.cache_clear()


@pytest.mark.parametrize("pictures", [1, 10, 19])
def test_too_few_pictures_for_a_calibration_are_refused_before_a_server_starts(
    pictures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`calibrate` started a server and asked every question before it said so, after 9 s (U10)."""
    monkeypatch.setattr("secondglance_eval.cli._server", lambda *_: pytest.fail("a server was started"))
    arguments = ["calibrate", "--max-retransmit", "0.3", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--dataset", own_pictures(tmp_path, pictures)])
    assert result.exit_code == 1
    assert "too few pictures: " in result.stderr
    assert f"each part needs 10; {pictures} of 20 are here" in result.stderr


def test_a_run_names_the_pictures_that_it_leaves_out_before_it_asks(tmp_path: Path) -> None:
    """Of ten pictures eight were answered, and nobody said why (U10)."""
    arguments = ["run", "--url", "http://127.0.0.1:9", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--dataset", own_pictures(tmp_path, 10)])
    said = result.stderr.splitlines()[0]
    assert "results are taken from 8 of 10 pictures" in said
    assert said.endswith(": 3.png, 7.png")


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff"])
def test_a_folder_without_a_run_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    result = CliRunner().invoke(app, ["report", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert str(tmp_path) in result.stderr
