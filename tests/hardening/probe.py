"""`python -m tests.hardening.probe PORT`: asks `/healthz` twenty times a second, in a process of its own.

Ends with its standard input and prints a `Report` as JSON. A process of its own, so that what is measured is
the server and not the interpreter that sends the abuse. Questions are due at fixed times: one that is due
while the one before still waits counts from then, so that a server that stands still is not asked less.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

EVERY_S = 0.05


@dataclass
class Report:
    """`elapsed_s` of each question; `lag_s`: how much later than it wanted the probe itself woke up."""

    elapsed_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def probe(port: int, stop: threading.Event) -> Report:
    """Ask until told to stop."""
    report = Report()
    due = time.monotonic()
    while True:
        due += EVERY_S
        early_s = due - time.monotonic()
        if stop.wait(max(0.0, early_s)):
            return report
        began = due
        if early_s > 0:
            began = time.monotonic()
            report.lag_s.append(began - due)
        failure = _ask(port)
        if failure is None:
            report.elapsed_s.append(time.monotonic() - began)
        else:
            report.failures.append(failure)


def _ask(port: int) -> str | None:
    """What went wrong, None if nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        return None if status == 200 else f"status {status}"
    except OSError as exc:
        return repr(exc)
    finally:
        connection.close()


def main() -> None:
    stop = threading.Event()

    def wait_for_end_of_input() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    print("asking", flush=True)
    print(json.dumps(asdict(probe(int(sys.argv[1]), stop))))


if __name__ == "__main__":
    main()
