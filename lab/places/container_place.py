"""The lab on containers: the compose file's profile `lab`, its interfaces shaped from the host.

Shaping and offload need root on the host of a Linux engine: no container is given the capability for it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.places.compose import Container, composed
from lab.places.counters import Counters, parsed, reading
from lab.places.namespaces import shaping
from lab.relay.links import Link

_INTERFACE = "eth0"  # of the edge, which is on one network only
_RADIO = "_radio"


@dataclass(frozen=True, slots=True)
class ContainerPlace:
    """A `Place`. `link_interface` is the link's side of the edge's network."""

    edge: Container
    link: Container
    link_interface: str
    name: str = "containers"
    outside_name: str = "Docker Engine API"
    interface: str = _INTERFACE
    relay_host: str = "link"
    photos: str = "/photos"

    def lab(self, *arguments: str) -> str:
        return self.edge.run("python", "-m", "lab", *arguments).checked()

    def shape(self, link: Link) -> None:
        for container, interface in ((self.edge, _INTERFACE), (self.link, self.link_interface)):
            for command in shaping(interface, link):
                _in_network_of(container, *command)

    def inside(self) -> Counters:
        return parsed(self.edge.run(*reading(_INTERFACE)).checked())

    def outside(self) -> Counters:
        return self.edge.engine_counters()


@contextlib.contextmanager
def container_place(photos: Path) -> Iterator[ContainerPlace]:
    """Yield server, link and edge, with offload off on both sides of the link. Raises LabError."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise LabError("shaping the containers' interfaces needs Linux and root")
    for path in (photos, *photos.iterdir()):
        path.chmod(path.stat().st_mode | 0o444 | (0o111 if path.is_dir() else 0))  # the edge is not root
    with composed() as compose:
        compose("--profile", "lab", "up", "--no-build", "-d", "server-lab", "link", "edge-lab")
        edge, link = compose.container("edge-lab"), compose.container("link")
        place = ContainerPlace(edge, link, _interface_on_radio(link))
        for container, interface in ((edge, _INTERFACE), (link, place.link_interface)):
            _in_network_of(container, sys.executable, "-m", "lab", "offload", interface)
        yield place


def _interface_on_radio(link: Container) -> str:
    link.raw.reload()
    networks = link.raw.attrs["NetworkSettings"]["Networks"]
    address = next(network["IPAddress"] for name, network in networks.items() if name.endswith(_RADIO))
    for line in _in_network_of(link, "ip", "-oneline", "-4", "address").splitlines():
        _, interface, _, found = line.split()[:4]
        if found.startswith(f"{address}/"):
            return interface
    raise LabError(f"the link has no interface with {address}")


def _in_network_of(container: Container, *command: str) -> str:
    """Run a program of the host in the container's network namespace."""
    container.raw.reload()
    inside = ("nsenter", "--target", str(container.raw.attrs["State"]["Pid"]), "--net")
    done = subprocess.run([*inside, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
