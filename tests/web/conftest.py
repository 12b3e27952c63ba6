"""The page in Debian's Chromium, before a real server with the embedded model. `make test-web` runs these."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from secondglance_server.testing import serving

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "examples" / "photo.jpg"
TRUTH = json.loads((ROOT / "examples" / "photo.json").read_text())
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CHROMIUM = "/usr/bin/chromium"
_WATCH = """addEventListener("securitypolicyviolation", (event) =>
  console.error("policy violated:", event.violatedDirective, event.blockedURI, event.sourceFile));"""
# playwright shows no bodies that are Blobs.
_RECORD = """window.sentBodies = [];
window.inferences = [];
const fetchAsBefore = window.fetch;
window.fetch = (address, options) => {
  if (options?.body) window.sentBodies.push(new Response(options.body).bytes().then((bytes) => [
    options.method, btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join("")),
    options.headers["X-Question"] ?? ""]));
  return fetchAsBefore(address, options).then((reply) => {
    reply.clone().json().then((told) => told.id && window.inferences.push(told.id), () => {});
    return reply;
  });
};"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here needs a browser, so `make test` leaves them to `make test-web`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """A server's address; its page is at /app/."""
    with serving("--page") as base:
        yield base


@pytest.fixture(scope="session")
def playwright() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="session")
def browser(playwright: Any) -> Iterator[Any]:
    running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield running
    running.close()


@dataclass
class Visit:
    """One browser profile with the page open. `complaints` are what its console says: none are allowed."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def choose(self, picture: Path | bytes, name: str = "photo.jpg", kind: str = "image/jpeg") -> None:
        """Choose a file, and wait until it or an error is shown."""
        given: Any = picture
        if isinstance(picture, bytes):
            given = {"name": name, "mimeType": kind, "buffer": picture}
        self.page.set_input_files("#file", given)
        self.page.wait_for_selector("#frame:not([hidden]), #error:not([hidden])", timeout=20_000)

    def ask(self, question: str = TRUTH["question"], timeout_s: float = 30) -> None:
        """Ask, and wait until the page is done."""
        self.page.fill("#question", question)
        self.page.press("#question", "Enter")
        self.until("document.querySelector('main').getAttribute('aria-busy') !== 'true'", timeout_s)

    def until(self, expression: str, timeout_s: float = 20) -> None:
        """Wait until an expression of JavaScript is true; playwright's own way breaks the page's policy."""
        end = time.monotonic() + timeout_s
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(20)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector)) if self.page.is_visible(selector) else ""

    @property
    def bodies(self) -> list[tuple[str, bytes]]:
        """Method and body of each request to the server that may have one."""
        return [(method, base64.b64decode(body)) for method, body, _ in self._sent]

    @property
    def questions(self) -> list[str]:
        """The header that holds the question of each of these requests, where it has one."""
        return [question for _, _, question in self._sent]

    @property
    def _sent(self) -> list[list[str]]:
        sent: list[list[str]] = self.page.evaluate("Promise.all(window.sentBodies)")
        return sent

    @property
    def answer(self) -> str:
        """The answer that counts: the second one if there is one."""
        return self.text("#second .answer") or self.text("#first .answer")

    @property
    def region(self) -> tuple[float, float, float, float]:
        """Where the page draws the region: left, top, right, bottom as shares of the photo that it shows."""
        photo, region = (self.page.locator(each).bounding_box() for each in ("#photo", "#region"))
        x, y = region["x"] - photo["x"], region["y"] - photo["y"]
        width, height = photo["width"], photo["height"]
        return x / width, y / height, (x + region["width"]) / width, (y + region["height"]) / height

    @property
    def shows_the_sign(self) -> bool:
        """Whether the region holds the sign of `PHOTO`."""
        left, top, right, bottom = self.region
        x0, y0, x1, y1 = TRUTH["box"]
        width, height = TRUTH["width"], TRUTH["height"]
        slack = 0.004  # a pixel of the screen
        return (
            left <= x0 / width + slack
            and top <= y0 / height + slack
            and right >= x1 / width - slack
            and bottom >= y1 / height - slack
        )

    def sent_picture(self, number: int = 0) -> Image.Image:
        """The picture in the body of a request to the server: 0 is the small copy."""
        body = self.bodies[number][1]
        start = body.find(b"RIFF")
        return Image.open(io.BytesIO(body[start:])).convert("RGB")

    def axe(self) -> list[str]:
        """What axe-core finds that is serious or critical."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run()")
        assert len(found["passes"]) > 10
        return [
            f"{each['id']}: {node['html'][:120]}"
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]


Opener = Callable[..., Visit]


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Opener]:
    """Open the page in a new profile; `at` is another server. Options are those of the profile.

    After the test nothing may have been said on the console, but what `expected` matches.
    """
    with contextlib.ExitStack() as opened:

        def open_page(**options: Any) -> Visit:
            return opened.enter_context(visiting(options.pop("browser", browser), url, **options))

        yield open_page


@contextlib.contextmanager
def visiting(
    browser: Any, url: str, *, at: str = "", path: str = "/app/", expected: str = "(?!)", **options: Any
) -> Iterator[Visit]:
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    visit = Visit(context.new_page())
    page = visit.page
    page.on("console", lambda said: visit.complaints.append(said.text))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))

    page.add_init_script(_WATCH)
    page.add_init_script(_RECORD)
    page.goto((at or url) + path)
    yield visit
    context.close()
    assert [said for said in visit.complaints if not re.search(expected, said)] == []
