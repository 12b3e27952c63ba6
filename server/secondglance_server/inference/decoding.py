"""The threads that decode pictures, in two lanes: what is cheap never waits for what is costly.

One lane reads all headers and decodes small pictures, the other decodes large ones. Each has its own threads
and its own share of the memory for decoding. Not covered: what may be decoded (`intake`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from secondglance_protocol.wire import ImageSize
from secondglance_server.inference.async_engine import TooLate
from secondglance_server.inference.intake import DecodingMemory, ImageLimits, Inspected, inspect
from secondglance_server.inference.ticket import Ticket
from secondglance_server.settings import ServerSettings

_SMALL_SHARE = 4  # small pictures get this part of the memory, in pieces of at most half of it


class Decoders:
    """Decodes off the event loop; `close` once."""

    def __init__(self, settings: ServerSettings) -> None:
        small_bytes = settings.max_decoding_bytes // _SMALL_SHARE
        self._max_small_bytes = small_bytes // 2
        self._small_memory = DecodingMemory(small_bytes)
        self._large_memory = DecodingMemory(settings.max_decoding_bytes - small_bytes)
        self._small = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode-small")
        self._large = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode-large")

    async def decode(
        self, data: bytes, limits: ImageLimits, ticket: Ticket, check_size: Callable[[ImageSize], None]
    ) -> NDArray[np.uint8]:
        """Return the picture as uint8 [height, width, 3]. Raises TooLate and what `intake.inspect` raises."""

        def decode_if_small() -> NDArray[np.uint8] | Inspected:
            _check_time(ticket)
            found = inspect(data, limits, check_size)
            return found if found.n_bytes > self._max_small_bytes else found.decode(self._small_memory)

        def decode_large(found: Inspected) -> NDArray[np.uint8]:
            _check_time(ticket)
            return found.decode(self._large_memory)

        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._small, decode_if_small)
        if isinstance(result, Inspected):
            return await loop.run_in_executor(self._large, decode_large, result)
        return result

    def close(self) -> None:
        """Drop what waits; what is being decoded comes to its end unattended."""
        for lane in (self._small, self._large):
            lane.shutdown(wait=False, cancel_futures=True)


def _check_time(ticket: Ticket) -> None:
    if ticket.is_late:
        raise TooLate
