"""What a configured server writes to stderr, as a test reads it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from secondglance_server.telemetry.logs import configure_logging


@contextmanager
def captured_log(level: str = "info") -> Iterator[io.StringIO]:
    """Everything that is logged inside the block; afterwards logging is as it was."""
    root, stderr = logging.getLogger(), sys.stderr
    handlers, root_level = root.handlers[:], root.level
    quiet = {name: logging.getLogger(name).level for name in ("PIL", "python_multipart")}
    sys.stderr = stream = io.StringIO()
    try:
        configure_logging(level)
        yield stream
    finally:
        sys.stderr = stderr
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(root_level)
        for name, its_level in quiet.items():
            logging.getLogger(name).setLevel(its_level)


def lines(log: io.StringIO, event: str = "request") -> list[dict[str, Any]]:
    """The server's own lines of one kind; every line must be JSON."""
    parsed = [json.loads(line) for line in log.getvalue().splitlines()]
    return [
        line for line in parsed if line["event"] == event and line["logger"].startswith("secondglance_server")
    ]
