"""`python -m tests.server.fake_server '{"delay_s": 0.5}' '{}'`: the real server around a scripted engine.

The arguments hold fields of `FakeScript`, and constants of the server that tests of long times shorten, as
`{"http.body.BODY_GRACE_S": 1.0}`; settings come from the environment. `fake_server` runs one.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from secondglance_server.engine.fake import FAKE_INFO, FakeEngine, FakeScript
from secondglance_server.engine.protocol import EncoderBudget
from secondglance_server.serving import leave, run_until_stopped
from secondglance_server.settings import ENV_PREFIX, load_settings
from secondglance_server.telemetry.logs import configure_logging
from secondglance_server.testing import free_port

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class FakeServer:
    """A running one. `process` writes its log to stderr."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cpu_s(self) -> float:
        """Processor time that the process has used (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def status(self, path: str) -> int:
        """Of a GET, 0 if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def wait_for(self, path: str, status: int) -> None:
        deadline = time.monotonic() + 30
        while self.status(path) != status:
            assert time.monotonic() < deadline, f"{path} is not {status}"
            time.sleep(0.02)


@contextmanager
def fake_server(
    script: dict[str, Any] | None = None,
    *,
    log: int = subprocess.DEVNULL,
    constants: dict[str, float] | None = None,
    patch_side: int = FAKE_INFO.patch.max_width,
    **settings: Any,
) -> Iterator[FakeServer]:
    """A ready server; killed at the end, if it still runs. `log`: where stderr goes; `patch_side`: of the
    largest patch, in pixels."""
    port = free_port()
    environment = {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in settings.items()}
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.server.fake_server",
            json.dumps(script or {}),
            json.dumps(constants or {}),
            str(patch_side),
        ],
        cwd=ROOT,
        env={**os.environ, **environment, f"{ENV_PREFIX}PORT": str(port)},
        stderr=log,
        text=True,
    )
    server = FakeServer(process, port)
    try:
        server.wait_for("/readyz", 200)
        yield server
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    configure_logging("info")
    for name, value in json.loads(sys.argv[2]).items():
        module, _, constant = name.rpartition(".")
        home = importlib.import_module(f"secondglance_server.{module}")
        assert hasattr(home, constant), name
        setattr(home, constant, value)
    side = int(sys.argv[3])
    info = replace(FAKE_INFO, patch=EncoderBudget(max_width=side, max_height=side))
    engine = FakeEngine(FakeScript(**json.loads(sys.argv[1])), info=info)
    leave(is_well=run_until_stopped(load_settings(), engine))


if __name__ == "__main__":
    main()
