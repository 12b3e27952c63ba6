"""Group H: a hostile or broken server costs one answer, bounded in time and memory, and reaches no terminal.

Every field of every document that a server sends is replaced by every absurd value; and what lies below the
documents (compression, pace, headers) is sent from a socket.
"""

from __future__ import annotations

import contextlib
import copy
import gzip
import io
import json
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from typer.testing import CliRunner

from secondglance import EdgeClient, EdgeError, EdgeSettings, ProtocolError, Reply
from secondglance.cli import app
from secondglance.commands.ask import _show
from secondglance.commands.console import exit_code_of_errors
from secondglance.commands.lines import text_line
from secondglance.doctor.examination import Examination
from secondglance.show.answer_sheet import draw_picture
from secondglance.show.report import SentPictures, report_page
from secondglance.text import printable
from secondglance_protocol.errors import ErrorCode
from secondglance_protocol.wire import PixelBox

ESCAPES = "\x1b]52;c;aGk=\x07\x1b[2J\x9b31m\x85\u202egnp\u2066\u200f\u2028\x00\x7f"
ABSURD: tuple[Any, ...] = (
    None,
    "",
    "x" * 100_000,
    ESCAPES,
    "/v1/../admin",
    "/v1/inferences/%2e%2e/admin",
    "//elsewhere.test/v1/x",
    True,
    0,
    -1,
    20_000,
    2**63,
    10**4000,
    1e30,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    [],
    [[]],
    [[0.5], []],
    [[1e308, 0.0], [0.0, 1e308]],
    ["image/jpeg"] * 1000,
    {},
    {"x0": 0, "y0": 0, "x1": 1e-300, "y1": 1e-300},
    {"left": 0, "top": 0, "right": 10**30, "bottom": 10**30},
)
VALUES_EACH = 3  # of a field, drawn with a fixed seed; all of them took five minutes
ROUTES = ("model", "first", "patch")
MAX_SECONDS = 5.0
MAX_MIB = 256


def documents(server: Any) -> dict[str, Any]:
    """An honest reply of each route, with everything optional in it."""
    server.side, server.patch_side = 48, 48
    server.pixels = PixelBox(left=8, top=8, right=40, bottom=40)
    transport = httpx.MockTransport(server)
    said: dict[str, Any] = {}

    def keep(request: httpx.Request) -> httpx.Response:
        response = transport.handle_request(request)
        said[{"GET": "model", "POST": "first", "PUT": "patch"}[request.method]] = json.loads(response.content)
        return response

    with EdgeClient(settings=EdgeSettings(), transport=httpx.MockTransport(keep)) as client:
        client.ask(PHOTO, "What?")
    token = {"text": "42", "min_entropy": 0.1, "shannon": 0.1, "margin": 0.1}
    for route in ("first", "patch"):
        said[route]["tokens"] = [token]
        said[route]["relevance"] = {
            "weights": [[0.0, 1.0], [0.5, 0.0]],
            "content": {"x0": 0.0, "y0": 0.0, "x1": 1.0, "y1": 1.0},
        }
    said["problem"] = json.loads(server.fault(ErrorCode.BUSY).content)
    return said


PHOTO = b""


@pytest.fixture(scope="module", autouse=True)
def small_photo(pictures: Any) -> None:
    global PHOTO
    PHOTO = pictures.photo((80, 64))


@pytest.fixture
def honest(server: Any, fault: Any) -> dict[str, Any]:
    server.fault = fault
    return documents(server)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to every value inside, containers too, and to the document itself."""
    yield path
    items = document.items() if isinstance(document, dict) else ()
    items = enumerate(document[:1]) if isinstance(document, list) else items
    for key, value in items:
        yield from places(value, (*path, key))


def with_value(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def unprintable(text: str) -> list[str]:
    """Characters that a terminal obeys or hides; named here by code, not by our own function."""
    bidi = {0x061C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x206A), 0x2028, 0x2029}
    return [
        char
        for char in text
        if (ord(char) < 32 and char not in "\n\t") or 0x7F <= ord(char) <= 0x9F or ord(char) in bidi
    ]


def shown(work: Callable[[], object]) -> str:
    """All that `work` writes to stdout and stderr, as a command does it."""
    written = io.StringIO()
    with (
        contextlib.redirect_stdout(written),
        contextlib.redirect_stderr(written),
        contextlib.suppress(typer.Exit),
        exit_code_of_errors(),
    ):
        work()
    return written.getvalue()


def use(reply: Reply, sent: SentPictures) -> None:
    """Everything that a command does with a reply."""
    json.dumps(reply.to_dict())
    report_page(PHOTO, "What?", reply, sent.pictures, max_original_pixels=10**9)
    draw_picture(PHOTO, "What?", reply, max_original_pixels=10**9)
    print(text_line("a.jpg", "What?", reply.answer, with_question=True, doubtful=reply.doubtful))
    _show(reply, None, as_json=False)


def survives(replies: dict[str, Any], problem: Any = None) -> None:
    """One question to a server that says this ends in time, within memory, in an EdgeError or a reply."""
    from secondglance import Hooks

    def answer(request: httpx.Request) -> httpx.Response:
        route = {"GET": "model", "POST": "first", "PUT": "patch"}[request.method]
        if problem is not None and route == "first":
            return httpx.Response(503, content=json.dumps(problem))
        return httpx.Response(200, content=json.dumps(replies[route]))

    sent = SentPictures()
    settings = EdgeSettings(retries=0, url="http://edge.test")
    transport = httpx.MockTransport(answer)
    began = time.monotonic()
    with EdgeClient(settings=settings, transport=transport, hooks=Hooks(on_request=sent.note)) as client:
        said = shown(lambda: use(client.ask(PHOTO, "What?"), sent))
    assert time.monotonic() - began < MAX_SECONDS
    assert unprintable(said) == []
    assert len(said) < 2 * 256 * 1024 + 10_000


def peak_mib() -> float:
    """The most memory that this process has held; Linux counts KiB, macOS bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1024**2 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("route", [*ROUTES, "problem"])
