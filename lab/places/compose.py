"""Containers of the compose file, driven through docker-compose and seen through the Docker Engine API.

Knows nothing about what is measured. Needs an engine (DOCKER_HOST as usual) and docker-compose or the plugin.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lab.errors import LabError
from lab.places.counters import Counters

PROJECT = "second-glance-lab"
_HEALTHY_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A command in a container, at its end."""

    exit_code: int
    stdout: str
    stderr: str

    def checked(self) -> str:
        """Return stdout. Raises LabError with stderr if the command failed."""
        if self.exit_code:
            raise LabError(f"exit code {self.exit_code}: {self.stderr.strip()}")
        return self.stdout


class Container:
    """A running container. `raw` is docker-py's."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> Finished:
        """Run a command inside, confined as the container is."""
        code, (stdout, stderr) = self.raw.exec_run(list(command), environment=environment, demux=True)
        return Finished(code, (stdout or b"").decode(), (stderr or b"").decode())

    def engine_counters(self) -> Counters:
        """Return what the engine's API says has crossed the container's networks."""
        networks = self.raw.client.api.stats(self.raw.id, stream=False, one_shot=True)["networks"].values()
        fields = ("tx_bytes", "tx_packets", "rx_bytes", "rx_packets")
        return Counters(*(sum(network[field] for network in networks) for field in fields))

    def processor_s(self) -> float:
        """Return the processor time so far in seconds, health checks included."""
        usage = self.raw.client.api.stats(self.raw.id, stream=False, one_shot=True)["cpu_stats"]["cpu_usage"]
        return float(usage["total_usage"]) / 1e9

    def seconds_to_healthy(self) -> float:
        """Return the seconds from its start to the end of the first check that passed."""
        self.raw.reload()
        state = self.raw.attrs["State"]
        passed = next(check for check in state["Health"]["Log"] if check["ExitCode"] == 0)
        return (_moment(passed["End"]) - _moment(state["StartedAt"])).total_seconds()

    def wait_until_healthy(self) -> None:
        """Wait until the health check passes. Raises LabError if it does not."""
        deadline = time.monotonic() + _HEALTHY_TIMEOUT_S
        while time.monotonic() < deadline:
            self.raw.reload()
            state = self.raw.attrs["State"]
            if state["Health"]["Status"] == "healthy":
                return
            if not state["Running"]:
                break
            time.sleep(0.2)
        raise LabError(f"{self.raw.name} is not healthy: {self.raw.logs(tail=5).decode()}")


@dataclass(frozen=True, slots=True)
class Compose:
    """The compose file's services under one project name."""

    command: tuple[str, ...]
    client: Any

    def __call__(self, *arguments: str) -> str:
        """Raises LabError with docker-compose's own words."""
        whole = (*self.command, "--project-name", PROJECT, *arguments)
        done = subprocess.run(whole, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{' '.join(whole)}: {done.stderr.strip()}")
        return done.stdout

    def container(self, service: str) -> Container:
        """Return the running container of a service."""
        return Container(self.client.containers.get(self("ps", "-q", service).strip()))

    def run(self, service: str, *command: str, entrypoint: str, name: str) -> Container:
        """One more container of a service, with another command and none of its dependencies."""
        options = ("-d", "--no-deps", "--name", f"{PROJECT}-{name}", "--entrypoint", entrypoint)
        self("--profile", "lab", "run", *options, service, *command)
        return Container(self.client.containers.get(f"{PROJECT}-{name}"))


@contextlib.contextmanager
def composed() -> Iterator[Compose]:
    """Yield the project; take down what was started, networks too. Raises LabError without an engine."""
    import docker

    plugin = (
        subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )
    command = ("docker", "compose") if plugin else ("docker-compose",)
    if not plugin and shutil.which("docker-compose") is None:
        raise LabError("neither `docker compose` nor docker-compose is here")
    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as exc:
        raise LabError(f"no Docker engine answers: {exc}") from exc
    compose = Compose(command, client)
    with contextlib.closing(client):
        try:
            yield compose
        finally:
            for one_off in client.containers.list(all=True, filters={"name": f"^{PROJECT}-"}):
                one_off.remove(force=True)  # docker-compose 1.29 leaves these to who started them
            compose("--profile", "lab", "down", "--remove-orphans", "--timeout", "35")


def _moment(text: str) -> datetime:
    """The engine writes nanoseconds, which datetime does not read."""
    date, _, rest = text.partition(".")
    digits = "".join(character for character in rest.partition("+")[0] if character.isdigit())
    offset = rest[len(digits) :] or "Z"
    return datetime.fromisoformat(f"{date}.{digits[:6] or '0'}{offset.replace('Z', '+00:00')}")
