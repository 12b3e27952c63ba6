"""What strangers send to break a server, and the documented refusal of each, in bounded time and memory."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from time import monotonic

import httpx
import pytest
from uvicorn.server import ServerState

from secondglance_server.app import create_app
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.http.connection import GuardedConnection
from secondglance_server.http.strict_http import StrictConnection
from secondglance_server.serving import uvicorn_config
from secondglance_server.settings import ServerSettings
from tests.hardening.wire import (
    BUSY_MACHINE_S,
    Answer,
    Health,
    Memory,
    at_once,
    flood,
    percentile,
    request,
    send_raw,
    slices,
    trickle,
)
from tests.needs import needs_linux
from tests.server.exchange import ask, encode
from tests.server.fake_server import FakeServer, fake_server

pytestmark = [pytest.mark.live, needs_linux]

FORM = "Content-Type: multipart/form-data; boundary=x"
CHUNKED = "Transfer-Encoding: chunked"
PART = b'--x\r\nContent-Disposition: form-data; name="%d"\r\n\r\nx\r\n'
# In the short version; they are 10 s.
SLOW_S = {"http.connection.HEADER_TIMEOUT_S": 1.0, "http.body.BODY_GRACE_S": 1.0}
N_SLOW = 200


@dataclass(frozen=True)
class Abuse:
    """`within_s`: without the slack that a loaded machine may need; None: the settings' timeouts."""

    name: str
    status: int
    code: str
    send: Callable[[], AsyncIterator[bytes]]
    within_s: float | None = 1.0


def body(name: str, status: int, code: str, data: bytes, *headers: str) -> Abuse:
    head = request(*(headers or (FORM,)), f"Content-Length: {len(data)}")
    return Abuse(name, status, code, lambda: at_once(head, *slices(data)))


def head(name: str, *lines: str, after: bytes = b"", status: int = 400, **options: str) -> Abuse:
    code = "headers_too_large" if status == 431 else "malformed_request"
    return Abuse(name, status, code, lambda: at_once(request(FORM, *lines, **options) + after))


def raw(name: str, data: bytes, status: int = 400) -> Abuse:
    code = "headers_too_large" if status == 431 else "malformed_request"
    return Abuse(name, status, code, lambda: at_once(*slices(data)))


# A second request in a body, as smugglers send it: it must never be answered.
SMUGGLED = request("Content-Length: 0", method="GET", path="/healthz")
CHUNKS = b"0\r\n\r\n" + SMUGGLED

BODIES = [
    body("1,000 parts", 400, "malformed_request", b"".join(PART % i for i in range(1000)) + b"--x--\r\n"),
    body(
        "5,000 part headers",
        400,
        "malformed_request",
        b"--x\r\n" + b"A: b\r\n" * 5000 + b"\r\nx\r\n--x--\r\n",
    ),
    body("part header of 1 MB", 400, "malformed_request", b"--x\r\nA: " + b"b" * 1_000_000),
    body("preamble of 3 MB", 400, "malformed_request", b"p" * 3_000_000 + b"\r\n--x--\r\n"),
    body("preamble of 10 MB", 413, "body_too_large", b"p" * 10_000_000 + b"\r\n--x--\r\n"),
    body("line ends of 4 MB", 400, "malformed_request", b"\r\n" * 2_000_000),
    body(
        "boundary of 300 bytes",
        400,
        "malformed_request",
        b"--" + b"b" * 300 + b"--\r\n",
        f"Content-Type: multipart/form-data; boundary={'b' * 300}",
    ),
    body("no boundary", 400, "malformed_request", b"--x--\r\n", "Content-Type: multipart/form-data"),
    body(
        "urlencoded",
        415,
        "unsupported_media_type",
        b"a=b&" * 1_000_000,
        "Content-Type: application/x-www-form-urlencoded",
    ),
    body("no content type", 415, "unsupported_media_type", b"x", "Accept: */*"),
    body(
        "JSON of 4 MB with a million faults",
        413,
        "body_too_large",
        b'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n'
        b'{"question": "?", "image": {"width": 1, "height": 1}, "include": [' + b'"x",' * 1_000_000 + b'"x"]}'
        b"\r\n--x--\r\n",
    ),
    Abuse(
        "chunked without end",
        413,
        "body_too_large",
        lambda: flood(request(FORM, CHUNKED), b"10000\r\n" + bytes(65536) + b"\r\n"),
        5.0,
    ),
    Abuse(
        "chunks of one byte without end",
        400,
        "malformed_request",
        lambda: flood(request(FORM, CHUNKED), b"1\r\nx\r\n" * 10_000),
    ),
    Abuse(
        "a chunk of 2**64 bytes",
        413,
        "body_too_large",
        lambda: flood(request(FORM, CHUNKED) + b"10000000000000000\r\n", bytes(65536)),
        5.0,
    ),
    Abuse(
        "chunked, slowly", 408, "body_timeout", lambda: trickle(request(FORM, CHUNKED), b"1\r\nx\r\n"), None
    ),
    Abuse("chunked, then silent", 408, "body_timeout", lambda: at_once(request(FORM, CHUNKED)), None),
    Abuse(
        "Expect: 100-continue with 1 TB",
        413,
        "body_too_large",
        lambda: at_once(request(FORM, "Expect: 100-continue", f"Content-Length: {10**12}")),
    ),
]

