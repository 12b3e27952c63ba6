"""What a watch says of itself to health checks, systemd and scripts."""

from __future__ import annotations

import configparser
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from secondglance.errors import ServerUnavailableError, UsageError
from secondglance.watching.pulse import StatusFile, notify_systemd
from secondglance.watching.watch import WatchPlan
from tests.edge_client.watching.running import RunningWatch, until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def test_the_status_file_tells_how_source_and_server_fare(inbox: Path, tmp_path: Path, pictures: Any) -> None:
    path = tmp_path / "status.json"
    plan = WatchPlan(("What?",), inbox, settle_s=0.01, takes_existing=True)
    with RunningWatch(plan, tmp_path / "state", status_file=path) as running:
        until(lambda: json.loads(path.read_text()).get("is_well") is True)

        def away(picture: bytes, question: str) -> str:
            raise ServerUnavailableError("nobody there")

        running.ask = away
        (inbox / "a.jpg").write_bytes(pictures.photo((32, 24)))
        until(lambda: json.loads(path.read_text())["server_error"] == "nobody there")
        status = json.loads(path.read_text())
        assert (status["is_well"], status["waiting"], status["pid"]) == (False, 1, os.getpid())
        running.ask = lambda picture, question: "yes"
        until(lambda: json.loads(path.read_text())["answered"] == 1)
    assert [each.name for each in tmp_path.iterdir() if "status" in each.name] == ["status.json"]


@pytest.mark.parametrize("target", ["/dev/null", "/dev/full", "folder", "fifo", "nowhere/x.json"])
def test_e11_a_status_file_that_cannot_be_is_wrong_usage(tmp_path: Path, target: str) -> None:
    """E11: devices and pipes are left as they are."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="status"):
        StatusFile(tmp_path / target)
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("as_json", [False, True])
def test_e11_a_full_stdout_is_one_line_and_the_answer_is_given_again(
    serve: Any, inbox: Path, tmp_path: Path, pictures: Any, as_json: bool
) -> None:
    """E11: a traceback; and the answer counted as given."""
    from secondglance_server.engine.fake import FakeEngine

    (inbox / "a.jpg").write_bytes(pictures.photo((32, 24)))
    options = [
        "--once",
        "--settle",
        "0.05",
        "--state",
        str(tmp_path / "state"),
        "--url",
        serve(FakeEngine()).url,
    ]
    command = [sys.executable, "-m", "secondglance.cli", "watch", str(inbox), "-q", "What?", *options]
    command += ["--json"] if as_json else []
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1), ran.stderr
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (again.returncode, len(again.stdout.splitlines())) == (0, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_e11_a_full_stderr_does_not_end_a_watch(
    serve: Any, inbox: Path, tmp_path: Path, pictures: Any
) -> None:
    """E11: its log on a full disk ended the watch in silence, as soon as there was something to say."""
    from secondglance_server.engine.fake import FakeEngine

    (inbox / "a.jpg").write_bytes(b"\xff\xd8 no picture \xff\xd9")
    os.utime(inbox / "a.jpg", ns=(1, 1))
    (inbox / "b.jpg").write_bytes(pictures.photo((32, 24)))
    options = ["--once", "--settle", "0.05", "--state", str(tmp_path / "state"), "--cmd", "false"]
    command = [sys.executable, "-m", "secondglance.cli", "watch", str(inbox), "-q", "What?", *options]
    command += ["--url", serve(FakeEngine()).url]
    with open("/dev/full", "w") as full:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, text=True, cwd=ROOT, check=False)
    assert (ran.returncode, len(ran.stdout.splitlines())) == (1, 1)


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody else: without the variable nothing is sent, and a socket that is gone is no error."""
    notify_systemd("READY=1")
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify_systemd("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notify_systemd("WATCHDOG=1")
        assert manager.recv(100) == b"WATCHDOG=1"


def test_the_unit_starts_a_watch_that_exists() -> None:
    """Every option of its command line is one of `secondglance watch`."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read(ROOT / "deploy" / "secondglance-watch.service")
    words = shlex.split(unit["Service"]["ExecStart"])
    assert words[1] == "watch"
    command = [sys.executable, "-m", "secondglance.cli", "watch", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert all(word in text for word in words if word.startswith("-"))
    assert unit["Service"]["Type"] == "notify"