def test_every_field_with_every_absurd_value_costs_one_answer_at_most(
    route: str, honest: dict[str, Any]
) -> None:
    """H2, H3, H4, H6: tracebacks, endless thickening, escapes. Values are drawn with a fixed seed."""
    before = peak_mib()
    tried = 0
    draw = random.Random(route)
    each = len(ABSURD) if route == "problem" else VALUES_EACH
    for path in places(honest[route]):
        for value in draw.sample(ABSURD, each):
            changed = with_value(honest[route], path, value)
            try:
                if route == "problem":
                    survives(honest, problem=changed)
                else:
                    survives({**honest, route: changed})
            except Exception as exc:
                raise AssertionError(f"{route} {path} = {str(value)[:60]!r}") from exc
            tried += 1
    assert tried >= 120
    assert peak_mib() - before < MAX_MIB


def test_what_the_walk_tries_is_enough_and_reaches_every_field(honest: dict[str, Any]) -> None:
    tried = sum(len(list(places(honest[route]))) * VALUES_EACH for route in ROUTES)
    assert tried >= 300
    assert ("limits", "min_side_pixels") in places(honest["model"])
    assert ("relevance", "weights", 0, 0) in places(honest["first"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("limits", "min_side_pixels"), 20_000),
        (("limits", "min_side_pixels"), 0),
        (("limits", "max_aspect_ratio"), 0.0),
        (("limits", "max_aspect_ratio"), float("nan")),
        (("image", "max_width"), 10**4000),
        (("name",), ""),
    ],
)
def test_limits_that_lie_are_an_error_that_names_them(
    path: tuple[str, ...], value: Any, honest: dict[str, Any]
) -> None:
    lying = with_value(honest["model"], path, value)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=json.dumps(lying)))
    with EdgeClient(settings=EdgeSettings(), transport=transport) as client, pytest.raises(ProtocolError):
        client.ask(PHOTO, "What?")


def test_a_side_that_webp_does_not_have_is_not_sent(server: Any, pictures: Any) -> None:
    """H3: a server that takes 20,000 pixels a side made the encoder fail on a long original."""
    server.side = server.patch_side = 20_000
    server.is_sure = True
    with EdgeClient(settings=EdgeSettings(), transport=httpx.MockTransport(server)) as client:
        assert client.ask(pictures.photo((19_000, 200)), "What?").answer == "draft"


@pytest.mark.parametrize("image_id", ["", "x" * 129])
def test_an_id_that_cannot_be_sent_back_costs_its_own_answer_and_not_the_next(
    image_id: str, honest: dict[str, Any], server: Any
) -> None:
    """H6: it was remembered, made the next question a usage error and so stopped a batch."""
    bad = json.dumps({**honest["first"], "image_id": image_id})
    server.faults["first"] = [httpx.Response(200, content=bad)]
    with EdgeClient(settings=EdgeSettings(), transport=httpx.MockTransport(server)) as client:
        with pytest.raises(ProtocolError):
            client.ask(PHOTO, "What?")
        assert client.ask(PHOTO, "And now?").answer == "final"


