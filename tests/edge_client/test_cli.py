"""The command line: what is on which stream, and every exit code."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from secondglance.cli import app
from secondglance_server.engine.fake import FakeEngine, FakeScript
from tests.edge_client.terminal import in_terminal
from tests.server.exchange import key_entry

SECONDGLANCE = [sys.executable, "-c", "from secondglance.cli import main; main()"]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def url(serve: Any, engine: FakeEngine) -> str:
    return serve(engine).url


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRY_WAIT_S", "0.001")


@pytest.fixture
def photo(pictures, tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(pictures.photo((2000, 1500)))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


def test_stdout_carries_the_answer_and_stderr_nothing(url: str, photo: Path) -> None:
    ran = run(photo, "What number?", "--url", url)
    assert (ran.exit_code, ran.stdout, ran.stderr) == (0, "42\n", "")


def test_the_environment_names_the_server(url: str, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_URL", url)
    assert run(photo, "What number?").stdout == "42\n"


def test_json_is_one_object_on_one_line(url: str, photo: Path) -> None:
    ran = run(photo, "What number?", "--url", url, "--json")
    assert ran.stdout.count("\n") == 1
    document = json.loads(ran.stdout)
    assert (document["answer"], document["stage"], document["draft_answer"]) == ("42", 2, "a sign")
    assert document["receipt"]["original_bytes"] == photo.stat().st_size
    assert ran.stderr == ""


def test_mode_and_threshold_reach_the_server(url: str, photo: Path) -> None:
    assert run(photo, "What?", "--url", url, "--mode", "answer_only").stdout == "a sign\n"
    assert run(photo, "What?", "--url", url, "--threshold", "99").stdout == "a sign\n"
    assert run(photo, "What?", "--url", url, "--threshold", "99", "--mode", "always").stdout == "42\n"


def test_the_picture_is_written(url: str, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.png"
    assert run(photo, "What number?", "--url", url, "--picture", target).stdout == "42\n"
    with Image.open(target) as sheet:
        assert sheet.width == 1280


def test_what_was_sent_is_saved_byte_for_byte(url: str, photo: Path, tmp_path: Path) -> None:
    """The sizes agree with what the server says it received: the whole body of each stage."""
    folder = tmp_path / "new" / "sent"
    document = json.loads(run(photo, "What number?", "--url", url, "--json", "--save-sent", folder).stdout)
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "stage1-body",
        "stage1-request.json",
        "stage1-image.webp",
        "stage2-body",
        "stage2-patch.webp",
    }
    assert (folder / "stage2-patch.webp").stat().st_size == document["usage"]["received_bytes"]
    body = (folder / "stage1-body").read_bytes()
    assert (folder / "stage1-image.webp").read_bytes() in body
    assert json.loads((folder / "stage1-request.json").read_bytes())["question"] == "What number?"
    with Image.open(folder / "stage1-image.webp") as sent:
        assert max(sent.size) == 336


@pytest.mark.parametrize("as_json", [False, True])
def test_a_dry_run_needs_no_server_and_says_what_would_leave(
    photo: Path, tmp_path: Path, as_json: bool
) -> None:
    folder = tmp_path / "sent"
    flags = ["--json"] if as_json else []
    ran = run(
        photo, "What number?", "--url", "http://127.0.0.1:9", "--dry-run", "--save-sent", folder, *flags
    )
    assert (ran.exit_code, ran.stderr) == (0, "")
    body_bytes = (folder / "stage1-body").stat().st_size
    image_bytes = (folder / "stage1-image.webp").stat().st_size
    if as_json:
        plan = json.loads(ran.stdout)
        assert (plan["dry_run"], plan["body_bytes"]) == (True, body_bytes)
        assert plan["parts"][1] == {"name": "image.webp", "bytes": image_bytes}
    else:
        assert f"{body_bytes:,} bytes" in ran.stdout
        assert f"image.webp: {image_bytes:,} bytes" in ran.stdout
        assert "nothing was sent" in ran.stdout


def test_a_failed_second_stage_gives_the_draft_a_warning_and_exit_code_zero(
    serve: Any, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(FakeScript(fails=lambda request: request.patch is not None))
    url = serve(engine).url
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRIES", "0")
    ran = run(photo, "What number?", "--url", url)
    assert (ran.exit_code, ran.stdout) == (0, "a sign\n")
    assert "draft answer" in ran.stderr
    as_json = run(photo, "What number?", "--url", url, "--json")
    assert json.loads(as_json.stdout)["degraded"]
    assert as_json.stderr == ""
    assert run(photo, "What number?", "--url", url, "--strict").exit_code == 75


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["{photo}"],
        ["/nowhere.jpg", "What?"],
        ["{photo}", "What?", "--mode", "sometimes"],
        ["{photo}", "What?", "--threshold", "-1"],
        ["{photo}", "What?", "--timeout", "0"],
        ["{photo}", "What?", "--picture", "out.gif"],
        ["{photo}", "What?", "--picture", "/nowhere/out.png"],
        ["{photo}", "What?", "--save-sent", "{photo}"],
        ["{photo}", "What?", "--unknown"],
        ["{photo}", "What?", "--url", "ftp://x"],
        ["{photo}", "", "--url", "{url}"],
        ["{photo}", "What?", "--url", "{url}", "--max-uplink-bytes", "100"],
    ],
    ids=" ".join,
)
def test_exit_code_2_for_wrong_usage(url: str, photo: Path, arguments: list[str]) -> None:
    ran = run(*(argument.format(photo=photo, url=url) for argument in arguments))
    assert ran.exit_code == 2, ran.output
    assert ran.stdout == ""
    assert ran.stderr


def test_exit_code_2_for_a_wrong_setting(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_EDGE_IMAGE_QUALITY", "lots")
    ran = run(photo, "What?")
    assert ran.exit_code == 2
    assert "SECONDGLANCE_EDGE_IMAGE_QUALITY='lots'" in ran.stderr


def test_exit_code_65_for_a_bad_image(url: str, tmp_path: Path) -> None:
    path = tmp_path / "no.jpg"
    path.write_text("no picture")
    ran = run(path, "What?", "--url", url)
    assert (ran.exit_code, ran.stdout) == (65, "")
    assert ran.stderr.startswith("secondglance: ")


def test_exit_code_69_for_a_server_that_is_not_there(photo: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ran = run(photo, "What?", "--url", f"http://127.0.0.1:{port}")
    assert (ran.exit_code, ran.stdout) == (69, "")
    assert "cannot connect" in ran.stderr


def test_exit_code_75_for_a_busy_server(serve: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRIES", "0")
    url = serve(FakeEngine(FakeScript(fails=lambda _: True))).url
    ran = run(photo, "What?", "--url", url)
    assert (ran.exit_code, ran.stdout) == (75, "")
    assert "(request " in ran.stderr


def test_exit_code_77_without_the_key_and_0_with_it(
    serve: Any, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(FakeEngine(), keys=[key_entry("right")]).url
    assert run(photo, "What?", "--url", url).exit_code == 77
    monkeypatch.setenv("SECONDGLANCE_API_KEY", "right")
    assert run(photo, "What?", "--url", url).exit_code == 0


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_exit_code_124_for_a_server_that_never_answers(silent_url: str, photo: Path) -> None:
    ran = run(photo, "What?", "--url", silent_url, "--timeout", "0.3")
    assert (ran.exit_code, ran.stdout) == (124, "")
    assert "0.3 s" in ran.stderr


def test_progress_and_cost_are_shown_on_a_terminal_only(url: str, photo: Path) -> None:
    said, shown = in_terminal("ask", photo, "What number?", "--url", url)
    assert said == "42\n"
    assert "stage 2" in shown
    assert "kB up" in shown
    assert "\x1b[" in shown


def test_no_color_is_respected(url: str, photo: Path) -> None:
    """Cursor movements remain; colours and dimming do not."""
    _, shown = in_terminal("ask", photo, "What number?", "--url", url, NO_COLOR="1")
    assert "kB up" in shown
    assert "\x1b[32m" not in shown
    assert "\x1b[3" not in shown
    assert "\x1b[9" not in shown


def test_the_installed_command_helps(tmp_path: Path) -> None:
    ran = subprocess.run([*SECONDGLANCE, "--help"], capture_output=True, text=True, check=True)
    assert "ask" in ran.stdout
    assert ran.stderr == ""
