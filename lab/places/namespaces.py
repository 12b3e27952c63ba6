"""Two network namespaces joined by a pair of interfaces: an edge's place and a server's, without containers.

Needs root and iproute2 on Linux. Frames are as large as on a real Ethernet: segmentation offload is off on
both sides, IPv6 and its chatter too. Nothing outlives the `with` block.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Literal, TypeAlias

from lab.errors import LabError
from lab.relay.links import Link

Side: TypeAlias = Literal["edge", "server"]
SIDES: tuple[Side, ...] = ("edge", "server")
INTERFACE = "eth0"
SERVER_ADDRESS = "10.77.0.2"
_ADDRESSES: dict[Side, str] = {"edge": "10.77.0.1", "server": SERVER_ADDRESS}
_STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Their names; `run` and `start` put a command into one."""

    names: dict[Side, str]

    def run(self, side: Side, *command: str, timeout_s: float | None = None) -> str:
        """Return the command's stdout. Raises LabError with its stderr."""
        return _output(*self._inside(side), *command, timeout_s=timeout_s)

    @contextlib.contextmanager
    def start(self, side: Side, *command: str, log: IO[bytes] | int = subprocess.DEVNULL) -> Iterator[None]:
        """Run the command until the block ends, then SIGTERM."""
        child = subprocess.Popen([*self._inside(side), *command], stdout=log, stderr=log)
        try:
            yield
        finally:
            child.terminate()
            try:
                child.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def shape(self, link: Link) -> None:
        """Set the link's rate on both sides, or none."""
        for side in SIDES:
            for arguments in shaping(INTERFACE, link):
                self.run(side, *arguments)

    def _inside(self, side: Side) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.names[side])


def shaping(interface: str, link: Link) -> list[tuple[str, ...]]:
    """Return the commands that leave `interface` sending at the link's rate."""
    root = ("dev", interface, "root")
    commands: list[tuple[str, ...]] = [("tc", "qdisc", "replace", *root, "pfifo_fast")]
    if link.bits_per_s is not None:
        rate = ("rate", f"{link.bits_per_s}bit", "burst", str(link.burst_bytes), "latency", "500ms")
        commands.append(("tc", "qdisc", "replace", *root, "tbf", *rate))
    return commands


def why_impossible() -> str | None:
    """Return what this machine lacks for namespaces; None if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if not all(shutil.which(program) for program in ("ip", "tc")):
        return "network namespaces need iproute2"
    return None


@contextlib.contextmanager
def joined() -> Iterator[Namespaces]:
    """Yield two joined namespaces. Raises LabError where they cannot be made."""
    lacking = why_impossible()
    if lacking:
        raise LabError(lacking)
    names: dict[Side, str] = {side: f"second-glance-{side}-{os.getpid()}" for side in SIDES}
    with contextlib.ExitStack() as undo:
        for name in names.values():
            _output("ip", "netns", "add", name)
            undo.callback(_output, "ip", "netns", "delete", name)
        ends = [argument for name in names.values() for argument in (INTERFACE, "netns", name)]
        _output("ip", "link", "add", *ends[:3], "type", "veth", "peer", "name", *ends[3:])
        pair = Namespaces(names)
        for side in SIDES:
            _configure(pair, side)
        yield pair


def _configure(pair: Namespaces, side: Side) -> None:
    for name in ("all", "default"):
        switch = f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6"
        pair.run(side, "sh", "-c", f"[ ! -e {switch} ] || echo 1 > {switch}")
    pair.run(side, "ip", "address", "add", f"{_ADDRESSES[side]}/24", "dev", INTERFACE)
    for interface in ("lo", INTERFACE):
        pair.run(side, "ip", "link", "set", interface, "up")
    pair.run(side, sys.executable, "-m", "lab", "offload", INTERFACE)


def _output(*command: str, timeout_s: float | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
