"""`secondglance doctor`: finds what is wrong, measures what it says, and gives nothing away."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from secondglance.cli import app
from tests.edge_client.counting_engine import CountingEngine
from tests.server.exchange import key_entry


@pytest.fixture(scope="module")
def engine() -> CountingEngine:
    return CountingEngine()


@pytest.fixture(scope="module")
def url(serve: Any, engine: CountingEngine) -> str:
    return serve(engine).url


@pytest.fixture
def photo(pictures: Any, tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(pictures.photo((2000, 1500)))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def findings(ran: Result) -> dict[str, Any]:
    return {finding["name"]: finding for finding in json.loads(ran.stdout)["findings"]}


def statuses(ran: Result) -> dict[str, str]:
    return {name: finding["status"] for name, finding in findings(ran).items()}


def test_a_healthy_pair_is_found_healthy(url: str, photo: Path, engine: CountingEngine) -> None:
    ran = run("--url", url, "--image", photo, "--json")
    assert (ran.exit_code, ran.stderr) == (0, "")
    assert set(statuses(ran).values()) == {"ok"}
    assert json.loads(ran.stdout)["ok"]
    found = findings(ran)
    assert found["model"]["data"]["limits"]["max_question_bytes"] == 4096
    assert found["formats"]["data"]["usable"]
    assert abs(found["clock"]["data"]["server_ahead_s"]) <= 2
    assert found["edge"]["data"]["versions"]["httpx"] == httpx.__version__
    assert engine.calls == [], "nothing is inferred"


def test_the_text_has_a_line_for_each_finding(url: str, photo: Path) -> None:
    ran = run("--url", url, "--image", photo)
    assert [line.split()[:2] for line in ran.stdout.splitlines()] == [
        ["ok", name]
        for name in (
            *("edge", "codecs", "connection", "readiness", "clock", "model", "formats", "uplink", "sample"),
        )
    ]


def test_the_probe_sends_what_it_says(url: str, photo: Path, relay_to: Callable[[int], Any]) -> None:
    """By the count of a relay between the two."""
    relay = relay_to(int(url.rpartition(":")[2]))
    ran = run("--url", relay.url, "--image", photo, "--json", "--probe-bytes", 300_000)
    uplink = findings(ran)["uplink"]["data"]
    assert 300_000 <= uplink["sent_bytes"] < 301_000
    assert uplink["sent_bytes"] < relay.passed.up < uplink["sent_bytes"] + 5_000
    assert uplink["bits_per_s"] * uplink["elapsed_ms"] / 8000 >= uplink["sent_bytes"] * 0.99


def test_the_probe_can_be_left_out(url: str, photo: Path, relay_to: Callable[[int], Any]) -> None:
    relay = relay_to(int(url.rpartition(":")[2]))
    ran = run("--url", relay.url, "--image", photo, "--json", "--probe-bytes", 0)
    assert (ran.exit_code, statuses(ran)["uplink"]) == (0, "skipped")
    assert relay.passed.up < 3_000


def test_what_would_be_sent_is_what_is_sent(url: str, photo: Path, tmp_path: Path) -> None:
    ran = run("--url", url, "--image", photo, "--json")
    sample = findings(ran)["sample"]["data"]
    sent = tmp_path / "sent"
    asked = ["ask", str(photo), "What is written on the sign?", "--url", url, "--save-sent", str(sent)]
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert sample["image_bytes"] == (sent / "stage1-image.webp").stat().st_size
    assert sample["original_bytes"] == photo.stat().st_size


def test_a_drawn_sample_needs_no_picture(url: str) -> None:
    found = findings(run("--url", url, "--json", "--probe-bytes", 0))["sample"]
    assert found["status"] == "ok"
    assert found["data"]["original_bytes"] is None


def test_without_a_server_the_rest_is_skipped_and_the_edge_still_described(photo: Path) -> None:
    ran = run("--url", "http://127.0.0.1:9", "--image", photo, "--json")
    assert ran.exit_code == 69
    found = statuses(ran)
    assert [name for name, status in found.items() if status == "ok"] == ["edge", "codecs", "sample"]
    assert found["connection"] == "failed"
    assert findings(ran)["sample"]["data"]["assumed_model"]


def test_nothing_secret_is_in_a_report(serve: Any, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECONDGLANCE_API_KEY", "sg-very-secret")
    url = serve(CountingEngine(), keys=[key_entry("right")]).url
    ran = run("--url", url.replace("://", "://user:hunter2@"), "--image", photo, "--json")
    assert ran.exit_code == 77
    assert statuses(ran)["model"] == "failed"
    assert findings(ran)["edge"]["data"]["has_api_key"]
    for secret in ("very-secret", "hunter2", "user:"):
        assert secret not in ran.output


def test_settings_that_were_changed_are_listed(
    url: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECONDGLANCE_EDGE_LINK_AWARE")  # which our own tests set
    monkeypatch.setenv("SECONDGLANCE_EDGE_FORMAT", "jpeg")
    ran = run("--url", url, "--image", photo, "--json", "--probe-bytes", 0)
    assert findings(ran)["edge"]["data"]["changed_settings"] == {"format": "jpeg"}
    assert findings(ran)["formats"]["data"]["preferred"] == "jpeg"


@pytest.fixture
def strange_url(url: str) -> Iterator[str]:
    """A server that is an hour behind, not ready, and speaks a later protocol."""
    model = httpx.get(f"{url}/v1/model").json() | {"protocol_version": 99}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(model if self.path == "/v1/model" else {}).encode()
            self.send_response_only(503 if self.path == "/readyz" else 200)
            self.send_header("Date", formatdate(1_700_000_000 if self.path == "/healthz" else 0, usegmt=True))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_skew_readiness_and_protocol_are_noticed(strange_url: str, photo: Path) -> None:
    ran = run("--url", strange_url, "--image", photo, "--json")
    found = findings(ran)
    assert ran.exit_code == 75, "the first failure's"
    assert found["clock"]["status"] == "warning"
    assert found["clock"]["data"]["server_ahead_s"] < -3600
    assert found["readiness"]["status"] == "failed"
    assert found["model"]["status"] == "failed"
    assert "protocol 99" in found["model"]["detail"]
    assert found["uplink"]["status"] == "skipped"
