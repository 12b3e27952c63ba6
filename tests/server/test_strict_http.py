"""What the parser takes and refuses, whole and cut into pieces."""

from __future__ import annotations

import h11
import httpx
import pytest

from secondglance_server.engine.fake import FakeEngine
from secondglance_server.http.strict_http import StrictConnection
from tests.server.exchange import ask, live_server

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


def events(data: bytes, step: int) -> list[h11.Event]:
    """Everything that comes of `data`, fed `step` bytes at a time, until more of it is wanted."""
    connection = StrictConnection(4096)
    found: list[h11.Event] = []
    for start in range(0, len(data), step):
        connection.receive_data(data[start : start + step])
        while not isinstance(event := connection.next_event(), type):
            found.append(event)
    return found


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize("trailers", [b"", b"A: b\r\n", b"A: b\r\nC:\r\n", b"A: " + b"b" * 4000 + b"\r\n"])
def test_good_trailers_are_taken_and_what_follows_is_left_alone(trailers: bytes, step: int) -> None:
    *_, end = events(HEAD + trailers + b"\r\n" + NEXT, step)
    assert isinstance(end, h11.EndOfMessage)
    assert len(end.headers) == trailers.count(b":")


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    "trailers",
    [
        b"\n",
        b"A: b\n\r\n",
        b"A: b\n\n",
        b"A: b\r\nC: d\n\r\n",
        b"\nA: b\r\n\r\n",
        b"A: b\r\n c\r\n\r\n",
        b"A: b\r\n\tc\r\n\r\n",
        b" A: b\r\n\r\n",
        b"A: b\r\n \r\n\r\n",
        b"A: b\rC: d\r\n\r\n",
        b"A : b\r\n\r\n",
        b"A\r\n\r\n",
        b"A: " + b"b" * 4100 + b"\r\n\r\n",
        b"A: b\r\n" * 101 + b"\r\n",
    ],
)
def test_the_trailers_rules_are_the_heads(trailers: bytes, step: int) -> None:
    """S6: the section after the last chunk was taken with bare line feeds and folded lines."""
    with pytest.raises(h11.RemoteProtocolError):
        events(HEAD + trailers + NEXT, step)


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        (b"http://x/v1/model", b"/v1/model"),
        (b"HTTP://x:80/v1/model?a=b", b"/v1/model?a=b"),
        (b"https://[::1]:8000/a//b", b"/a//b"),
        (b"http://x", b"/"),
        (b"http://x?a=http://y/", b"/?a=http://y/"),
        (b"http://x//y/z", b"//y/z"),
        (b"/http://x/v1", b"/http://x/v1"),
        (b"*", b"*"),
        (b"ftp://x/v1", b"ftp://x/v1"),
    ],
)
def test_a_target_in_absolute_form_is_its_path(target: bytes, meant: bytes) -> None:
    """S7: every server must take the form that clients send to proxies (RFC 9112, 3.2.2)."""
    request = events(b"GET " + target + b" HTTP/1.1\r\nHost: y\r\n\r\n", 10_000)[0]
    assert isinstance(request, h11.Request)
    assert (request.target, dict(request.headers)[b"host"]) == (meant, b"y")


@pytest.mark.parametrize(
    "target", [b"http:///v1", b"http://", b"http://a@x/", b"http://a:b@x/v1", b"http://x/a#b", b"http://x#b"]
)
def test_a_broken_target_is_refused(target: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        events(b"GET " + target + b" HTTP/1.1\r\nHost: y\r\n\r\n", 10_000)


async def test_head_is_answered_wherever_get_is() -> None:
    """S7: HEAD on the probes was 405. The head is that of GET, and no body follows on the connection."""
    async with live_server(FakeEngine()) as url, httpx.AsyncClient(base_url=url) as client:
        inference = (await ask(client)).json()["id"]
        for path in ("/healthz", "/readyz", "/v1/model", "/docs", f"/v1/inferences/{inference}"):
            got = await client.get(path)
            for _ in range(2):  # on one connection: a body that follows would be taken for the next reply
                head = await client.head(path)
                assert (head.status_code, head.content) == (200, b"")
                assert head.headers["content-length"] == got.headers["content-length"]
        assert (await client.head("/metrics")).status_code == 200
        missing = await client.head("/nowhere")
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
        assert (await client.head("/v1/inferences")).status_code == 405
