"""The relay against a plain TCP server: its counts, and each fault at exactly its byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lab.relay.faults import (
    ByteLimit,
    Cut,
    Delay,
    Duplicate,
    Fault,
    RateLimit,
    Reset,
    Schedule,
    Slice,
    Stall,
)
from lab.relay.pump import Flow, Pump
from lab.relay.relay import Relay, relaying

DATA = bytes(range(256)) * 400
SOON_S = 20.0  # for what must come, on however slow a machine


class Echo:
    """Sends back what it gets; remembers what each connection brought and whether it was reset."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.got: list[bytearray] = []
        self.ends: list[str] = []
        self._ended = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.got.append(bytearray())
                threading.Thread(target=self._serve, args=(connection, self.got[-1]), daemon=True).start()

    def _serve(self, connection: socket.socket, got: bytearray) -> None:
        end = "finished"
        try:
            with connection:
                while data := connection.recv(65_536):
                    got += data
                    connection.sendall(data)
        except OSError:
            end = "reset"
        with self._ended:
            self.ends.append(end)
            self._ended.notify_all()

    def wait_for_ends(self, count: int) -> list[str]:
        with self._ended:
            assert self._ended.wait_for(lambda: len(self.ends) >= count, SOON_S)
        return self.ends

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@contextlib.contextmanager
def connected(relay: Relay) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", relay.port), timeout=SOON_S) as client:
        yield client


def to_the_end(client: socket.socket) -> bytes:
    received = bytearray()
    while data := client.recv(65_536):
        received += data
    return bytes(received)


def send_and_finish(client: socket.socket, data: bytes) -> bytes:
    """What comes back for `data`; sends and receives side by side, as an echo of any size requires."""
    sender = threading.Thread(
        target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR)), daemon=True
    )
    sender.start()
    received = to_the_end(client)
    sender.join(SOON_S)
    return received


def talk_until_it_breaks(client: socket.socket) -> None:
    while True:
        client.sendall(DATA[:20_000])
        client.recv(20_000)


def through(port: int, *faults: Fault, data: bytes = DATA) -> tuple[bytes, Relay, float]:
    with relaying("127.0.0.1", port, schedule=Schedule(faults)) as relay, connected(relay) as client:
        started = time.monotonic()
        received = send_and_finish(client, data)
        return received, relay, time.monotonic() - started


def test_a_clean_relay_changes_nothing_and_counts_each_connection(echo) -> None:
    with relaying("127.0.0.1", echo.port) as relay:
        for size in (1, 70_000):
            with connected(relay) as client:
                assert send_and_finish(client, DATA[:size]) == DATA[:size]
        assert echo.wait_for_ends(2) == ["finished", "finished"]
        assert [(c.up.passed, c.down.passed) for c in relay.connections] == [(1, 1), (70_000, 70_000)]
        assert relay.passed == relay.received == (70_001, 70_001)


async def test_it_works_on_the_loop_of_a_test_too(echo) -> None:
    async with Relay("127.0.0.1", echo.port) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(DATA)
        assert await reader.readexactly(len(DATA)) == DATA
        assert relay.passed == (len(DATA), len(DATA))
        writer.close()
        await writer.wait_closed()


def test_a_cut_on_the_way_up_lets_exactly_so_many_bytes_arrive(echo) -> None:
    """Both ends see an orderly end, and what the client sent on is counted though nobody gets it."""
    _, relay, _ = through(echo.port, Cut("up", 12_345))
    assert echo.wait_for_ends(1) == ["finished"]
    assert echo.got == [DATA[:12_345]]
    connection = relay.connections[0]
    assert (connection.up.passed, connection.up.received) == (12_345, len(DATA))
    assert connection.outcome == "cut"


def test_a_cut_that_waits_lets_the_answer_pass_meanwhile(echo) -> None:
    """One byte of the request is still missing when the connection ends; what was there is answered."""
    received, relay, took_s = through(echo.port, Cut("up", 999, wait_s=1.0), data=DATA[:1000])
    assert received == DATA[:999]
    assert relay.connections[0].outcome == "cut"
    assert took_s >= 1.0


def test_a_cut_on_the_way_down_lets_exactly_so_many_bytes_arrive(echo) -> None:
    received, relay, _ = through(echo.port, Cut("down", 12_345))
    assert received == DATA[:12_345]
    assert relay.passed.down == 12_345


@pytest.mark.parametrize("after_bytes", [0, 12_345])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_reset_reaches_both_ends(echo, direction: str, after_bytes: int) -> None:
    with relaying("127.0.0.1", echo.port, schedule=Schedule((Reset(direction, after_bytes),))) as relay:
        # A reset after no byte at all may come before `connect` has returned.
        with pytest.raises(ConnectionError), connected(relay) as client:
            talk_until_it_breaks(client)
        assert echo.wait_for_ends(1) == ["reset"]
    assert getattr(relay.passed, direction) == after_bytes
    assert relay.connections[0].outcome == "reset"


