"""The command line as a process: it stops cleanly when told to, and says why when it cannot start."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.child import free_port
from server.keys import hash_key
from tests.server.exchange import encode

ROOT = Path(__file__).parents[2]

SERVE_FAKE = """
import sys
from server.engine.fake import FakeEngine, FakeScript
from server.logs import configure_logging
from server.serving import run_until_stopped
from server.settings import load_settings
configure_logging("info")
delay_s = float(sys.argv[2])
ok = run_until_stopped(load_settings(port=int(sys.argv[1])), FakeEngine(FakeScript(delay_s=delay_s)))
sys.exit(0 if ok else 1)
"""


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "server.cli", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextmanager
def fake_server(delay_s: float = 0.0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE_FAKE, str(port), str(delay_s)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 30
        while not is_ready(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, port
    finally:
        process.kill()
        process.communicate()


def test_a_stop_signal_lets_work_in_flight_finish_and_exits_with_zero() -> None:
    with fake_server(delay_s=0.5) as (process, port):
        body = (
            b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n'
            b'{"question": "?", "image": {"width": 4000, "height": 3000}, "mode": "answer_only"}\r\n'
            b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + encode(64, 48) + b"\r\n--x--\r\n"
        )
        statuses: list[int] = []

        def post() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request(
                "POST", "/v1/inferences", body, {"Content-Type": "multipart/form-data; boundary=x"}
            )
            sent.set()
            statuses.append(connection.getresponse().status)
            connection.close()

        sent = threading.Event()
        thread = threading.Thread(target=post)
        thread.start()
        sent.wait(10)
        assert is_ready(port)  # a round trip after the request was sent: it has been taken in
        process.send_signal(signal.SIGTERM)
        thread.join(30)
        assert statuses == [200]
        assert process.wait(30) == 0
        assert not is_ready(port)


def test_health_follows_readiness() -> None:
    with fake_server() as (_, port):
        assert cli("health", "--url", f"http://127.0.0.1:{port}").returncode == 0
        assert cli("health", SECONDGLANCE_SERVER_PORT=str(port)).returncode == 0
    down = cli("health", "--url", f"http://127.0.0.1:{port}")
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


def test_a_model_that_is_not_there_stops_the_server_with_one(tmp_path: Path) -> None:
    result = cli("serve", "--port", "0", "--model", str(tmp_path / "none"))
    assert result.returncode == 1
    assert "model not loaded" in result.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help")])
def test_help_is_there(arguments: tuple[str, ...]) -> None:
    assert cli(*arguments).returncode == 0
