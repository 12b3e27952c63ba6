"""Every command of the README's section "What people do with it" runs, against the embedded model."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from secondglance_server.testing import free_port, serving

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "examples" / "photo.jpg"
TRUTH = json.loads((ROOT / "examples" / "photo.json").read_text())
SECTION = (ROOT / "README.md").read_text().split("## What people do with it\n")[1].split("\n## ")[0]
COMMANDS = [re.sub(r"\s+# .*", "", line).strip() for line in SECTION.splitlines() if line.startswith("    ")]
DEADLINE_S = 120.0
NOTIFY = "import os; print(os.environ['SECONDGLANCE_ANSWER'], file=open('notified.txt', 'a'))"


def is_service(command: str) -> bool:
    """Whether it runs until it is told to stop."""
    return command.startswith(("secondglance gateway", "secondglance watch")) and "--once" not in command


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def camera_url() -> Iterator[str]:
    """A stream of the photo, over and over."""
    photo, closing = PHOTO.read_bytes(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
            with contextlib.suppress(OSError):  # the watch has left
                while not closing.wait(0.2):
                    self.wfile.write(head.encode() + photo + b"\r\n")

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/mjpeg"
    closing.set()
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the commands name."""
    for name in ("photo.jpg", "photos/one.jpg", "photos/two.jpg", "inbox/first.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(PHOTO, tmp_path / name)
    (tmp_path / "notify.py").write_text(NOTIFY)
    return tmp_path


@pytest.fixture
def start(
    folder: Path, server_url: str, camera_url: str
) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a line in bash, in the folder; the camera's address and the gateway's port are the tests' own."""
    started: list[subprocess.Popen[bytes]] = []
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SECONDGLANCE_URL": server_url,
        "XDG_STATE_HOME": str(folder / "state"),
    }
    environment.pop("SECONDGLANCE_API_KEY", None)

    def run(command: str) -> subprocess.Popen[bytes]:
        line = command.replace("http://cam.local/mjpeg", camera_url)
        line = f"exec {line}" if is_service(command) else f"set -o pipefail; {line}"
        started.append(
            subprocess.Popen(
                ["bash", "-c", line],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_the_section_has_commands() -> None:
    """Every command of the program but for none; more than the tests below could miss."""
    from secondglance.cli import COMMANDS as NAMES

    assert {command.split()[1] for command in COMMANDS} == set(NAMES)


@pytest.mark.parametrize("command", [command for command in COMMANDS if not is_service(command)])
def test_a_command_that_ends_succeeds(
    command: str, folder: Path, start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = start(command)
    said, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, b"")
    results = folder / "results.jsonl"
    told = results.read_text() if "--out" in command else said.decode()
    if TRUTH["question"] in command:
        assert TRUTH["answer"] in told
    assert told.strip()
    if "--cmd" in command:
        assert (folder / "notified.txt").read_text().strip() == TRUTH["answer"]
    if "--resume" in command:
        again = start(command)
        again.communicate(timeout=DEADLINE_S)
        assert again.returncode == 0
        assert results.read_text() == told


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if is_service(command) and "watch" in command]
)
def test_a_watch_answers_until_it_is_told_to_stop(
    command: str, folder: Path, start: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    process = start(command)
    assert process.stdout is not None
    deadline = time.monotonic() + DEADLINE_S
    while not select.select([process.stdout], [], [], 0.5)[0]:
        assert time.monotonic() < deadline
        shutil.copyfile(PHOTO, folder / "inbox" / f"{time.monotonic_ns()}.jpg")
    line = process.stdout.readline().decode()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (0, b"")
    assert ("\t" in line) != line.startswith("{"), "a line of text, or JSON"


def test_the_gateway_serves_until_it_is_told_to_stop(
    start: Callable[[str], subprocess.Popen[bytes]],
) -> None:
    (command,) = (command for command in COMMANDS if "secondglance gateway" in command)
    port = free_port()
    process = start(f"{command} --port {port}")
    deadline = time.monotonic() + DEADLINE_S
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=30) as answer:
                assert json.load(answer)["data"]
                break
        except OSError:
            time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
