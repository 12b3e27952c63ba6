"""Answers reach programs and web hooks, whatever is in them."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from secondglance.errors import UsageError
from secondglance.retry import RetryPolicy
from secondglance.watching.answers.delivery import Command, DeliveryError, Webhook

RECORD = {"name": "a b.jpg", "question": "$(touch x)?", "answer": "42; rm -rf 'x' \0", "stage": 2}
QUICK = RetryPolicy(first_wait_s=0.001, max_wait_s=0.002)


def program(tmp_path: Path, code: str) -> str:
    path = tmp_path / "a program.py"
    path.write_text(code)
    return f"'{sys.executable}' '{path}'"


def test_a_program_gets_json_on_stdin_and_the_answer_in_its_environment(tmp_path: Path) -> None:
    """Nothing of the answer is interpreted: no shell is in between."""
    out = tmp_path / "out.json"
    code = f"""
import json, os, sys
names = ("NAME", "QUESTION", "ANSWER")
seen = {{name: os.environ["SECONDGLANCE_" + name] for name in names}}
json.dump([json.load(sys.stdin), seen, sys.argv[1:]], open({str(out)!r}, "w"))
"""
    Command(program(tmp_path, code) + " '$HOME' --flag").deliver(RECORD)
    record, seen, arguments = json.loads(out.read_text())
    assert record == RECORD
    assert seen == {"NAME": "a b.jpg", "QUESTION": "$(touch x)?", "ANSWER": "42; rm -rf 'x' "}
    assert arguments == ["$HOME", "--flag"]


def test_what_a_program_prints_stays_off_our_stdout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Command(program(tmp_path, "print('hello')")).deliver(RECORD)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("code", "reason"), [("raise SystemExit(3)", "exit code 3"), ("import time; time.sleep(60)", "timed out")]
)
def test_a_program_that_fails_or_hangs_is_told(tmp_path: Path, code: str, reason: str) -> None:
    with pytest.raises(DeliveryError, match=reason):
        Command(program(tmp_path, code), timeout_s=2).deliver(RECORD)


def test_a_program_that_does_not_exist_is_told() -> None:
    with pytest.raises(DeliveryError, match="nowhere"):
        Command("/nowhere/program").deliver(RECORD)


@pytest.mark.parametrize("command", ["", "   ", "'open"])
def test_a_command_without_a_program_is_wrong_usage(command: str) -> None:
    with pytest.raises(UsageError, match="--cmd"):
        Command(command)


class Hook:
    """Answers with each status in turn, the last one for good."""

    def __init__(self, *statuses: int) -> None:
        self.bodies: list[Any] = []
        left = list(statuses)
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(left.pop(0) if len(left) > 1 else left[0])
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def hook(request: pytest.FixtureRequest) -> Iterator[Hook]:
    hook = Hook(*request.param)
    yield hook
    hook.close()


@pytest.mark.parametrize("hook", [(200,), (503, 204)], indirect=True)
def test_a_hook_gets_the_json_and_is_tried_again(hook: Hook) -> None:
    with Webhook(hook.url, policy=QUICK) as webhook:
        webhook.deliver(RECORD)
    assert hook.bodies[-1] == RECORD


@pytest.mark.parametrize("hook", [(500,)], indirect=True)
def test_a_hook_that_keeps_failing_is_told(hook: Hook) -> None:
    with Webhook(hook.url, policy=QUICK) as webhook, pytest.raises(DeliveryError, match="500"):
        webhook.deliver(RECORD)
    assert len(hook.bodies) == 3


@pytest.mark.parametrize("url", ["ftp://x/", "nonsense", "http://"])
def test_an_address_that_is_none_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError, match="--webhook"):
        Webhook(url, policy=QUICK)
