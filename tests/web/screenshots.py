"""Take the page's pictures for the documents:  python -m tests.web.screenshots FOLDER [--every]

`--every` takes each state on a phone and on a desk, light and dark, to look at.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.relay.faults import RateLimit, Schedule
from lab.relay.relay import relaying
from secondglance_server.testing import serving
from tests.web.conftest import CHROMIUM, FLAGS, PHOTO, ROOT, TRUTH

WIDTHS = {"phone": {"width": 360, "height": 780}, "desk": {"width": 1440, "height": 900}}
SCHEMES = ("light", "dark")
SLOW = Schedule((RateLimit(2_000, "up"),))
HEIC = ROOT / "tests" / "edge_client" / "formats" / "files" / "srgb.heic"
IN_DOCUMENTS = {
    "empty": ("empty", "desk", "light"),
    "first-answer": ("first", "phone", "light"),
    "final-phone": ("final", "phone", "light"),
    "final": ("final", "desk", "light"),
    "not-sure": ("not-sure", "phone", "dark"),
    "error": ("error", "desk", "dark"),
}


def choose(page: Any, file: Path = PHOTO) -> None:
    page.set_input_files("#file", file)
    page.wait_for_selector("#frame:not([hidden]), #error:not([hidden])")


def ask(page: Any, question: str = TRUTH["question"]) -> None:
    choose(page)
    page.fill("#question", question)
    page.press("#question", "Enter")


def first(page: Any) -> None:
    ask(page)
    page.get_by_text("the region, in more detail").wait_for()


def final(page: Any) -> None:
    ask(page)
    page.wait_for_selector("#history img[src]")


def not_sure(page: Any) -> None:
    ask(page, "How old is the king of France?")
    page.wait_for_selector("#history img[src]")


STATES: dict[str, Callable[[Any], None]] = {
    "empty": lambda page: None,
    "first": first,
    "final": final,
    "not-sure": not_sure,
    "error": lambda page: choose(page, HEIC),
}


def main(folder: Path, *, every: bool) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    taken = {"-".join(each): each for each in itertools.product(STATES, WIDTHS, SCHEMES)}
    with serving("--page") as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with relaying("127.0.0.1", int(url.rpartition(":")[2]), schedule=SLOW) as relay:
            for name, (state, width, scheme) in (taken if every else IN_DOCUMENTS).items():
                page = browser.new_page(viewport=WIDTHS[width], color_scheme=scheme)
                page.goto(f"{f'http://127.0.0.1:{relay.port}' if state == 'first' else url}/app/")
                STATES[state](page)
                page.wait_for_timeout(300)
                page.screenshot(path=folder / f"{name}.jpg", type="jpeg", quality=75, full_page=True)
                page.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), every="--every" in sys.argv[2:])
