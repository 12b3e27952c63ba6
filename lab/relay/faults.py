"""What a relay may do to a connection, as values, and the schedule that says which connection gets what.

`up` is towards the server. `after_bytes` counts bytes passed on in that direction of that connection; the
fault happens exactly there, at 0 as soon as the connection is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Direction: TypeAlias = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Delay:
    """Bytes arrive `seconds` and up to `jitter_s` later, in order; `None` is both ways.

    Connecting takes as long as it would on such a link: the first byte waits for the handshake's round trip.
    """

    seconds: float
    jitter_s: float = 0.0
    direction: Direction | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `bytes_per_s` of payload, evenly."""

    bytes_per_s: float
    direction: Direction | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """Writes of at most `size` bytes, each followed by `pause_s`: a receiver sees messages in crumbs."""

    size: int
    pause_s: float = 0.0
    direction: Direction | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """Once, nothing passes for `seconds`; None is for good, with the connection left open."""

    direction: Direction
    after_bytes: int
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Both ends are told that the other has finished (FIN). What still comes is counted and thrown away.

    `wait_s` later than its byte; the other direction goes on meanwhile.
    """

    direction: Direction
    after_bytes: int
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reset:
    """Both ends get a reset (RST); what they had sent and nobody read is lost uncounted.

    `wait_s` as in `Cut`.
    """

    direction: Direction
    after_bytes: int
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ByteLimit:
    """A reset once the relay has passed `total_bytes`, over all its connections; later ones die at once."""

    direction: Direction
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The server gets the client's bytes again on a second connection, whose answer nobody sees.

    `alongside`: while the first is running. `afterwards`: when the client's connection has ended.
    """

    when: Literal["alongside", "afterwards"] = "alongside"


Fault: TypeAlias = Delay | RateLimit | Slice | Stall | Cut | Reset | ByteLimit | Duplicate


@dataclass(frozen=True, slots=True)
class Schedule:
    """`each` connection's faults, except for those that `by_connection` names by number, from 0."""

    each: tuple[Fault, ...] = ()
    by_connection: Mapping[int, tuple[Fault, ...]] = field(default_factory=dict)

    def faults_of(self, connection: int) -> tuple[Fault, ...]:
        """Return the faults of the connection of that number, from 0."""
        return self.by_connection.get(connection, self.each)


CLEAN = Schedule()
