"""The command line as a process: it stops cleanly when told to, and says why when it cannot start."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import secondglance_server
from secondglance_server.engine.generic.registry import model_types
from secondglance_server.keys import hash_key
from tests.engine.fake_hub import serving_hub
from tests.server.fake_server import fake_server

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "secondglance_server.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_health_follows_readiness() -> None:
    with fake_server() as server:
        assert cli("health", "--url", server.url).returncode == 0
        assert cli("health", SECONDGLANCE_SERVER_PORT=str(server.port)).returncode == 0
    down = cli("health", "--url", server.url)
    assert (down.returncode, down.stderr[:9]) == (1, "not ready")


def test_a_wrong_setting_stops_the_start_and_is_named() -> None:
    result = cli("serve", SECONDGLANCE_SERVER_MAX_QUEUE="many")
    assert result.returncode == 2
    assert "SECONDGLANCE_SERVER_MAX_QUEUE='many'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_new_key_and_its_entry_fit_together() -> None:
    """What is printed can be used as it is: the key by a client, the entry by the server."""
    made = cli("key", "new", "cameras", "--requests-per-min", "60")
    printed = dict(shlex.split(line)[0].split("=", 1) for line in made.stdout.splitlines())
    (entry,) = json.loads(printed["SECONDGLANCE_SERVER_KEYS"])
    assert entry == {
        "tenant": "cameras",
        "sha256": hash_key(printed["SECONDGLANCE_API_KEY"]),
        "requests_per_min": 60,
    }
    wrong = cli("key", "new", "no spaces", "--scope", "everything")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "tenant='no spaces'" in wrong.stderr
    assert "scope='everything'" in wrong.stderr


def ended(result: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Return exit code and last line, after seeing that all others are the log's and hold no traceback."""
    *log, line = result.stderr.splitlines()
    events = [json.loads(each) for each in log]
    assert "model not loaded" in [event["event"] for event in events]
    assert "Traceback" not in result.stderr
    return result.returncode, line


def test_a_model_that_is_not_there_is_the_operators_to_mend(tmp_path: Path) -> None:
    """It ended with 1, for which a supervisor starts again, and with three tracebacks."""
    path = str(tmp_path / "none")
    code, line = ended(cli("serve", "--port", "0", "--model", path))
    assert (code, line) == (
        2,
        f"model {path!r} cannot be loaded: there is no such directory: check the path",
    )


@pytest.mark.parametrize(
    ("refusal", "code", "words"),
    [((403, "GatedRepo"), 2, "set HF_TOKEN"), ((503, "Down"), 1, "start again later")],
)
def test_what_a_hub_refuses_ends_with_two_and_what_may_pass_with_one(
    tmp_path: Path, refusal: tuple[int, str], code: int, words: str
) -> None:
    with serving_hub(tmp_path) as hub:
        hub.refusal = refusal
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_test"}
        ran = cli("serve", "--port", "0", "--model", "owner/gated", **environment)
    assert "Bearer hf_test" in hub.tokens
    assert "hf_test" not in ran.stderr
    assert ran.returncode == code
    assert words in (ended(ran)[1] if code == 2 else ran.stderr)


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", "serve", "models", "health", "key", "key new"])
def test_help_is_there_in_one_style(command: str, flag: str) -> None:
    """U13: no `-h`, and panels where the edge's commands print plain lines."""
    shown = cli(*command.split(), flag)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("Usage: secondglance-server")
    assert shown.stdout.isascii()


def test_the_version_is_that_of_the_package() -> None:
    assert cli("--version").stdout == f"secondglance-server {secondglance_server.__version__}\n"


def test_the_models_are_listed_each_with_its_verdict_and_why() -> None:
    """U6: the supported families were only named in an error."""
    listed = cli("models")
    rows = [re.split(r"  +", line) for line in listed.stdout.splitlines()]
    assert [row[:2] for row in rows] == [
        [row.type, row.verdict]
        for verdict in ("yes", "answers only", "no")
        for row in model_types()
        if row.verdict == verdict
    ]
    assert all(len(row) == 3 and row[2] for row in rows)
    assert ["qwen2_5_vl", "yes"] in [row[:2] for row in rows]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_that_is_taken_is_said_at_once(host: str) -> None:
    """S10: the server ended after five seconds, with an undocumented code, and named no port."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        result = cli("serve", "--host", host, "--port", str(port))
    assert result.returncode == 3
    (line,) = result.stderr.splitlines()  # so the model, which logs a line of its own, was not waited for
    assert line == f"cannot listen on {host} port {port}: Address already in use"


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "host.invalid", "256.1.1.1"])
def test_an_address_that_is_not_here_is_said_too(host: str) -> None:
    """S10, its kind: whatever keeps the server from listening is one line with host and port."""
    result = cli("serve", "--host", host, "--port", "8000")
    assert (result.returncode, result.stderr.count("\n")) == (3, 1)
    assert result.stderr.startswith(f"cannot listen on {host} port 8000: ")
