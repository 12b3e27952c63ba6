"""Commands with stderr on a terminal, as a person sees them."""

from __future__ import annotations

import os
import pty
import subprocess
import sys


def in_terminal(*arguments: object, **environment: str) -> tuple[str, str]:
    """Run a command with stderr on a terminal and stdout on a pipe; returns both."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "secondglance.cli", *map(str, arguments)]
    variables = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"} | environment
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=variables) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:  # Linux reports the other end's closing as an error
                break
            if not chunk:
                break
            shown += chunk
        os.close(ours)
        assert process.stdout is not None
        said = process.stdout.read().decode()
    assert process.returncode == 0, shown
    return said, shown.decode()
