"""Two named parts out of one body; everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secondglance_protocol.errors import ErrorCode
from secondglance_server.errors import ProblemError
from secondglance_server.http.multipart import parse_parts

TYPE = "multipart/form-data; boundary=cut"


def body_of(*parts: tuple[str, bytes], end: bytes = b"--cut--\r\n") -> bytes:
    chunks = []
    for name, content in parts:
        head = f'--cut\r\nContent-Disposition: form-data; name="{name}"\r\nContent-Type: x/y\r\n\r\n'
        chunks.append(head.encode() + content + b"\r\n")
    return b"".join(chunks) + end


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_contents_come_out_as_they_went_in(first: bytes, second: bytes) -> None:
    if b"\r\n--cut" in first + b"|" + second or b"--cut" in (first[:5], second[:5]):
        return
    assert parse_parts(TYPE, body_of(("a", first), ("b", second))) == {"a": first, "b": second}


def test_what_looks_like_a_boundary_but_is_none_stays_content() -> None:
    tricky = b"\r\n--cu\r\n--\r\n-\r\r\n"
    assert parse_parts(TYPE, body_of(("a", tricky))) == {"a": tricky}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--cut",
        b"no boundary at all",
        body_of(("a", b"1"), end=b""),
        body_of(("a", b"1"), ("b", b"2"), ("c", b"3")),
        body_of(("a", b"1"), ("a", b"2")),
        body_of(("", b"1")),
        b"--cut\r\nX: y\r\n\r\n1\r\n--cut--\r\n",
        b"--cut\r\n" + b"X: y\r\n" * 50 + b"\r\n1\r\n--cut--\r\n",
        b"--cut\r\nX: " + b"y" * 10_000 + b"\r\n\r\n1\r\n--cut--\r\n",
    ],
    ids=range(10),
)
def test_a_broken_body_is_malformed(body: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_parts(TYPE, body)
    assert caught.value.code == ErrorCode.MALFORMED_REQUEST


@pytest.mark.parametrize(
    ("content_type", "code"),
    [
        ("", ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("application/json", ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("multipart/mixed; boundary=cut", ErrorCode.UNSUPPORTED_MEDIA_TYPE),
        ("multipart/form-data", ErrorCode.MALFORMED_REQUEST),
        ("multipart/form-data; boundary=" + "x" * 300, ErrorCode.MALFORMED_REQUEST),
    ],
)
def test_another_kind_of_body_is_refused(content_type: str, code: ErrorCode) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_parts(content_type, body_of(("a", b"1")))
    assert caught.value.code == code


@given(st.binary(max_size=300))
def test_any_bytes_are_parts_or_a_problem(junk: bytes) -> None:
    try:
        assert len(parse_parts(TYPE, b"--cut\r\n" + junk)) <= 2
    except ProblemError as problem:
        assert problem.code == ErrorCode.MALFORMED_REQUEST  # noqa: PT017  # either outcome is right


PREAMBLES = [
    b"",
    b"\r\n",
    b"This is a message in MIME format.\r\n",
    b"-\r\n--\r\n--cu\r\n",
    b"--cutter\r\n",
    b"a --cut\r\n",
]
EPILOGUES = [b"", b"\r\n", b"  \r\n", b"\r\nepilogue", b"\r\n--cut\r\n"]


@pytest.mark.parametrize("preamble", PREAMBLES)
@pytest.mark.parametrize("blanks", [b"", b" ", b"\t", b" \t  "])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_what_rfc_2046_allows_around_the_parts_is_taken(
    preamble: bytes, blanks: bytes, epilogue: bytes
) -> None:
    """S7: a preamble, or blanks behind the first boundary, made a good request malformed."""
    parts = body_of(("a", b"one"), ("b", b"\r\n-- two"), end=b"--cut--").replace(
        b"--cut\r", b"--cut" + blanks + b"\r"
    )
    assert parse_parts(TYPE, preamble + parts + epilogue) == {"a": b"one", "b": b"\r\n-- two"}


@pytest.mark.parametrize(
    "body",
    [
        b"preamble",
        b"preamble\r\n--cut",
        b"preamble\r\n--cut \r\n",
        b"preamble--cut\r\n" + body_of(("a", b"1"))[7:],
        b"preamble\n--cut\r\n" + body_of(("a", b"1"))[7:],
        b"preamble\r\n--cut--\r\n" + body_of(("a", b"1")),
        b"preamble\r\n" + body_of(("a", b"1"), end=b""),
    ],
    ids=range(7),
)
def test_a_preamble_makes_no_broken_body_whole(body: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_parts(TYPE, body)
    assert caught.value.code == ErrorCode.MALFORMED_REQUEST
