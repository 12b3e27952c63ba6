"""The page on other hosts than the server: a copy, an example, the gateway."""

from __future__ import annotations

import contextlib
import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from secondglance_server.testing import serving
from tests.web.conftest import PHOTO, ROOT, TRUTH, Opener


@contextlib.contextmanager
def static_host(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def end_headers(self) -> None:
            self.send_header("Access-Control-Allow-Origin", "*")  # as hosts of libraries do
            super().end_headers()

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("is_named", [True, False])
def test_a_copy_on_another_origin_asks_if_the_server_names_the_origin(
    visit: Opener, tmp_path: Path, is_named: bool
) -> None:
    shutil.copytree(ROOT / "edge_web" / "page", tmp_path / "site")
    shutil.copytree(ROOT / "edge_web" / "src", tmp_path / "site" / "src")
    with static_host(tmp_path / "site") as site:
        origin = site if is_named else "https://app.example.com"
        with serving("--cors-origin", origin) as server:
            index = tmp_path / "site" / "index.html"
            empty = 'name="second-glance-server" content=""'
            assert empty in index.read_text()
            index.write_text(index.read_text().replace(empty, empty[:-1] + f'{server}"'))
            page = visit(at=site, path="/", expected="(?!)" if is_named else "CORS policy|ERR_FAILED")
            page.choose(PHOTO)
            page.ask()
            if is_named:
                assert page.answer == TRUTH["answer"]
            else:
                assert page.text("#error").startswith("The server cannot be reached.")


@pytest.mark.parametrize("is_beside", [True, False])
def test_the_example_of_a_page_asks_from_its_own_host(visit: Opener, tmp_path: Path, is_beside: bool) -> None:
    """Its library lies beside it, or on a third origin, from where browsers start no worker."""
    site = tmp_path / "site"
    site.mkdir()
    index = (ROOT / "examples" / "web_page" / "index.html").read_text()
    library = site / "second-glance" if is_beside else tmp_path / "third" / "second-glance"
    shutil.copytree(ROOT / "edge_web" / "src", library)
    with (
        static_host(site) as host,
        static_host(library.parent) as third,
        serving("--cors-origin", host) as server,
    ):
        assert index.count('"http://localhost:8000"') == 1
        index = index.replace("http://localhost:8000", server)
        (site / "index.html").write_text(
            index if is_beside else index.replace('"./second-glance', f'"{third}/second-glance')
        )
        page = visit(at=host, path="/", expected="favicon|404").page
        page.set_input_files("[name=photo]", PHOTO)
        page.click("button")
        page.get_by_text("bytes sent of").wait_for(timeout=30_000)
        said = page.locator("output").inner_text()
        assert said.startswith(f"{TRUTH['answer']}: ")
        sent, whole = (int(word) for word in re.findall(r"\d+", said)[-2:])
        assert (whole, sent * 100 < whole) == (PHOTO.stat().st_size, True)
        assert len(page.workers) == is_beside


def test_the_gateway_shows_the_page_and_asks_for_it(visit: Opener, url: str) -> None:
    command = [sys.executable, "-m", "secondglance.cli", "gateway", "--url", url, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            gateway = process.stderr.readline().split()[1].removesuffix("/v1")
            page = visit(at=gateway)
            page.choose(PHOTO)
            page.ask()
            assert page.answer == TRUTH["answer"]
        finally:
            process.terminate()
            process.communicate(timeout=30)
