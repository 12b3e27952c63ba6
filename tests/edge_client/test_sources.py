"""U11: `secondglance ask` about standard input, a URL of an allowed host, and a page of a PDF."""

from __future__ import annotations

import http.server
import io
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageStat
from typer.testing import CliRunner, Result

from secondglance.cli import app
from secondglance.errors import BadImageError, EdgeError, UsageError
from secondglance.pictures import pdf as pdf_module
from secondglance.pictures.original import Original
from secondglance.pictures.pdf import render_page
from secondglance_server.engine.fake import FakeEngine

SIZE = (1800, 1200)


@pytest.fixture(scope="module")
def url(serve: Any) -> str:
    return serve(FakeEngine()).url


@pytest.fixture(scope="module")
def photo() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(SIZE, 40).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def document() -> bytes:
    """Three pages of plain colour, 6x4 inches."""
    pages = [Image.new("RGB", SIZE, colour) for colour in ("red", "lime", "blue")]
    buffer = io.BytesIO()
    pages[0].save(buffer, "PDF", save_all=True, append_images=pages[1:], resolution=300, quality=95)
    return buffer.getvalue()


def ask(*arguments: object, given: bytes = b"") -> Result:
    return CliRunner().invoke(app, ["ask", *map(str, arguments)], input=given)


def test_a_picture_from_standard_input_is_asked_about_as_from_its_file(
    url: str, photo: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(photo)
    named, piped = (
        json.loads(ask(image, "What?", "--url", url, "--json", given=photo).stdout) for image in (path, "-")
    )
    assert named["receipt"]["original_bytes"] == piped["receipt"]["original_bytes"] == len(photo)
    assert (named["answer"], named["roi"]) == (piped["answer"], piped["roi"])
    sheet, page = tmp_path / "sheet.png", tmp_path / "page.html"
    assert ask("-", "What?", "--url", url, "--picture", sheet, "--report", page, given=photo).exit_code == 0
    with Image.open(sheet) as drawn:
        assert drawn.format == "PNG"
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(("given", "said"), [(b"", "empty"), (b"no picture", "not a picture")])
def test_what_is_no_picture_on_standard_input_is_65(url: str, given: bytes, said: str) -> None:
    ran = ask("-", "What?", "--url", url, given=given)
    assert (ran.exit_code, ran.stdout) == (65, "")
    assert said in ran.stderr


@pytest.fixture(scope="module")
def site(photo: bytes) -> Iterator[str]:
    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/photo" else 404)
            self.end_headers()
            self.wfile.write(photo if self.path == "/photo" else b"")

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"localhost:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_url_is_fetched_from_a_host_that_was_named_and_from_no_other(url: str, site: str) -> None:
    address = f"http://{site}/photo"
    assert ask(address, "What?", "--url", url, "--allow-host", site).stdout == "42\n"
    refused = ask(address, "What?", "--url", url)
    assert refused.exit_code == 2
    assert f"--allow-host {site}" in refused.stderr
    other = ask(address, "What?", "--url", url, "--allow-host", "example.org")
    assert other.exit_code == 2
    missing = ask(f"http://{site}/none", "What?", "--url", url, "--allow-host", site)
    assert (missing.exit_code, missing.stdout) == (65, "")


@pytest.mark.parametrize("page", [None, 1, 2, 3])
def test_each_page_of_a_pdf_is_a_picture_at_300_dots_per_inch(
    url: str, document: bytes, tmp_path: Path, page: int | None
) -> None:
    path = tmp_path / "document.pdf"
    path.write_bytes(document)
    sent = tmp_path / "sent"
    options = () if page is None else ("--page", page)
    ran = ask(path, "What?", "--url", url, "--save-sent", sent, *options)
    assert (ran.exit_code, ran.stdout) == (0, "42\n")
    assert ("holds several" in ran.stderr) == (page is None)
    with Image.open(next(sent.glob("stage1-image.*"))) as seen:
        means = ImageStat.Stat(seen.convert("RGB")).mean
    assert means.index(max(means)) == (page or 1) - 1
    drawn, n_pages = render_page(io.BytesIO(document), page or 1)
    assert n_pages == 3
    assert all(abs(got - wanted) <= 1 for got, wanted in zip(drawn.size, SIZE, strict=True))


def test_a_page_that_is_not_there_and_a_page_of_no_pdf_are_usage_errors(
    url: str, document: bytes, photo: bytes
) -> None:
    beyond = ask("-", "What?", "--url", url, "--page", 4, given=document)
    assert (beyond.exit_code, "the document has 3" in beyond.stderr) == (2, True)
    none = ask("-", "What?", "--url", url, "--page", 1, given=photo)
    assert (none.exit_code, "this is none" in none.stderr) == (2, True)


def test_a_damaged_pdf_is_a_picture_or_an_error_of_ours(document: bytes) -> None:
    """Cut, overwritten and with numbers made absurd: never a foreign exception, never a giant raster."""
    draw = random.Random(11)
    read = refused = 0
    for _ in range(120):
        damaged = bytearray(document)
        for _ in range(draw.choice((1, 3, 30))):
            damaged[draw.randrange(5, len(damaged))] = draw.randrange(256)
        if draw.random() < 0.3:
            del damaged[draw.randrange(5, len(damaged)) :]
        try:
            with Original(bytes(damaged)) as original:
                assert original.size[0] * original.size[1] <= 64_000_000
                read += 1
        except EdgeError:
            refused += 1
    assert read > 0
    assert refused > 0


@pytest.mark.parametrize("box", ["0 0 200000 10", "0 0 14400 14400", "0 0 0 0", "0 0 1e30 1e30", "9 9 1 1"])
def test_a_page_of_any_measure_stays_within_the_bound(box: str) -> None:
    body = f"""%PDF-1.4
1 0 obj <</Type/Catalog/Pages 2 0 R>> endobj
2 0 obj <</Type/Pages/Kids[3 0 R]/Count 1>> endobj
3 0 obj <</Type/Page/Parent 2 0 R/MediaBox[{box}]>> endobj
trailer <</Root 1 0 R>>
""".encode()
    try:
        with Original(body) as original:
            assert original.size[0] * original.size[1] <= 64_000_000
    except (BadImageError, UsageError):
        pass


def test_without_the_extra_the_error_names_it(document: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    with pytest.raises(EdgeError, match=r"second-glance\[pdf\]") as raised:
        render_page(io.BytesIO(document), 1)
    assert raised.value.exit_code == 2
    assert pdf_module.is_pdf(document[:8])
