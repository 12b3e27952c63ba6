"""The second connection of a `Duplicate`: the client's bytes once more, the answer thrown away."""

from __future__ import annotations

import asyncio
import threading

from lab.relay.pump import CHUNK_BYTES


class Replay:
    """What was sent (`up`) and thrown away (`down`) so far. `answered` is set once the server has spoken."""

    def __init__(self) -> None:
        self.up = 0
        self.down = 0
        self.answered = threading.Event()
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()

    def add(self, piece: bytes) -> None:
        """Queue bytes to be sent again."""
        self._pieces.put_nowait(piece)

    def finish(self) -> None:
        """Say that no more bytes will come."""
        self._pieces.put_nowait(b"")

    async def run(self, host: str, port: int) -> None:
        """Send what is added until `finish`, and read until the server ends the connection."""
        try:
            reader, writer = await asyncio.open_connection(host, port)
        except OSError:
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._discard(reader))
                group.create_task(self._send(writer))
        except* OSError:
            pass  # nobody waits for this answer
        finally:
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        """Without a FIN: servers take one for a client that has left, and drop its request."""
        while piece := await self._pieces.get():
            self.up += len(piece)
            writer.write(piece)
            await writer.drain()

    async def _discard(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            self.down += len(data)
            self.answered.set()