HEADS = [
    head("header of 1 MB", f"X: {'x' * 1_000_000}", status=431),
    head("headers of 20 kB in one piece", f"X: {'x' * 20_000}", status=431),
    head("500 headers", *(f"X-{i}: x" for i in range(500)), status=431),
    raw("request line of 1 MB", b"GET /" + b"x" * 1_000_000, status=431),
    head("Content-Length and Transfer-Encoding", "Content-Length: 5", CHUNKED, after=CHUNKS),
    head("Transfer-Encoding and Content-Length", CHUNKED, "Content-Length: 5", after=CHUNKS),
    head("two lengths", "Content-Length: 5", "Content-Length: 50", after=SMUGGLED),
    head("two equal lengths", "Content-Length: 5", "Content-Length: 5", after=SMUGGLED),
    head("a list of lengths", "Content-Length: 5, 5", after=SMUGGLED),
    *(
        head(f"Content-Length: {value}", f"Content-Length: {value}", after=SMUGGLED)
        for value in ("+5", "-5", "0x5", "5 6", "", "5.0", "٣", "9" * 30)
    ),
    *(
        head(f"Transfer-Encoding: {value}", f"Transfer-Encoding: {value}", after=CHUNKS)
        for value in (
            "gzip, chunked",
            "chunked, chunked",
            "xchunked",
            "identity",
            "chunked;q=1",
            "",
            "\x0bchunked",
        )
    ),
    head("two Transfer-Encodings", CHUNKED, "Transfer-Encoding: identity", after=CHUNKS),
    head("a space before the colon", "Transfer-Encoding : chunked", after=CHUNKS),
    head("a tab before the name", "\tTransfer-Encoding: chunked", after=CHUNKS),
    head("chunked in HTTP/1.0", CHUNKED, after=CHUNKS, version="1.0"),
    head("a folded line", "Transfer-Encoding:\r\n chunked", after=CHUNKS),
    head("a bare line feed", "X: y\nTransfer-Encoding: chunked", after=CHUNKS),
    head("a bare carriage return", "X: y\rTransfer-Encoding: chunked", after=CHUNKS),
    head("NUL in a header", "X: a\0b"),
    head("no host", host=""),
    head("two hosts", "Host: y"),
    raw("bare line feeds only", b"GET /healthz HTTP/1.1\nHost: x\n\n"),
    raw("no version", b"GET /healthz\r\n\r\n"),
    raw("a space in the path", b"GET /health z HTTP/1.1\r\nHost: x\r\n\r\n"),
    raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    raw("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)),
    raw("an empty line first", b"\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"),
    *(
        head(f"chunk {chunk!r}", CHUNKED, after=chunk + b"\r\n" + SMUGGLED)
        for chunk in (b"0x5\r\nhi", b"-5\r\nhi", b"2\nhi", b" 2\r\nhi", b"\r\n", b"2\r\nhiX0", b"g\r\n")
    ),
    head("a chunk size of 21 digits", CHUNKED, after=b"1" * 21 + b"\r\n"),
    head("a chunk extension of 1 MB", CHUNKED, after=b"5;" + b"x" * 1_000_000, status=431),
]


@pytest.fixture(scope="module")
def server(is_full: bool) -> Iterator[FakeServer]:
    with fake_server({}, constants={} if is_full else SLOW_S) as running:
        yield running


@pytest.fixture(scope="module")
def slow_s(is_full: bool) -> float:
    return 10.0 if is_full else 1.0


@pytest.fixture(scope="module")
def slack_s(is_full: bool) -> float:
    """What may be added to any bound: `make hardening` is for an idle machine."""
    return 0.5 if is_full else BUSY_MACHINE_S


@pytest.mark.parametrize("abuse", [*BODIES, *HEADS], ids=lambda abuse: abuse.name)
async def test_abuse_is_refused_as_documented(
    server: FakeServer, slow_s: float, slack_s: float, abuse: Abuse
) -> None:
    memory = Memory(server.process.pid)
    answer = await send_raw(server.port, abuse.send())
    assert (answer.status, answer.code) == (abuse.status, abuse.code), answer.data[:500]
    if abuse in HEADS:
        assert b"\r\nconnection: close\r\n" in answer.data.lower()
    assert answer.n_replies == 1, "what was behind the refused request has been answered"
    within_s = slow_s if abuse.within_s is None else abuse.within_s
    assert answer.elapsed_s < within_s + slack_s
    assert memory.growth_mb < 100
    assert server.status("/healthz") == 200


async def test_all_of_it_at_once_leaves_the_server_healthy(server: FakeServer, is_full: bool) -> None:
    """`make hardening` asks for 100 ms at the 99th percentile; a busy machine may be slower by itself."""
    memory, cpu_s = Memory(server.process.pid), server.cpu_s
    rounds = 5 if is_full else 1
    with Health(server.port) as health:
        for _ in range(rounds):
            quick = [abuse for abuse in [*BODIES, *HEADS] if abuse.within_s is not None]
            answers = await asyncio.gather(*(send_raw(server.port, abuse.send()) for abuse in quick))
            assert [a.status for a in answers] == [abuse.status for abuse in quick]
    report("all at once", health, memory, server.cpu_s - cpu_s)
    assert not health.failures
    assert health.percentile_ms(99) < (100 if is_full else 2000)
    assert memory.growth_mb < 100


async def test_the_costliest_pictures_at_once_stay_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four megapixels in 6 kB: four bytes a pixel for two canvases, a copy, the image and what leaves it."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")  # glibc keeps nothing of what was freed
    white = encode(2000, 2000, "WEBP", "RGBA", "white", lossless=True)
    n_at_once = 8
    with fake_server({}, decode_threads=n_at_once, max_decoded_image_bytes=1) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            assert (await ask(client)).status_code == 200  # imports
            memory = Memory(server.process.pid)
            original = {"width": 2000, "height": 2000}
            asking = (
                ask(client, upload=white, image=original, question=f"{number}") for number in range(n_at_once)
            )
            assert {reply.status_code for reply in await asyncio.gather(*asking)} == {200}
            growth_mb = memory.growth_mb
    one_decoding, pictures = 19 * 4, n_at_once * 3 * 4  # MB; decoded at the same time they would take 608
    print(f"\n{n_at_once} of 4 megapixels at once: {growth_mb:.0f} MB")
    assert growth_mb < one_decoding + pictures + 16


