"""The page about one conversation: self-contained, true to the bytes, and pointing where the model looked."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from secondglance import EdgeClient, Hooks
from secondglance.cli import app
from secondglance.show.report import Sent, SentPictures, report_page
from secondglance_protocol.errors import ErrorCode
from secondglance_server.engine.fake import FakeEngine, FakeScript


class Page(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self, kind: str | None = None) -> list[bytes]:
        found = [attrs for tag, attrs in self.tags if tag == "img"]
        wanted = [attrs for attrs in found if kind is None or attrs.get("class") == kind]
        return [base64.b64decode(str(attrs["src"]).partition(",")[2]) for attrs in wanted]


@pytest.fixture(scope="module")
def photo(pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "photo.jpg"
    path.write_bytes(pictures.photo((2000, 1500)))
    return path


def ask(url: str, photo: Path, target: Path, *options: str) -> Page:
    command = ["ask", str(photo), "What <b>number</b>?", "--url", url, "--report", str(target), *options]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.output
    return Page(target.read_text())


def test_the_page_shows_both_stages_and_needs_nothing_from_elsewhere(
    serve: Any, photo: Path, tmp_path: Path
) -> None:
    url = serve(FakeEngine()).url
    page = ask(url, photo, tmp_path / "page.html", "--save-sent", str(tmp_path / "sent"))
    for text in ("What <b>number</b>?", "42", "The first glance said a sign.", "2,000 x 1,500 pixels"):
        assert text in page.text
    links = [attrs.get("src") or attrs.get("href") for _, attrs in page.tags]
    assert all(link.startswith("data:image/") for link in links if link)
    without_pictures = re.sub(r"base64,[\w+/=]*", "", (tmp_path / "page.html").read_text())
    assert not re.search(r"https?:|//|url\(|@import", without_pictures)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe")]
    kept = {path.read_bytes() for path in (tmp_path / "sent").iterdir()}
    shown = [image for image in page.images() if image in kept]
    assert len(shown) == 2, "both uploads, byte for byte"


def test_the_map_is_brightest_where_the_model_looked(serve: Any, photo: Path, tmp_path: Path) -> None:
    """The model's grid has borders that are no picture; the map must not be shifted by them."""
    script = FakeScript(peak=(0.8, 0.25), content=(0.0, 0.125, 1.0, 0.875))
    url = serve(FakeEngine(script)).url
    page = ask(url, photo, tmp_path / "page.html")
    with Image.open(io.BytesIO(page.images("heat")[0])) as heat:
        alpha = np.asarray(heat.getchannel("A")).astype(float)
        assert heat.width / heat.height == pytest.approx(2000 / 1500, rel=0.02)
    rows, columns = np.indices(alpha.shape)
    weights = np.where(alpha > alpha.max() / 2, alpha, 0)
    x = (columns * weights).sum() / weights.sum() / alpha.shape[1]
    y = (rows * weights).sum() / weights.sum() / alpha.shape[0]
    assert (x, y) == (pytest.approx(0.8, abs=0.04), pytest.approx(0.25, abs=0.04))
    [style] = [attrs["style"] for _, attrs in page.tags if attrs.get("class") == "box"]
    left, top, width, height = (float(value) for value in re.findall(r"([\d.]+)%", str(style)))
    assert left < 80 < left + width
    assert top < 25 < top + height


def test_a_token_shows_its_probability(serve: Any, photo: Path, tmp_path: Path) -> None:
    url = serve(FakeEngine(FakeScript(draft="no", draft_entropy_nats=0.6931, answer="42"))).url
    page = ask(url, photo, tmp_path / "page.html")
    tokens = [attrs["style"] for _, attrs in page.tags if attrs.get("class") == "token"]
    assert tokens == ["--p:0.500", "--p:0.990"]


def test_a_sure_first_glance_has_no_region_map_or_second_card(
    serve: Any, photo: Path, tmp_path: Path
) -> None:
    url = serve(FakeEngine(FakeScript(draft_entropy_nats=0.001))).url
    page = ask(url, photo, tmp_path / "page.html")
    assert len(page.images()) == 2
    assert "Second" not in page.text


def test_what_went_wrong_is_on_the_page(serve: Any, photo: Path, tmp_path: Path) -> None:
    url = serve(FakeEngine(FakeScript(fails=lambda request: request.patch is not None))).url
    page = ask(url, photo, tmp_path / "page.html", "--timeout", "2")
    assert "No second glance: " in page.text


def test_a_picture_that_was_not_sent_again_is_said_to_be_held(
    server: Any, settings: Any, photo: Path
) -> None:
    sent = SentPictures()
    server.is_sure = True
    with EdgeClient(settings=settings, transport=httpx.MockTransport(server)) as client:
        client.ask(photo, "What?")
        reply = client.with_options(hooks=Hooks(on_request=sent.note)).ask(photo, "And?")
    page = report_page(photo, "And?", reply, sent.pictures, max_original_pixels=10**8)
    assert "the server still held it" in page


def test_a_retried_upload_is_one_picture(server: Any, settings: Any, fault: Any, photo: Path) -> None:
    sent = SentPictures()
    server.faults["first"] = [fault(ErrorCode.BUSY, retry_after="0")]
    with EdgeClient(
        settings=settings, transport=httpx.MockTransport(server), hooks=Hooks(on_request=sent.note)
    ) as client:
        client.ask(photo, "What?")
    assert [(picture.stage, picture.name) for picture in sent.pictures] == [
        ("stage1", "image.webp"),
        ("stage2", "patch.webp"),
    ]
    assert isinstance(sent.pictures[0], Sent)


def test_a_folder_that_is_not_there_is_wrong_usage(photo: Path) -> None:
    ran = CliRunner().invoke(app, ["ask", str(photo), "What?", "--report", "/nowhere/page.html"])
    assert ran.exit_code == 2
    assert "/nowhere" in ran.stderr
