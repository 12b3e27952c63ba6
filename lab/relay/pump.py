"""One direction of a relayed connection: takes bytes, keeps them until they are due, hands them on.

Faults happen here, at their byte. Whose connection it is, and what follows its end, is the relay's business.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lab.relay.faults import ByteLimit, Cut, Delay, Fault, RateLimit, Reset, Slice, Stall

CHUNK_BYTES = 65_536
_QUEUED_CHUNKS = 64  # more than bandwidth times delay of any link worth relaying
_TICK_S = 0.01  # a limited rate is handed out in portions of this length

Ending: TypeAlias = Cut | Reset | ByteLimit


@dataclass(slots=True)
class Flow:
    """One direction's bytes: taken from the sender, and handed on to the receiver."""

    received: int = 0
    passed: int = 0


class EndedError(Exception):
    """A fault, `ending`, ends the connection."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending))
        self.ending = ending


class Pump:
    """`take` and `give` run side by side. `faults` are this direction's.

    `passed_in_all` counts this direction over the whole relay; `witness` is shown what is handed on.
    """

    def __init__(
        self,
        flow: Flow,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        faults: Sequence[Fault],
        *,
        passed_in_all: Callable[[], int],
        witness: Callable[[bytes], None] | None = None,
    ) -> None:
        self._flow = flow
        self._reader = reader
        self._writer = writer
        self._passed_in_all = passed_in_all
        self._witness = witness
        self._delays = [fault for fault in faults if isinstance(fault, Delay)]
        self._slices = [fault for fault in faults if isinstance(fault, Slice)]
        self._stalls = [fault for fault in faults if isinstance(fault, Stall)]
        self._endings = [fault for fault in faults if isinstance(fault, Ending)]
        self._rate = min(
            (fault.bytes_per_s for fault in faults if isinstance(fault, RateLimit)), default=None
        )
        self._free_at = 0.0  # when the rate allows the next byte
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_CHUNKS)

    @property
    def delay_s(self) -> float:
        """Return the delay in seconds, without jitter."""
        return sum(fault.seconds for fault in self._delays)

    async def take(self, draw: random.Random) -> None:
        """Read until the sender has finished; an empty chunk says so."""
        clock, due = asyncio.get_running_loop().time, 0.0
        while True:
            data = await self._reader.read(CHUNK_BYTES)
            self._flow.received += len(data)
            jitter_s = sum(fault.jitter_s * draw.random() for fault in self._delays)
            due = max(due, clock() + self.delay_s + jitter_s)
            await self._queue.put((due, data))
            if not data:
                return

    async def give(self) -> None:
        """Hand on what is due. Raises EndedError."""
        clock = asyncio.get_running_loop().time
        await self._meet_faults()
        while True:
            due, data = await self._queue.get()
            if due > clock():
                await asyncio.sleep(due - clock())
            if not data:
                self._writer.write_eof()
                return
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        while data:
            await self._meet_faults()  # other connections may have used up a limit
            piece = data[: self._next_size(len(data))]
            data = data[len(piece) :]
            await self._wait_for_rate(len(piece))
            self._flow.passed += len(piece)
            if self._witness is not None:
                self._witness(piece)
            self._writer.write(piece)
            await self._writer.drain()
            for fault in self._slices:
                await asyncio.sleep(fault.pause_s)
        await self._meet_faults()

    def _next_size(self, available: int) -> int:
        """Bytes until something is to happen."""
        sizes = [available, *(fault.size for fault in self._slices)]
        sizes += [fault.after_bytes - self._flow.passed for fault in self._stalls]
        sizes += [self._left(fault) for fault in self._endings]
        if self._rate is not None:
            sizes.append(max(1, int(self._rate * _TICK_S)))
        return min(sizes)

    def _left(self, fault: Ending) -> int:
        if isinstance(fault, ByteLimit):
            return fault.total_bytes - self._passed_in_all()
        return fault.after_bytes - self._flow.passed

    async def _wait_for_rate(self, size: int) -> None:
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size / self._rate
        await asyncio.sleep(self._free_at - now)

    async def _meet_faults(self) -> None:
        """Those whose byte has been reached."""
        for ending in self._endings:
            if self._left(ending) <= 0:
                if not isinstance(ending, ByteLimit):
                    await asyncio.sleep(ending.wait_s)
                raise EndedError(ending)
        for stall in [each for each in self._stalls if self._flow.passed >= each.after_bytes]:
            self._stalls.remove(stall)
            if stall.seconds is None:
                await asyncio.get_running_loop().create_future()  # never done
            else:
                await asyncio.sleep(stall.seconds)
