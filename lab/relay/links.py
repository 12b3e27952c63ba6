"""The links that are measured, and a model of how long a conversation takes on one.

The rate is shaped by the kernel's token bucket (tc tbf) on both sides; delay and jitter are the relay's. Each
link has a port of the relay of its own, so that one relay serves all.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass

from lab.relay.faults import Delay, Fault, Schedule, Stall
from lab.relay.relay import Relay

BASE_PORT = 9000


@dataclass(frozen=True, slots=True)
class Link:
    """`bits_per_s` None: as fast as the wire is. `rtt_s`: there and back. `jitter_s`: on top, each way."""

    name: str
    port: int
    bits_per_s: int | None = None
    rtt_s: float = 0.0
    jitter_s: float = 0.0

    @property
    def mean_rtt_s(self) -> float:
        """Return the mean round trip in seconds, jitter included."""
        return self.rtt_s + self.jitter_s  # two ways, half the jitter each on average

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Return the delay that the relay adds."""
        return (Delay(self.rtt_s / 2, self.jitter_s),) if self.rtt_s else ()

    @property
    def burst_bytes(self) -> int:
        """Return two segments, or two milliseconds at the rate: less would not reach the rate."""
        return max(3_200, int((self.bits_per_s or 0) / 8 * 0.002))

    def predicted_s(
        self, *, wire_up: float, wire_down: float, handshakes: float, requests: float, compute_s: float
    ) -> float:
        """Return seconds: bytes at the rate, a round trip for each handshake and request, and computing."""
        transfer_s = 8 * (wire_up + wire_down) / self.bits_per_s if self.bits_per_s else 0.0
        return compute_s + transfer_s + (handshakes + requests) * self.mean_rtt_s


WIRE = Link("wire", BASE_PORT)
LINKS = (
    WIRE,
    Link("256 kbit/s, 300 ms", BASE_PORT + 1, 256_000, 0.300, 0.015),
    Link("1 Mbit/s, 100 ms", BASE_PORT + 2, 1_000_000, 0.100, 0.005),
    Link("10 Mbit/s, 50 ms", BASE_PORT + 3, 10_000_000, 0.050, 0.002),
    Link("100 Mbit/s, 1 ms", BASE_PORT + 4, 100_000_000, 0.001, 0.0),
)


async def serve(target: tuple[str, int], listen_host: str, *, stall_up_after: int | None = None) -> None:
    """Relay each link on its port until SIGTERM; the wire's port stalls for good after so many bytes up."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as running:
        for link in LINKS:
            faults = link.faults
            if link is WIRE and stall_up_after is not None:
                faults = (Stall("up", stall_up_after),)
            await running.enter_async_context(
                Relay(*target, schedule=Schedule(faults), listen_host=listen_host, listen_port=link.port)
            )
        await stop.wait()
