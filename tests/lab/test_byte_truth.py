"""The client's count of HTTP bytes against the relay's, to the byte, in every way that HTTP moves bytes.

Plain, kept alive, retried after an answer, retried after a connection that broke, and chunked both ways. The
pair's own conversations are compared so in `tests/edge_client/test_live.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from lab.relay.faults import Cut, Fault, Reset, Schedule, Slice
from lab.relay.relay import Bytes, relaying
from secondglance.wire.counting import CountingTransport, measuring

BODY = bytes(range(256)) * 600  # 153,600 bytes: ten of the client's slices
CHUNKS = (b"a", BODY[:5_000], BODY, b"end")


class Mirror(BaseHTTPRequestHandler):
    """Answers with the body it got, chunked if the request was; /busy only at the second request."""

    protocol_version = "HTTP/1.1"
    busy = 0

    def do_POST(self) -> None:
        is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
        parts = list(self._chunks()) if is_chunked else [self._whole()]
        if self.path == "/busy" and not Mirror.busy:
            Mirror.busy = 1
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in [*parts, b""]:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        else:
            self.send_header("Content-Length", str(len(parts[0])))
            self.end_headers()
            self.wfile.write(parts[0])

    def _whole(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, *_: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Broken connections are what some of these tests are about."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = QuietServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


class Case:
    """A client and a relay; `counted` is what the client counted, over all its requests."""

    def __init__(self, port: int, *faults: Fault, connection: int = 0) -> None:
        self._relaying = relaying("127.0.0.1", port, schedule=Schedule((), {connection: faults}))
        self._client = httpx.Client(transport=CountingTransport())
        self.counted = Bytes(0, 0)

    def __enter__(self) -> Case:
        self.relay = self._relaying.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()
        self._relaying.__exit__(None, None, None)

    def post(self, path: str = "/", *, content: object = BODY) -> httpx.Response:
        with measuring() as exchange:
            try:
                return self._client.post(f"{self.relay.url}{path}", content=content)
            finally:
                up, down = self.counted
                self.counted = Bytes(up + exchange.uplink_bytes, down + exchange.downlink_bytes)


def test_plain(port: int) -> None:
    with Case(port) as case:
        assert case.post().content == BODY
        assert case.counted == case.relay.passed == case.relay.received
        assert min(case.counted) > len(BODY)


def test_kept_alive(port: int) -> None:
    with Case(port) as case:
        for size in (0, 1, 16_384, 16_385, len(BODY)):
            assert case.post(content=BODY[:size]).content == BODY[:size]
            assert case.counted == case.relay.passed
        assert len(case.relay.connections) == 1


def test_chunked_both_ways(port: int) -> None:
    """A generator has no length, so httpx chunks it; sizes, line ends and the last chunk are bytes too."""
    with Case(port) as case:
        response = case.post(content=iter(CHUNKS))
        assert response.headers["transfer-encoding"] == "chunked"
        assert response.content == b"".join(CHUNKS)
        assert case.counted == case.relay.passed
        assert min(case.counted) > sum(map(len, CHUNKS))


def test_in_crumbs(port: int) -> None:
    """However few bytes arrive at a time."""
    with Case(port, Slice(7)) as case:
        assert case.post(content=BODY[:2_000]).content == BODY[:2_000]
        assert case.counted == case.relay.passed


def test_retried_after_a_busy_answer(port: int) -> None:
    Mirror.busy = 0
    with Case(port) as case:
        assert [case.post("/busy").status_code for _ in range(2)] == [503, 200]
        assert case.counted == case.relay.passed
        assert case.counted.up > 2 * len(BODY)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_retried_after_a_connection_that_was_cut(port: int, direction: str) -> None:
    """The relay goes on counting what the client sends after the cut, though nobody gets it."""
    with Case(port, Cut(direction, 50_000)) as case:
        with pytest.raises(httpx.RemoteProtocolError):
            case.post()
        assert case.post().content == BODY
        settle(case)
        assert case.counted.up == case.relay.received.up
        assert case.counted.down == case.relay.passed.down
        assert len(case.relay.connections) == 2


def test_after_a_reset_the_client_counts_what_the_network_lost(port: int) -> None:
    """The one case without equality: bytes handed to the kernel that a reset threw away were sent for all
    the client knows, and nobody on the way saw them."""
    with Case(port, Reset("up", 50_000)) as case:
        with pytest.raises(httpx.TransportError):
            case.post(content=BODY * 20)
        assert case.post().content == BODY
        first, second = case.relay.connections
        assert case.counted.up >= case.relay.received.up >= case.relay.passed.up
        assert first.up.passed == 50_000
        assert case.counted.down == second.down.passed


def settle(case: Case) -> None:
    """Closing the client's connections ends the cut one, whose last bytes the relay still counts."""
    case._client.close()
    for _ in range(2_000):
        if case.relay.received.up >= case.counted.up:
            return
        threading.Event().wait(0.01)
