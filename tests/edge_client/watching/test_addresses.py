"""Addresses: their secrets are never shown, and one rule of proxies holds for cameras and web hooks."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from secondglance.commands.questions import text_of
from secondglance.errors import UsageError
from secondglance.watching.answers.delivery import Webhook
from secondglance.wire.addresses import credentials, shown_address, without_secrets
from secondglance.wire.proxies import client_for, proxy_for

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=["Cc"]), min_size=6)
LOGINS = ["http://admin:{}@cam.example/stream", "rtsp://{}:x@cam.example/1", "http://cam.example/s?pwd={}"]
LOGINS += ["http://cam.example/s?a=b&usr=me&token={}", "rtsp://cam.example/user=me&password={}&channel=1"]
LOGINS += ["http://{}@cam.example/", "http://cam.example/#{}", "rtsp://me:{}@[2001:db8::1]:554/x?y=z"]


@given(secret=SECRETS, login=st.sampled_from(LOGINS))
def test_e8_no_secret_of_an_address_is_shown(secret: str, login: str) -> None:
    """E8: a password with `@` or `/`, in the login or in the query, came to stderr."""
    token = secret.replace("@", "").replace("example", "")
    address = login.format(token)
    if len(token) > 5 and token not in login:
        assert token not in shown_address(address)
        assert token not in without_secrets(f"cannot open {address}: no such host", address)


@pytest.mark.parametrize("password", ["p@ss", "p/ss", "p@ss/w:rd", "a@b@c", "x?y#z", "%40x%2F", "12/34"])
@pytest.mark.parametrize("scheme", ["http", "rtsp"])
def test_e8_no_part_of_a_password_is_shown(scheme: str, password: str) -> None:
    """E8: not its beginning, not its end, not unescaped."""
    address = f"{scheme}://operator:{password}@192.0.2.7:554/live"
    assert shown_address(address) == f"{scheme}://192.0.2.7:554/live"


@given(
    user=st.text("abc", min_size=1),
    password=st.text("abc@:", min_size=1),
    path=st.sampled_from(["", "/", "/@x?a@b"]),
)
def test_e8_a_login_is_what_precedes_the_host(user: str, password: str, path: str) -> None:
    assert credentials(f"rtsp://{user}:{password}@cam{path}") == (user, password, f"rtsp://cam{path}")
    assert credentials(f"rtsp://cam:554{path}") == ("", "", f"rtsp://cam:554{path}")


PROXY = "http://proxy.example:3128"
PROXIED = {
    ("http://cam.example/", ""): PROXY,
    ("http://cam.example/", "other.example"): PROXY,
    ("http://cam.example/", "cam.example"): None,
    ("http://cam.example/", ".example"): None,
    ("http://cam.example/", "*.example, x"): None,
    ("http://cam.example/", "*"): None,
    ("http://cam.example:81/", "cam.example:80"): PROXY,
    ("http://cam.example:81/", "cam.example:81"): None,
    ("http://notexample/", "example"): PROXY,
    ("http://10.1.2.3/", "10.0.0.0/8"): None,
    ("http://11.1.2.3/", "10.0.0.0/8"): PROXY,
    ("http://10.1.2.3/", "10.1.2.3"): None,
    ("http://[2001:db8::7]/", "[2001:db8::7]"): None,
    ("http://[2001:db8::7]/", "2001:db8::/32"): None,
    ("http://[2001:db8::7]/", "[::1]"): PROXY,
    ("http://cam.example/", "[::1, [, ]:, :, ,,"): PROXY,
    ("http://127.0.0.1:9/", ""): None,
    ("http://127.8.9.1/", ""): None,
    ("http://[::1]/", ""): None,
    ("http://localhost:9000/", ""): None,
    ("http://hook.localhost/", ""): None,
}


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(("address", "exceptions"), PROXIED)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_e9_loopback_and_exceptions_are_direct(
    address: str, exceptions: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """E9: `[::1]` and networks in NO_PROXY ended in tracebacks; the hook on loopback went to the proxy."""
    monkeypatch.setenv(variable, PROXY)
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert proxy_for(httpx.URL(address)) == PROXIED[address, exceptions]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "socks5://proxy.example:1080"),
        ("HTTP_PROXY", "gopher://proxy.example"),
        ("ALL_PROXY", "http://x:notaport"),
    ],
)
def test_e9_a_proxy_that_cannot_be_used_is_one_line_that_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=variable):
        Webhook("http://hook.example/", policy=None)  # type: ignore[arg-type]  # not reached


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE"])
def test_e9_certificates_that_cannot_be_read_are_one_line(
    variable: str, content: bytes | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "ca.pem"))
    with pytest.raises(UsageError, match=variable):
        client_for(httpx.URL("https://hook.example/"), httpx.Timeout(1))


QUESTION = "Wie heißt das Schild?\nOù est-il?\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_e10_a_question_file_of_any_editor_is_understood(encoding: str, end: str) -> None:
    """E10: the mark at its start was sent with the question; UTF-16 and Latin-1 were tracebacks."""
    data = QUESTION.replace("\n", end).encode(encoding)
    assert text_of(data).splitlines() == QUESTION.splitlines()


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"a\0\0\0\0", b"\xff\xfea", b"abc\0def", b"\xff\xfe\x00\xd8"])
def test_e10_what_is_no_text_is_one_line(data: bytes) -> None:
    with pytest.raises(typer.BadParameter):
        text_of(data)