@pytest.mark.parametrize("kind", ["headers", "bodies"])
async def test_200_trickling_clients_are_let_go_and_good_ones_do_not_notice(
    server: FakeServer, slow_s: float, slack_s: float, is_full: bool, kind: str
) -> None:
    def slow() -> AsyncIterator[bytes]:
        if kind == "headers":
            return trickle(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        return trickle(request(FORM, "Content-Length: 100000") + b"--x\r\n")

    alone_s = await good_clients_s(server, until=asyncio.Event(), for_s=slow_s / 2)
    memory, cpu_s = Memory(server.process.pid), server.cpu_s
    let_go = asyncio.Event()
    with Health(server.port) as health:
        good = asyncio.create_task(good_clients_s(server, until=let_go, for_s=60))
        answers = await asyncio.gather(*(send_raw(server.port, slow()) for _ in range(N_SLOW)))
        let_go.set()
        among_s = await good
    report(f"200 slow {kind}", health, memory, server.cpu_s - cpu_s, alone_s, among_s)
    assert {answer.status for answer in answers} == {408}
    assert {answer.code for answer in answers} == {"headers_timeout" if kind == "headers" else "body_timeout"}
    assert all(slow_s * 0.9 < answer.elapsed_s < slow_s + slack_s for answer in answers)
    assert len(among_s) > 5
    assert percentile(among_s, 50) < 3 * percentile(alone_s, 50) + 0.05
    assert not health.failures
    assert health.percentile_ms(99) < (100 if is_full else 2000)
    assert memory.growth_mb < 100


async def good_clients_s(server: FakeServer, *, until: asyncio.Event, for_s: float) -> list[float]:
    """Seconds of each of a good client's questions, asked one after the other."""
    ends_at, elapsed_s = monotonic() + for_s, []
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        while not until.is_set() and monotonic() < ends_at:
            began = monotonic()
            assert (await ask(client)).status_code == 200
            elapsed_s.append(monotonic() - began)
            await asyncio.sleep(0.02)
    return elapsed_s


async def test_the_parser_is_ours_whatever_else_is_installed() -> None:
    settings = ServerSettings()
    config = uvicorn_config(create_app(settings, FakeEngine()), settings)
    config.load()
    connection = config.http_protocol_class(config, ServerState(), {})  # type: ignore[call-arg]
    assert isinstance(connection, GuardedConnection)
    assert type(connection.conn) is StrictConnection
    assert config.ws_protocol_class is None


async def test_a_request_in_slices_of_one_byte_is_served(server: FakeServer) -> None:
    """Slow is not wrong: what keeps its time is answered."""
    whole = request("Connection: close", method="GET", path="/healthz")
    answer: Answer = await send_raw(server.port, at_once(*(bytes([byte]) for byte in whole)))
    assert answer.status == 200


async def test_requests_behind_each_other_are_answered_in_order(server: FakeServer) -> None:
    first = request(method="GET", path="/healthz")
    last = request("Connection: close", method="GET", path="/readyz")
    answer = await send_raw(server.port, at_once(first + last))
    assert answer.n_replies == 2
    assert answer.data.index(b"alive") < answer.data.index(b'"ready"')


async def test_more_connections_than_allowed_are_turned_away() -> None:
    with fake_server({}, max_connections=5) as server:
        held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
        answer = await send_raw(server.port, at_once(b""), patience_s=10)
        assert (answer.status, answer.code) == (503, "busy")
        assert b"retry-after: 1" in answer.data.lower()
        for _, writer in held:
            writer.close()
        await asyncio.to_thread(server.wait_for, "/healthz", 200)


async def test_a_client_that_does_not_read_is_let_go() -> None:
    """It asks for the schema again and again and reads nothing; uvicorn alone would wait for ever."""
    with fake_server({}, constants={"http.connection.WRITE_TIMEOUT_S": 0.5}, max_connections=3) as server:
        writers = []
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
            writer.write(request(method="GET", path="/openapi.json") * 200)
            writers.append(writer)
        await asyncio.to_thread(server.wait_for, "/healthz", 200)
        for writer in writers:
            writer.transport.abort()


def report(name: str, health: Health, memory: Memory, cpu_s: float, *latencies_s: list[float]) -> None:
    """For the log of measurements; shown by `pytest -s`."""
    facts = {
        "healthz_p50_ms": round(health.percentile_ms(50), 1),
        "healthz_p99_ms": round(health.percentile_ms(99), 1),
        "healthz_max_ms": round(health.percentile_ms(100), 1),
        "healthz_n": health.n_asked,
        "probe_lag_p99_ms": round(health.lag_ms(99), 1),
        "server_cpu_s": round(cpu_s, 2),
        "growth_mb": round(memory.growth_mb, 1),
    }
    for what, values in zip(("alone", "among"), itertools.chain(latencies_s), strict=False):
        facts[f"good_p50_ms_{what}"] = round(1000 * percentile(values, 50), 1)
        facts[f"good_p99_ms_{what}"] = round(1000 * percentile(values, 99), 1)
    print(f"\n{name}: {json.dumps(facts)}")