def test_markup_in_a_reply_is_text_in_a_report(honest: dict[str, Any]) -> None:
    """What a server says becomes no element of the page that a person opens."""
    markup = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    for route, field in (("first", "answer"), ("patch", "answer"), ("patch", "model")):
        replies = {**honest, route: with_value(honest[route], (field,), markup)}

        def answer(request: httpx.Request, replies: dict[str, Any] = replies) -> httpx.Response:
            route = {"GET": "model", "POST": "first", "PUT": "patch"}[request.method]
            return httpx.Response(200, content=json.dumps(replies[route]))

        with EdgeClient(settings=EdgeSettings(), transport=httpx.MockTransport(answer)) as client:
            said = client.ask(PHOTO, "What?")
        page = report_page(PHOTO, markup, said, [], max_original_pixels=10**9)
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page
        assert "<img src=x" not in page


@pytest.mark.parametrize("text", [ESCAPES, "a\x1b[2Jb", "\u202e", "\ud800", "\x9b", "\u2028", "\ufeff"])
def test_printable_leaves_nothing_that_a_terminal_obeys_or_hides(text: str) -> None:
    assert unprintable(printable(text)) == []
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


def test_words_of_all_scripts_stay_as_they_are() -> None:
    for text in ("Straße 42", "北京市", "مرحبا", "می‌خواهم", "👨‍👩‍👧", "नमस्ते", "e\u0301"):
        assert printable(text) == text


# Below the documents: what only a socket can send.

Script = Callable[[socket.socket], None]