def test_a_clients_reset_is_passed_on(echo) -> None:
    with relaying("127.0.0.1", echo.port) as relay:
        with connected(relay) as client:
            client.sendall(DATA)
            client.recv(1)
            # Closing with bytes unread resets the connection.
        assert echo.wait_for_ends(1) == ["reset"]


def test_a_byte_limit_holds_over_all_connections(echo) -> None:
    with relaying("127.0.0.1", echo.port, schedule=Schedule((ByteLimit("up", 1_000),))) as relay:
        with connected(relay) as client:
            client.sendall(DATA[:600])
            assert client.recv(600, socket.MSG_WAITALL) == DATA[:600]
        for _ in range(2):
            with pytest.raises(ConnectionError), connected(relay) as client:
                talk_until_it_breaks(client)
        assert relay.passed.up == 1_000


def test_a_stall_holds_back_the_rest_and_then_lets_it_go(echo) -> None:
    received, _, elapsed_s = through(echo.port, Stall("up", 10, seconds=0.3))
    assert received == DATA
    assert elapsed_s >= 0.3


def test_a_stall_for_good_leaves_the_connection_open(echo) -> None:
    with relaying("127.0.0.1", echo.port, schedule=Schedule((Stall("down", 10),))) as relay:
        with connected(relay) as client:
            client.sendall(DATA)
            assert client.recv(10, socket.MSG_WAITALL) == DATA[:10]
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
        assert relay.passed.down == 10


def test_a_delay_costs_its_round_trips_with_or_without_jitter(echo) -> None:
    """One for the handshake, one for the echo; jitter reorders nothing."""
    received, _, elapsed_s = through(echo.port, Delay(0.1, jitter_s=0.05))
    assert received == DATA
    assert elapsed_s >= 0.4


def test_a_delay_does_not_cost_once_a_chunk(echo) -> None:
    """Bytes travel together: 3 MB in chunks of at most 64 KiB, 0.2 s each, would take 10 s."""
    data = DATA * 30
    received, _, elapsed_s = through(echo.port, Delay(0.2, direction="up"), data=data)
    assert received == data
    assert 0.4 <= elapsed_s < 9


def test_a_limited_rate_takes_its_time(echo) -> None:
    received, _, elapsed_s = through(echo.port, RateLimit(200_000, "up"))
    assert received == DATA
    assert elapsed_s >= 0.95 * len(DATA) / 200_000


class Written:
    """A stream writer that remembers each write."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, piece: bytes) -> None:
        self.pieces.append(piece)

    async def drain(self) -> None:
        pass

    def write_eof(self) -> None:
        self.pieces.append(b"")


async def test_slices_are_written_one_by_one() -> None:
    """Below TCP, which may join them again on the way."""
    reader, writer = asyncio.StreamReader(), Written()
    reader.feed_data(b"abcdefgh")
    reader.feed_eof()
    pump = Pump(Flow(), reader, writer, [Slice(3)], passed_in_all=lambda: 0)  # type: ignore[arg-type]
    await asyncio.gather(pump.take(draw=None), pump.give())  # type: ignore[arg-type]
    assert writer.pieces == [b"abc", b"def", b"gh", b""]


@pytest.mark.parametrize("when", ["alongside", "afterwards"])
def test_a_duplicate_reaches_the_server_and_its_answer_nobody(echo, when) -> None:
    with relaying("127.0.0.1", echo.port, schedule=Schedule((Duplicate(when),))) as relay:
        with connected(relay) as client:
            assert send_and_finish(client, DATA) == DATA
        replay = relay.connections[0].replay
        assert replay is not None
        assert replay.answered.wait(SOON_S)
        deadline = time.monotonic() + SOON_S
        while replay.down < len(DATA) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (replay.up, replay.down) == (len(DATA), len(DATA))
        assert echo.got == [DATA, DATA]
        assert relay.passed == (len(DATA), len(DATA))


def test_the_schedule_picks_connections_by_number(echo) -> None:
    schedule = Schedule(each=(Cut("down", 1),), by_connection={1: (Cut("down", 2),), 2: ()})
    with relaying("127.0.0.1", echo.port, schedule=schedule) as relay:
        for expected in (DATA[:1], DATA[:2], DATA, DATA[:1]):
            with connected(relay) as client:
                assert send_and_finish(client, DATA) == expected


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free_port = listener.getsockname()[1]
    with relaying("127.0.0.1", free_port) as relay, connected(relay) as client:
        assert client.recv(1) == b""
        assert relay.connections[0].outcome == "refused"
