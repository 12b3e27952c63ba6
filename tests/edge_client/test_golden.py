"""Help, JSON shape and exit codes of every command, as the golden files have them (`make golden`).

A new command's help is compared by itself. Its JSON and its exit codes need a line in SHAPES and some in
CASES; braces name what the fixture `world` offers.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from secondglance.cli import COMMANDS, app
from secondglance_server.engine.fake import FakeEngine, FakeScript
from tests.edge_client.golden import FOLDER, UPDATE, check_entry, check_json, check_text, shape_of
from tests.server.exchange import key_entry

ONCE = ["--once", "--settle", "0.05", "--state", "{state}"]

SHAPES = {
    "doctor": ["doctor", "--image", "{photo}", "--url", "{url}", "--json"],
    "watch": ["watch", "{photos}", "-q", "What?", "--url", "{url}", "--state", "{state}", "--once", "--json"],
    "batch": ["batch", "{photos}", "-q", "What number?", "--url", "{url}", "--json"],
    "ask": ["ask", "{photo}", "What number?", "--url", "{url}", "--json"],
    "ask-dry-run": ["ask", "{photo}", "What number?", "--url", "{url}", "--json", "--dry-run"],
}

CASES = [
    ("ask", "answered", ["{photo}", "What?", "--url", "{url}"]),
    ("ask", "no question", ["{photo}"]),
    ("ask", "no such file", ["{nowhere}", "What?", "--url", "{url}"]),
    ("ask", "unknown option", ["{photo}", "What?", "--unknown"]),
    ("ask", "no picture", ["{text}", "What?", "--url", "{url}"]),
    ("ask", "no server", ["{photo}", "What?", "--url", "{dead}"]),
    ("ask", "busy server", ["{photo}", "What?", "--url", "{busy}"]),
    ("ask", "wrong key", ["{photo}", "What?", "--url", "{locked}"]),
    ("batch", "answered", ["{photos}", "-q", "What?", "--url", "{url}"]),
    ("batch", "no question", ["{photos}", "--url", "{url}"]),
    ("batch", "no such file", ["{nowhere}", "-q", "What?", "--url", "{url}"]),
    ("batch", "resume without out", ["{photos}", "-q", "What?", "--resume"]),
    ("batch", "some failed", ["{photo}", "{text}", "-q", "What?", "--url", "{url}"]),
    ("batch", "the model fails", ["{photos}", "-q", "What?", "--url", "{busy}"]),
    ("batch", "no server", ["{photos}", "-q", "What?", "--url", "{dead}", "--wait", "0"]),
    ("batch", "wrong key", ["{photos}", "-q", "What?", "--url", "{locked}"]),
    ("watch", "answered", ["{photos}", "-q", "What?", "--url", "{url}", *ONCE]),
    ("watch", "nothing to watch", ["-q", "What?"]),
    ("watch", "no question", ["{photos}", "--url", "{url}", *ONCE]),
    ("watch", "no such folder", ["{nowhere}", "-q", "What?", "--url", "{url}", *ONCE]),
    ("watch", "an answer not taken", ["{photos}", "-q", "What?", "--url", "{url}", *ONCE, "--cmd", "false"]),
    ("watch", "no server", ["{photos}", "-q", "What?", "--url", "{dead}", *ONCE]),
    ("watch", "wrong key", ["{photos}", "-q", "What?", "--url", "{locked}", *ONCE]),
    ("watch", "no camera", ["--camera", "{dead}", "-q", "What?", "--url", "{url}", *ONCE]),
    ("doctor", "all is well", ["--image", "{photo}", "--url", "{url}"]),
    ("doctor", "no server", ["--image", "{photo}", "--url", "{dead}"]),
    ("doctor", "wrong key", ["--image", "{photo}", "--url", "{locked}"]),
    ("doctor", "no picture", ["--image", "{text}", "--url", "{url}"]),
    ("doctor", "no URL", ["--url", "nonsense"]),
    ("ask", "silent server", ["{photo}", "What?", "--url", "{silent}", "--timeout", "0.3"]),
    ("gateway", "unknown option", ["--unknown"]),
    ("gateway", "beyond loopback without a key", ["--host", "0.0.0.0", "--port", "0"]),
    ("gateway", "no such treatment of system messages", ["--system", "maybe"]),
    ("gateway", "no address to listen on", ["--host", "192.0.2.1"]),
    ("gateway", "address taken", ["--port", "{taken}"]),
]


@pytest.fixture(scope="module")
def world(serve: Any, pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """Files and servers that the tables above name."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "photos").mkdir()
    (folder / "photos" / "photo.jpg").write_bytes(pictures.photo((2000, 1500)))
    (folder / "text.jpg").write_text("no picture")
    with socket.create_server(("127.0.0.1", 0)) as dead:
        dead_port = dead.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield {
            "photos": folder / "photos",
            "photo": folder / "photos" / "photo.jpg",
            "text": folder / "text.jpg",
            "nowhere": folder / "nowhere.jpg",
            "url": serve(FakeEngine()).url,
            "busy": serve(FakeEngine(FakeScript(fails=lambda _: True))).url,
            "locked": serve(FakeEngine(), keys=[key_entry("right")]).url,
            "dead": f"http://127.0.0.1:{dead_port}",
            "taken": silent.getsockname()[1],
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }


