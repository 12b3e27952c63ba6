"""`secondglance gateway` as a process: what it prints, that it answers, how it stops."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from typing import Any

import openai


def test_the_command_says_where_it_listens_answers_and_stops_when_told(live: Any, photo, messages) -> None:
    command = [sys.executable, "-m", "secondglance.cli", "gateway", "--url", live.url, "--port", "0", "--log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            found = re.fullmatch(
                r"secondglance: (http://127\.0\.0\.1:\d+/v1) answers by way of (\S+)\n", said
            )
            assert found, said
            assert found[2] == live.url
            with openai.OpenAI(base_url=found[1], api_key="unused") as app:
                done = app.chat.completions.create(model="second-glance", messages=messages.about(photo))
            assert done.choices[0].message.content == "42"
            process.send_signal(signal.SIGTERM)
            out, log = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "")
    assert "POST /v1/chat/completions 200" in log
    assert "What number" not in log
