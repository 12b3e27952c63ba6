"""E10: answers, names and questions that the terminal's encoding lacks, for every command that prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from secondglance_server.engine.fake import FakeEngine, FakeScript

ANSWER = "東京 ½ ✓"


@pytest.fixture(scope="module")
def url(serve) -> str:
    return serve(FakeEngine(FakeScript(draft=ANSWER, answer=ANSWER))).url


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-8"])
@pytest.mark.parametrize(
    "command",
    [
        ["ask", "{picture}", "Où? 何"],
        ["ask", "{picture}", "Où? 何", "--stream"],
        ["ask", "{picture}", "Où? 何", "--json"],
        ["batch", "{folder}", "-q", "Où? 何", "-q", "Qué?"],
        ["watch", "{folder}", "-q", "Où? 何", "--once", "--existing"],
    ],
)
def test_e10_no_encoding_of_a_terminal_ends_a_command(url, tmp_path: Path, encoding: str, command) -> None:
    """E10: an answer that cp1252 lacks was a traceback, after it had been paid for."""
    picture = tmp_path / "señal 看板.png"
    Image.new("RGB", (400, 300), "red").save(picture)
    words = [word.format(picture=picture, folder=tmp_path) for word in command]
    if command[0] == "watch":
        words += ["--state", str(tmp_path / "state")]
    ran = subprocess.run(
        [sys.executable, "-m", "secondglance.cli", *words, "--url", url],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=False,
    )
    stdout, stderr = (data.decode(encoding) for data in (ran.stdout, ran.stderr))
    assert ran.returncode == 0, stderr
    assert "Traceback" not in stderr
    if "--json" in command:
        assert json.loads(stdout)["answer"] == ANSWER
    else:
        assert ANSWER.encode(encoding, "backslashreplace").decode(encoding) in stdout