class RawServer:
    """Reads each request whole and lets a script write what it likes. One thread for each connection."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.scripts: dict[str, Script] = {}
        self.heads: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as reader:
            while line := reader.readline():
                method, path, _ = line.decode().split()
                head = ""
                while (field := reader.readline().decode()) not in ("\r\n", ""):
                    head += field.lower()
                self.heads.append(head)
                length = head.partition("content-length:")[2].partition("\r\n")[0]
                reader.read(int(length or 0))
                script = self.scripts.get(path) or self.scripts[method]
                script(connection)


@pytest.fixture
def raw() -> Iterator[RawServer]:
    server = RawServer()
    yield server
    server.listener.close()


def reply(body: bytes, *headers: str, status: str = "200 OK") -> Script:
    head = "".join(f"{line}\r\n" for line in (*headers, f"Content-Length: {len(body)}"))
    return lambda connection: connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body)


def dripping(head: bytes, part: bytes, pause_s: float = 0.02) -> Script:
    def script(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)
            time.sleep(pause_s)

    return script


def packed(times: int, size: int) -> bytes:
    """Zeros, compressed again and again."""
    data = gzip.compress(b"0" * size)
    for _ in range(times - 1):
        data = gzip.compress(data)
    return data


BOMB = packed(2, 64 * 1024 * 1024)
HUGE_LIST = b'{"weights": [' + b"[0]," * 1_000_000 + b"0]}"
HOSTILE: dict[str, Script] = {
    "gzip": reply(packed(1, 64 * 1024 * 1024), "Content-Encoding: gzip"),
    "gzip in gzip": reply(BOMB, "Content-Encoding: gzip, gzip"),
    "gzip said twice": reply(BOMB, "Content-Encoding: gzip", "Content-Encoding: gzip"),
    "deflate": reply(b"x\x9c", "Content-Encoding: DEFLATE"),
    "endless 103": dripping(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "endless 100": dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "drip of a body": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b" "),
    "drip of chunks": dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "drip of headers": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "endless body": dripping(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536, 0.0),
    "endless header": dripping(b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65536, 0.0),
    "length of 5,000 digits": reply(b"{}", "Content-Length: " + "9" * 5000),
    "negative length": reply(b"{}", "Content-Length: -5"),
    "status of letters": reply(b"{}", status="OK 200"),
    "status 999": reply(b"{}", status="999 What"),
    "status 100": lambda connection: connection.sendall(b"HTTP/1.1 100 C\r\n\r\n") or connection.close(),
    "redirect": reply(b"", "Location: http://elsewhere.test/", status="302 Found"),
    "no http": lambda connection: connection.sendall(b"\x00\x01\x02" * 100) or connection.close(),
    "a list of a million wrong items": reply(HUGE_LIST),
    "a problem of a million wrong items": reply(HUGE_LIST, status="503 Busy"),
    "a token of a million wrong items": reply(
        b"event: token\ndata: " + HUGE_LIST + b"\n\n", "Content-Type: text/event-stream"
    ),
    "a streamed problem of a million wrong items": reply(
        b"event: problem\ndata: " + HUGE_LIST + b"\n\n", "Content-Type: text/event-stream"
    ),
    "deep json": reply(b"[" * 1_000_000),
    "retry after 400 digits": reply(b"", "Retry-After: " + "9" * 400, status="503 Busy"),
    "retry after a huge year": reply(b"", "Retry-After: Wed, 21 Oct 99999 07:28:00 GMT", status="503 Busy"),
    "retry after year 1": reply(b"", "Retry-After: Mon, 01 Jan 0001 00:00:00 +2359", status="429 Busy"),
    "cookies": reply(b"{}", *(f"Set-Cookie: c{n}={'x' * 3000}; Path=/" for n in range(20))),
}


@pytest.fixture
def quick(raw: RawServer) -> EdgeSettings:
    """A second for a request in all; each read alone may take a minute."""
    return EdgeSettings(url=raw.url, retries=0, total_timeout_s=1.0)


@pytest.mark.parametrize("route", ["GET", "POST", "PUT"])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_lies_below_the_documents_is_bounded_too(
    name: str, route: str, raw: RawServer, quick: EdgeSettings, honest: dict[str, Any]
) -> None:
    """H1, H5: gigabytes from a small reply; a server that held a question for ever by sending a little."""
    for method, document in zip(("GET", "POST", "PUT"), ROUTES, strict=True):
        raw.scripts[method] = reply(json.dumps(honest[document]).encode())
    raw.scripts[route] = HOSTILE[name]
    before, began = peak_mib(), time.monotonic()
    with EdgeClient(settings=quick) as client:
        if route == "PUT":
            said = client.ask(PHOTO, "What?")
            assert said.degraded
            assert said.answer == "draft"
        else:
            with pytest.raises(EdgeError) as raised:
                client.ask(PHOTO, "What?")
            assert unprintable(str(raised.value)) == []
            assert len(str(raised.value)) < 2500
    assert time.monotonic() - began < MAX_SECONDS
    assert peak_mib() - before < MAX_MIB


UNSAID = ("accept", "accept-encoding", "connection", "user-agent", "traceparent")


def test_no_reply_is_asked_to_be_compressed_and_no_cookie_comes_back(
    raw: RawServer, quick: EdgeSettings, honest: dict[str, Any]
) -> None:
    """Cookies would be uplink that a server decides on, against `max_uplink_bytes`."""
    for method, document in zip(("GET", "POST", "PUT"), ROUTES, strict=True):
        raw.scripts[method] = reply(json.dumps(honest[document]).encode(), "Set-Cookie: a=b; Path=/")
    with EdgeClient(settings=quick) as client:
        client.ask(PHOTO, "What?")
    assert len(raw.heads) == 3
    for head in raw.heads:
        assert "cookie" not in head
        assert not any(f"\r\n{name}:" in "\r\n" + head for name in UNSAID)


@pytest.mark.parametrize("name", HOSTILE)
def test_the_doctor_survives_them_too(name: str, raw: RawServer, quick: EdgeSettings) -> None:
    for method in ("GET", "PUT"):
        raw.scripts[method] = HOSTILE[name]
    began = time.monotonic()
    findings = list(Examination(quick, sample=None, probe_bytes=1000).examine())
    assert time.monotonic() - began < 4 * MAX_SECONDS
    assert {finding.name for finding in findings} >= {"connection", "model"}
    assert all(unprintable(printable(finding.detail)) == [] for finding in findings)


@pytest.mark.parametrize("date", ["soon", "Wed, 21 Oct 99999 07:28:00 GMT", "9" * 400, "Mon, 99 Foo 2020"])
def test_a_date_that_is_none_is_a_warning_of_the_doctor(
    date: str, raw: RawServer, quick: EdgeSettings
) -> None:
    raw.scripts["GET"] = reply(b"{}", f"Date: {date}")
    raw.scripts["PUT"] = reply(b"{}")
    findings = {finding.name: finding for finding in Examination(quick, probe_bytes=0).examine()}
    assert findings["clock"].status == "warning"


def test_escape_sequences_reach_no_terminal_from_any_command(
    raw: RawServer, honest: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H4: in answers, names, titles, details and request ids; `ask`, `batch` and `doctor`."""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(PHOTO)
    monkeypatch.setenv("SECONDGLANCE_EDGE_RETRIES", "0")
    answered = {route: json.dumps(with_value(honest[route], ("answer",), ESCAPES)) for route in ROUTES[1:]}
    model = json.dumps({**honest["model"], "name": ESCAPES, "family": ESCAPES})
    evil = {**honest["problem"], "title": ESCAPES, "detail": ESCAPES, "request_id": ESCAPES, "code": ESCAPES}
    raw.scripts = {"GET": reply(model.encode()), "PUT": reply(answered["patch"].encode())}
    commands = [
        ["ask", str(photo), "What?"],
        ["batch", str(photo), "-q", "What?", "--wait", "0"],
        ["doctor", "--probe-bytes", "10"],
    ]
    for first in (reply(answered["first"].encode()), reply(json.dumps(evil).encode(), status="503 Busy")):
        raw.scripts["POST"] = first
        for command in commands:
            ran = CliRunner().invoke(app, [*command, "--url", raw.url])
            assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
            assert unprintable(ran.output) == []
            assert "\\x1b" in ran.output
