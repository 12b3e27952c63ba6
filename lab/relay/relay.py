"""A TCP relay that counts every byte, both ways and for each connection, and misbehaves on order.

    async with Relay("127.0.0.1", port, schedule=Schedule(each=(Delay(0.05),))) as relay: ...
    with relaying("127.0.0.1", port) as relay: ...          # in a thread of its own, for blocking code

It needs no privileges and knows no HTTP. Bytes are counted before they are passed on, so whoever has an
answer finds it counted. Not modelled: what TCP does on a long path (slow start, lost segments).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeAlias

from lab.relay.faults import CLEAN, Cut, Direction, Duplicate, Fault, Schedule
from lab.relay.pump import CHUNK_BYTES, EndedError, Flow, Pump
from lab.relay.replay import Replay

_LINGER_S = 5.0  # for what still comes after a cut
_CONNECT_S = 5.0

HowItEnded: TypeAlias = Literal["closed", "cut", "reset", "refused"]
_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Bytes(NamedTuple):
    up: int
    down: int


@dataclass(slots=True)
class Connection:
    """One connection's counts; `outcome` is None while it lasts, `refused` if the target took none."""

    index: int
    up: Flow = field(default_factory=Flow)
    down: Flow = field(default_factory=Flow)
    replay: Replay | None = None
    outcome: HowItEnded | None = None


class Relay:
    """Connects every connection on to `host`:`port`. `schedule` may be replaced for connections to come."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        schedule: Schedule = CLEAN,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        seed: int = 0,
    ) -> None:
        self.schedule = schedule
        self.connections: list[Connection] = []
        self._target = (host, port)
        self._listen = (listen_host, listen_port)
        self._random = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, *self._listen)
        self._listen = self._server.sockets[0].getsockname()[:2]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops listening and breaks what is open."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def port(self) -> int:
        return self._listen[1]

    @property
    def url(self) -> str:
        return f"http://{self._listen[0]}:{self.port}"

    @property
    def passed(self) -> Bytes:
        """Return the bytes handed on so far, over all connections."""
        return Bytes(self._in_all("up"), self._in_all("down"))

    @property
    def received(self) -> Bytes:
        """Return the bytes taken so far; more than `passed` where a fault holds or drops some."""
        connections = list(self.connections)
        return Bytes(sum(c.up.received for c in connections), sum(c.down.received for c in connections))

    def _in_all(self, direction: Direction) -> int:
        return sum(getattr(connection, direction).passed for connection in list(self.connections))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(len(self.connections))
        self.connections.append(connection)
        self._start(self._relay(connection, (reader, writer)))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, connection: Connection, client: _Streams) -> None:
        faults = self.schedule.faults_of(connection.index)
        try:
            async with asyncio.timeout(_CONNECT_S):
                server = await asyncio.open_connection(*self._target)
        except (OSError, TimeoutError):
            connection.outcome = "refused"
            client[1].close()
            return
        try:
            with self._replaying(connection, faults):
                outcome = await _move(self._pumps(connection, client, server, faults), self._random)
            connection.outcome = outcome
            if outcome == "cut":
                await asyncio.gather(_finish(client, connection.up), _finish(server, connection.down))
            await asyncio.gather(*(_close(writer, outcome) for _, writer in (client, server)))
        finally:
            for _, writer in (client, server):
                writer.transport.abort()

    def _pumps(
        self, connection: Connection, client: _Streams, server: _Streams, faults: Sequence[Fault]
    ) -> tuple[Pump, Pump]:
        def pump(direction: Direction, source: _Streams, sink: _Streams, **options: Any) -> Pump:
            mine = [fault for fault in faults if getattr(fault, "direction", None) in (None, direction)]
            total = partial(self._in_all, direction)
            flow: Flow = getattr(connection, direction)
            return Pump(flow, source[0], sink[1], mine, passed_in_all=total, **options)

        witness = connection.replay.add if connection.replay else None
        return pump("up", client, server, witness=witness), pump("down", server, client)

    @contextlib.contextmanager
    def _replaying(self, connection: Connection, faults: Sequence[Fault]) -> Iterator[None]:
        """Starts the second connection of a `Duplicate`, with the first or after it."""
        when = next((fault.when for fault in faults if isinstance(fault, Duplicate)), None)
        if when is None:
            yield
            return
        connection.replay = replay = Replay()
        if when == "alongside":
            self._start(replay.run(*self._target))
        yield
        replay.finish()
        if when == "afterwards":
            self._start(replay.run(*self._target))


async def _move(pumps: tuple[Pump, Pump], draw: random.Random) -> HowItEnded:
    """Until both ends have finished, one of them breaks, or a fault ends it."""
    outcome: HowItEnded = "closed"
    if any(pump.delay_s for pump in pumps):
        await asyncio.sleep(sum(pump.delay_s for pump in pumps))  # the handshake's round trip
    try:
        async with asyncio.TaskGroup() as group:
            for pump in pumps:
                group.create_task(pump.take(draw))
                group.create_task(pump.give())
    except* EndedError as ends:
        first = ends.exceptions[0]
        outcome = "cut" if isinstance(first, EndedError) and isinstance(first.ending, Cut) else "reset"
    except* OSError:
        outcome = "reset"  # as one end was, or is gone
    return outcome


async def _finish(end: _Streams, flow: Flow) -> None:
    """Send FIN, and count what still comes until the other side has finished too."""
    reader, writer = end
    with contextlib.suppress(OSError, TimeoutError):
        if not writer.is_closing():
            writer.write_eof()
        async with asyncio.timeout(_LINGER_S):
            while data := await reader.read(CHUNK_BYTES):
                flow.received += len(data)


async def _close(writer: asyncio.StreamWriter, outcome: HowItEnded) -> None:
    if outcome == "reset":
        with contextlib.suppress(OSError):
            lingering = struct.pack("ii", 1, 0)  # on, for no time: closing sends RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        writer.transport.abort()
        return
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.contextmanager
def relaying(host: str, port: int, *, schedule: Schedule = CLEAN, seed: int = 0) -> Iterator[Relay]:
    """Yield a relay that runs in a thread of its own; its counts may be read at any time."""
    started: Future[tuple[Relay, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        try:
            async with Relay(host, port, schedule=schedule, seed=seed) as relay:
                stop = asyncio.Event()
                started.set_result((relay, asyncio.get_running_loop(), stop))
                await stop.wait()
        except OSError as exc:
            started.set_exception(exc)

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="relay", daemon=True)
    thread.start()
    relay, loop, stop = started.result()
    try:
        yield relay
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_LINGER_S)
