"""What a campaign needs from the place that it measures in."""

from __future__ import annotations

from typing import Protocol

from lab.places.counters import Counters
from lab.relay.links import Link


class Place(Protocol):
    """Two network namespaces or two containers: an edge, a link whose rate can be set, and a server.

    `relay_host` and `photos` are as the edge sees them. `inside` is the edge's traffic as its own interface
    counts it; `outside` is the same traffic as the cable's other end or the Docker engine counts it.
    """

    @property
    def name(self) -> str: ...
    @property
    def outside_name(self) -> str: ...
    @property
    def interface(self) -> str: ...
    @property
    def relay_host(self) -> str: ...
    @property
    def photos(self) -> str: ...

    def lab(self, *arguments: str) -> str:
        """Run `python -m lab` at the edge and return its stdout."""
        ...

    def shape(self, link: Link) -> None:
        """Give the network the link's rate."""
        ...

    def inside(self) -> Counters: ...
    def outside(self) -> Counters: ...
