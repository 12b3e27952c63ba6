"""Fetches captured attention from vLLM's workers, many requests' at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# (method of the extension, its arguments) -> one result for each worker
WorkerCall = Callable[..., Awaitable[Sequence[Any]]]


class MapFetcher:
    """One call is under way at a time; what is asked for meanwhile goes into the next."""

    def __init__(self, call: WorkerCall) -> None:
        self._call = call
        self._waiting: dict[str, asyncio.Future[NDArray[np.float32] | None]] = {}
        self._pump: asyncio.Task[None] | None = None
        self._unwanted: set[asyncio.Task[Any]] = set()

    async def take(self, key: str) -> NDArray[np.float32] | None:
        """Return the grid's weights, flat, averaged over the workers' heads; None if no worker has them."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run())
        weights: NDArray[np.float32] | None = await future
        return weights

    def drop(self, key: str) -> None:
        """Forget a map that nobody will fetch."""
        task = asyncio.create_task(self._forget(key))
        self._unwanted.add(task)
        task.add_done_callback(self._unwanted.discard)

    async def _forget(self, key: str) -> None:
        try:
            await self._call("capture_drop", [key])
        except Exception:  # the engine has died: its maps with it
            return

    async def _run(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, {}
            try:
                workers = await self._call("capture_take", list(asked))
            except Exception as exc:  # whoever waits learns of it
                for future in asked.values():
                    if not future.done():
                        future.set_exception(exc)
                continue
            for future, rows in zip(asked.values(), zip(*workers, strict=True), strict=True):
                if not future.done():
                    future.set_result(_mean(rows))


def _mean(rows: Sequence[list[float] | None]) -> NDArray[np.float32] | None:
    """Workers of tensor parallelism hold equal shares of the heads; those of other layers hold none."""
    found = [np.asarray(row, np.float32) for row in rows if row is not None]
    return np.mean(found, axis=0, dtype=np.float32) if found else None
