"""The examples of README and docs/quickstart.md run as they are printed, but for the ports."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from secondglance_server.testing import free_port, serving
from tests.needs import needs_program

pytestmark = pytest.mark.live
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
TRUTH = json.loads((ROOT / "examples" / "photo.json").read_text())
PYTHON = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text() + PAGE, re.DOTALL)
(JAVASCRIPT,) = re.findall(r"```js\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture
def gateway_url(server_url: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "secondglance.cli", "gateway", "--port", str(port), "--url", server_url]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/healthz", timeout=5):
            break
        time.sleep(0.1)
    yield url
    process.send_signal(signal.SIGTERM)
    process.wait(30)


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_a_python_example_answers(server_url: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(PYTHON[number].replace("http://127.0.0.1:8000", server_url), "quickstart", "exec"), {})
    assert "failed" not in said.getvalue()
    assert "cannot use" not in said.getvalue()
    if TRUTH["question"] in PYTHON[number]:
        assert said.getvalue().split()[0] == TRUTH["answer"]


def test_there_are_examples() -> None:
    assert len(PYTHON) >= 3


@needs_program("node", package="nodejs")
def test_the_javascript_example_answers(gateway_url: str, tmp_path: Path) -> None:
    script = tmp_path / "example.mjs"
    script.write_text(JAVASCRIPT.replace("http://127.0.0.1:8001", gateway_url))
    ran = subprocess.run(
        ["node", str(script)], cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split()[0] == TRUTH["answer"]
