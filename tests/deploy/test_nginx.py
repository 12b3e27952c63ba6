"""The nginx example as it is in the tree, before a real server, spoken to by the real edge."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import trustme

from secondglance import AsyncEdgeClient, NotAllowedError
from secondglance_server.engine.fake import FakeEngine
from secondglance_server.testing import free_port
from tests.needs import needs_program
from tests.server.exchange import ask, assert_problem, bearer, encode, key_entry, live_server

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "nginx.conf"
pytestmark = [pytest.mark.live, needs_program("nginx", package="nginx-light")]


def adapted(folder: Path, *, port: int, upstream: str, certificate: trustme.LeafCert) -> Path:
    """The example with its ports, files and certificates under `folder`."""
    certificate.cert_chain_pems[0].write_to_path(folder / "fullchain.pem")
    certificate.private_key_pem.write_to_path(folder / "privkey.pem")
    text = CONFIGURATION.read_text()
    for old, new in {
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "127.0.0.1:8000": upstream,
        "/etc/nginx/tls": str(folder),
        "/var/log/nginx": str(folder),
        "/run/nginx.pid": str(folder / "pid"),
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "nginx.conf").write_text(text)
    return folder / "nginx.conf"


@contextlib.asynccontextmanager
async def behind_nginx(
    folder: Path, monkeypatch: pytest.MonkeyPatch, engine: FakeEngine
) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    port = free_port()
    async with live_server(engine, keys=[key_entry("right")]) as url:
        configuration = adapted(
            folder,
            port=port,
            upstream=url.removeprefix("http://"),
            certificate=authority.issue_cert("127.0.0.1"),
        )
        command = ["nginx", "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(configuration)]
        nginx = await asyncio.create_subprocess_exec(*command, "-g", "daemon off;")
        try:
            await until_listening(port)
            yield f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=folder / "ca.pem")
        finally:
            nginx.terminate()
            await nginx.wait()


async def until_listening(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)


async def test_both_stages_pass_and_what_should_not_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine()
    async with behind_nginx(tmp_path, monkeypatch, engine) as (url, trusted):
        async with AsyncEdgeClient(url, api_key="right") as edge:
            reply = await edge.ask(encode(2000, 1500, "JPEG"), "What number?")
            assert (reply.answer, reply.stage, reply.degraded) == ("42", 2, None)
        async with AsyncEdgeClient(url, api_key="wrong") as edge:
            with pytest.raises(NotAllowedError):
                await edge.ask(encode(2000, 1500, "JPEG"), "What number?")
        async with httpx.AsyncClient(base_url=url, verify=trusted, timeout=30) as client:
            # The server refuses before it has the body, and the refusal comes through as it was sent.
            refused = await ask(client, upload=bytes(3_000_000))
            assert_problem(refused, 401, "unauthenticated")
            client.headers.update(bearer("right"))
            assert_problem(await ask(client, upload=bytes(5_000_000)), 413, "body_too_large")
            for path in ("/metrics", "/readyz", "/healthz", "/docs"):
                assert (await client.get(path)).status_code == 404
            # S1: a final newline in the path switched the limits off, through nginx, too.
            for path in ("/v1/inferences%0A", "/v1/inferences%0D%0A", "/v1/inferences/inf_1/patch%0A"):
                for method in ("POST", "PUT"):
                    response = await client.request(method, path, content=bytes(5_000_000))
                    assert_problem(response, 400, "malformed_request")
            for path in ("/metrics%0A", "/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/..%2Fmetrics"):
                assert (await client.get(path)).status_code in (400, 404)
            named = await client.get("/v1/model", headers={"X-Request-Id": "mine"})
            assert named.headers["x-request-id"] == "mine"
            assert (await client.get("/v1/model")).status_code == 200
    log = (tmp_path / "access.log").read_text()
    assert "mine" in log
    assert "right" not in log


def test_nginx_takes_the_example(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    configuration = adapted(tmp_path, port=free_port(), upstream="127.0.0.1:1", certificate=certificate)
    result = subprocess.run(
        ["nginx", "-t", "-e", str(tmp_path / "error.log"), "-p", str(tmp_path), "-c", str(configuration)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "warn" not in result.stderr