@pytest.fixture(autouse=True)
def no_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRIES", "0")


def run(arguments: list[str], world: dict[str, object]) -> Result:
    with tempfile.TemporaryDirectory() as state:
        given = [argument.format(**world, state=state) for argument in arguments]
        return CliRunner().invoke(app, given)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_as_written_down(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    ran = CliRunner().invoke(app, [*([command] if command else []), "--help"], prog_name="secondglance")
    assert (ran.exit_code, ran.stderr) == (0, "")
    check_text(f"help/{command or 'secondglance'}.txt", ran.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_gives_examples_and_exit_codes(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"]).stdout
    assert f"secondglance {command} " in text
    assert "Examples:" in text
    assert "Exit codes:" in text
    assert "Environment:" in text


@pytest.mark.parametrize("name", SHAPES)
def test_json_has_the_shape_written_down(name: str, world: dict[str, object]) -> None:
    ran = run(SHAPES[name], world)
    assert ran.exit_code == 0, ran.output
    check_json(f"json/{name}.json", [shape_of(json.loads(line)) for line in ran.stdout.splitlines()])


@pytest.mark.parametrize(("command", "situation", "arguments"), CASES, ids=lambda value: str(value)[:30])
def test_exit_codes_are_as_written_down(
    command: str, situation: str, arguments: list[str], world: dict[str, object]
) -> None:
    ran = run([command, *arguments], world)
    check_entry(f"exit_codes/{command}.json", situation, ran.exit_code)
    assert bool(ran.stderr) == (ran.exit_code != 0), "a failure is explained on stderr, success is silent"


def test_every_command_has_its_tables() -> None:
    assert {command for command, _, _ in CASES} == set(COMMANDS)
    assert {path.stem for path in (FOLDER / "help").iterdir()} == {"secondglance", *COMMANDS}
    assert {path.stem for path in (FOLDER / "json").iterdir()} == set(SHAPES)


def test_a_change_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail."""
    monkeypatch.delenv(UPDATE, raising=False)
    with pytest.raises(AssertionError, match="make golden"):
        check_text("help/ask.txt", "Usage: secondglance ask")
    with pytest.raises(AssertionError, match="make golden"):
        check_json("json/ask.json", [{"answer": "int"}])
    with pytest.raises(AssertionError, match="make golden"):
        check_entry("exit_codes/ask.json", "answered", 1)
    with pytest.raises(AssertionError, match="make golden"):
        check_text("help/nothing.txt", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_the_commands(shell: str) -> None:
    """As the shells ask for it: through the environment, in a process of its own."""
    environment = {
        "_SECONDGLANCE_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "secondglance a",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "COMP_WORDS": "secondglance a",
        "COMP_CWORD": "1",
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "secondglance.cli"]
    ran = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert "ask" in ran.stdout, ran.stderr
